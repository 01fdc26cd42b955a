"""From an id, a callable or a vector environment to a `Stepper`."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AutoresetMode, VectorEnv

from pyrl.envs.backends import BACKENDS, Request
from pyrl.envs.factory import EnvFactory, Wrapper
from pyrl.envs.native import NativeEnv
from pyrl.envs.stepper import Stepper
from pyrl.envs.vector import VectorStepper, resolve_mode
from pyrl.errors import UnknownNameError, closest_names

EnvSource: TypeAlias = str | Callable[..., gymnasium.Env] | VectorEnv

ENV_TIMEOUT = 300.0  # seconds


def make(
    env: EnvSource,
    num_envs: int = 1,
    *,
    backend: str = "auto",
    seed: int = 0,
    env_kwargs: Mapping[str, Any] | None = None,
    autoreset: AutoresetMode | str | None = None,
    max_episode_steps: int | None = None,
    render_mode: str | None = None,
    wrapper: Wrapper | None = None,
    env_timeout: float | None = ENV_TIMEOUT,
) -> Stepper:
    """``num_envs`` environments behind one `Stepper`.

    env: an id (``"CartPole-v1"``; ``"module:Name-v0"`` imports the module first), a shared library's environment
        (``"./libmyenv.so:Name"``, docs/native_environments.md), a callable that returns a new `gymnasium.Env` (a class or a `NativeEnv`
        will do), or a `gymnasium.vector.VectorEnv` of your own, which brings its number of environments.
    backend: a name of `pyrl.envs.BACKENDS`, which says what each is (`pyrl list` shows it): ``"lean"`` and ``"sync"`` run in this process,
        ``"async"`` in one process per environment, ``"native"``, ``"vector"`` and ``"envpool"`` in C++. ``"auto"`` takes lean, native for
        native environments of yours, and vector for Atari games (lean, where a wrapper or pictures are asked for), which are
        preprocessed: see `pyrl.envs.atari`.
    seed: of the first `Stepper.reset`; environment i gets the stream ("env", i) of it.
    env_kwargs: for the environment's constructor.
    autoreset: for ``sync`` and ``async`` (SAME_STEP, where no step is dead, unless given otherwise), and for a vector
        environment that does not declare its mode.
    max_episode_steps: a time limit in place of the id's registered one; it truncates and never terminates.
    render_mode: ``"rgb_array"`` for `Stepper.render`; None costs nothing.
    wrapper: applied to each environment after its time limit.
    env_timeout: seconds that an environment in a process of its own (``async``, A3C's workers) gets for making it, each reset, each
        step and closing it; after that, EnvError says where and in what it hangs. None: no limit.
    """
    mode = None if autoreset is None else resolve_mode(autoreset)
    if max_episode_steps is not None and operator.index(max_episode_steps) < 1:
        raise ValueError(f"make: max_episode_steps is {max_episode_steps}, expected at least 1")
    if env_timeout is not None and not (isinstance(env_timeout, int | float | np.number) and 0 < env_timeout < math.inf):
        raise ValueError(f"make: env_timeout is {env_timeout!r}, expected a number of seconds above 0, or None")
    if isinstance(env, VectorEnv):
        given = dict(env_kwargs=env_kwargs, max_episode_steps=max_episode_steps, render_mode=render_mode, wrapper=wrapper)
        return _from_vector_env(env, num_envs, backend, seed, mode, given)
    if isinstance(num_envs, bool) or not isinstance(num_envs, int | np.integer) or num_envs < 1:
        raise ValueError(f"make: num_envs is {num_envs!r}, expected an integer of at least 1")
    factory = EnvFactory(env, dict(env_kwargs or {}), max_episode_steps, render_mode, wrapper, seed)  # imports the module that the id names
    if backend not in BACKENDS:
        raise UnknownNameError(f"make: backend is {backend!r}{closest_names(backend, BACKENDS)} (expected one of {', '.join(BACKENDS)})")
    request = Request(factory=factory, num_envs=int(num_envs), seed=seed, autoreset=mode, env_timeout=env_timeout)
    stepper = BACKENDS[backend].build(request)
    stepper.factory, stepper.env_timeout = factory, env_timeout
    stepper.frames, stepper.episodic_life, stepper.fires = factory.frames, factory.episodic_life, factory.fires
    return stepper


def _from_vector_env(env: VectorEnv, num_envs: int, backend: str, seed: int, mode: AutoresetMode | None, given: dict[str, Any]) -> Stepper:
    for name, value in given.items():
        if value is not None:
            raise ValueError(f"make: {name} cannot be applied to a vector environment that exists already")
    if backend != "auto":
        raise ValueError(f"make: backend is {backend!r}, but env is a vector environment already; leave it out")
    if num_envs not in (1, env.num_envs):
        raise ValueError(f"make: num_envs is {num_envs}, but the vector environment has {env.num_envs}")
    name = getattr(env.spec, "id", None) or type(env.unwrapped).__name__
    return VectorStepper(env, seed=seed, name=name, spec=env.spec, autoreset=mode)


def native_form(env: Any, env_kwargs: Mapping[str, Any], max_episode_steps: int | None) -> tuple[NativeEnv, EnvSpec | None]:
    """The native form of what `make` takes, and its spec; SettingError, which says why, where it has none."""
    factory = EnvFactory(env, dict(env_kwargs), max_episode_steps, None, None, 0)
    return factory.native(), factory.env_spec
