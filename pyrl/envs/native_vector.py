"""Native environments as a Gymnasium `VectorEnv`, for loops that are not pyrl's."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from pyrl.envs.native import NativeEnv
from pyrl.envs.vector import resolve_mode
from pyrl.errors import EnvError, SettingError
from pyrl.ops.environments import EnvironmentPool
from pyrl.trees import zeros_for


class NativeVectorEnv(VectorEnv):
    """``num_envs`` native environments.

    >>> envs = NativeVectorEnv("CartPole-v1", 64)
    >>> observation, infos = envs.reset(seed=0)

    env: an id of Gymnasium's environments that pyrl has in C++ (`pyrl.envs.native`), a shared library's ``"./libmyenv.so:Name"``, a
        `NativeEnv`, or a callable that returns an environment of Gymnasium's. Keywords go to the environment.
    autoreset_mode: SAME_STEP: an ended episode restarts in the same step, its last observation is in ``infos["final_obs"]``;
        DISABLED: it waits for ``reset(options={"reset_mask": ...})``. `metadata` declares it.
    max_episode_steps: a time limit in place of the environment's own.
    copy: whether each call returns arrays of its own; without it they are valid until the next but one.

    Environment i of ``reset(seed=s)`` has the seed s + i, as Gymnasium's have; a list gives each its own. Their random stream is Philox.
    """

    def __init__(
        self,
        env: str | NativeEnv | Callable[..., gymnasium.Env],
        num_envs: int = 1,
        *,
        autoreset_mode: AutoresetMode | str = AutoresetMode.SAME_STEP,
        max_episode_steps: int | None = None,
        copy: bool = True,
        **env_kwargs: Any,
    ) -> None:
        from pyrl.envs.make import native_form

        mode = resolve_mode(autoreset_mode)
        if mode is AutoresetMode.NEXT_STEP:
            raise SettingError("NativeVectorEnv: autoreset_mode is NEXT_STEP, expected SAME_STEP or DISABLED")
        native, spec = native_form(env, env_kwargs, max_episode_steps)
        self.native, self.spec, self.num_envs = native, spec, num_envs
        self.metadata = {"autoreset_mode": mode}
        self.single_observation_space, self.single_action_space = native.observation_space, native.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._mode, self._copy, self._seeded = mode, copy, False
        self._pool = EnvironmentPool(native.description, native.parameters.tolist(), num_envs, native.max_episode_steps)
        # In rotation: what was given out last, and two for the next call.
        self._arrays: list[Any] = [zeros_for(self.single_observation_space, num_envs) for _ in range(4)]

    def reset(self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        options = dict(options or {})
        mask = options.pop("reset_mask", None)
        if mask is not None:
            mask = np.asarray(mask)
            if mask.shape != (self.num_envs,) or mask.dtype != np.bool_ or not mask.any():
                raise ValueError(f"reset: reset_mask is {mask}, expected bool [N] = [{self.num_envs}] with at least one True")
        if seed is not None or not self._seeded:
            self._pool.seed(self._seeds(seed))
            self._seeded = True
        observation = self._arrays[1]
        observation[...] = self._arrays[0]  # what is not reset stays what it was
        self._check(self._pool.reset(mask, self.native.options(options), observation))
        return self._given(1), {}

    def _seeds(self, seed: int | Sequence[int | None] | None) -> list[int]:
        if seed is None or isinstance(seed, int | np.integer):
            first = secrets.randbits(31) if seed is None else int(seed)
            return [first + i for i in range(self.num_envs)]
        if len(seed) != self.num_envs:
            raise ValueError(f"reset: seed has {len(seed)} entries, expected N = {self.num_envs}")
        return [secrets.randbits(31) if one is None else int(one) for one in seed]

    def step(self, actions: Any) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        if not self._seeded:
            raise gymnasium.error.ResetNeeded("NativeVectorEnv: step before reset")
        actions = np.ascontiguousarray(actions, self.single_action_space.dtype)
        following, after = self._arrays[1:3]
        reward, terminated, truncated = np.zeros(self.num_envs), np.zeros(self.num_envs, bool), np.zeros(self.num_envs, bool)
        restart = self._mode is AutoresetMode.SAME_STEP
        ended = self._check(self._pool.step(actions, following, after, reward, terminated, truncated, restart))
        infos: dict[str, Any] = {}
        if not ended or not restart:
            return self._given(1), reward, terminated, truncated, infos
        for i in np.flatnonzero(terminated | truncated).tolist():
            infos = self._add_info(infos, {"final_obs": np.array(following[i]), "final_info": {}}, i)
        return self._given(2), reward, terminated, truncated, infos

    def _given(self, index: int) -> Any:
        """The array of this number, which becomes the first."""
        self._arrays = self._arrays[index:] + self._arrays[:index]
        return self._arrays[0].copy() if self._copy else self._arrays[0]

    def _check(self, told: Any) -> Any:
        if isinstance(told, tuple):
            raise EnvError(f"{self.native.name}: environment {told[0]}: {told[1]}")
        return told
