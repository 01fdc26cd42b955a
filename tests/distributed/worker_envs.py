"""Environments of workers' processes: found by their names there."""

from __future__ import annotations

import os
import threading
import time
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces


class Masked(gym.Env[np.ndarray, int]):
    """Seven steps an episode; the action of the step is forbidden, and raises."""

    observation_space = spaces.Box(0, 7, (1,), np.float32)
    action_space = spaces.Discrete(3)

    def given(self) -> Any:
        return np.array([self.t], np.float32), {"action_mask": np.arange(3) != self.t % 3}

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.t = 0
        return self.given()

    def step(self, action: int) -> Any:
        if action == self.t % 3:
            raise RuntimeError(f"{action} is forbidden")
        self.t += 1
        observation, info = self.given()
        return observation, float(action), False, self.t == 7, info


class Global(Masked):
    """Rewards from NumPy's global stream, which nobody seeds."""

    def step(self, action: int) -> Any:
        observation, _, *rest = super().step(action)
        return observation, float(np.random.random()), *rest  # noqa: NPY002


class Faulty(Masked):
    """After 30 steps: raises, hangs, or leaves with the process."""

    def __init__(self, fault: str) -> None:
        self.fault, self.steps = fault, 0

    def step(self, action: int) -> Any:
        self.steps += 1
        if self.steps > 30:
            if self.fault == "raises":
                raise ZeroDivisionError("out of cheese")
            if self.fault == "hangs":
                time.sleep(1000)
            os._exit(3)
        return super().step(action)


class LockedError(Exception):
    """What no pickle takes."""

    def __init__(self, lock: Any) -> None:
        super().__init__(f"locked {lock}")
        self.lock = lock


class Unpicklable(Masked):
    """Raises what cannot be sent to another process."""

    def step(self, action: int) -> Any:
        raise LockedError(threading.Lock())
