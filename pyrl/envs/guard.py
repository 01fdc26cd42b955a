"""What one environment returned: read, checked, copied, and described in words where it is something else.

`read_reset` and `read_step` are the only code that says what a result must look like. `Guard` puts them around an environment of
Gymnasium's vector environments, which otherwise lose the index (sync) or the worker (async) when one raises, and which keep its
arrays beyond the next call.
"""

from __future__ import annotations

import pickle
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import gymnasium
import numpy as np

from pyrl.envs.observations import ObservationBuffer
from pyrl.envs.success import success_in
from pyrl.errors import EnvError
from pyrl.spaces.masks import MASK_KEY, flat_mask
from pyrl.trees import leaves, zeros_for
from pyrl.types import Observation, map_observation

FAILURE = "_pyrl_failure"  # in an info: how the environment failed
FROM_ENVS: tuple[type[BaseException], ...] = (Exception, SystemExit)  # an environment's faults; Ctrl-C is not one
Failure: TypeAlias = tuple[str, BaseException, str]  # words, cause, traceback


def read_reset(result: Any) -> tuple[Any, Mapping[str, Any]]:
    """(observation, info); EnvError if ``reset`` returned anything else."""
    if not isinstance(result, tuple | list) or len(result) != 2:
        raise EnvError(f"reset returned {_kind(result)}, expected (observation, info)")
    return result[0], read_info(result[1], "reset")


def read_step(result: Any) -> tuple[Any, float, bool, bool, Mapping[str, Any]]:
    """(observation, reward, terminated, truncated, info); EnvError if ``step`` returned anything else."""
    if not isinstance(result, tuple | list) or len(result) != 5:
        raise EnvError(f"step returned {_kind(result)}, expected (observation, reward, terminated, truncated, info)")
    observation, reward, terminated, truncated, info = result
    if type(result) is tuple and type(reward) is float and type(terminated) is type(truncated) is bool and type(info) is dict:
        return result  # as it should be
    return observation, read_number(reward), read_flag(terminated, "terminated"), read_flag(truncated, "truncated"), read_info(info, "step")


def described(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:  # its own __str__ fails
        return type(error).__name__


def _kind(value: Any) -> str:
    return f"{len(value)} values" if isinstance(value, tuple | list) else type(value).__name__


def read_info(info: Any, what: str) -> Mapping[str, Any]:
    if info is None:
        return {}
    if not isinstance(info, Mapping):
        raise EnvError(f"{what}: info is {type(info).__name__}, expected a dict")
    return info


def _shape(value: Any, name: str) -> None:
    """EnvError unless ``value`` is a single one."""
    try:
        shape = tuple(value.shape) if hasattr(value, "shape") else np.shape(value)
    except (TypeError, ValueError):  # a ragged list
        raise EnvError(f"step: {name} is {type(value).__name__}, expected a single value") from None
    if shape:
        raise EnvError(f"step: {name} has shape {list(shape)}, expected a single value")


def read_number(value: Any) -> float:
    if type(value) is float:
        return value
    _shape(value, "reward")
    try:
        if isinstance(value, str | bytes):
            raise TypeError
        return float(value)
    except FROM_ENVS:
        raise EnvError(f"step: reward is {_shown(value)}, expected a number") from None


def read_flag(value: Any, name: str) -> bool:
    if type(value) is bool or isinstance(value, np.bool_):
        return bool(value)
    _shape(value, name)
    try:
        if value == 0 or value == 1:
            return bool(value)
    except FROM_ENVS:
        pass
    raise EnvError(f"step: {name} is {_shown(value)}, expected a bool")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def share_memory(one: Observation, other: Observation) -> bool:
    """Whether any arrays of two observations are in the same memory."""
    return any(np.may_share_memory(a, b) for a in _arrays(one) for b in _arrays(other))


def _arrays(observation: Observation) -> list[np.ndarray]:
    return [leaf for leaf in leaves(observation) if isinstance(leaf, np.ndarray)]


@dataclass
class Finished:
    """The answer of `Guard.finish`."""

    failure: Failure | None


class Guard(gymnasium.Wrapper):
    """Never raises: reports in the info, for the stepper, how the environment failed. What it returns is a copy of its own, so that
    environments may write to the same arrays and infos at every step, and holds no more of the info than the stepper reads.

    ``made`` is how making the environment failed. ``catches``: in a process of its own everything, Ctrl-C too.
    """

    def __init__(self, env: gymnasium.Env, catches: Any = FROM_ENVS, made: Failure | None = None) -> None:
        super().__init__(env)
        self.made = made
        self.metadata = dict(getattr(env, "metadata", None) or {})  # it may be missing
        self._catches = catches
        self._space = env.observation_space
        self._buffer = ObservationBuffer(self._space, 1)
        self._finished = False

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        try:
            observation, info = read_reset(self.env.reset(seed=seed, options=options))
            return self._copied(observation, "reset"), _kept(info, False)
        except self._catches as error:
            return zeros_for(self._space), {FAILURE: failure("reset", error)}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        try:
            observation, reward, terminated, truncated, info = read_step(self.env.step(action))
            return self._copied(observation, "step"), reward, terminated, truncated, _kept(info, terminated or truncated)
        except self._catches as error:
            told = failure("step", error, f" (action {np.asarray(action).tolist()})")
            return zeros_for(self._space), 0.0, False, False, {FAILURE: told}

    def finish(self) -> Finished:
        """Close the environment, once; returns how that failed."""
        finished, self._finished = self._finished, True
        try:
            if not finished:
                self.env.close()
        except self._catches as error:
            return Finished(failure("close", error))
        return Finished(None)

    def close(self) -> None:
        self.finish()

    def _copied(self, observation: Any, what: str) -> Any:
        copy = self._buffer.usual_copy(observation)
        if copy is not None:
            return copy
        try:
            self._buffer.write_row(0, observation)
        except (ValueError, TypeError, LookupError) as error:
            raise EnvError(f"{what}: {error}") from None
        if not self._buffer.finite():
            raise EnvError(f"{what} returned an observation that is not finite: {self._buffer.fault(observation)}")
        return map_observation(lambda leaf: leaf[0].copy(), self._buffer.value)


def _kept(info: Mapping[str, Any], ended: bool) -> dict[str, Any]:
    if not info:
        return {}
    kept: dict[str, Any] = {"lives": int(info["lives"])} if "lives" in info else {}
    if MASK_KEY in info:
        try:
            kept[MASK_KEY] = flat_mask(info[MASK_KEY])
        except ValueError:
            kept[MASK_KEY] = repr(info[MASK_KEY])  # for the stepper to refuse
    success = success_in(info) if ended else None
    return kept if success is None else {**kept, "is_success": success}


def failure(what: str, error: BaseException, acting: str = "") -> Failure:
    """In a form that can be sent to another process."""
    text = str(error) if isinstance(error, EnvError) else f"{what} raised {described(error)}"
    trace = "".join(traceback.format_exception(error))
    try:
        cause = pickle.loads(pickle.dumps(error))
    except Exception:
        cause = None
    return text + acting, cause if isinstance(cause, BaseException) else RuntimeError(trace), trace
