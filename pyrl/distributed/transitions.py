"""What collectors send to replay shards: transitions, with their initial priorities (Horgan et al. 2018, algorithm 1)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pyrl import ops
from pyrl.agents.actor import Actor
from pyrl.agents.storage import Columns
from pyrl.buffers.layout import flat_leaves, nested_leaves
from pyrl.distributed.chunks import Chunk, read_episodes, write_episodes
from pyrl.distributed.shared import Slots
from pyrl.envs import Stepper
from pyrl.spaces import choices
from pyrl.trees import zeros_for
from pyrl.types import Array, Observation, PolicyInput, Record, StepResult, map_observation

_COLUMNS = ("action", "reward", "terminated", "truncated", "valid")
_NUMBERS = ("incarnation", "sequence", "version", "episodes", "weighted")


@dataclass(slots=True, repr=False)
class Transitions(Record):
    """T consecutive steps of N environments, as a replay stores them."""

    observation: Observation  # [T, N, ...]
    action: np.ndarray  # [T, N, ...]
    reward: np.ndarray  # float32 [T, N]
    next_observation: Observation  # [T, N, ...] the final one where the episode ended
    terminated: np.ndarray  # bool [T, N]
    truncated: np.ndarray  # bool [T, N]
    valid: np.ndarray  # bool [T, N]: False marks what is no transition
    extra: dict[str, np.ndarray] = field(default_factory=dict)
    priority: np.ndarray | None = None  # float32 [T, N]: |td_error| by the weights that acted; None: the collector has no values

    @property
    def steps(self) -> int:
        return int(np.count_nonzero(self.valid))

    def of(self, begin: int, end: int) -> Transitions:
        """Those of some of the environments. A copy, unless it is all of them."""
        if (begin, end) == (0, self.reward.shape[1]):
            return self

        def cut(column: np.ndarray) -> np.ndarray:
            return np.ascontiguousarray(column[:, begin:end])

        return Transitions(
            observation=map_observation(cut, self.observation),
            next_observation=map_observation(cut, self.next_observation),
            **{name: cut(getattr(self, name)) for name in _COLUMNS},
            extra={name: cut(column) for name, column in self.extra.items()},
            priority=None if self.priority is None else cut(self.priority),
        )


@dataclass(frozen=True, kw_only=True)
class TransitionSpec:
    """What a collector stores for replay shards, in chunks of ``n_steps`` steps of each environment."""

    n_steps: int  # T
    observation_space: Any  # as it is stored: of a stack of frames the newest, beside a mask where there are some
    action_space: Any
    stacked: bool
    masks: bool
    window: Mapping[str, Any]  # n_step and gamma of the replay
    prioritized: bool
    rungs: tuple[float, ...]  # of all environments, on the ladder of exploration
    extra: Columns = field(default_factory=dict)

    def prepare(self, actor: Actor, stepper: Stepper) -> TransitionBuffer:
        """What a collector of these environments writes to; from here on ``actor`` tells it what it computes priorities from."""
        actor.tells_values = self.prioritized and actor.can_tell_values
        return TransitionBuffer(self, stepper.num_envs, actor.value if actor.tells_values else None, actor.normalizer.reward)

    def rungs_of(self, stepper: Stepper) -> np.ndarray | None:
        first = stepper.first_index
        return np.array(self.rungs[first : first + stepper.num_envs])

    def layout(self, num_envs: int) -> TransitionLayout:
        """Of slots for the chunks of ``num_envs`` environments."""
        return TransitionLayout.of_transitions(self, num_envs)


class TransitionBuffer:
    """The steps of one chunk, written row by row, handed out whole. ``value`` says V(o) [N], where priorities are wanted; ``normalized``
    makes of rewards what the losses see."""

    def __init__(
        self, spec: TransitionSpec, num_envs: int, value: Callable[[PolicyInput], np.ndarray] | None,
        normalized: Callable[[np.ndarray], Any] = lambda reward: reward,
    ) -> None:  # fmt: skip
        leading = spec.n_steps, num_envs
        self._normalized = normalized
        self.spec, self.num_steps, self._value, self._row = spec, spec.n_steps, value, 0
        self._mask_size = sum(choices(spec.action_space)) if spec.masks else 0
        self.columns = Transitions(
            zeros_for(spec.observation_space, *leading), zeros_for(spec.action_space, *leading), np.zeros(leading, np.float32),
            zeros_for(spec.observation_space, *leading), np.zeros(leading, bool), np.zeros(leading, bool), np.zeros(leading, bool),
            {name: np.zeros((*leading, *shape), dtype) for name, (shape, dtype) in spec.extra.items()},
        )  # fmt: skip
        self._leaves = [list(flat_leaves(spec.observation_space, x)) for x in (self.columns.observation, self.columns.next_observation)]
        self._q, self._next_value = np.zeros(leading, np.float32), np.zeros(leading, np.float32)

    def __len__(self) -> int:
        return self._row

    @property
    def full(self) -> bool:
        return self._row == self.num_steps

    def add(self, step: StepResult, stored: dict[str, np.ndarray]) -> None:
        t, columns = self._row, self.columns
        seen = (step.observation, step.action_mask), (step.next_observation, step.next_action_mask)
        for leaves, (observation, mask) in zip(self._leaves, seen):
            for column, given in zip(leaves, flat_leaves(self.spec.observation_space, self._as_stored(observation, mask))):
                column[t] = given
        for name in _COLUMNS:
            getattr(columns, name)[t] = getattr(step, name)
        for name, column in columns.extra.items():
            column[t] = stored[name]
        if self._value is not None:
            self._q[t] = stored["q"]
            if t > 0:
                ended = columns.terminated[t - 1] | columns.truncated[t - 1]
                np.copyto(self._next_value[t - 1], stored["value"], where=~ended)
            if t == self.num_steps - 1 or step.terminated.any() or step.truncated.any():
                self._next_value[t] = self._value(PolicyInput(step.next_observation, step.terminated, step.next_action_mask))
        self._row += 1

    def take(self, observation: Observation, first: np.ndarray) -> Transitions:
        """The chunk. Its arrays are valid until the next `add`."""
        assert self.full
        self._row, columns = 0, self.columns
        if self._value is not None:
            return_ = ops.n_step_return(
                self._normalized(columns.reward), None, self._next_value, columns.terminated, columns.truncated,
                n=self.spec.window["n_step"], gamma=self.spec.window["gamma"], valid=columns.valid,
            )  # fmt: skip
            columns.priority = abs(return_ - self._q)
        return columns

    def _as_stored(self, observation: Observation, mask: Array | None) -> Observation:
        if self.spec.stacked:
            observation = observation[:, -1]  # type: ignore[index,call-overload]
        if not self.spec.masks:
            return observation
        if mask is None:  # of environments that gave none at their latest reset
            mask = np.ones((self.columns.reward.shape[1], self._mask_size), bool)
        return {"observation": observation, "action_mask": mask}


class TransitionLayout(Slots):
    """Where the columns of a chunk of transitions are in a slot."""

    @classmethod
    def of_transitions(cls, spec: TransitionSpec, num_envs: int) -> TransitionLayout:
        columns = TransitionBuffer(spec, num_envs, None).columns
        arrays: dict[str, tuple[tuple[int, ...], Any]] = {"numbers": ((len(_NUMBERS),), np.int64)}
        arrays |= {name: (column.shape, column.dtype) for name, column in _arrays(spec.observation_space, columns)}
        arrays["priority"] = columns.reward.shape, np.float32
        arrays["episodes"] = (columns.reward.size, 4), np.float64
        return cls.packed(spec.observation_space, arrays, tuple(spec.extra))

    def write(self, slot: np.ndarray, chunk: Chunk) -> None:
        views, steps = self.views(slot), chunk.rollout
        assert isinstance(steps, Transitions)
        for name, column in _arrays(self.observation_space, steps):
            views[name][:] = column
        if steps.priority is not None:
            views["priority"][:] = steps.priority
        write_episodes(views["episodes"], chunk.episodes)
        views["numbers"][:] = chunk.incarnation, chunk.sequence, chunk.version, len(chunk.episodes), steps.priority is not None

    def read(self, slot: np.ndarray, collector: int) -> Chunk:
        """A chunk whose arrays are those of the slot."""
        views = self.views(slot)
        numbers = dict(zip(_NUMBERS, views["numbers"].tolist()))

        def observation(name: str) -> Observation:
            leaves = (view for key, view in views.items() if key.startswith(f"{name}."))
            return nested_leaves(self.observation_space, leaves)

        steps = Transitions(
            observation=observation("observation"), next_observation=observation("next_observation"),
            **{name: views[name] for name in _COLUMNS},
            extra={name: views[f"extra.{name}"] for name in self.extra},
            priority=views["priority"] if numbers["weighted"] else None,
        )  # fmt: skip
        episodes = read_episodes(views["episodes"], numbers["episodes"])
        return Chunk(steps, episodes, collector, numbers["incarnation"], numbers["sequence"], numbers["version"])


def _arrays(space: Any, steps: Transitions) -> Iterator[tuple[str, np.ndarray]]:
    """(name, column) of all but the priority."""
    for name in ("observation", "next_observation"):
        for i, leaf in enumerate(flat_leaves(space, getattr(steps, name))):
            yield f"{name}.{i}", leaf
    for name in _COLUMNS:
        yield name, getattr(steps, name)
    for name, column in steps.extra.items():
        yield f"extra.{name}", column
