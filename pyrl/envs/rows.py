"""The rows of a rollout that a stepper makes (`Stepper.rollout`): their memory, and who sees them as they are made."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
from gymnasium import Space

from pyrl.envs.observations import ObservationBuffer
from pyrl.spaces.actions import Actions
from pyrl.trees import zeros_for
from pyrl.types import Array, Episode, Observation, StepRows

_COLUMN_BYTES = 1 << 20  # of observations: more would be out of the caches when it is read


class Normalizes(Protocol):
    """What is shown the observations that are acted on and the rewards (`pyrl.nets.normalizer.Normalizer`)."""

    def update(self, observation: Observation) -> None: ...
    def observe_reward(self, reward: Array, ended: Array) -> None: ...


def most_rows(buffer: ObservationBuffer) -> int:
    """Of one call, where a row's observations are as large as ``buffer``."""
    return max(1, _COLUMN_BYTES // sum(leaf.array.nbytes for leaf in buffer.leaves))


class RowColumns(NamedTuple):
    """What a rollout writes, in the order of `pyrl.ops.steps.rollout_calls`; [T, N, ...] each, as in `StepRows`."""

    observation: Array
    following: Array
    action: Array
    reward: Array
    terminated: Array
    truncated: Array
    log_prob: Array

    @classmethod
    def of(cls, observation_space: Space, actions: Actions, steps: int, num_envs: int) -> RowColumns:
        leading = steps, num_envs
        shown = [zeros_for(observation_space, *leading) for _ in range(2)]
        drawn = np.zeros((*leading, *actions.stored.shape), np.float32 if actions.is_box else np.int64)
        return cls._make([*shown, drawn, *(np.zeros(leading, kind) for kind in (np.float64, bool, bool, np.float32))])

    def rows(self, count: int) -> RowColumns:
        """The first ones."""
        return RowColumns._make([column[:count] for column in self])

    def step_rows(self, count: int, first: Array, episodes: list[Episode], error: BaseException | None = None) -> StepRows:
        """The first ones, of which the very first starts an episode where ``first`` (bool [N]) says so."""
        observation, following, action, reward, terminated, truncated, log_prob = [column[:count] for column in self]
        starts = np.empty_like(terminated)
        starts[:1] = first
        np.logical_or(terminated[:-1], truncated[:-1], out=starts[1:])
        extra = {"log_prob": log_prob}
        return StepRows(observation, action, reward, following, terminated, truncated, starts, extra, episodes, error)
