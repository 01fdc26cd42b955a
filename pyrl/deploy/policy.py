"""What an agent does without randomness, from an environment's observation to its action, as one torch module."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from pyrl.agents.base import Agent
from pyrl.spaces import leaves, starts_of
from pyrl.trees import map_space


class DeployedPolicy(nn.Module):
    """``forward(*arrays) -> action``: ``agent.act`` of a batch, by operations of torch alone.

    Observations are raw: one tensor [B, ...] for each array of the observation space, in the order of `pyrl.spaces.leaves`. Actions
    [B, *action_space.shape] are in the action space and have its dtype. Networks compute in float32.
    """

    def __init__(self, agent: Agent) -> None:
        super().__init__()
        self.agent = agent
        self.networks = nn.ModuleDict(agent.modules())  # so that tracing finds their parameters
        self.paths = [path for path, _ in leaves(agent.observation_space)]

    def forward(self, *arrays: Tensor) -> Tensor:
        shape: tuple[int, ...] = self.agent.action_space.shape or ()
        given = iter(arrays)
        observation = map_space(lambda _: next(given), self.agent.observation_space)
        action = self.agent.deterministic_action(self.agent.normalizer.traceable(observation))
        return to_environment(action.reshape(-1, *shape), self.agent.action_space)


def to_environment(action: Tensor, space: Any) -> Tensor:
    """`pyrl.spaces.actions.Actions.chosen` for tensors: an agent's actions [B, *shape] as those of the environment."""
    dtype = torch.from_numpy(np.zeros(0, space.dtype)).dtype
    if not isinstance(space, spaces.Box):
        start = np.reshape(starts_of(space), space.shape)
        return (action + torch.from_numpy(start) if start.any() else action).to(dtype)
    if dtype.is_floating_point:
        if space.bounded_below.any() or space.bounded_above.any():
            low, high = (torch.from_numpy(bound).to(action.dtype) for bound in (space.low, space.high))
            action = torch.minimum(torch.maximum(action, low), high)
        return action.to(dtype)
    low, high, whole = torch.from_numpy(space.low), torch.from_numpy(space.high), torch.round(action)
    # Only what is inside is converted: 2^63 as a float is not an int64.
    inside = torch.where((whole > low) & (whole < high), whole, 0.0).to(dtype)
    return torch.where(whole <= low, low, torch.where(whole >= high, high, inside))
