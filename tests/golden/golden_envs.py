"""Environments of the golden runs that Gymnasium does not have: small, deterministic, and never to be changed."""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium import spaces


class Mixed(gymnasium.Env[Any, Any]):
    """Every kind of space in one observation; a pair of discrete actions, one of which does not count from zero."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": []}

    def __init__(self) -> None:
        parts = {
            "numbers": spaces.Box(-2.0, 2.0, (3,), np.float32),
            "bytes": spaces.Box(0, 255, (4, 4, 1), np.uint8),
            "one": spaces.Discrete(3, start=1),
            "rest": spaces.Tuple([spaces.MultiDiscrete([2, 3]), spaces.MultiBinary(2)]),
        }
        self.observation_space = spaces.Dict(parts)
        self.action_space = spaces.MultiDiscrete([3, 2], start=[0, 1])
        self.steps = 0

    def _observation(self) -> dict[str, Any]:
        t = self.steps
        return {
            "numbers": np.array([np.sin(t), np.cos(t), t / 10], np.float32),
            "bytes": np.full((4, 4, 1), 20 * t, np.uint8),
            "one": np.int64(1 + t % 3),
            "rest": (np.array([t % 2, t % 3]), np.array([t % 2, 1], np.int8)),
        }

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        return self._observation(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        reward = float(action[0] == self.steps % 3) + 0.5 * float(action[1])
        return self._observation(), reward, self.steps == 7, False, {}


ENVS = {"Mixed": Mixed}  # the others are Gymnasium's, by their id
