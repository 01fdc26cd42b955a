"""From observations of any Gymnasium space to one row of features per observation."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import cast

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn
from torch.nn import functional as F

from pyrl.errors import SpaceError
from pyrl.nets.convolutional import FeaturesExtractor, ImageFeatures, image_network
from pyrl.types import Observation, map_observation


class Encoder(nn.Module):
    """``forward(observation [B, ...]) -> [B, D]``.

    Box is flattened, images among them go through a convolutional network of their own if ``features_extractor`` says so
    (`image_network`); bytes are scaled to [0, 1]. Discrete and MultiDiscrete become one-hot, MultiBinary 0 and 1; dict and tuple
    entries are concatenated in the order of the space. Without convolutional networks there are no parameters, and features are
    float32.
    """

    def __init__(self, space: spaces.Space, features_extractor: FeaturesExtractor = "flatten") -> None:
        super().__init__()
        self.space = space
        self.leaves = leaves = list(_leaves(space))
        networks = [image_network(leaf, features_extractor) for leaf in leaves]
        if features_extractor in ("nature", "impala") and not any(networks):
            raise SpaceError(
                f"features_extractor is {features_extractor!r}, but observation_space is {space}, expected an image: "
                "a Box of uint8 and of rank 3, or a stack of them"
            )
        self.images = nn.ModuleDict()  # by the number of the leaf
        self.size = 0
        for i, (leaf, network) in enumerate(zip(leaves, networks)):
            if network is not None:
                self.images[str(i)] = ImageFeatures(cast(spaces.Box, leaf).shape, network)
            self.size += _size(leaf) if network is None else network.size
        # A flat float32 vector needs no work at all, and it is what most environments give.
        self._identity = isinstance(space, spaces.Box) and len(space.shape) == 1 and space.dtype == "float32"

    def forward(self, observation: Observation) -> Tensor:
        if self._identity:
            return observation
        parts = zip(self.leaves, _values(self.space, observation))
        rows = [self.images[str(i)](x) if str(i) in self.images else _encode(leaf, x) for i, (leaf, x) in enumerate(parts)]
        return rows[0] if len(rows) == 1 else torch.cat(rows, dim=1)

    def array(self, observation: Observation, dtype: type = np.float32) -> np.ndarray:
        """The same of NumPy arrays (or tensors), as a contiguous array [B, D] for the native engine."""
        if not self._identity:
            observation = self(map_observation(torch.as_tensor, observation)).numpy()
        return np.ascontiguousarray(observation, dtype)


def has_images(space: spaces.Space, features_extractor: FeaturesExtractor) -> bool:
    """Whether an `Encoder` of ``space`` has convolutional networks."""
    return any(image_network(leaf, features_extractor) is not None for leaf in _leaves(space))


def _leaves(space: spaces.Space) -> Iterator[spaces.Space]:
    """The spaces of single arrays, in order."""
    if isinstance(space, spaces.Dict | spaces.Tuple):
        for entry in space.spaces.values() if isinstance(space, spaces.Dict) else space.spaces:
            yield from _leaves(entry)
    else:
        yield space


def _values(space: spaces.Space, observation: Observation) -> Iterator[Tensor]:
    """The arrays of an observation, in the same order."""
    if isinstance(space, spaces.Dict):
        for key, entry in space.spaces.items():
            yield from _values(entry, observation[key])
    elif isinstance(space, spaces.Tuple):
        for entry, value in zip(space.spaces, observation):
            yield from _values(entry, value)
    else:
        yield observation


def _size(space: spaces.Space) -> int:
    """Length of an encoded leaf."""
    if isinstance(space, spaces.Discrete):
        return int(space.n)
    if isinstance(space, spaces.MultiDiscrete):
        return int(space.nvec.sum())
    if isinstance(space, spaces.Box | spaces.MultiBinary):
        return math.prod(space.shape)
    raise SpaceError(f"observation_space is {space}, expected Box, Discrete, MultiDiscrete, MultiBinary, Dict or Tuple")


def _encode(space: spaces.Space, observation: Tensor) -> Tensor:
    """A leaf [B, ...] as float32 [B, D]."""
    if isinstance(space, spaces.Discrete):
        return F.one_hot(observation.long() - int(space.start), int(space.n)).float()
    if isinstance(space, spaces.MultiDiscrete):
        flat, parts = observation.long().flatten(1), zip(space.start.ravel(), space.nvec.ravel())
        return torch.cat([F.one_hot(flat[:, i] - int(start), int(n)) for i, (start, n) in enumerate(parts)], dim=1).float()
    flat = observation.flatten(1)
    return flat.float() / 255.0 if flat.dtype == torch.uint8 else flat.float()
