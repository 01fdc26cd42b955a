"""What makes one single environment at each call, from an id or a callable."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import gymnasium
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import VectorEnv
from gymnasium.wrappers import FrameStackObservation, TimeLimit

from pyrl.envs import atari
from pyrl.envs.guard import FROM_ENVS, Guard, described, failure
from pyrl.envs.ids import find_spec, import_module, needs_packages
from pyrl.envs.inline import peel
from pyrl.envs.native import NativeEnv, native_of
from pyrl.envs.processes import enter_worker
from pyrl.errors import EnvError, SpaceError, UnknownNameError
from pyrl.seeding import stream_seed
from pyrl.spaces import check_action_space, check_observation_space

Wrapper: TypeAlias = Callable[[gymnasium.Env], gymnasium.Env]


class EnvFactory:
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
        # Only what comes as native: for Gymnasium's environments the native form is asked for, since its episodes differ.
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

    @property
    def limited_kwargs(self) -> dict[str, Any]:
        """The constructor's keywords, the time limit among them: for vector environments, which no wrapper can limit."""
        return dict(self.kwargs) if self.limit is None else {**self.kwargs, "max_episode_steps": self.limit}

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
        """For Gymnasium's vector environments; in a process of its own, which must survive any error."""
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

    def native(self) -> NativeEnv:
        """The native form of these environments; SettingError, which says why, where they have none."""
        env = self.build(0)
        native = native_of(env, self.name)
        env.close()
        return native

    def need_id(self, backend: str) -> EnvSpec:
        if self.spec is None:
            raise ValueError(f"make: backend {backend!r} needs an environment id, got {self.name}; others take callables")
        if self.wrapper is not None:
            raise ValueError(f"make: backend {backend!r} cannot wrap single environments; lean, sync and async can")
        return self.spec


def stack_of(env: gymnasium.Env) -> tuple[int, str] | None:
    """(frames, padding) where ``env`` shows stacks of its latest observations, in the words of the replay buffer."""
    env, _ = peel(env)
    if not isinstance(env, FrameStackObservation) or not isinstance(env.observation_space, gymnasium.spaces.Box):
        return None
    padding = {"reset": "repeat", "zero": "zero"}.get(env.padding_type)
    return None if padding is None or env.stack_size < 2 else (env.stack_size, padding)
