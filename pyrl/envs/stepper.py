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
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from gymnasium import Space, spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv

from pyrl.envs.actions import ActionBorder
from pyrl.envs.observations import ObservationBuffer, finite_test
from pyrl.envs.success import INFO_KEYS, success_in, success_rule
from pyrl.errors import EnvError
from pyrl.seeding import stream_seed
from pyrl.spaces import check_action_space, check_observation_space
from pyrl.types import Array, Episode, Observation, StepResult

FAILURE = "_pyrl_failure"  # in an info: the environment raised, and this is how (`pyrl.envs.make.Guard`)
_FINAL_KEYS = ("final_obs", "final_observation")


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
        self._returns = np.zeros(num_envs)
        self._clock = 0
        self._starts = [0] * num_envs  # the clock at the start of each episode
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
        self._returns[:] = self._reward[:] = 0.0
        self._starts = [self._clock] * self.num_envs
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
        episode = Episode(float(self._returns[index]), self._clock - self._starts[index], index, success)
        self._returns[index] = 0.0
        self._starts[index] = next_start
        return episode

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
        age = self._clock - self._starts[index]
        return EnvError(f"{self.name}: environment {index} (seed {self.env_seeds[index]}, step {age}): {what}")

    def _check_numbers(self, buffer: ObservationBuffer, what: str) -> None:
        """EnvError where a reward or an observation is not finite."""
        if not self._finite_reward():
            index = int(np.flatnonzero(~np.isfinite(self._reward))[0])
            raise self._error(index, f"{what} returned the reward {self._reward[index]}, expected a finite number")
        if not buffer.finite():
            index = buffer.not_finite_rows()[0]
            raise self._error(index, f"{what} returned an observation that is not finite")


class VectorStepper(Stepper):
    """A Gymnasium vector environment of any autoreset mode.

    ``rebuild(seeds)`` makes a fresh vector environment, for kinds that take seeds only when they are made (EnvPool).
    """

    def __init__(
        self,
        env: Any,
        *,
        seed: int,
        name: str,
        spec: Any,
        autoreset: AutoresetMode | None = None,
        rebuild: Callable[[list[int]], Any] | None = None,
        observation_space: Space | None = None,
    ) -> None:
        super().__init__(observation_space or env.single_observation_space, env.single_action_space, env.num_envs, seed, name, spec)
        self.env = env
        self._rebuild = rebuild
        self._unused_seeds = self.env_seeds if rebuild is not None else None  # what ``env`` was made with, until its first reset
        declared = declared_mode(env)
        if autoreset is not None and declared is not None and autoreset != declared:
            raise ValueError(f"make: autoreset is {autoreset.name}, but {name} declares {declared.name}")
        self._assumed = declared is None and autoreset is None
        self.autoreset = autoreset or declared or AutoresetMode.NEXT_STEP
        self._ended = np.zeros(self.num_envs, bool)
        self._dead = np.zeros(self.num_envs, bool)  # ended in the last step, so NEXT_STEP resets it in this one
        self._any_dead = self._any_invalid = False

    def _reset(self, seeds: list[int] | None, buffer: ObservationBuffer) -> None:
        self._any_dead = False
        keywords: dict[str, Any] = {}
        if seeds is not None and self._rebuild is not None:
            if seeds != self._unused_seeds:
                self.env.close()
                self.env = self._rebuild(seeds)
        elif seeds is not None and not _has_fixed_seeds(self.env):
            keywords["seed"] = _seed_for(self.env, seeds)
        self._unused_seeds = None
        observation, infos = self._call("reset", lambda: self.env.reset(**keywords), None)
        self._raise_failure(infos, "reset")
        self._write(buffer, observation, "reset")
        self._check_numbers(buffer, "reset")

    def step(self, action: Array) -> StepResult:
        observation = self._begin()
        action = self._border.check(action)
        env_action = self._border.batch(action)
        try:
            seen, reward, terminated, truncated, infos = self.env.step(env_action)
        except Exception as error:
            raise self._raised("step", error, env_action) from error
        if FAILURE in infos:
            self._raise_failure(infos, "step")
        current = (self._current + 1) % 3
        following = self._buffers[current]
        self._write(following, seen, "step")
        try:
            self._reward[:] = reward
            self._terminated[:] = terminated
            self._truncated[:] = truncated
        except (TypeError, ValueError) as error:
            self.observation = None
            raise EnvError(
                f"{self.name}: step returned a reward or flags of another shape than [N] = [{self.num_envs}]: {error}"
            ) from error
        self._clock += 1
        if self._any_invalid:
            self._valid[:], self._any_invalid = True, False
        if self._any_dead:
            self._leave_out_dead()
        self._check_numbers(following, "step")
        self._returns += self._reward
        np.logical_or(self._terminated, self._truncated, out=self._ended)
        ended = np.flatnonzero(self._ended).tolist() if np.count_nonzero(self._ended) else []
        episodes: list[Episode] = []
        after = following
        if ended:
            if self.autoreset is not AutoresetMode.NEXT_STEP:
                current = (current + 1) % 3
                after = self._buffers[current]
                self._split(ended, following, after, infos)
            else:
                self._mark_dead(infos)
            next_start = self._clock + (self.autoreset is AutoresetMode.NEXT_STEP)
            episodes = [self._finish(i, next_start, self._success(infos, i)) for i in ended]
        if self.episodic_life:
            self._mark_lost_lives(infos["lives"])
            self._any_invalid |= self.fires
        self._current = current
        self.observation = after.value
        return StepResult(
            observation, action, self._reward, following.value, self._terminated, self._truncated, self._valid, episodes
        )  # fmt: skip

    def _leave_out_dead(self) -> None:
        """NEXT_STEP: what ended in the last step was reset in this one, which is no transition there."""
        dead = self._dead
        if self._assumed and (self._reward[dead].any() or self._terminated[dead].any() or self._truncated[dead].any()):
            raise self._mode_error("rewards or ends in the step after an episode's end, where NEXT_STEP has none")
        self._reward[dead] = 0.0
        self._terminated[dead] = self._truncated[dead] = False
        np.logical_not(dead, out=self._valid)
        self._any_dead, self._any_invalid = False, True

    def _mark_dead(self, infos: Mapping[str, Any]) -> None:
        """NEXT_STEP: what ended in this step is reset in the next one."""
        if any(key in infos for key in _FINAL_KEYS):
            raise self._mode_error("final observations in infos, as SAME_STEP does")
        self._dead[:] = self._ended
        self._any_dead = True

    def _split(self, ended: list[int], following: ObservationBuffer, after: ObservationBuffer, infos: Mapping[str, Any]) -> None:
        """SAME_STEP and DISABLED: the final observations go to ``following``, the next episodes' first to ``after``."""
        after.copy_from(following)
        if self.autoreset is AutoresetMode.SAME_STEP:
            final = next((infos[key] for key in _FINAL_KEYS if key in infos), None)
            for i in ended:
                row = None if final is None else _row(self.single_observation_space, final, i)
                if row is None:
                    raise self._mode_error(f"no final_obs in infos for environment {i}, whose episode ended")
                try:
                    following.write_row(i, row)
                except ValueError as error:
                    raise self._error(i, f"final_obs in infos: {error}") from error
            if not following.finite():
                raise self._error(following.not_finite_rows()[0], "final_obs in infos is not finite")
            return
        mask = np.zeros(self.num_envs, bool)
        mask[ended] = True
        first, reset_infos = self._call("reset", lambda: self.env.reset(options={"reset_mask": mask}), None)
        self._raise_failure(reset_infos, "reset")
        after.copy_rows(first, mask)
        self._check_numbers(after, "reset")

    def _success(self, infos: Mapping[str, Any], index: int) -> bool | None:
        """The success that the last info of environment ``index`` tells."""
        last = infos
        if self.autoreset is AutoresetMode.SAME_STEP and "final_info" in infos:
            last = infos["final_info"]
            if not isinstance(last, Mapping):
                return success_in(last[index] or {})
        # A mask beside the values says whose they are; without one they are everybody's.
        masks = {key: last.get(f"_{key}") for key in INFO_KEYS if key in last}
        return success_in({key: last[key][index] for key, mask in masks.items() if mask is None or mask[index]})

    def _write(self, buffer: ObservationBuffer, observation: Any, what: str) -> None:
        try:
            buffer.write_batch(observation)
        except Exception as error:
            self.observation = None
            raise EnvError(f"{self.name}: {what} returned something else than its observation space says: {error}") from error

    def _call(self, what: str, function: Callable[[], Any], action: Any) -> Any:
        try:
            return function()
        except Exception as error:
            raise self._raised(what, error, action) from error

    def _raised(self, what: str, error: Exception, action: Any) -> EnvError:
        self.observation = None
        acting = f" (actions {np.asarray(action).tolist()})" if action is not None else ""
        which = f"{self.num_envs} environments, seed {self.seed}"
        return EnvError(f"{self.name} ({which}): {what} raised {type(error).__name__}: {error}{acting}")

    def _raise_failure(self, infos: Mapping[str, Any], what: str) -> None:
        """What a guarded environment reported instead of raising through gymnasium's machinery."""
        if FAILURE not in infos:
            return
        index = int(np.flatnonzero(infos[f"_{FAILURE}"])[0])
        message, cause = infos[FAILURE][index]
        raise self._error(index, message) from cause

    def _mode_error(self, found: str) -> EnvError:
        self.observation = None
        how = "is assumed to be" if self._assumed else "says that it is"
        return EnvError(
            f"{self.name} {how} {self.autoreset.name}, but gave {found}. Set the right metadata['autoreset_mode'] in "
            f"the vector environment{', or tell make(..., autoreset=...)' if self._assumed else ''}"
        )

    def render(self) -> Any:
        if self.env.render_mode is None:
            raise ValueError(f"{self.name}: render needs make(..., render_mode='rgb_array')")
        frames = self.env.render()
        return frames[0] if frames is not None else None

    def _close(self) -> None:
        if isinstance(self.env.unwrapped, AsyncVectorEnv) and any(pipe is None for pipe in self.env.unwrapped.parent_pipes):
            self.env.close(terminate=True)  # a worker died: the polite way would wait for its answer
        else:
            self.env.close()


def declared_mode(env: VectorEnv) -> AutoresetMode | None:
    """What ``env.metadata["autoreset_mode"]`` says (Gymnasium 1.1 and later), None where it says nothing."""
    mode = (env.metadata or {}).get("autoreset_mode")
    return None if mode is None else resolve_mode(mode)


def resolve_mode(mode: AutoresetMode | str) -> AutoresetMode:
    """An AutoresetMode from itself, its name (``"SAME_STEP"``, ``"same_step"``) or its value (``"SameStep"``)."""
    if isinstance(mode, AutoresetMode):
        return mode
    wanted = str(mode).replace("_", "").lower()
    for candidate in AutoresetMode:
        if candidate.value.lower() == wanted:
            return candidate
    raise ValueError(f"autoreset is {mode!r}, expected one of {', '.join(m.name for m in AutoresetMode)}")


def _has_fixed_seeds(env: Any) -> bool:
    """EnvPool takes seeds only when it is made, and warns otherwise."""
    return any(cls.__name__ == "EnvPoolMixin" for cls in type(env.unwrapped).__mro__)


def _seed_for(env: Any, seeds: list[int]) -> Any:
    """A seed for each environment, where the vector environment is known to take them."""
    if isinstance(env.unwrapped, SyncVectorEnv | AsyncVectorEnv):
        return seeds
    return np.array(seeds) if type(env.unwrapped).__name__ == "AtariVectorEnv" else seeds[0]


def _row(space: Space, batch: Any, index: int) -> Any:
    """Environment ``index`` of a batch that is an array of observations, or a dict or tuple of arrays."""
    if isinstance(space, spaces.Dict) and isinstance(batch, Mapping):
        return {key: _row(entry, batch[key], index) for key, entry in space.spaces.items()}
    if isinstance(space, spaces.Tuple) and isinstance(batch, tuple):
        return tuple(_row(entry, part, index) for entry, part in zip(space.spaces, batch))
    return batch[index]
