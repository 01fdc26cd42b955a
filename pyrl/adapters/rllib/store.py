"""Episodes of the host in the record stream of `pyrl.buffers`: each grows in a lane, and leaves whole."""

from __future__ import annotations

import copy
import math
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
from gymnasium import spaces

from pyrl import buffers
from pyrl.adapters.rllib.episodes import Steps, Writer, fitted, space_of
from pyrl.adapters.rllib.frames import Frames
from pyrl.adapters.rllib.table import Episode, Table
from pyrl.errors import SettingError
from pyrl.types import map_observation

COLUMNS: dict[str, Any] = {"episode": ((), "int64"), "t": ((), "int64"), "time_limit": ((), "bool")}  # of each record, beside the host's

_KEPT: dict[str, type] = {  # in a state, and what it is
    "capacity": int, "outputs": dict, "observed": spaces.Space, "table": Table, "writer": Writer, "evicted": int,
}  # fmt: skip
_ARGUMENTS = {"capacity", "observation_space", "action_space", "num_envs", "extra", "gamma", "frame_stack", "stack_padding"}


def slots_of(capacity: int, num_envs: int) -> int:
    """Slots for ``capacity`` steps, and for the last observation of each episode: one for 64 steps, and at least 64."""
    return num_envs * math.ceil((capacity + max(64, capacity // 64)) / num_envs + 2)


class EpisodeStore:
    """A `pyrl.buffers` replay for episodes like the ones that come first, with the table of what is in it.

    Args:
        capacity: steps.
        num_envs: lanes; None: one for each of these episodes that has not ended.
        found: the first pieces of episodes.
        frames, with_infos, with_outputs: what is kept of them.
        make: makes the replay, of the arguments of `pyrl.buffers.ReplayBuffer`.
    """

    def __init__(
        self,
        capacity: int,
        num_envs: int | None,
        found: list[Steps],
        frames: Frames,
        with_infos: bool,
        with_outputs: bool,
        make: Callable[..., Any],
    ) -> None:
        source = found[0].source
        if num_envs is None:
            running = {steps.source.id_ for steps in found} - {steps.source.id_ for steps in found if steps.source.is_done}
            num_envs = min(max(len(running), 1), max(capacity // 2, 1))
        self.outputs = {key: f"output {key!r}" for key in source.extra_model_outputs} if with_outputs else {}
        extra = dict(COLUMNS)
        for key, name in self.outputs.items():
            column = space_of(f"extra_model_outputs[{key!r}]", np.asarray(source.get_extra_model_outputs(key)))
            extra[name] = (column.shape, np.dtype(column.dtype).name)
        self.capacity, self.frames, self.with_infos = capacity, frames, with_infos
        self.observed = space_of("observations", found[0].observation)
        self.replay = make(
            capacity=slots_of(capacity, num_envs), observation_space=frames.space(self.observed),
            action_space=space_of("actions", found[0].action), num_envs=num_envs, extra=extra, gamma=1.0, frame_stack=frames.count,
            stack_padding=frames.padding,
        )  # fmt: skip
        self.table, self.writer = Table(num_envs), Writer(source.observation_space, source.action_space)
        self.infos: list[Any] = [None] * self.replay.capacity if with_infos else []  # (of a step, after it) by slot
        self.evicted = 0  # episodes
        self._transient()

    def _transient(self) -> None:
        self.counts: Counter[str] = Counter()  # of what was added and evicted, until somebody clears it
        self._round: dict[int, tuple[Steps, Episode, bool]] = {}  # by lane: what the next block stores, and whether it begins there
        self._warned = False

    def get_state(self) -> dict[str, Any]:
        kept = {name: copy.deepcopy(getattr(self, name)) for name in _KEPT}
        return {**kept, "arguments": self.replay.arguments(), "replay": self.replay.state_dict(), "infos": list(self.infos)}

    @classmethod
    def from_state(cls, state: dict[str, Any], frames: Frames, with_infos: bool, make: Callable[..., Any]) -> EpisodeStore:
        arguments = state["arguments"]
        for name, own, given in (
            ("frame_stack", frames.count, arguments["frame_stack"]),
            ("store_infos", with_infos, bool(state["infos"])),
        ):
            if own != given:
                raise ValueError(f"set_state: the state is of a buffer with {name} {given}, this one has {own}")
        made = cls.__new__(cls)
        made.frames, made.with_infos, made.infos = frames, with_infos, list(state["infos"])
        for name, kind in _KEPT.items():
            if not isinstance(state[name], kind):
                raise TypeError(f"{name} is {state[name]!r}, expected {kind.__name__}")
            setattr(made, name, copy.deepcopy(state[name]))
        made.replay = make(**{name: value for name, value in arguments.items() if name in _ARGUMENTS})
        made.replay.load_state_dict(state["replay"])
        made._transient()
        return made

    def add(self, found: list[Steps]) -> np.ndarray:
        """Store these pieces; the indices of their steps, int64."""
        self._stored: list[np.ndarray] = []
        for steps in self._checked(found):
            self._grow(steps)
        self._flush()
        return np.concatenate(self._stored)

    def _checked(self, found: list[Steps]) -> list[Steps]:
        """These pieces as columns of the store; all are looked at before any is stored."""
        fitting, following = [], dict[str, tuple[int, bool]]()
        for steps in found:
            source = steps.source
            if (known := self.table.by_id.get(source.id_)) is not None:
                following.setdefault(source.id_, (known.t, known.ended))
                if known.lane is None and not known.ended:
                    self._warn_of_cuts()
            t, ended = following.get(source.id_, (source.t_started, False))
            if ended or t != source.t_started:
                state = "has ended" if ended else f"goes on at step {t}"
                raise ValueError(f"add: episode {source.id_} {state}, and a piece of it that starts at {source.t_started} came")
            if self.frames.count > 1 and t and source.id_ not in following:
                raise ValueError(f"add: episode {source.id_} starts at step {t}, and with frame_stack its beginning must be stored")
            if missing := self.outputs.keys() - source.extra_model_outputs.keys():
                raise ValueError(f"add: episode {source.id_} has no extra model output {min(missing, key=str)!r}, which the first has")
            following[source.id_] = t + len(steps), source.is_done
            observation = self.frames.newest(source.id_, fitted(source, "observations", steps.observation, self.observed), t == 0)
            fitting.append(
                replace(steps, observation=observation, action=fitted(source, "actions", steps.action, self.replay.action_space))
            )
        return fitting

    def _grow(self, steps: Steps) -> None:
        """Put a piece into the next block, in the lane of its episode."""
        source, table = steps.source, self.table
        episode = table.by_id.get(source.id_)
        if episode is None:
            episode = table.open(source.id_, source.agent_id, source.module_id, source.t_started)
            self.counts["episodes added"] += 1
        elif episode.lane in self._round:
            self._flush()
        begins = episode.lane is None
        if begins and not table.place(episode, set(self._round)):
            self._flush()
            table.place(episode, set())
        assert episode.lane is not None
        self._round[episode.lane] = steps, episode, begins
        episode.t += len(steps)

    def _warn_of_cuts(self) -> None:
        grow = f"EpisodeReplayBuffer: num_envs is {self.replay.num_envs}, and more episodes grow at once"
        remedy = 'give replay_buffer_config "num_envs", as many as environments run'
        if self.frames.count > 1:
            raise SettingError(f"{grow}: their frames cannot be stacked again; {remedy}")
        if not self._warned:
            self._warned = True
            what = "they are cut, n-step returns end there, and each piece takes a slot more"
            warnings.warn(f"{grow}: {what}; {remedy}", stacklevel=5)

    def _flush(self) -> None:
        """Store the block, after what it takes the place of is evicted."""
        if not self._round:
            return
        parts, self._round = self._round, {}
        self._make_room(parts)
        for at, (steps, _, begins) in parts.items():
            if begins:
                self._part(at, steps)
        self._store({at: steps for at, (steps, _, _) in parts.items()}, [episode for _, episode, _ in parts.values()])
        newest = self.replay.newest
        self.table.clock += 1
        for at, (steps, episode, begins) in parts.items():
            lane = self.table.lanes[at]
            lane.used, lane.touched = int(newest[at]) // self.replay.num_envs, self.table.clock
            if begins:
                lane.starts.append((episode, lane.used - len(steps) + 1))
                episode.newest.append(0)
            episode.newest[-1] = int(newest[at])
            index = np.arange(1 - len(steps), 1) * self.replay.num_envs + newest[at]
            self._stored.append(index)
            if self.with_infos:
                for slot, pair in zip((index % self.replay.capacity).tolist(), pairwise(steps.infos)):
                    self.infos[slot] = pair
            if steps.source.is_done:
                episode.ended, episode.lane, lane.running = True, None, None
            self.counts["steps added"] += len(steps)

    def _part(self, at: int, steps: Steps) -> None:
        """The store links what is added to an observation that it equals bit for bit. Where an episode begins with the very observation
        that another one, which has not ended, has come to, the two are parted here."""
        before = self.table.lanes[at].cut
        self.table.lanes[at].cut = None
        if before is None or before.serial not in self.table.by_serial:
            return
        last = self.replay.get(np.array(before.newest[-1:]), window=buffers.Window(1, 1)).next_observation
        same: list[bool] = []
        map_observation(lambda row, rows: same.append(np.array_equal(row[0], rows[0])), last, steps.observation)
        if not all(same):
            return
        if self.replay.num_envs == 1:
            self.replay.cut()
        else:  # a cut would end those of the other lanes too
            self._evict(before)

    def _store(self, pieces: dict[int, Steps], episodes: list[Episode]) -> None:
        """These pieces side by side, one a lane, in one block [T, N]."""
        N, T = self.replay.num_envs, max(map(len, pieces.values()))

        def block(*columns: np.ndarray) -> np.ndarray:
            if N == 1:
                return columns[0][:, None]
            rows = np.zeros((T, N, *columns[0].shape[1:]), columns[0].dtype)
            for lane, column in zip(pieces, columns):
                rows[: len(column), lane] = column
            return rows

        def last(steps: Steps, value: bool) -> np.ndarray:
            flags = np.zeros(len(steps), bool)
            flags[-1] = value
            return flags

        given = list(pieces.values())
        truncated = block(*(last(steps, steps.source.is_truncated) for steps in given))
        extra = {
            "episode": block(*(np.full(len(steps), episode.serial) for steps, episode in zip(given, episodes))),
            "t": block(*(np.arange(steps.source.t_started, steps.source.t_started + len(steps)) for steps in given)),
            "time_limit": truncated,
            **{
                name: block(*(np.asarray(steps.source.get_extra_model_outputs(key)) for steps in given))
                for key, name in self.outputs.items()
            },
        }
        observations = [steps.observation for steps in given]
        self.replay.extend(
            map_observation(lambda *columns: block(*(column[:-1] for column in columns)), *observations),
            block(*(steps.action for steps in given)),
            block(*(steps.reward for steps in given)),
            map_observation(lambda *columns: block(*(column[1:] for column in columns)), *observations),
            block(*(last(steps, steps.source.is_terminated) for steps in given)),
            truncated,
            None if N == 1 else block(*(np.ones(len(steps), bool) for steps in given)),
            **extra,
        )

    def _make_room(self, parts: dict[int, tuple[Steps, Episode, bool]]) -> None:
        growing = [episode for _, episode, _ in parts.values()]
        coming = sum(len(steps) for steps, _, _ in parts.values())
        while len(self.replay) + coming > self.capacity:
            oldest = next((episode for episode in self.table.by_serial.values() if episode not in growing), None)
            if oldest is None:
                break
            self._evict(oldest)
        slots = self.replay.capacity // self.replay.num_envs
        for at, (steps, _, _) in parts.items():
            overwritten = self.table.lanes[at].used + len(steps) + 3 - slots  # a tail and the newest observation among them
            while (found := self.table.oldest_in(at)) is not None and found[1] < overwritten and found[0] not in growing:
                self._evict(found[0])

    def _evict(self, episode: Episode) -> None:
        index = np.array(episode.newest)
        self.counts["steps evicted"] += self.replay.delete(index[self.replay.is_drawable(index)])
        self.counts["episodes evicted"] += 1
        self.evicted += 1
        self.table.forget(episode)
