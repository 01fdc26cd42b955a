"""Native environments: their description, and the native forms of Gymnasium's own.

`NativeEnv` is what steppers and vector environments of native code take. `native_of` gives the one that computes what a Gymnasium
environment computes, bit for bit, or says why there is none.

Their random stream is Philox by (seed, environment, step) (csrc/envs/pool.hpp), not Gymnasium's PCG64: the same distribution of episodes,
but other episodes for the same seed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import gymnasium
import numpy as np
from gymnasium import spaces

from pyrl.envs.inline import peel
from pyrl.errors import SettingError, closest_names
from pyrl.ops.environments import Environment

_BOX, _DISCRETE = 1, 2  # as in pyrl_env.h
_DTYPES = {1: np.float32, 2: np.uint8, 3: np.int64}


@dataclass(frozen=True, eq=False)
class NativeEnv:
    """A native environment. Calling it gives one as a `gymnasium.Env`; `pyrl.envs.make` and `pyrl.envs.NativeVectorEnv` take it.

    ``parameters`` float64 [P], named by the description and followed by what the kernel alone reads. ``reset_options``: those that
    ``reset(options=...)`` may replace for one call.
    """

    name: str
    description: Environment
    parameters: np.ndarray
    observation_space: gymnasium.Space
    action_space: gymnasium.Space
    max_episode_steps: int = 0  # 0: no limit
    reset_options: tuple[str, ...] = ()
    library: tuple[str, str] | None = None  # (path, name) of a shared library's
    owner: Any = None  # the object that owns the code, kept alive with it

    def __deepcopy__(self, memo: Any) -> NativeEnv:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        """That of a library can be made again in another process; other code belongs to this process alone."""
        if self.library is None:
            raise TypeError(f"{self.name}: a native environment that is of no library cannot be pickled")
        from pyrl.envs.native_library import reload

        return reload, (*self.library, self.parameters)

    def with_parameters(self, given: Mapping[str, Any]) -> NativeEnv:
        """The same with other values of named parameters; TypeError for an unknown name, as from a constructor."""
        values = self.parameters.copy()
        index = {name: i for i, (name, _) in enumerate(self.description.parameters)}
        for name, value in given.items():
            if name not in index:
                raise TypeError(
                    f"{self.name}: got an unexpected parameter {name!r}{closest_names(name, index) or f' (known: {list(index)})'}"
                )
            if isinstance(value, str) or not isinstance(value, int | float | np.number | np.bool_):
                raise TypeError(f"{self.name}: {name} is {value!r}, expected a number")
            values[index[name]] = value
        return replace(self, parameters=values)

    def options(self, given: Mapping[str, Any] | None) -> np.ndarray | None:
        """The parameters of one `reset`, from its options; None without any. Unknown names are ignored, as
        Gymnasium's environments do."""
        wanted = {} if given is None else {name: given[name] for name in self.reset_options if name in given}
        if not wanted:
            return None
        numbers = {}
        for name, value in wanted.items():
            try:
                numbers[name] = float(value)
            except (TypeError, ValueError):
                raise ValueError(f"reset: the option {name!r} is {value!r}, expected a number") from None
        values = self.with_parameters(numbers).parameters[: len(self.description.parameters)]
        if "low" in self.reset_options:
            named = dict(zip((name for name, _ in self.description.parameters), values))
            if named["low"] > named["high"]:
                raise ValueError(f"reset: the option low is {named['low']}, expected at most high = {named['high']}")
        return np.ascontiguousarray(values)

    def __call__(self, **parameters: Any) -> gymnasium.Env:
        from pyrl.envs.native_single import SingleNativeEnv

        return SingleNativeEnv(self.with_parameters(parameters))


def described(name: str, description: Environment) -> NativeEnv:
    """The `NativeEnv` of a complete description: spaces, parameters, time limit."""
    values = np.array([value for _, value in description.parameters], np.float64)
    observation_space, action_space = space_of(description.observation), space_of(description.action)
    return NativeEnv(name, description, values, observation_space, action_space, description.max_episode_steps)


def space_of(told: Any) -> gymnasium.Space:
    """The Gymnasium space of (kind, dtype, shape, low, high)."""
    kind, dtype, shape, low, high = told
    if kind == _DISCRETE:
        return spaces.Discrete(shape[0])
    numbers: Any = np.dtype(_DTYPES[dtype])
    unbounded = (0, 255) if dtype == 2 else (-math.inf, math.inf)
    least, most = (
        np.full(shape, default, numbers) if given is None else np.array(given).reshape(shape).astype(numbers)
        for given, default in zip((low, high), unbounded)
    )
    return spaces.Box(least, most, tuple(shape), numbers)


def tuple_of(space: gymnasium.Space, name: str) -> Any:
    """(kind, dtype, shape, low, high) of a Gymnasium space; SettingError where a native environment cannot have it."""
    if isinstance(space, spaces.Discrete) and space.start == 0:
        return _DISCRETE, 3, [int(space.n)], None, None
    if isinstance(space, spaces.Box) and space.dtype in (np.float32, np.uint8) and len(space.shape) <= 4:
        bounds = [bound.astype(np.float64).ravel().tolist() for bound in (space.low, space.high)]
        return _BOX, 1 if space.dtype == np.float32 else 2, list(space.shape), *bounds
    raise SettingError(f"{name} is {space}, expected a Discrete from 0, or a Box of float32 or uint8 with at most 4 dimensions")


def native_of(env: gymnasium.Env, name: str) -> NativeEnv:
    """The native form of ``env``, its time limit included; SettingError, which says why, where there is none."""
    inner, limit = peel(env)
    kind = f"{type(inner).__module__}:{type(inner).__qualname__}"
    if inner is not env.unwrapped:
        raise SettingError(f"make: backend 'native' cannot step {name}, which is wrapped in {type(inner).__name__}; lean can")
    native = getattr(inner, "native", None)
    if not isinstance(native, NativeEnv):
        if kind not in _KNOWN:
            known = ", ".join(sorted(entry.rpartition(":")[2] for entry in _KNOWN))
            raise SettingError(f"make: backend 'native' has no {name} ({kind}); it has Gymnasium's own {known}, and yours (pyrl_env.h)")
        if inner.render_mode is not None:
            raise SettingError(f"make: backend 'native' draws no pictures, and {name} has render_mode {inner.render_mode!r}; lean can")
        native = _KNOWN[kind](inner, name)
    limit = min(limit, native.max_episode_steps or limit)
    return replace(native, max_episode_steps=limit if limit < 1 << 60 else 0)


Reader: TypeAlias = Callable[[Any, str], NativeEnv]  # of a Gymnasium environment and its name


def _numbers(kernel: str, *reset_options: str, other: Callable[[Any], dict[str, Any]] = lambda env: {}) -> Reader:
    """For an environment whose parameters are attributes of its object, or are read by ``other``."""

    def read(env: Any, name: str) -> NativeEnv:
        description = Environment.builtin(kernel)
        further = other(env)
        if reasons := [reason for reason, wrong in further.items() if reason.startswith("!") and wrong]:
            raise SettingError(f"make: backend 'native' cannot step {name} with {reasons[0][1:]}; lean can")
        values = [
            further[key] if key in further else value if key in reset_options else float(getattr(env, key))
            for key, value in description.parameters
        ]
        native = NativeEnv(kernel, description, np.array(values, np.float64), env.observation_space, env.action_space)
        return replace(native, reset_options=reset_options)

    return read


def _acrobot(env: Any) -> dict[str, Any]:
    torques = {f"torque_{i}": float(torque) for i, torque in enumerate(env.AVAIL_TORQUE)}
    return {"!torque noise": env.torque_noise_max > 0, **torques, "nips": float(env.book_or_nips == "nips")}


def _table(env: Any, name: str) -> NativeEnv:
    """Of a toy text, whose object lists all outcomes of every action (csrc/envs/tabular.cpp)."""
    if getattr(env, "fickle_passenger", False):
        raise SettingError(f"make: backend 'native' cannot step {name} with fickle_passenger; lean can")
    states, actions = int(env.observation_space.n), int(env.action_space.n)
    most = max(len(env.P[s][a]) for s in range(states) for a in range(actions))
    outcomes = np.zeros((states, actions, most, 4))
    for s in range(states):
        for a in range(actions):
            row = np.array([[float(number) for number in outcome] for outcome in env.P[s][a]])
            row[:, 0] = np.cumsum(row[:, 0])
            outcomes[s, a, : len(row)] = row
    values = np.concatenate([[states, actions, most], np.cumsum(env.initial_state_distrib), outcomes.ravel()])
    return NativeEnv(name, Environment.table(states, actions), values, env.observation_space, env.action_space)


_CLASSIC, _TEXT = "gymnasium.envs.classic_control", "gymnasium.envs.toy_text"
_KNOWN: dict[str, Reader] = {
    f"{_CLASSIC}.cartpole:CartPoleEnv": _numbers(
        "CartPole", "low", "high", other=lambda env: {"!an integrator that is not Euler's": env.kinematics_integrator != "euler"}
    ),
    f"{_CLASSIC}.pendulum:PendulumEnv": _numbers("Pendulum", "x_init", "y_init"),
    f"{_CLASSIC}.acrobot:AcrobotEnv": _numbers("Acrobot", "low", "high", other=_acrobot),
    f"{_CLASSIC}.mountain_car:MountainCarEnv": _numbers("MountainCar", "low", "high"),
    f"{_CLASSIC}.continuous_mountain_car:Continuous_MountainCarEnv": _numbers("MountainCarContinuous", "low", "high"),
    f"{_TEXT}.frozen_lake:FrozenLakeEnv": _table,
    f"{_TEXT}.cliffwalking:CliffWalkingEnv": _table,
    f"{_TEXT}.taxi:TaxiEnv": _table,
}
