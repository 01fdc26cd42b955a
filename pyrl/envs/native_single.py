"""One native environment as a `gymnasium.Env`: for wrappers, for processes of their own, and for everybody else's loops."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

from pyrl.envs.native import NativeEnv
from pyrl.errors import EnvError
from pyrl.ops.environments import EnvironmentPool
from pyrl.trees import zeros_for


class SingleNativeEnv(gymnasium.Env):
    """What Gymnasium's interface says, and no more: no time limit but the description's, no pictures."""

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012  (as Gymnasium declares it)

    def __init__(self, native: NativeEnv) -> None:
        self.native = native
        self.observation_space, self.action_space = native.observation_space, native.action_space
        self._pool = EnvironmentPool(native.description, native.parameters.tolist(), 1, native.max_episode_steps)
        self._observation: Any = zeros_for(native.observation_space, 1)
        self._reward, self._terminated, self._truncated = np.zeros(1), np.zeros(1, bool), np.zeros(1, bool)
        self._seeded = False

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        if seed is not None or not self._seeded:
            self._seeded = True
            self._pool.seed([int(self.np_random.integers(1 << 31)) if seed is None else seed])
        self._check(self._pool.reset(None, self.native.options(options), self._observation))
        return self._shown(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        batch = np.asarray(action, self.action_space.dtype).reshape(1, *(self.action_space.shape or ()))  # type: ignore[arg-type]
        arrays = self._observation, self._observation, self._reward, self._terminated, self._truncated
        self._check(self._pool.step(batch, arrays[0], np.empty_like(self._observation), *arrays[2:], False))
        return self._shown(), float(self._reward[0]), bool(self._terminated[0]), bool(self._truncated[0]), {}

    def _shown(self) -> Any:
        """A copy: an int of a Discrete space, as Gymnasium's environments give."""
        row = self._observation[0, ...]
        return int(row) if row.ndim == 0 else row.copy()

    def _check(self, told: Any) -> None:
        if isinstance(told, tuple):
            raise EnvError(told[1])
