"""Hindsight experience replay (Andrychowicz et al. 2017, arXiv:1707.01495) over the episodes of a replay."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np

from pyrl.buffers.replay import ReplayBuffer
from pyrl.errors import DeviceError, DTypeError, NonFiniteError, ShapeError, SpaceError
from pyrl.types import Array, Batch

Strategy: TypeAlias = Literal["future", "final", "episode"]
_GOALS = ("achieved_goal", "desired_goal")


@dataclass
class Hindsight:
    """Learns from a batch as if goals that were achieved later had been desired.

    Observations are dicts with ``achieved_goal`` and ``desired_goal``. A record's new goal is what was achieved after a transition of the
    same episode. Of an episode that still runs, what happened so far counts; of one whose beginning is overwritten, the rest. Whether a
    transition terminated stays as the environment said.

    Args:
        compute_reward: of the environment (Gymnasium-Robotics' GoalEnv): (achieved_goal [M, ...], desired_goal [M, ...], info) -> [M].
            Called once a batch. One that takes single goals only is found out at its first call, and called row by row.
        strategy: the transition is drawn from those from the record on ("future"), is the last one ("final"), or is drawn from the
            whole episode ("episode").
        goals: new goals for each real one: a record keeps its own with probability 1 / (1 + goals).
        info: the ``info`` of these records (int64 [M]) for ``compute_reward``; None: empty dicts.
    """

    compute_reward: Callable[[Array, Array, Any], Any]
    strategy: Strategy = "future"
    goals: float = 4
    info: Callable[[np.ndarray], Sequence[Any]] | None = None
    _vectorized: bool | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.strategy not in ("future", "final", "episode"):
            raise ValueError(f"Hindsight: strategy is {self.strategy!r}, expected one of future, final, episode")
        if isinstance(self.goals, bool) or not isinstance(self.goals, int | float) or not 0 <= self.goals < float("inf"):
            raise ValueError(f"Hindsight: goals is {self.goals!r}, expected a number of at least 0")
        if not callable(self.compute_reward):
            raise DTypeError(f"Hindsight: compute_reward is {self.compute_reward!r}, expected a function")

    def check(self, buffer: ReplayBuffer) -> None:
        """SpaceError, DeviceError or ValueError where the records of ``buffer`` cannot be relabelled."""
        entries = getattr(buffer.observation_space, "spaces", None)
        if not isinstance(entries, dict) or not set(_GOALS) <= entries.keys():
            raise SpaceError(f"Hindsight: observation_space is {buffer.observation_space}, expected a Dict with {' and '.join(_GOALS)}")
        achieved, desired = (entries[name] for name in _GOALS)
        if achieved.shape != desired.shape or achieved.shape is None:
            raise SpaceError(f"Hindsight: achieved_goal is {achieved} and desired_goal {desired}, expected one shape")
        if buffer.device != "cpu":
            raise DeviceError(f"Hindsight: the replay is on {buffer.device}, expected 'cpu', where rewards are computed")
        if buffer.frame_stack != 1 or not buffer.linked:
            raise ValueError("Hindsight: the replay stacks frames or has no order, expected frame_stack=1 and linked=True")

    def relabel(self, buffer: ReplayBuffer, batch: Batch, normalize: Callable[[np.ndarray], np.ndarray] | None = None) -> Batch:
        """The batch, just drawn from ``buffer``, with other goals and their rewards, in place. Takes a draw of the buffer's stream.
        ``normalize`` is applied to the rewards [M] of single steps, before they are summed.

        Errors: those of `check`, of ``compute_reward``, and ShapeError or NonFiniteError for what it returns."""
        self.check(buffer)
        normalize = normalize or (lambda rewards: rewards)
        index = np.asarray(batch.index)
        source = buffer._core.goals(index, self.strategy, 1 - 1 / (1 + self.goals))
        chosen = np.flatnonzero(source >= 0)
        if len(chosen) == 0:
            return batch
        goal = buffer.column("next_observation['achieved_goal']", source[chosen])
        observation: Any = batch.observation
        next_observation: Any = batch.next_observation
        for entries in (observation, next_observation):
            np.asarray(entries["desired_goal"])[chosen] = goal
        if buffer.n_step == 1:
            achieved = np.asarray(next_observation["achieved_goal"])[chosen]
            reward = normalize(self.rewards(achieved, goal, index[chosen]))
        else:
            steps = buffer.steps(index[chosen])
            taken = steps >= 0
            achieved = buffer.column("next_observation['achieved_goal']", steps[taken])
            each = np.zeros(steps.shape)
            each[taken] = normalize(self.rewards(achieved, goal[np.nonzero(taken)[0]], steps[taken]))
            reward = each @ buffer.gamma ** np.arange(buffer.n_step)
        np.asarray(batch.reward)[chosen] = reward
        return batch

    def rewards(self, achieved: np.ndarray, desired: np.ndarray, index: np.ndarray) -> np.ndarray:
        """float64 [M]: the reward of each of these records for its desired goal."""
        info = [{} for _ in index] if self.info is None else self.info(index)
        if self._vectorized is None and len(index) > 1:
            self._vectorized = self._agrees(achieved, desired, info)
        if self._vectorized or len(index) == 0:
            reward = np.asarray(self.compute_reward(achieved, desired, info), np.float64)
        else:
            reward = self._one_by_one(achieved, desired, info)
        if reward.shape != (len(index),):
            raise ShapeError(f"Hindsight: compute_reward returned shape {list(reward.shape)}, expected [{len(index)}]")
        if not np.isfinite(reward).all():
            raise NonFiniteError(f"Hindsight: compute_reward returned {reward[~np.isfinite(reward)][0]}, expected finite rewards")
        return reward

    def _agrees(self, achieved: np.ndarray, desired: np.ndarray, info: Sequence[Any]) -> bool:
        """Whether rows together get the rewards that they get alone. An error of a function of single goals means that they do not."""
        few = slice(0, 8)
        try:
            together = np.asarray(self.compute_reward(achieved[few], desired[few], info[few]), np.float64)
        except Exception:
            return False
        return np.array_equal(together, self._one_by_one(achieved[few], desired[few], info[few]))

    def _one_by_one(self, achieved: np.ndarray, desired: np.ndarray, info: Sequence[Any]) -> np.ndarray:
        rewards = np.array([self.compute_reward(*row) for row in zip(achieved, desired, info)], np.float64)
        return rewards.reshape(-1) if rewards.size == len(achieved) else rewards  # some give an array of one number
