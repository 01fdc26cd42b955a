"""The host's EpisodeReplayBuffer on the record stream of `pyrl.buffers`."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from gymnasium import spaces
from ray.rllib.core import DEFAULT_AGENT_ID, DEFAULT_MODULE_ID
from ray.rllib.utils.metrics.metrics_logger import MetricsLogger
from ray.rllib.utils.replay_buffers import episode_replay_buffer as host

from pyrl import buffers
from pyrl.adapters.columns import count
from pyrl.adapters.rllib.episodes import Steps, Writer, each, fitted, space_of, steps_of
from pyrl.adapters.rllib.frames import Frames
from pyrl.adapters.rllib.table import Episode, Table
from pyrl.errors import DTypeError, SettingError
from pyrl.types import Batch, map_observation

_EXTRA: dict[str, Any] = {"episode": ((), "int64"), "t": ((), "int64"), "time_limit": ((), "bool")}
_ONE = buffers.Window(n_step=1)


def slots_of(capacity: int, num_envs: int) -> int:
    """Slots for ``capacity`` steps, and for the last observation of each episode: one for 64 steps, and at least 64."""
    return num_envs * math.ceil((capacity + max(64, capacity // 64)) / num_envs + 2)


class EpisodeReplayBuffer(host.EpisodeReplayBuffer):
    """``replay_buffer_config={"type": "pyrl.adapters.rllib.EpisodeReplayBuffer", ...}`` of DQN: uniform draws of transitions.

    Each observation is stored once, in memory of fixed size that is reserved at the first `add`; whole episodes are evicted, oldest first, in
    time that does not grow with the capacity. Of an episode longer than the capacity the newest steps are kept.

    ``replay_buffer_config``:
        capacity: steps. A slot in 64 is reserved for the last observations of episodes; where these are shorter, fewer steps fit.
        batch_size_B: of a `sample` that names no number.
        num_envs: episodes that grow at the same time, whose steps lie in lanes of their own; by default, those that have not ended in the
            first `add`. Where more of them grow, one is cut: values continue beyond a cut, but n-step returns end there. Warns then.
        frame_stack: the last dimension of an observation is so many frames, oldest first (`wrap_atari_for_new_api_stack`): only the newest
            is stored, and they are stacked again at the draw.
        stack_padding: what stands before an episode's first frame: the frame itself ("repeat", as that wrapper) or zeros ("zero").
        store_infos, store_extra_model_outputs: keep them, for ``include_infos`` and ``include_extra_model_outputs`` of `sample`.
        seed: of the draws; by default it comes from NumPy's global stream, which the host seeds.

    ``replay`` is the `pyrl.buffers.ReplayBuffer` behind it, None before the first `add`.
    """

    _replay_class = buffers.ReplayBuffer
    _default_length = 64

    def __init__(
        self,
        capacity: int = 10000,
        *,
        batch_size_B: int = 16,
        batch_length_T: int | None = None,
        metrics_num_episodes_for_smoothing: int = 100,
        num_envs: int | None = None,
        frame_stack: int = 1,
        stack_padding: Literal["repeat", "zero"] = "repeat",
        store_infos: bool = False,
        store_extra_model_outputs: bool = False,
        seed: int | None = None,
        beta: float | None = None,
        **options: Any,
    ) -> None:
        if options:
            raise SettingError(f'{self._name}: replay_buffer_config has "{min(options)}", which this buffer does not know')
        self.capacity = count(self._name, "capacity", capacity, 2)
        self.batch_size_B = count(self._name, "batch_size_B", batch_size_B)
        self.batch_length_T = self._default_length if batch_length_T is None else count(self._name, "batch_length_T", batch_length_T)
        self._num_envs = None if num_envs is None else count(self._name, "num_envs", num_envs)
        self._frames = Frames(count(self._name, "frame_stack", frame_stack), stack_padding)
        for name, value in (("store_infos", store_infos), ("store_extra_model_outputs", store_extra_model_outputs)):
            if not isinstance(value, bool):
                raise DTypeError(f"{self._name}: {name} is {value!r}, expected True or False")
        self._with_infos, self._with_outputs = store_infos, store_extra_model_outputs
        self._seed = int(np.random.randint(2**31)) if seed is None else seed  # noqa: NPY002 (the host seeds NumPy's global stream)
        self.metrics = MetricsLogger(root=False)
        self._metrics_num_episodes_for_smoothing = metrics_num_episodes_for_smoothing
        self._added: Counter[str] = Counter()  # since the metrics were asked for
        self._sampled: Counter[str] = Counter()
        self.sampled_timesteps = self._num_timesteps_added = self._num_episodes_evicted = 0
        self.replay: Any = None
        self._warned, self._random = False, np.random.default_rng(self._seed)

    @property
    def _name(self) -> str:
        return type(self).__name__

    def _make_replay(self, *arguments: Any, **options: Any) -> Any:
        return buffers.ReplayBuffer(*arguments, **options)

    # -- adding ---------------------------------------------------------------------------------------------------------------------

    def add(self, episodes: Any) -> None:
        """Store episodes, or pieces of episodes that go on where their last piece ended (its last observation again).

        Raises DTypeError, ShapeError, SpaceError, NonFiniteError or ValueError, naming the episode; then nothing is stored.
        """
        for steps in self._checked(episodes):
            self._grow(steps)
        self._flush()

    def _checked(self, episodes: Any) -> list[Steps]:
        """All of it looked at, before any is stored."""
        listed = episodes if isinstance(episodes, list | tuple) else [episodes]
        found = [steps for steps in (steps_of(episode, self._with_infos) for episode in listed) if len(steps)]
        if not found:
            return []
        if self.replay is None:
            self._open(found)
        fitting, following = [], dict[str, tuple[int, bool]]()
        for steps in found:
            source = steps.source
            if (known := self._table.by_id.get(source.id_)) is not None:
                following.setdefault(source.id_, (known.t, known.ended))
            t, ended = following.get(source.id_, (source.t_started, False))
            if ended or t != source.t_started:
                state = "has ended" if ended else f"goes on at step {t}"
                raise ValueError(f"add: episode {source.id_} {state}, and a piece of it that starts at {source.t_started} came")
            following[source.id_] = t + len(steps), source.is_done
            if self._frames.count > 1 and known is None and t:
                raise ValueError(f"add: episode {source.id_} starts at step {t}, and with frame_stack its beginning must be stored")
            observation = fitted(source, "observations", steps.observation, self._observed)
            frames = self._frames.newest(source.id_, observation, t == 0)
            fitting.append(replace(steps, observation=frames, action=fitted(source, "actions", steps.action, self.replay.action_space)))
        return fitting

    def _open(self, found: list[Steps]) -> None:
        """The store, made for episodes like these."""
        source = found[-1].source
        observed, action = space_of("observations", found[0].observation), space_of("actions", found[0].action)
        running = {steps.source.id_ for steps in found} - {steps.source.id_ for steps in found if steps.source.is_done}
        num_envs = self._num_envs or min(max(len(running), 1), max(self.capacity // 2, 1))
        extra: dict[str, Any] = dict(_EXTRA)
        self._outputs = {}
        if self._with_outputs:
            for key, rows in source.extra_model_outputs.items():
                column = space_of(f"extra_model_outputs[{key!r}]", np.asarray(source.get_extra_model_outputs(key)))
                self._outputs[key] = f"output {key!r}"
                extra[f"output {key!r}"] = (column.shape, column.dtype.name)
        self.replay = self._make_replay(
            slots_of(self.capacity, num_envs), self._frames.space(observed), action, num_envs=num_envs, extra=extra, seed=self._seed,
            gamma=1.0, frame_stack=self._frames.count, stack_padding=self._frames.padding,
        )  # fmt: skip
        self._observed, self._table = observed, Table(num_envs)
        self._writer = Writer(source.observation_space, source.action_space)
        self._infos: list[Any] = [None] * self.replay.capacity if self._with_infos else []
        self._round: dict[int, tuple[Steps, Episode, bool]] = {}  # by lane: what the next block stores

    def _grow(self, steps: Steps) -> None:
        """Put a piece into the next block, in the lane of its episode."""
        source, table = steps.source, self._table
        episode = table.by_id.get(source.id_)
        if episode is None:
            episode = table.open(source.id_, source.agent_id, source.module_id, source.t_started)
            self._added["episodes"] += 1
        elif episode.lane is None:
            self._warn_of_cuts()
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
        grow = f"{self._name}: num_envs is {self.replay.num_envs}, and more episodes grow at once"
        remedy = 'give replay_buffer_config "num_envs", as many as environments run'
        if self._frames.count > 1:
            raise SettingError(f"{grow}: their frames cannot be stacked again; {remedy}")
        if not self._warned:
            self._warned = True
            what = "they are cut, n-step returns end there, and each piece takes a slot more"
            warnings.warn(f"{grow}: {what}; {remedy}", stacklevel=4)

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
        self._table.clock += 1
        for at, (steps, episode, begins) in parts.items():
            lane = self._table.lanes[at]
            lane.used, lane.touched = int(newest[at]) // self.replay.num_envs, self._table.clock
            if begins:
                lane.starts.append((episode, lane.used - len(steps) + 1))
                episode.newest.append(0)
            episode.newest[-1] = int(newest[at])
            if self._with_infos:
                slots = (np.arange(1 - len(steps), 1) * self.replay.num_envs + newest[at]) % self.replay.capacity
                for slot, pair in zip(slots.tolist(), pairwise(steps.infos)):
                    self._infos[slot] = pair
            if steps.source.is_done:
                episode.ended, episode.lane, lane.running = True, None, None
            self._added["steps"] += len(steps)
            self._num_timesteps_added += len(steps)

    def _part(self, at: int, steps: Steps) -> None:
        """The store links what is added to an observation that it equals bit for bit. Where an episode begins with the very observation
        that another one, which has not ended, has come to, the two are parted here."""
        before = self._table.lanes[at].cut
        self._table.lanes[at].cut = None
        if before is None or before.serial not in self._table.by_serial:
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
                for key, name in self._outputs.items()
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
            oldest = next((episode for episode in self._table.by_serial.values() if episode not in growing), None)
            if oldest is None:
                break
            self._evict(oldest)
        slots = self.replay.capacity // self.replay.num_envs
        for at, (steps, _, _) in parts.items():
            overwritten = self._table.lanes[at].used + len(steps) + 3 - slots  # a tail and the newest observation among them
            while (found := self._table.oldest_in(at)) is not None and found[1] < overwritten and found[0] not in growing:
                self._evict(found[0])

    def _evict(self, episode: Episode) -> None:
        index = np.array(episode.newest)
        self._added["steps evicted"] += self.replay.delete(index[self.replay.is_drawable(index)])
        self._added["episodes evicted"] += 1
        self._num_episodes_evicted += 1
        self._table.forget(episode)

    # -- drawing --------------------------------------------------------------------------------------------------------------------

    def sample(
        self,
        num_items: int | None = None,
        *,
        batch_size_B: int | None = None,
        batch_length_T: int | None = None,
        n_step: int | tuple[int, int] | None = None,
        beta: float | None = 0.0,
        gamma: float = 0.99,
        include_infos: bool = False,
        include_extra_model_outputs: bool = False,
        sample_episodes: bool | None = False,
        to_numpy: bool = False,
        lookback: int = 0,
        min_batch_length_T: int = 0,
        **options: Any,
    ) -> Any:
        """Draw transitions: a list of the host's episodes of one step, with ``n_step`` and ``weights`` among their extra model outputs.

        Args:
            num_items, batch_size_B: how many; one of the two, or neither.
            n_step: length of the returns; a pair (low, high) draws one from low to high - 1 for each transition. Returns end early at
                an episode's end and at the newest step, and the ``n_step`` of a transition is the number of its steps.
            gamma: discount factor of the returns.
            include_infos, include_extra_model_outputs: need ``store_infos`` and ``store_extra_model_outputs``.
            sample_episodes: must be True.
            to_numpy: give arrays instead of lists in the episodes.

        SettingError for what needs sequences: ``batch_length_T``, ``lookback``, ``min_batch_length_T``, which the host asks for with
        stateful modules. ValueError if nothing is stored.
        """
        if options:
            raise SettingError(f"sample: {min(options)} is not an argument of this buffer")
        if not sample_episodes:
            raise SettingError("sample: sample_episodes is False, expected True: rows of the batch form are sequences, which are not drawn")
        sequences = {"batch_length_T": batch_length_T, "lookback": lookback, "min_batch_length_T": min_batch_length_T}
        if asked := [name for name, value in sequences.items() if value]:
            raise SettingError(f"sample: {asked[0]} is {sequences[asked[0]]}, expected 0: sequences (stateful modules) are not drawn here")
        if num_items is not None and batch_size_B is not None:
            raise ValueError("sample: num_items and batch_size_B are both given, expected one of them")
        given = batch_size_B if num_items is None else num_items
        size = self.batch_size_B if given is None else count("sample", "batch_size_B" if num_items is None else "num_items", given)
        for name, asked_for, kept in (
            ("infos", include_infos, self._with_infos),
            ("extra_model_outputs", include_extra_model_outputs, self._with_outputs),
        ):
            if asked_for and not kept:
                raise SettingError(f'sample: include_{name} is True, and they are not stored; give replay_buffer_config "store_{name}": True')
        if self.replay is None:
            raise ValueError("sample: nothing is stored")
        steps = self._lengths(n_step, size)
        if not 0 <= gamma <= 1:
            raise ValueError(f"sample: gamma is {gamma!r}, expected a number in [0, 1]")
        made = self._write(*self._draw(size, beta), steps, gamma, include_extra_model_outputs)
        return [episode.to_numpy() for episode in made] if to_numpy else made

    def _lengths(self, n_step: Any, size: int) -> Any:
        """The length of each return: one number, or int64 [B]."""
        if not isinstance(n_step, tuple | list):
            return 1 if n_step is None else count("sample", "n_step", n_step)
        if len(n_step) != 2 or not 1 <= count("sample", "n_step", n_step[0]) < count("sample", "n_step", n_step[1]):
            raise ValueError(f"sample: n_step is {n_step!r}, expected a number, or (low, high) with 1 <= low < high")
        return self._random.integers(*n_step, size)

    def _draw(self, size: int, beta: Any) -> tuple[Batch, Any]:
        """Transitions of one step, and their weights."""
        return self.replay.sample(size), np.ones(size, np.float32)

    def _write(self, first: Batch, weight: Any, lengths: Any, gamma: float, outputs: bool) -> list[Any]:
        last, reward, n_step = first, first.reward, np.ones(len(first.index), np.int64)
        if not np.isscalar(lengths) or lengths != 1:
            last, reward, n_step = self._returns(first, lengths, gamma)
        serial = first.extra["episode"]
        sources = [self._table.by_serial[number] for number in serial.tolist()]
        infos: Any = [None] * len(serial)
        if self._with_infos:
            ends = zip((first.index % self.replay.capacity).tolist(), (last.index % self.replay.capacity).tolist())
            infos = [[self._infos[start][0], self._infos[end][1]] for start, end in ends]
        kept = {key: first.extra[name] for key, name in self._outputs.items()} if outputs else {}
        self._sampled.update(
            {
                "calls": 1, "steps": len(serial), "n_steps": int(n_step.sum()),
                "episodes": len(np.unique(serial)), "distinct": len(np.unique(first.index)),
            }
        )  # fmt: skip
        self.sampled_timesteps += len(serial)
        return self._writer.write(
            observation=map_observation(self._frames.stacked, first.observation), action=first.action, reward=reward,
            next_observation=map_observation(self._frames.stacked, last.next_observation), terminated=last.terminated,
            truncated=last.extra["time_limit"], n_step=n_step.tolist(), weight=weight, t=first.extra["t"].tolist(), source=sources,
            infos=infos, outputs=[dict(zip(kept, row)) for row in zip(*map(each, kept.values()))] if kept else [None] * len(serial),
        )  # fmt: skip

    def _returns(self, first: Batch, lengths: Any, gamma: float) -> tuple[Batch, np.ndarray, np.ndarray]:
        """The last transition of each window, the discounted sum of its rewards, and its number of steps."""
        longest = int(np.max(lengths))
        steps = self.replay.steps(first.index, longest)
        inside = (steps >= 0) & (np.arange(longest) < np.reshape(lengths, (-1, 1)))
        n_step = inside.sum(1)
        reward = np.zeros(steps.shape)
        reward[inside] = self.replay.column("reward", steps[inside])
        last = self.replay.get(steps[np.arange(len(steps)), n_step - 1], window=_ONE)
        return last, (reward @ gamma ** np.arange(longest)).astype(np.float32), n_step

    # -- what the host asks ---------------------------------------------------------------------------------------------------------

    @property
    def episodes(self) -> list[Episode]:
        """Those that are stored, oldest first: their ``id_``."""
        return [] if self.replay is None else list(self._table.by_serial.values())

    def get_num_episodes(self, module_id: Any = None) -> int:
        return 0 if self.replay is None else len(self._table)

    def get_num_timesteps(self, module_id: Any = None) -> int:
        return 0 if self.replay is None else len(self.replay)

    @property
    def nbytes(self) -> int:
        """Bytes of the store; 0 before the first `add`. Infos come on top, if they are stored."""
        return 0 if self.replay is None else self.replay.nbytes

    @classmethod
    def forecast(cls, capacity: int, observation_space: Any, action_space: Any, num_envs: int = 1, frame_stack: int = 1) -> int:
        """What ``nbytes`` will be, before anything is allocated; without extra model outputs."""
        frame = Frames(frame_stack, "repeat").space(observation_space)
        return cls._replay_class.forecast(
            slots_of(capacity, num_envs), frame, action_space, num_envs, frame_stack=frame_stack, extra=_EXTRA
        )

    def get_metrics(self) -> Any:
        """The host's metrics of what was added and sampled since the last call."""
        if self._added:
            self._log_added()
        if self._sampled:
            self._log_sampled()
        self._added.clear()
        self._sampled.clear()
        return self.metrics.reduce()

    def _log_added(self) -> None:
        steps, evicted = self._added["steps"], self._added["steps evicted"]
        episodes, gone = self._added["episodes"], self._added["episodes evicted"]
        numbers = {"episodes_added": episodes, "steps_added": steps, "episodes_evicted": gone, "steps_evicted": evicted}
        self._update_add_metrics(
            num_episodes_added=episodes, num_env_steps_added=steps, num_episodes_evicted=gone, num_env_steps_evicted=evicted,
            **by_agent_and_module({f"num_{name}": number for name, number in numbers.items()}),
        )  # fmt: skip

    def _log_sampled(self) -> None:
        seen = self._sampled
        n_step = seen["n_steps"] / seen["steps"]
        numbers = {
            "num_steps_sampled": seen["steps"], "num_episodes_per_sample": seen["episodes"], "num_steps_per_sample": seen["distinct"],
            "sampled_n_step": n_step, "num_resamples": 0,
        }  # fmt: skip
        self._update_sample_metrics(
            num_env_steps_sampled=seen["steps"], num_episodes_per_sample=seen["episodes"], num_env_steps_per_sample=seen["distinct"],
            sampled_n_step=n_step, num_resamples=0, **by_agent_and_module(numbers),
        )  # fmt: skip


def by_agent_and_module(numbers: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The host counts everything by agent and by module too; here there is one of each."""
    keys = (("agent", DEFAULT_AGENT_ID), ("module", DEFAULT_MODULE_ID))
    return {f"{whose}_to_{name}": {key: number} for whose, key in keys for name, number in numbers.items()}


def install() -> None:
    """From here on the host's names for its buffers of one agent make ours, in this process: for SAC, which takes no other names."""
    from ray.rllib.utils import replay_buffers

    from pyrl.adapters.rllib.prioritized import PrioritizedEpisodeReplayBuffer

    for made in (EpisodeReplayBuffer, PrioritizedEpisodeReplayBuffer):
        setattr(replay_buffers, made.__name__, made)
