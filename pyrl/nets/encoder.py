"""From observations of any Gymnasium space to one float32 row per observation."""

from __future__ import annotations

import math

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn
from torch.nn import functional as F

from pyrl.errors import SpaceError
from pyrl.types import Observation, map_observation


class Encoder(nn.Module):
    """``forward(observation [B, ...]) -> float32 [B, D]``; no parameters.

    Box is flattened (uint8 images are scaled to [0, 1]), Discrete and MultiDiscrete become one-hot, MultiBinary 0 and 1; dict
    and tuple entries are concatenated in the order of the space.
    """

    def __init__(self, space: spaces.Space) -> None:
        super().__init__()
        self.space = space
        self.size = encoded_size(space)
        # A flat float32 vector needs no work at all, and it is what most environments give.
        self._identity = isinstance(space, spaces.Box) and len(space.shape) == 1 and space.dtype == "float32"

    def forward(self, observation: Observation) -> Tensor:
        return observation if self._identity else _encode(self.space, observation)

    def array(self, observation: Observation, dtype: type = np.float32) -> np.ndarray:
        """The same of NumPy arrays (or tensors), as a contiguous array [B, D] for the native engine."""
        if not self._identity:
            observation = _encode(self.space, map_observation(torch.as_tensor, observation)).numpy()
        return np.ascontiguousarray(observation, dtype)


def encoded_size(space: spaces.Space) -> int:
    """D, the length of an encoded observation."""
    if isinstance(space, spaces.Box):
        return math.prod(space.shape)
    if isinstance(space, spaces.Discrete):
        return int(space.n)
    if isinstance(space, spaces.MultiDiscrete):
        return int(space.nvec.sum())
    if isinstance(space, spaces.MultiBinary):
        return math.prod(space.shape)
    if isinstance(space, spaces.Dict):
        return sum(encoded_size(s) for s in space.spaces.values())
    if isinstance(space, spaces.Tuple):
        return sum(encoded_size(s) for s in space.spaces)
    raise SpaceError(f"observation_space is {space}, expected Box, Discrete, MultiDiscrete, MultiBinary, Dict or Tuple")


def _encode(space: spaces.Space, observation: Observation) -> Tensor:
    if isinstance(space, spaces.Dict):
        return torch.cat([_encode(s, observation[k]) for k, s in space.spaces.items()], dim=1)
    if isinstance(space, spaces.Tuple):
        return torch.cat([_encode(s, o) for s, o in zip(space.spaces, observation)], dim=1)
    if isinstance(space, spaces.Discrete):
        return F.one_hot(observation.long() - int(space.start), int(space.n)).float()
    if isinstance(space, spaces.MultiDiscrete):
        flat = observation.long().flatten(1) - torch.as_tensor(space.start.ravel())
        return torch.cat([F.one_hot(flat[:, i], int(n)) for i, n in enumerate(space.nvec.ravel())], dim=1).float()
    flat = observation.flatten(1)
    return flat.float() / 255.0 if flat.dtype == torch.uint8 else flat.float()
