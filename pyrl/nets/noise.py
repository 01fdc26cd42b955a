"""Exploration noise for deterministic actors.

Noise lives in the actor's units, where every action lies in [-1, 1]. Its ``state`` is what a checkpoint keeps, beside those of
the random streams.
"""

from __future__ import annotations

import math
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from pyrl.ops.random import RandomStream
from pyrl.ops.sampling import sample_gaussian

NoiseType: TypeAlias = Literal["normal", "ornstein-uhlenbeck"]


def standard_normal(like: Tensor, random: RandomStream) -> Tensor:
    """xi ~ N(0, 1), float32 [B, A] as ``like``; one draw of ``random``."""
    return sample_gaussian(torch.zeros(like.shape), torch.zeros(like.shape[1]), random)[0]


class NormalNoise:
    """action + std xi, xi ~ N(0, 1), clipped to [-1, 1]: independent from step to step."""

    def __init__(self, std: float, random: RandomStream) -> None:
        self.std = std
        self.random = random

    @property
    def state(self) -> tuple[Any, ...]:
        return self.random.state

    @state.setter
    def state(self, state: tuple[Any, ...]) -> None:
        self.random.state = state

    def __call__(self, action: Tensor) -> Tensor:
        """``action`` [N, A] -> [N, A]."""
        return (action + self.std * standard_normal(action, self.random)).clamp_(-1.0, 1.0)


class OrnsteinUhlenbeckNoise:
    """action + x, clipped to [-1, 1], where dx = -theta x dt + std dW (Uhlenbeck and Ornstein 1930; Lillicrap et al. 2016).

    One path x for each environment, by the Euler-Maruyama rule, with theta and dt as in Stable-Baselines3. It starts at zero and
    runs on through the ends of episodes: the process is stationary, with a standard deviation of std / sqrt(2 theta).
    """

    theta = 0.15
    dt = 0.01

    def __init__(self, std: float, random: RandomStream) -> None:
        self.std = std
        self.random = random
        self.x = torch.zeros(0, 1)  # [N, A] from the first call on

    @property
    def state(self) -> tuple[Any, ...]:
        """The stream's state, A, and x."""
        return (*self.random.state, self.x.shape[1], *self.x.flatten().tolist())

    @state.setter
    def state(self, state: tuple[Any, ...]) -> None:
        self.random.state = state[:3]
        self.x = torch.tensor(state[4:], dtype=torch.float32).view(-1, int(state[3]))

    def __call__(self, action: Tensor) -> Tensor:
        """``action`` [N, A] -> [N, A]; another N or A than before starts new paths."""
        if self.x.shape != action.shape:
            self.x = torch.zeros_like(action)
        xi = standard_normal(action, self.random)
        self.x = self.x - self.theta * self.dt * self.x + self.std * math.sqrt(self.dt) * xi
        return (action + self.x).clamp_(-1.0, 1.0)


def exploration_noise(noise_type: NoiseType, std: float, seed: int) -> NormalNoise | OrnsteinUhlenbeckNoise:
    """The noise called ``noise_type``, on a stream of its own."""
    kind = NormalNoise if noise_type == "normal" else OrnsteinUhlenbeckNoise
    return kind(std, RandomStream(seed, "noise"))
