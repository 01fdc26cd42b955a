"""Exploration noise for deterministic actors.

Noise lives in the actor's units, where every action is in [-1, 1]. Its ``state`` is what a checkpoint keeps, beside those of
the random streams.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from pyrl.ops.random import RandomStream
from pyrl.ops.sampling import sample_gaussian

NoiseType: TypeAlias = Literal["normal", "ornstein-uhlenbeck"]


def standard_normal(shape: tuple[int, ...], random: RandomStream) -> np.ndarray:
    """xi ~ N(0, 1), float32 [B, A]; one draw of ``random``."""
    return sample_gaussian(np.zeros(shape, np.float32), np.zeros(shape[1], np.float32), random)[0]


@dataclass(frozen=True)
class DeviceNoise:
    """`standard_normal` of a stream on the device, to be drawn there when an update runs: each replay of a graph draws anew."""

    shape: tuple[int, ...]
    random: RandomStream

    def __call__(self) -> Tensor:
        return sample_gaussian(*_zeros(self.shape, self.random.device), self.random)[0]


@cache  # and never dropped: made in a capture, they would be zero only after its first replay
def _zeros(shape: tuple[int, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    return torch.zeros(shape, device=device), torch.zeros(shape[1], device=device)


class NormalNoise:
    """action + std xi, xi ~ N(0, 1), clipped to [-1, 1]: independent from step to step."""

    def __init__(self, std: float | np.ndarray, random: RandomStream) -> None:
        self.std = std
        self.random = random

    @property
    def state(self) -> tuple[Any, ...]:
        return self.random.state

    @state.setter
    def state(self, state: tuple[Any, ...]) -> None:
        self.random.state = state

    def __call__(self, action: np.ndarray) -> np.ndarray:
        """``action`` [N, A] -> [N, A]."""
        return (action + self.std * standard_normal(action.shape, self.random)).clip(-1.0, 1.0)


class OrnsteinUhlenbeckNoise:
    """action + x, clipped to [-1, 1], where dx = -theta x dt + std dW (Uhlenbeck and Ornstein 1930; Lillicrap et al. 2016).

    One path x for each environment, by the Euler-Maruyama rule, with theta and dt as in Stable-Baselines3. It starts at zero and
    runs on through the ends of episodes: the process is stationary, with a standard deviation of std / sqrt(2 theta).
    """

    theta = 0.15
    dt = 0.01

    def __init__(self, std: float | np.ndarray, random: RandomStream) -> None:
        self.std = std
        self.random = random
        self.x: np.ndarray = np.zeros((0, 1), np.float32)  # [N, A] from the first call on

    @property
    def state(self) -> tuple[Any, ...]:
        """The stream's state, A, and x."""
        return (*self.random.state, self.x.shape[1], *self.x.ravel().tolist())

    @state.setter
    def state(self, state: tuple[Any, ...]) -> None:
        width = state[3] if len(state) > 3 else None
        paths = np.array(state[4:], np.float64)
        if type(width) is not int or width < 1 or paths.size % width or not (abs(paths) <= np.finfo(np.float32).max).all():
            raise ValueError(
                f"OrnsteinUhlenbeckNoise: state has width {width!r} and {paths.size} numbers, expected finite paths [N, width]"
            )
        self.random.state = state[:3]
        self.x = paths.astype(np.float32).reshape(-1, width)

    def __call__(self, action: np.ndarray) -> np.ndarray:
        """``action`` [N, A] -> [N, A]; another N or A than before starts new paths."""
        if self.x.shape != action.shape:
            self.x = np.zeros_like(action)
        xi = standard_normal(action.shape, self.random)
        self.x = self.x - self.theta * self.dt * self.x + self.std * math.sqrt(self.dt) * xi
        return (action + self.x).clip(-1.0, 1.0)


def exploration_noise(noise_type: NoiseType, std: float, seed: int) -> NormalNoise | OrnsteinUhlenbeckNoise:
    """The noise called ``noise_type``, on a stream of its own."""
    kind = NormalNoise if noise_type == "normal" else OrnsteinUhlenbeckNoise
    return kind(std, RandomStream(seed, "noise"))
