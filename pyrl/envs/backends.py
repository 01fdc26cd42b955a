"""The backends of `pyrl.envs.make`: what steps the environments. One decorated function each; no other list names them.

A backend of your own, in a module of your own or here, is `@backend("name")` over a function from a `Request` to a `Stepper`
(docs/adding_an_env_backend.md).
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import gymnasium
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from pyrl.envs import atari
from pyrl.envs.factory import EnvFactory
from pyrl.envs.ids import needs_packages
from pyrl.envs.inline import LeanStepper
from pyrl.envs.native_stepper import NativeStepper
from pyrl.envs.process_stepper import ProcessStepper
from pyrl.envs.processes import ProcessVector, WorkerFailure
from pyrl.envs.stepper import Stepper
from pyrl.envs.vector import VectorStepper
from pyrl.errors import EnvError, SpaceError, UnknownNameError, closest_names
from pyrl.seeding import stream_seed


@dataclass(frozen=True, kw_only=True)
class Request:
    """What `make` was asked for. A backend that cannot do a part of it raises a ValueError: nothing is ignored."""

    factory: EnvFactory
    num_envs: int
    seed: int
    autoreset: AutoresetMode | None  # None: the backend's own
    env_timeout: float | None  # seconds, of environments in processes of their own

    def need_same_step(self, backend: str) -> None:
        """ValueError for another autoreset mode, from a backend that has SAME_STEP only."""
        if self.autoreset not in (None, AutoresetMode.SAME_STEP):
            raise ValueError(f"make: autoreset is {self.autoreset}, but the {backend} backend is SAME_STEP; take backend='sync'")

    def build_all(self) -> list[gymnasium.Env]:
        """All single environments, in this process."""
        envs = [self.factory.build(i) for i in range(self.num_envs)]
        if len({id(env) for env in envs}) < len(envs):
            name = self.factory.name
            raise ValueError(f"make: {name} returned the same object more than once, expected a new environment at each call")
        return envs


BuildStepper: TypeAlias = Callable[[Request], Stepper]


@dataclass(frozen=True)
class Backend:
    build: BuildStepper
    package: str | None = None  # the module that it needs, brought by pyrl's extra of the backend's name

    @property
    def about(self) -> str:
        """One line: the first of the function's docstring."""
        return (self.build.__doc__ or "").strip().partition("\n")[0]


BACKENDS: dict[str, Backend] = {}  # by name, filled by `backend`


def backend(name: str, package: str | None = None) -> Callable[[BuildStepper], BuildStepper]:
    """Decorator: the function builds the steppers of ``backend=name``. ValueError for the name of one of pyrl's own."""

    def keep(build: BuildStepper) -> BuildStepper:
        if name in BACKENDS and BACKENDS[name].build.__module__ == __name__ != build.__module__:
            raise ValueError(
                f"backend: {name!r} is a backend of pyrl's own, expected another name for {build.__module__}.{build.__qualname__}"
            )
        BACKENDS[name] = Backend(build, package)
        return build

    return keep


@backend("auto")
def _auto(request: Request) -> Stepper:
    """native for native environments of yours, vector for Atari games, else lean"""
    factory = request.factory
    name = "lean"
    if factory.wrapper is None and factory.render_mode is None:
        name = "vector" if atari.is_atari(factory.spec) else "native" if factory.is_native else "lean"
    return BACKENDS[name].build(request)


@backend("lean")
def _lean(request: Request) -> Stepper:
    """pyrl's own stepper, in this process"""
    request.need_same_step("lean")
    envs = request.build_all()
    return LeanStepper(envs, seed=request.seed, name=request.factory.name, spec=request.factory.env_spec)


@backend("native")
def _native(request: Request) -> Stepper:
    """C++ versions of classic control and toy texts, the same physics with their own random stream, and native environments of yours"""
    request.need_same_step("native")
    factory = request.factory
    return NativeStepper(factory.native(), request.num_envs, seed=request.seed, name=factory.name, spec=factory.env_spec)


@backend("processes")
def _processes(request: Request) -> Stepper:
    """pyrl's own stepper in other processes, one for each core, which share the environments"""
    request.need_same_step("processes")
    return ProcessStepper(request.factory, request.num_envs, seed=request.seed, timeout=request.env_timeout)


@backend("sync")
def _sync(request: Request) -> Stepper:
    """Gymnasium's SyncVectorEnv"""
    # The stepper copies what it is given, so the vector environment need not.
    return _guarded(request, functools.partial(SyncVectorEnv, copy=False))


@backend("async")
def _async(request: Request) -> Stepper:
    """one process per environment"""
    return _guarded(request, lambda makers, autoreset_mode: ProcessVector(makers, autoreset_mode, request.env_timeout))


def _guarded(request: Request, vector_env: Callable[..., Any]) -> Stepper:
    """A vector environment of environments that each have a `Guard`."""
    factory = request.factory
    makers = [functools.partial(factory.guarded, index) for index in range(request.num_envs)]
    try:
        env = vector_env(makers, autoreset_mode=request.autoreset or AutoresetMode.SAME_STEP)
    except WorkerFailure as error:
        which = f"environment {error.index} (seed {stream_seed(request.seed, 'env', error.index)})"
        raise EnvError(f"{factory.name}: {which}: {error.text}") from error.cause
    except (RuntimeError, AssertionError) as error:
        if not isinstance(error, EnvError) and "space" in str(error):
            raise SpaceError(f"{factory.name}: the environments' spaces differ: {error}") from error
        raise
    return VectorStepper(env, seed=request.seed, name=factory.name, spec=factory.env_spec, guarded=True)


@backend("vector")
def _vector(request: Request) -> Stepper:
    """the vector entry point that the id registers (Atari: C++ threads)"""
    factory = request.factory
    spec = factory.need_id("vector")
    if spec.vector_entry_point is None:
        raise ValueError(f"make: {spec.id} has no vector entry point; take another backend ({', '.join(BACKENDS)})")
    if atari.is_atari(spec):
        with needs_packages(spec):
            games = atari.make_vector(spec, request.num_envs, factory.kwargs, factory.limit, request.autoreset)
        wanted, _ = atari.preprocessing(factory.kwargs)
        factory.frames = (wanted.stack_num, atari.PADDING) if wanted.stack_num > 1 else None
        factory.episodic_life, factory.fires = wanted.episodic_life, isinstance(games, atari.FiringVector)
        return VectorStepper(games, seed=request.seed, name=spec.id, spec=spec)
    with needs_packages(spec):
        env = gymnasium.make_vec(spec, request.num_envs, vectorization_mode="vector_entry_point", **factory.limited_kwargs)
    return VectorStepper(env, seed=request.seed, name=spec.id, spec=spec, autoreset=request.autoreset)


@backend("envpool", package="envpool")
def _envpool(request: Request) -> Stepper:
    """EnvPool's C++ versions of Gymnasium's environments, in threads

    One that terminates exactly at its time limit says only truncated."""
    factory, num_envs = request.factory, request.num_envs
    spec = factory.need_id("envpool")
    try:
        import envpool
    except ImportError as error:
        raise ModuleNotFoundError("make: backend 'envpool' needs a package that is not installed: pip install 'pyrl[envpool]'") from error
    known = envpool.list_all_envs()
    if spec.id not in known:
        raise UnknownNameError(f"make: EnvPool has no {spec.id!r}{closest_names(spec.id, known)} (another backend may have it)")
    kwargs = factory.limited_kwargs
    if kwargs.get("batch_size", num_envs) != num_envs:
        raise ValueError(f"make: EnvPool's batch_size is {kwargs['batch_size']}, expected num_envs = {num_envs}, all at every step")

    def build(seeds: list[int]) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pool = envpool.make_gymnasium(spec.id, num_envs=num_envs, seed=seeds, **kwargs)
            _ = pool.observation_space, pool.action_space  # made at first access, with warnings on the precision of bounds
        return pool

    pool = build([stream_seed(request.seed, "env", i) for i in range(num_envs)])
    space = _published_space(factory, pool.single_observation_space)
    return VectorStepper(
        pool, seed=request.seed, name=spec.id, spec=spec, autoreset=request.autoreset, rebuild=build, observation_space=space
    )


def _published_space(factory: EnvFactory, space: gymnasium.Space) -> gymnasium.Space:
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
