"""The random baseline: uniform actions, nothing learned. What every score must be compared with."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from gymnasium import spaces

from pyrl.agents.base import Agent, AgentConfig
from pyrl.agents.checks import Count, check_spaces
from pyrl.agents.registry import register
from pyrl.ops import RandomStream, uniform_indices
from pyrl.types import Array, Observation, Rollout, first_leaf


@dataclasses.dataclass(frozen=True, kw_only=True)
class RandomConfig(AgentConfig):
    """Only how often the loop reports."""

    n_steps: Count = 128  # steps of each environment between two metrics records


@register("random")
class Random(Agent):
    """Draws uniformly from the action space; an unbounded side of a Box is taken as -1 or 1."""

    loop = "on_policy"
    Config = RandomConfig

    def __init__(self, observation_space: spaces.Space, action_space: spaces.Space, config: RandomConfig, seed: int, num_envs: int) -> None:
        check_spaces("random", action_space, (spaces.Discrete, spaces.MultiDiscrete, spaces.Box))
        super().__init__(observation_space, action_space, config, seed, num_envs)

    def policy(self, observation: Observation, deterministic: bool = False) -> dict[str, Array]:
        return {"action": uniform_actions(self.action_space, len(first_leaf(observation)), self.random)}

    def learn(self, data: Rollout) -> dict[str, float]:
        return {}


_GRID = 1 << 24  # Box actions lie on a grid of 2^-24, as float32 uniforms do


def uniform_actions(space: Any, count: int, random: RandomStream) -> np.ndarray:
    """``count`` uniform actions of ``space``, discrete ones counted from zero."""
    if isinstance(space, spaces.Discrete):
        return uniform_indices(count, int(space.n), random)
    if isinstance(space, spaces.MultiDiscrete):
        return np.stack([uniform_indices(count, int(n), random) for n in space.nvec.ravel()], axis=1)
    low, high = np.where(np.isfinite(space.low), space.low, -1.0), np.where(np.isfinite(space.high), space.high, 1.0)
    unit = uniform_indices(count * low.size, _GRID, random).reshape(count, *space.shape) / _GRID
    return (low + unit * (high - low)).astype(space.dtype)
