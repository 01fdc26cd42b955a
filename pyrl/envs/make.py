"""From an id, a callable or a vector environment to a `Stepper`."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import operator
import pickle
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, TypeAlias

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.wrappers import FrameStackObservation, TimeLimit

from pyrl.envs import atari
from pyrl.envs.inline import LeanStepper, peel
from pyrl.envs.observations import ObservationBuffer
from pyrl.envs.stepper import FAILURE, Stepper, VectorStepper, resolve_mode
from pyrl.errors import EnvError, SpaceError, UnknownNameError, closest_names
from pyrl.seeding import stream_seed
from pyrl.spaces import check_action_space, check_observation_space
from pyrl.types import zeros_for

Backend: TypeAlias = Literal["auto", "lean", "sync", "async", "vector", "envpool"]
BACKENDS = ("auto", "lean", "sync", "async", "vector", "envpool")
Wrapper: TypeAlias = Callable[[gymnasium.Env], gymnasium.Env]

# Where an environment comes from -> the extra of pyrl that brings its packages.
_EXTRAS = {"gymnasium.envs.box2d": "box2d", "gymnasium.envs.mujoco": "mujoco", "ale_py": "atari", "shimmy": "atari"}


def make(
    env: str | Callable[..., gymnasium.Env] | VectorEnv,
    num_envs: int = 1,
    *,
    backend: Backend = "auto",
    seed: int = 0,
    env_kwargs: Mapping[str, Any] | None = None,
    autoreset: AutoresetMode | str | None = None,
    max_episode_steps: int | None = None,
    render_mode: str | None = None,
    wrapper: Wrapper | None = None,
) -> Stepper:
    """``num_envs`` environments behind one `Stepper`.

    env: an id (``"CartPole-v1"``, ``"module:Name-v0"``), a callable that returns a new `gymnasium.Env` (a class will
        do), or a `gymnasium.vector.VectorEnv` of your own, which brings its number of environments.
    backend: ``"lean"``: our own stepper in this process; ``"sync"`` and ``"async"``: Gymnasium's vector environments, the
        second with one process per environment; ``"vector"``: the id's native vector entry point; ``"envpool"``: C++
        threads (``pip install 'pyrl[envpool]'``). ``"auto"`` takes lean, and vector for Atari games, which have C++
        threads there (lean, where a wrapper or pictures are asked for). They are preprocessed: see `pyrl.envs.atari`.
    seed: of the first `Stepper.reset`; environment i gets the stream ("env", i) of it.
    env_kwargs: for the environment's constructor.
    autoreset: for ``sync`` and ``async`` (SAME_STEP, where no step is dead, unless told otherwise), and for a vector
        environment that does not declare its mode.
    max_episode_steps: a time limit in place of the id's registered one; it truncates and never terminates.
    render_mode: ``"rgb_array"`` for `Stepper.render`; None costs nothing.
    wrapper: applied to each environment after its time limit.
    """
    mode = None if autoreset is None else resolve_mode(autoreset)
    if backend not in BACKENDS:
        raise UnknownNameError(f"make: backend is {backend!r}{closest_names(backend, BACKENDS)} (expected one of {', '.join(BACKENDS)})")
    if max_episode_steps is not None and operator.index(max_episode_steps) < 1:
        raise ValueError(f"make: max_episode_steps is {max_episode_steps}, expected at least 1")
    if isinstance(env, VectorEnv):
        given = dict(env_kwargs=env_kwargs, max_episode_steps=max_episode_steps, render_mode=render_mode, wrapper=wrapper)
        return _from_vector_env(env, num_envs, backend, seed, mode, given)
    if isinstance(num_envs, bool) or not isinstance(num_envs, int | np.integer) or num_envs < 1:
        raise ValueError(f"make: num_envs is {num_envs!r}, expected an integer of at least 1")
    factory = _Factory(env, dict(env_kwargs or {}), max_episode_steps, render_mode, wrapper)
    stepper = _from_factory(factory, int(num_envs), backend, seed, mode)
    stepper.factory = factory
    stepper.frames, stepper.episodic_life, stepper.fires = factory.frames, factory.episodic_life, factory.fires
    return stepper


def _from_factory(factory: _Factory, num_envs: int, backend: str, seed: int, mode: AutoresetMode | None) -> Stepper:
    if backend == "auto" and atari.is_atari(factory.spec) and factory.wrapper is None and factory.render_mode is None:
        backend = "vector"
    if backend == "envpool":
        return _from_envpool(factory, num_envs, seed, mode)
    if backend == "vector":
        return _from_entry_point(factory, num_envs, seed, mode)
    if backend in ("sync", "async"):
        return _from_gymnasium(factory, num_envs, seed, backend, mode or AutoresetMode.SAME_STEP)
    if mode not in (None, AutoresetMode.SAME_STEP):
        raise ValueError(f"make: autoreset is {mode}, but the lean backend is SAME_STEP; take backend='sync'")
    envs = [factory() for _ in range(num_envs)]
    if len({id(e) for e in envs}) < len(envs):
        raise ValueError(f"make: {factory.name} returned the same object more than once, expected a new environment at each call")
    return LeanStepper(envs, seed=seed, name=factory.name, spec=factory.env_spec)


class _Factory:
    """Makes one environment at each call, and knows what it is called."""

    def __init__(self, env: Any, kwargs: dict[str, Any], limit: int | None, render_mode: str | None, wrapper: Wrapper | None) -> None:
        if not isinstance(env, str) and not callable(env):
            hint = "; pass a callable that makes it, so that there can be several" if isinstance(env, gymnasium.Env) else ""
            raise TypeError(f"make: env is {type(env).__name__}, expected an id, a callable or a gymnasium.vector.VectorEnv{hint}")
        self.spec: EnvSpec | None = find_spec(env) if isinstance(env, str) else None  # None for a callable
        self.env_spec: EnvSpec | None = self.spec  # of the environments as made
        self.name: str = self.spec.id if self.spec is not None else getattr(env, "__name__", type(env).__name__)
        self.frames: tuple[int, Any] | None = None  # as in `Stepper`; known when an environment is made
        self.episodic_life = self.fires = False
        self.limit = limit
        self.render_mode = render_mode
        self.wrapper = wrapper
        self.kwargs = kwargs if render_mode is None else {**kwargs, "render_mode": render_mode}
        self._make = env

    def __call__(self) -> gymnasium.Env:
        env = self._from_callable() if self.spec is None else self._from_spec(self.spec)
        env = env if self.wrapper is None else self.wrapper(env)
        check_observation_space(env.observation_space, self.name)
        check_action_space(env.action_space, self.name)
        self.env_spec = env.spec
        self.name = env.spec.id if env.spec is not None else type(env.unwrapped).__name__
        self.frames = stack_of(env)
        self.episodic_life, self.fires = (
            env.has_wrapper_attr(name) and bool(env.get_wrapper_attr(name)) for name in ("episodic_life", "fires")
        )
        return env

    def _from_spec(self, spec: EnvSpec) -> gymnasium.Env:
        spec = dataclasses.replace(spec, order_enforce=False)  # the stepper keeps the order itself
        with needs_packages(spec):
            if atari.is_atari(spec):
                return self._limited(atari.make_single(spec, self.kwargs))
            return gymnasium.make(spec, max_episode_steps=self.limit, disable_env_checker=True, **self.kwargs)

    def _from_callable(self) -> gymnasium.Env:
        env = self._make(**self.kwargs)
        if not isinstance(env, gymnasium.Env):
            hint = "; pass the vector environment itself" if isinstance(env, VectorEnv) else ""
            raise TypeError(f"make: {self.name} returned {type(env).__name__}, expected a gymnasium.Env{hint}")
        return self._limited(env)

    def _limited(self, env: gymnasium.Env) -> gymnasium.Env:
        return env if self.limit is None else TimeLimit(env, self.limit)

    def guarded(self) -> gymnasium.Env:
        return Guard(self())

    def need_id(self, backend: str) -> EnvSpec:
        if self.spec is None:
            raise ValueError(f"make: backend {backend!r} needs an environment id, got {self.name}; others take callables")
        if self.wrapper is not None:
            raise ValueError(f"make: backend {backend!r} cannot wrap single environments; lean, sync and async can")
        return self.spec


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


def _from_gymnasium(factory: _Factory, num_envs: int, seed: int, backend: str, mode: AutoresetMode) -> Stepper:
    kind = SyncVectorEnv if backend == "sync" else AsyncVectorEnv
    try:
        # The stepper copies what it is given, so the vector environment need not.
        env = kind([factory.guarded] * num_envs, copy=False, autoreset_mode=mode)
    except (RuntimeError, AssertionError) as error:
        if "space" in str(error):
            raise SpaceError(f"{factory.name}: the environments' spaces differ: {error}") from error
        raise
    return VectorStepper(env, seed=seed, name=factory.name, spec=factory.env_spec)


def _from_entry_point(factory: _Factory, num_envs: int, seed: int, mode: AutoresetMode | None) -> Stepper:
    spec = factory.need_id("vector")
    if spec.vector_entry_point is None:
        raise ValueError(f"make: {spec.id} has no vector entry point; take another backend ({', '.join(BACKENDS)})")
    if atari.is_atari(spec):
        with needs_packages(spec):
            games = atari.make_vector(spec, num_envs, factory.kwargs, factory.limit, mode)
        wanted, _ = atari.preprocessing(factory.kwargs)
        factory.frames = (wanted.stack_num, atari.PADDING) if wanted.stack_num > 1 else None
        factory.episodic_life, factory.fires = wanted.episodic_life, isinstance(games, atari.FiringVector)
        return VectorStepper(games, seed=seed, name=spec.id, spec=spec)
    kwargs = dict(factory.kwargs)
    if factory.limit is not None:
        kwargs["max_episode_steps"] = factory.limit
    with needs_packages(spec):
        env = gymnasium.make_vec(spec, num_envs, vectorization_mode="vector_entry_point", **kwargs)
    return VectorStepper(env, seed=seed, name=spec.id, spec=spec, autoreset=mode)


def _from_envpool(factory: _Factory, num_envs: int, seed: int, mode: AutoresetMode | None) -> Stepper:
    """C++ versions of Gymnasium's environments. One that terminates exactly at its time limit says only truncated."""
    spec = factory.need_id("envpool")
    try:
        import envpool
    except ImportError as error:
        raise ModuleNotFoundError("make: backend 'envpool' needs a package that is not installed: pip install 'pyrl[envpool]'") from error
    known = envpool.list_all_envs()
    if spec.id not in known:
        raise UnknownNameError(f"make: EnvPool has no {spec.id!r}{closest_names(spec.id, known)} (another backend may have it)")
    kwargs = dict(factory.kwargs)
    if kwargs.get("batch_size", num_envs) != num_envs:
        raise ValueError(f"make: EnvPool's batch_size is {kwargs['batch_size']}, expected num_envs = {num_envs}, all at every step")
    if factory.limit is not None:
        kwargs["max_episode_steps"] = factory.limit

    def build(seeds: list[int]) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pool = envpool.make_gymnasium(spec.id, num_envs=num_envs, seed=seeds, **kwargs)
            _ = (
                pool.observation_space,
                pool.action_space,
            )  # made at the first look, with warnings on the precision of bounds
        return pool

    pool = build([stream_seed(seed, "env", i) for i in range(num_envs)])
    space = _published_space(factory, pool.single_observation_space)
    return VectorStepper(pool, seed=seed, name=spec.id, spec=spec, autoreset=mode, rebuild=build, observation_space=space)


def _published_space(factory: _Factory, space: gymnasium.Space) -> gymnasium.Space:
    """Gymnasium's observation space in place of EnvPool's where only the bounds differ, so that what is trained on the
    one can be played on the other."""
    try:
        env = gymnasium.make(factory.spec, disable_env_checker=True)  # type: ignore[arg-type]
    except Exception:
        return space
    published = env.observation_space
    env.close()
    alike = type(published) is type(space) and (published.shape, published.dtype) == (space.shape, space.dtype)
    return published if alike else space


def stack_of(env: gymnasium.Env) -> tuple[int, str] | None:
    """(pictures, padding) where ``env`` shows stacks of its latest observations, in the words of the replay buffer."""
    env, _ = peel(env)
    if not isinstance(env, FrameStackObservation) or not isinstance(env.observation_space, gymnasium.spaces.Box):
        return None
    padding = {"reset": "repeat", "zero": "zero"}.get(env.padding_type)
    return None if padding is None or env.stack_size < 2 else (env.stack_size, padding)


class Guard(gymnasium.Wrapper):
    """For Gymnasium's vector environments, which lose the index (sync) or the worker (async) when an environment
    raises or returns an observation of another shape: says so in the info, where the stepper looks."""

    def __init__(self, env: gymnasium.Env) -> None:
        super().__init__(env)
        self._space = env.observation_space
        self._buffer = ObservationBuffer(self._space, 1)
        self._box = isinstance(self._space, gymnasium.spaces.Box)
        self._shape, self._dtype = self._space.shape, self._space.dtype

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        try:
            observation, info = self.env.reset(seed=seed, options=options)
            self._check(observation, "reset")
        except Exception as error:
            return zeros_for(self._space), _failure("reset", error)
        return observation, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        try:
            observation, reward, terminated, truncated, info = self.env.step(action)
            self._check(observation, "step")
            return observation, float(reward), terminated, truncated, info
        except Exception as error:
            return (
                zeros_for(self._space),
                0.0,
                False,
                False,
                _failure("step", error, f" (action {np.asarray(action).tolist()})"),
            )

    def _check(self, observation: Any, what: str) -> None:
        # The usual case at once; `fault` reads anything and is slow.
        if self._box and type(observation) is np.ndarray and observation.dtype == self._dtype and observation.shape == self._shape:
            return
        fault = self._buffer.fault(observation)
        if fault is not None:
            raise EnvError(f"{what}: {fault}")


def _failure(what: str, error: Exception, acting: str = "") -> dict[str, Any]:
    text = str(error) if isinstance(error, EnvError) else f"{what} raised {type(error).__name__}: {error}"
    cause: Exception | None = error
    try:  # it may have to leave its process
        pickle.loads(pickle.dumps(error))
    except Exception:
        cause = RuntimeError("".join(traceback.format_exception(error)))
    return {FAILURE: (text + acting, cause)}


@contextlib.contextmanager
def needs_packages(spec: EnvSpec) -> Iterator[None]:
    """Turns a missing package of a registered environment into the command that installs it."""
    try:
        yield
    except (ImportError, gymnasium.error.DependencyNotInstalled) as error:
        origin = str(spec.entry_point or spec.vector_entry_point)
        extra = next((e for prefix, e in _EXTRAS.items() if origin.startswith(prefix)), None)
        remedy = f"pip install 'pyrl[{extra}]'" if extra else str(error)
        raise ModuleNotFoundError(f"{spec.id} needs a package that is not installed: {remedy}") from error


def find_spec(env_id: str) -> EnvSpec:
    """The registered environment; UnknownNameError with the closest ids otherwise (ModuleNotFoundError for Atari without ale-py)."""
    if env_id.startswith("ALE/"):
        try:
            gymnasium.register_envs(importlib.import_module("ale_py"))
        except ImportError as error:
            raise ModuleNotFoundError(f"{env_id} needs a package that is not installed: pip install 'pyrl[atari]'") from error
    try:
        return gymnasium.spec(env_id)
    except (gymnasium.error.Error, ImportError, ValueError) as error:
        known = closest_names(env_id, gymnasium.registry)
        raise UnknownNameError(f"unknown environment {env_id!r}{known} ({error})") from error
