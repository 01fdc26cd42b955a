"""N environments behind one face, whatever steps them and however they reset: the only code that knows autoreset.

A vector environment restarts ended episodes in one of three ways (Gymnasium's ``AutoresetMode``). `Stepper` hides
which:

========= =================================== ============================ ======================================
mode      ``step`` returns at an end          the final observation is     the next episode starts
========= =================================== ============================ ======================================
NEXT_STEP the final observation               returned                     in the next step; its action is ignored
SAME_STEP the next episode's first            in ``infos["final_obs"]``    at once
DISABLED  the final observation               returned                     when we call ``reset`` with a mask
========= =================================== ============================ ======================================

In each, ``StepResult.next_observation`` is the final observation where an episode ended, and ``stepper.observation`` is
what to act on next. In NEXT_STEP that is the final observation once more: the step after it is dead, marked
``valid=False``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium import Space
from gymnasium.vector import AutoresetMode

from pyrl.envs.actions import ActionBorder
from pyrl.envs.observations import ObservationBuffer, finite_test
from pyrl.envs.success import success_rule
from pyrl.errors import EnvError
from pyrl.ops.steps import StepBook
from pyrl.seeding import stream_seed
from pyrl.spaces import check_action_space, check_observation_space
from pyrl.types import Array, Episode, Observation, StepResult

NEVER = 1 << 62  # a time limit that is none


class Stepper(ABC):
    """What loops see of the environments. Made by `pyrl.envs.make`; close it, or use it in a ``with``.

    ``observation`` [N, ...] is what to act on, None before the first `reset` and after an error. Arrays handed out are
    the stepper's own: those of a `StepResult` and ``observation`` stay as they are until the next call of `step` or
    `reset`.
    """

    autoreset: AutoresetMode
    factory: Callable[[], Any] | None = None  # makes one more environment like these, in another process too
    frames: tuple[int, str] | None = None  # observations are stacks of so many pictures, newest last, padded with "zero" or "repeat"
    episodic_life = False  # a lost life is terminated for the learner; the episode, and its report, go on
    env_timeout: float | None = None  # seconds that an environment in another process gets to answer
    first_index = 0  # of the environments, in messages: these may be some of many
    fires = False  # the step after a lost life is the environment's own, which revives the player: no transition

    def __init__(self, observation_space: Space, action_space: Space, num_envs: int, seed: int, name: str, spec: Any) -> None:
        check_observation_space(observation_space, name)
        check_action_space(action_space, name)
        self.num_envs = num_envs
        self.single_observation_space: Any = observation_space
        self.single_action_space: Any = action_space
        self.name = name
        self.spec = spec
        self.seed = seed
        self.env_seeds = [stream_seed(seed, "env", i) for i in range(num_envs)]
        self.observation: Observation = None
        self.closed = False
        self._border = ActionBorder(action_space, num_envs)
        # Three in rotation: acted on, following, and (where episodes ended) the first of the next episodes.
        self._buffers = [ObservationBuffer(observation_space, num_envs) for _ in range(3)]
        self._current = 0
        self._reward = np.zeros(num_envs)
        self._finite_reward = finite_test(self._reward)
        self._terminated = np.zeros(num_envs, bool)
        self._truncated = np.zeros(num_envs, bool)
        self._valid = np.ones(num_envs, bool)
        self._book = StepBook(self._reward, self._truncated, [NEVER] * num_envs)  # returns, clocks, time limits
        self._lives = np.zeros(num_envs, np.int64)  # left, where `episodic_life`
        self._lost = np.zeros(num_envs, bool)  # one of them, in the last step
        self._success_rule = success_rule(name)
        self._was_reset = False

    def reset(self, seed: int | None = None) -> Observation:
        """Start new episodes everywhere; the observation [N, ...], which is also kept as ``observation``.

        Environment i is seeded from the stream ("env", i) of ``seed``. Without a seed the first reset takes the one
        given to `make`; later ones go on with the environments' own random streams.
        """
        if self.closed:
            raise EnvError(f"{self.name}: reset after close")
        seeds: list[int] | None = None
        if seed is not None or not self._was_reset:
            self.seed = self.seed if seed is None else seed
            seeds = self.env_seeds = [stream_seed(self.seed, "env", i) for i in range(self.num_envs)]
            self.single_action_space.seed(stream_seed(self.seed, "action_space"))
        self.observation = None
        self._reward[:] = 0.0
        self._book.reset()
        self._terminated[:] = self._truncated[:] = False
        self._lives[:] = self._lost[:] = 0
        self._reset(seeds, self._buffers[self._current])
        self._was_reset = True
        self.observation = self._buffers[self._current].value
        return self.observation

    @abstractmethod
    def _reset(self, seeds: list[int] | None, buffer: ObservationBuffer) -> None:
        """Reset every environment and write what it shows into ``buffer``."""

    @abstractmethod
    def step(self, action: Array) -> StepResult:
        """Step every environment. ``action`` [N, ...] is the agent's: discrete actions count from zero, Box actions
        are clipped.

        After an error the environments are in an unknown state: `reset` or `close`.
        """

    @abstractmethod
    def render(self) -> Any:
        """The picture [height, width, 3] of environment 0, if `make` was told ``render_mode="rgb_array"``."""

    def close(self) -> None:
        """Release the environments; more than once is harmless."""
        if not self.closed:
            self.closed = True
            self.observation = None
            self._close()

    @abstractmethod
    def _close(self) -> None: ...

    def __enter__(self) -> Stepper:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name}, num_envs={self.num_envs}, autoreset={self.autoreset.name})"

    def _begin(self) -> Observation:
        """The observation acted on; EnvError where there is none."""
        if self.observation is None:
            raise EnvError(f"{self.name}: step {'after close' if self.closed else 'before reset (or after an error)'}")
        return self.observation

    def _finish(self, index: int, next_start: int, info_success: bool | None) -> Episode:
        """Book the episode that ended in environment ``index``."""
        success = info_success
        if success is None and self._success_rule is not None:
            success = self._success_rule(bool(self._terminated[index]), float(self._reward[index]))
        episode_return, length = self._book.finish(index, next_start)
        return Episode(episode_return, length, index, success)

    def _mark_lost_lives(self, lives: Array) -> None:
        """Terminated where a life was lost in an episode that goes on, now that those that ended are booked. ``lives`` [N] are
        those of the infos; before the game is over there may be none left for some steps, which is no loss."""
        before, dead = self._lives, self._lost
        self._lives = np.array(lives)
        self._lost = (self._lives < before) & (self._lives > 0) & ~self._truncated
        self._terminated |= self._lost
        if self.fires:
            self._valid = self._valid & ~dead
            self._terminated[dead] = self._truncated[dead] = False

    def _error(self, index: int, what: str) -> EnvError:
        """The environments are unusable until a reset, and the message says which one failed."""
        self.observation = None
        age = self._book.age(index)
        number, seed = self.first_index + index, self.env_seeds[index]
        error = EnvError(f"{self.name}: environment {number} (seed {seed}, step {age}): {what}")
        error.index, error.seed = number, seed
        return error

    def _reward_fault(self, index: int) -> str | None:
        """What the environment returned in place of a number, which NumPy took for NaN."""
        return None

    def _check_numbers(self, buffer: ObservationBuffer, what: str, given: Callable[[int], Observation] | None = None) -> None:
        """EnvError where a reward or an observation is not finite; ``given(index)`` is what the environment itself returned."""
        if not self._finite_reward():
            index = int(np.flatnonzero(~np.isfinite(self._reward))[0])
            raise self._error(
                index, self._reward_fault(index) or f"{what} returned the reward {self._reward[index]}, expected a finite number"
            )
        if not buffer.finite():
            index = buffer.not_finite_rows()[0]
            fault = None if given is None else buffer.fault(given(index))
            raise self._error(index, f"{what} returned an observation that is not finite{f': {fault}' if fault else ''}")
