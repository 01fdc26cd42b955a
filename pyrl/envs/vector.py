"""A Gymnasium vector environment of any autoreset mode behind a `Stepper`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from gymnasium import Space, spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv

from pyrl.envs.guard import FAILURE, FROM_ENVS, Finished, described, share_memory
from pyrl.envs.notices import late_mask_is_ignored, say_once
from pyrl.envs.observations import ObservationBuffer
from pyrl.envs.processes import ProcessVector, WorkerFailure, dead_worker, end_processes
from pyrl.envs.stepper import Stepper
from pyrl.envs.success import INFO_KEYS, success_in
from pyrl.errors import EnvError
from pyrl.spaces.masks import MASK_KEY, masks_in
from pyrl.types import Array, Episode, Observation, StepResult, map_observation

_FINAL_KEYS = ("final_obs", "final_observation")


class VectorStepper(Stepper):
    """A Gymnasium vector environment of any autoreset mode.

    takes_seeds: ``env.reset(seed=[..])`` takes one seed per environment, as Gymnasium's own vector environments do; others get one number.
    rebuild: ``rebuild(seeds)`` makes a fresh vector environment, for kinds that take seeds only when they are made (EnvPool).
    guarded: every single environment is a `Guard`.
    """

    def __init__(
        self,
        env: Any,
        *,
        seed: int,
        name: str,
        spec: Any,
        autoreset: AutoresetMode | None = None,
        takes_seeds: bool = False,
        rebuild: Callable[[list[int]], Any] | None = None,
        observation_space: Space | None = None,
        guarded: bool = False,
    ) -> None:
        super().__init__(observation_space or env.single_observation_space, env.single_action_space, env.num_envs, seed, name, spec)
        self.env = env
        self._guarded = guarded
        self._failed = False  # a process, which `close` need not say again
        self._takes_seeds = takes_seeds
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
        self._halves = halves_of(env)

    def _reset(self, seeds: list[int] | None, buffer: ObservationBuffer) -> list[Any]:
        self._any_dead = False
        keywords: dict[str, Any] = {}
        if seeds is not None and self._rebuild is not None:
            if seeds != self._unused_seeds:
                self.env.close()
                self.env = self._rebuild(seeds)
                self._halves = halves_of(self.env)
        elif seeds is not None and not _has_fixed_seeds(self.env):
            keywords["seed"] = seeds if self._takes_seeds else _seed_for(self.env, seeds)
        self._unused_seeds = None
        observation, infos = self._reset_env(**keywords)
        self._write(buffer, observation, "reset")
        self._check_numbers(buffer, "reset", lambda i: _row(self.single_observation_space, observation, i))
        return masks_in(infos, self.num_envs)

    def _reset_env(self, **keywords: Any) -> tuple[Any, Mapping[str, Any]]:
        """What ``env.reset`` returned: observations and infos."""
        try:
            result = self.env.reset(**keywords)
        except FROM_ENVS as error:
            raise self._raised("reset", error) from error
        if not isinstance(result, tuple | list) or len(result) != 2:
            raise self._whole(f"reset returned {type(result).__name__}, expected (observation, infos)")
        infos = self._infos(result[1], "reset")
        self._raise_failure(infos)
        return result[0], infos

    @property
    def overlaps(self) -> bool:  # type: ignore[override]
        return self._halves is not None

    def step(self, action: Array) -> StepResult:
        self._begin()
        action = self._border.check(action)
        env_action = self._border.batch(action)
        return self._finished(action, env_action, lambda: self.env.step(env_action))

    def _send(self, action: Array) -> None:
        if self._halves is None:
            return
        env_action = self._border.batch(self._border.check(action))
        try:
            self._halves[0](env_action)
        except FROM_ENVS as error:
            raise self._raised("step", error, env_action) from error

    def _receive(self, action: Array) -> StepResult:
        if self._halves is None:
            return self.step(action)
        action = self._border.check(action)
        return self._finished(action, action, self._halves[1])

    def _finished(self, action: Array, env_action: Any, step: Callable[[], Any]) -> StepResult:
        """What ``step``, of the vector environment, returned, as a result."""
        observation = self.observation
        try:
            result = step()
        except FROM_ENVS as error:
            raise self._raised("step", error, env_action) from error
        if not isinstance(result, tuple | list) or len(result) != 5:
            raise self._whole(f"step returned {type(result).__name__}, expected (observation, reward, terminated, truncated, infos)")
        seen, reward, terminated, truncated, infos = result
        infos = self._infos(infos, "step")
        if FAILURE in infos:
            self._raise_failure(infos)
        current = (self._current + 1) % 3
        following = self._buffers[current]
        self._write(following, seen, "step")
        self._fill(self._reward, reward, "reward", "biuf")
        self._fill(self._terminated, terminated, "terminated", "biu")
        self._fill(self._truncated, truncated, "truncated", "biu")
        first, mask, restarted = self.first, self.action_mask, self._nowhere
        next_mask = after_mask = None if self._masks is None else self._mask_rows(masks_in(infos, self.num_envs))
        if self._any_invalid:
            self._valid[:], self._any_invalid = True, False
        if self._any_dead:
            restarted = self._dead.copy()
            self._leave_out_dead()
        if self._book.step(None) is None or not following.finite():
            self._check_numbers(following, "step", lambda i: _row(self.single_observation_space, seen, i))
        np.logical_or(self._terminated, self._truncated, out=self._ended)
        ended = np.flatnonzero(self._ended).tolist() if np.count_nonzero(self._ended) else []
        episodes: list[Episode] = []
        after = following
        if ended:
            if self._late_masks and MASK_KEY in {**infos, **(infos.get("final_info") or {})}:
                late_mask_is_ignored(self.name)
            if self.autoreset is not AutoresetMode.NEXT_STEP:
                current = (current + 1) % 3
                after = self._buffers[current]
                next_mask, after_mask = self._split(ended, following, after, infos, seen)
                restarted = self._ended.copy()
            else:
                self._mark_dead(infos)
            next_start = self._book.clock + (self.autoreset is AutoresetMode.NEXT_STEP)
            episodes = [self._finish(i, next_start, self._success(infos, i)) for i in ended]
        if self.episodic_life:
            self._mark_lost_lives(infos["lives"])
            self._any_invalid |= self.fires
            restarted = restarted | self._lost
        self._current = current
        self.observation, self.first, self.action_mask = after.value, restarted, after_mask
        return StepResult(
            observation, action, self._reward, following.value, self._terminated, self._truncated, self._valid, episodes, mask, next_mask,
            first=first,
        )  # fmt: skip

    def _leave_out_dead(self) -> None:
        """NEXT_STEP: what ended in the last step was reset in this one, which is not a transition there."""
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

    def _split(
        self, ended: list[int], following: ObservationBuffer, after: ObservationBuffer, infos: Mapping[str, Any], seen: Any
    ) -> tuple[Array | None, Array | None]:
        """SAME_STEP and DISABLED: the final observations go to ``following``, the next episodes' first to ``after``; the masks of both."""
        after.copy_from(following)
        if self.autoreset is AutoresetMode.SAME_STEP:
            final = next((infos[key] for key in _FINAL_KEYS if key in infos), None)
            for i in ended:
                row = None if final is None else _row(self.single_observation_space, final, i)
                if row is None:
                    raise self._mode_error(f"no final_obs in infos for environment {i}, whose episode ended")
                if not self._guarded:
                    self._check_not_reused(i, row, seen)
                try:
                    following.write_row(i, row)
                except ValueError as error:
                    raise self._error(i, f"final_obs in infos: {error}") from error
            if not following.finite():
                raise self._error(following.not_finite_rows()[0], "final_obs in infos is not finite")
            shown, final_info = masks_in(infos, self.num_envs), infos.get("final_info") or {}
            last = masks_in(final_info, self.num_envs) if isinstance(final_info, Mapping) else [None] * self.num_envs
            return self._mask_rows([last[i] if i in ended else shown[i] for i in range(self.num_envs)]), self._mask_rows(shown)
        mask = np.zeros(self.num_envs, bool)
        mask[ended] = True
        observation, reset_infos = self._reset_env(options={"reset_mask": mask})
        after.copy_rows(observation, mask)
        self._check_numbers(after, "reset")
        last, begun = masks_in(infos, self.num_envs), masks_in(reset_infos, self.num_envs)
        return self._mask_rows(last), self._mask_rows([begun[i] if i in ended else last[i] for i in range(self.num_envs)])

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
            raise self._whole(f"{what} returned something else than its observation space says: {error}") from error

    def _fill(self, column: Array, values: Any, name: str, kinds: str) -> None:
        array = np.asarray(values)
        if array.shape != column.shape:
            raise self._whole(f"step: {name} has shape {list(array.shape)}, expected [N] = [{self.num_envs}]")
        if array.dtype.kind not in kinds:
            raise self._whole(f"step: {name} has dtype {array.dtype}, expected {column.dtype}")
        column[:] = array

    def _infos(self, infos: Any, what: str) -> Mapping[str, Any]:
        if infos is None:
            return {}
        if not isinstance(infos, Mapping):
            raise self._whole(f"{what}: infos is {type(infos).__name__}, expected a dict")
        return infos

    def _check_not_reused(self, index: int, final: Any, seen: Any) -> None:
        """A final observation in memory that the next episode's first was written to is lost."""
        envs = getattr(self.env.unwrapped, "_env_obs", None)  # of SyncVectorEnv: what its environments returned last
        others = [seen] if envs is None else [seen, envs[index]]
        if any(share_memory(final, other) for other in others):
            raise self._error(
                index,
                "final_obs in infos lies where the next episode's first observation was written: the environment reuses its array, "
                "and the vector environment does not copy it. Return a copy, or pass make a callable in place of the vector environment",
            )

        if isinstance(self.env.unwrapped, AsyncVectorEnv) and _equal(final, _row(self.single_observation_space, seen, index)):
            say_once(
                f"{self.name}: a final observation equals the first of the next episode. If the environment writes to one array at every "
                "step, AsyncVectorEnv has lost it: return copies, or pass make a callable with backend='async'"
            )

    def _raised(self, what: str, error: BaseException, action: Any = None) -> EnvError:
        lost = error if isinstance(error, WorkerFailure) else dead_worker(self.env.unwrapped, what)
        if lost is not None:
            self._failed = True
            return self._error(lost.index, lost.text)
        acting = f" (actions {np.asarray(action).tolist()})" if action is not None else ""
        return self._whole(f"{what} raised {described(error)}{acting}")

    def _raise_failure(self, infos: Mapping[str, Any]) -> None:
        """What a `Guard` reported."""
        if FAILURE not in infos:
            return
        index = int(np.flatnonzero(infos[f"_{FAILURE}"])[0])
        raise self._failure(index, infos[FAILURE][index])

    def _failure(self, index: int, told: Any) -> EnvError:
        message, cause, trace = told
        error = self._error(index, message)
        error.__cause__ = cause
        if cause.__traceback__ is None:  # it comes from another process
            cause.__cause__ = RuntimeError(f"in the environment's process:\n{trace}")
        return error

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
        inner = self.env.unwrapped
        died = None if self._failed or isinstance(inner, ProcessVector) else dead_worker(inner, "close", 0.0)
        failed: list[tuple[int, Any]] = []
        if self._guarded and isinstance(inner, SyncVectorEnv):
            told: list[Finished] = [env.finish() for env in inner.envs]  # type: ignore[attr-defined]
            failed = [(i, finished.failure) for i, finished in enumerate(told) if finished.failure is not None]
        if (
            isinstance(inner, AsyncVectorEnv)
            and not isinstance(inner, ProcessVector)
            and (died or self._failed or None in inner.parent_pipes)
        ):
            end_processes(inner)  # the polite way would wait for each one's answer
        try:
            self.env.close()
        except FROM_ENVS as error:
            told_error = self._raised("close", error)
            if isinstance(inner, AsyncVectorEnv):
                end_processes(inner)
            raise told_error from error
        if isinstance(inner, ProcessVector) and not self._failed:
            failed = inner.close_failures
        if failed:
            raise self._failure(*failed[0])
        if died is not None:
            raise self._error(died.index, died.text)


def halves_of(env: Any) -> tuple[Callable[[Any], Any], Callable[[], Any]] | None:
    """(begin, end) of a step, where ``env`` steps outside of this thread: in processes or in threads of C++; None elsewhere."""
    if isinstance(env, ProcessVector):
        return env.send, env.receive
    if isinstance(env, AsyncVectorEnv):
        return env.step_async, env.step_wait
    if all(callable(getattr(type(env), name, None)) for name in ("send", "recv")):  # EnvPool's, ale-py's, and pyrl's around that
        return env.send, env.recv
    return None


def declared_mode(env: VectorEnv) -> AutoresetMode | None:
    """What ``env.metadata["autoreset_mode"]`` says (Gymnasium 1.1 and later), None where it says nothing."""
    mode = (getattr(env, "metadata", None) or {}).get("autoreset_mode")
    return None if mode is None else resolve_mode(mode)


def _equal(one: Observation, other: Observation) -> bool:
    equal: list[bool] = []
    map_observation(lambda a, b: equal.append(bool(np.array_equal(a, b))), one, other)
    return all(equal)


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
    """A seed for each environment, where a vector environment that a user brings is known to take them."""
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
