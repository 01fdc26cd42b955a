"""From an id, a callable or a vector environment to a `Stepper`."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import operator
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, TypeAlias

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.wrappers import FrameStackObservation, TimeLimit

from pyrl.envs import atari
from pyrl.envs.guard import FROM_ENVS, Guard, described, failure
from pyrl.envs.ids import find_spec, import_module, needs_packages
from pyrl.envs.inline import LeanStepper, peel
from pyrl.envs.native import NativeEnv, native_of
from pyrl.envs.native_stepper import NativeStepper
from pyrl.envs.processes import ProcessVector, WorkerFailure, enter_worker
from pyrl.envs.stepper import Stepper
from pyrl.envs.vector import VectorStepper, resolve_mode
from pyrl.errors import EnvError, SpaceError, UnknownNameError, closest_names
from pyrl.seeding import stream_seed
from pyrl.spaces import check_action_space, check_observation_space

Backend: TypeAlias = Literal["auto", "lean", "native", "sync", "async", "vector", "envpool"]
BACKENDS = ("auto", "lean", "native", "sync", "async", "vector", "envpool")
EnvSource: TypeAlias = str | Callable[..., gymnasium.Env] | VectorEnv
Wrapper: TypeAlias = Callable[[gymnasium.Env], gymnasium.Env]

ENV_TIMEOUT = 300.0  # seconds


def make(
    env: EnvSource,
    num_envs: int = 1,
    *,
    backend: Backend = "auto",
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
    backend: ``"lean"``: our own stepper in this process; ``"native"``: C++ versions of Gymnasium's classic control and toy texts, the
        same physics with a random stream of their own, and yours; ``"sync"`` and ``"async"``: Gymnasium's vector environments, the
        second with one process per environment; ``"vector"``: the id's native vector entry point; ``"envpool"``: C++
        threads (``pip install 'pyrl[envpool]'``). ``"auto"`` takes lean, native for native
        environments of yours, and vector for Atari games, which have C++ threads there (lean, where a wrapper or pictures are asked
        for). They are preprocessed: see `pyrl.envs.atari`.
    seed: of the first `Stepper.reset`; environment i gets the stream ("env", i) of it.
    env_kwargs: for the environment's constructor.
    autoreset: for ``sync`` and ``async`` (SAME_STEP, where no step is dead, unless told otherwise), and for a vector
        environment that does not declare its mode.
    max_episode_steps: a time limit in place of the id's registered one; it truncates and never terminates.
    render_mode: ``"rgb_array"`` for `Stepper.render`; None costs nothing.
    wrapper: applied to each environment after its time limit.
    env_timeout: seconds that an environment in a process of its own (``async``, A3C's workers) gets for making it, each reset, each
        step and closing it; EnvError, which says where and in what it hangs, after that. None: for ever.
    """
    mode = None if autoreset is None else resolve_mode(autoreset)
    if backend not in BACKENDS:
        raise UnknownNameError(f"make: backend is {backend!r}{closest_names(backend, BACKENDS)} (expected one of {', '.join(BACKENDS)})")
    if max_episode_steps is not None and operator.index(max_episode_steps) < 1:
        raise ValueError(f"make: max_episode_steps is {max_episode_steps}, expected at least 1")
    if env_timeout is not None and not (isinstance(env_timeout, int | float | np.number) and 0 < env_timeout < math.inf):
        raise ValueError(f"make: env_timeout is {env_timeout!r}, expected a number of seconds above 0, or None")
    if isinstance(env, VectorEnv):
        given = dict(env_kwargs=env_kwargs, max_episode_steps=max_episode_steps, render_mode=render_mode, wrapper=wrapper)
        return _from_vector_env(env, num_envs, backend, seed, mode, given)
    if isinstance(num_envs, bool) or not isinstance(num_envs, int | np.integer) or num_envs < 1:
        raise ValueError(f"make: num_envs is {num_envs!r}, expected an integer of at least 1")
    factory = _Factory(env, dict(env_kwargs or {}), max_episode_steps, render_mode, wrapper, seed)
    stepper = _from_factory(factory, int(num_envs), backend, seed, mode, env_timeout)
    stepper.factory, stepper.env_timeout = factory, env_timeout
    stepper.frames, stepper.episodic_life, stepper.fires = factory.frames, factory.episodic_life, factory.fires
    return stepper


def _from_factory(factory: _Factory, num_envs: int, backend: str, seed: int, mode: AutoresetMode | None, timeout: float | None) -> Stepper:
    if backend == "auto" and factory.wrapper is None and factory.render_mode is None:
        backend = "vector" if atari.is_atari(factory.spec) else "native" if factory.is_native else "auto"
    if backend == "native":
        return _from_native(factory, num_envs, seed, mode)
    if backend == "envpool":
        return _from_envpool(factory, num_envs, seed, mode)
    if backend == "vector":
        return _from_entry_point(factory, num_envs, seed, mode)
    if backend in ("sync", "async"):
        return _from_gymnasium(factory, num_envs, seed, backend, mode or AutoresetMode.SAME_STEP, timeout)
    if mode not in (None, AutoresetMode.SAME_STEP):
        raise ValueError(f"make: autoreset is {mode}, but the lean backend is SAME_STEP; take backend='sync'")
    envs = [factory.build(i) for i in range(num_envs)]
    if len({id(e) for e in envs}) < len(envs):
        raise ValueError(f"make: {factory.name} returned the same object more than once, expected a new environment at each call")
    return LeanStepper(envs, seed=seed, name=factory.name, spec=factory.env_spec)


class _Factory:
    """Makes one environment at each call, and knows what it is called."""

    def __init__(
        self, env: Any, kwargs: dict[str, Any], limit: int | None, render_mode: str | None, wrapper: Wrapper | None, seed: int
    ) -> None:
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
        self.seed = seed
        self.which = "environment 0"  # that is made, in messages
        self._make = env
        self._process = os.getpid()
        self._spaces: tuple[Any, Any] | None = None  # of the environments as made
        # Somebody's own: of Gymnasium's, who wants the native form says so, since its episodes are others.
        self.is_native = isinstance(env if self.spec is None else self.spec.entry_point, NativeEnv)

    def __call__(self) -> gymnasium.Env:
        with self._users_code():
            env = self._from_callable() if self.spec is None else self._from_spec(self.spec)
            env = env if self.wrapper is None else self.wrapper(env)
        observation_space, action_space = (getattr(env, f"{kind}_space", None) for kind in ("observation", "action"))
        check_observation_space(observation_space, self.name)  # type: ignore[arg-type]
        check_action_space(action_space, self.name)  # type: ignore[arg-type]
        self._spaces = observation_space, action_space
        self.env_spec = env.spec
        self.name = env.spec.id if env.spec is not None else type(env.unwrapped).__name__
        self.frames = stack_of(env)
        self.episodic_life, self.fires = (
            env.has_wrapper_attr(name) and bool(env.get_wrapper_attr(name)) for name in ("episodic_life", "fires")
        )
        return env

    def build(self, index: int) -> gymnasium.Env:
        """Environment ``index``, which messages name."""
        self.which = f"environment {index} (seed {stream_seed(self.seed, 'env', index)})"
        return self()

    def _from_spec(self, spec: EnvSpec) -> gymnasium.Env:
        if isinstance(self._make, str) and ":" in self._make and not self.is_native:
            import_module(self._make, self._make.rpartition(":")[0])  # in another process it registers what it needs
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

    @contextlib.contextmanager
    def _users_code(self) -> Iterator[None]:
        """What making an environment raises, as an EnvError that says which; mistakes in the call stay what they are."""
        try:
            yield
        except (TypeError, SpaceError, EnvError, UnknownNameError, ModuleNotFoundError, gymnasium.error.DependencyNotInstalled):
            raise
        except FROM_ENVS as error:
            raise EnvError(f"{self.name}: {self.which}: make raised {described(error)}") from error

    def guarded(self, index: int) -> Guard:
        """For Gymnasium's vector environments; in a process of its own, which must go on whatever happens."""
        if os.getpid() == self._process:
            return Guard(self.build(index))
        enter_worker(self._process)
        try:
            return Guard(self.build(index), catches=BaseException)
        except BaseException as error:
            error = error.__cause__ if isinstance(error, EnvError) and error.__cause__ is not None else error
            blank: gymnasium.Env = gymnasium.Env()
            assert self._spaces is not None, "AsyncVectorEnv makes one in the parent first"
            blank.observation_space, blank.action_space = self._spaces
            return Guard(blank, made=failure("make", error))

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


def _from_gymnasium(factory: _Factory, num_envs: int, seed: int, backend: str, mode: AutoresetMode, timeout: float | None) -> Stepper:
    makers = [functools.partial(factory.guarded, index) for index in range(num_envs)]
    env: SyncVectorEnv | ProcessVector
    try:
        # The stepper copies what it is given, so the vector environment need not.
        env = SyncVectorEnv(makers, copy=False, autoreset_mode=mode) if backend == "sync" else ProcessVector(makers, mode, timeout)
    except WorkerFailure as error:
        which = f"environment {error.index} (seed {stream_seed(seed, 'env', error.index)})"
        raise EnvError(f"{factory.name}: {which}: {error.text}") from error.cause
    except (RuntimeError, AssertionError) as error:
        if not isinstance(error, EnvError) and "space" in str(error):
            raise SpaceError(f"{factory.name}: the environments' spaces differ: {error}") from error
        raise
    return VectorStepper(env, seed=seed, name=factory.name, spec=factory.env_spec, guarded=True)


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


def _from_native(factory: _Factory, num_envs: int, seed: int, mode: AutoresetMode | None) -> Stepper:
    if mode not in (None, AutoresetMode.SAME_STEP):
        raise ValueError(f"make: autoreset is {mode}, but the native backend is SAME_STEP; take backend='sync'")
    native = _native(factory)
    return NativeStepper(native, num_envs, seed=seed, name=factory.name, spec=factory.env_spec)


def _native(factory: _Factory) -> NativeEnv:
    env = factory.build(0)
    native = native_of(env, factory.name)
    env.close()
    return native


def native_form(env: Any, env_kwargs: Mapping[str, Any], max_episode_steps: int | None) -> tuple[NativeEnv, EnvSpec | None]:
    """The native form of what `make` takes, and its spec; SettingError, which says why, where it has none."""
    factory = _Factory(env, dict(env_kwargs), max_episode_steps, None, None, 0)
    return _native(factory), factory.env_spec


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
