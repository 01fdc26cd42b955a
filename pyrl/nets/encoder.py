"""From observations of any Gymnasium space to one row of features per observation."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias, cast

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn
from torch.nn import functional as F

from pyrl.errors import SpaceError
from pyrl.nets.convolutional import FeaturesExtractor, ImageFeatures, image_network
from pyrl.nets.own import OwnFeatures
from pyrl.spaces import check_observation_space, choices, leaves, pick, starts_of
from pyrl.types import Observation, map_observation

MakeFeatures: TypeAlias = Callable[[Any], Any]


class Encoder(nn.Module):
    """``forward(observation [B, ...]) -> [B, D]``.

    Box is flattened, images among them go through a convolutional network of their own if ``features_extractor`` says so
    (`image_network`); bytes are scaled to [0, 1]. Discrete and MultiDiscrete become one-hot, MultiBinary 0 and 1; dict and tuple
    entries are concatenated in the order of the space. Without convolutional networks there are no parameters, and features are
    float32.

    A callable ``features_extractor`` makes a module that does all of it instead (`pyrl.nets.own`).
    """

    def __init__(self, space: spaces.Space, features_extractor: FeaturesExtractor | MakeFeatures = "flatten") -> None:
        super().__init__()
        self.space = space
        check_observation_space(space, "Encoder")
        self.identity = self.floats = self.vector = False
        self.own = OwnFeatures(features_extractor, space) if callable(features_extractor) else None
        if self.own is not None:
            self.size = self.own.size
            return
        assert not callable(features_extractor)
        found = list(leaves(space))
        self.leaves = [(path, _table(leaf)) for path, leaf in found]  # of each array
        networks = [image_network(leaf, features_extractor) for _, leaf in found]
        if features_extractor in ("nature", "impala") and not any(networks):
            raise SpaceError(
                f"features_extractor is {features_extractor!r}, but observation_space is {space}, expected an image: "
                "a Box of uint8 and of rank 3, or a stack of them"
            )
        self.images = nn.ModuleDict()  # by the number of the leaf
        self.size = 0
        for i, ((_, leaf), network) in enumerate(zip(found, networks)):
            if network is not None:
                self.images[str(i)] = ImageFeatures(cast(spaces.Box, leaf).shape, network)
            self.size += _size(leaf) if network is None else network.size
        # Floats need no operation of torch, vectors of them are rows already, and a float32 vector needs no work at all: these are what
        # most environments give.
        self.floats = isinstance(space, spaces.Box) and space.dtype in (np.float32, np.float64)
        self.vector = self.floats and len(space.shape) == 1  # type: ignore[arg-type]
        self.identity = self.vector and space.dtype == np.float32

    def forward(self, observation: Observation) -> Tensor:
        if self.identity:
            return cast(Tensor, observation)
        if self.own is not None:
            return self.own(observation)
        parts = [(table, pick(observation, path)) for path, table in self.leaves]
        rows = [self.images[str(i)](x) if str(i) in self.images else _encode(table, x) for i, (table, x) in enumerate(parts)]
        return rows[0] if len(rows) == 1 else torch.cat(rows, dim=1)

    def array(self, observation: Observation, dtype: type = np.float32) -> np.ndarray:
        """The same of NumPy arrays (or tensors), as a contiguous array [B, D] for the native engine."""
        if self.floats and not self.identity:
            with np.errstate(over="ignore"):  # as torch rounds
                observation = np.ascontiguousarray(observation, np.float32)
            observation = observation.reshape(len(observation), self.size)
        elif not self.identity:
            observation = self(map_observation(torch.as_tensor, observation)).numpy()
        return np.ascontiguousarray(observation, dtype)


def has_images(space: spaces.Space, features_extractor: FeaturesExtractor | MakeFeatures) -> bool:
    """Whether an `Encoder` of ``space`` has convolutional networks, or, where they are of the user's own, images large enough for them."""
    kind = "auto" if callable(features_extractor) else features_extractor
    return any(image_network(leaf, kind) is not None for _, leaf in leaves(space))


def _table(space: spaces.Space) -> list[tuple[int, int]]:
    """(start, choices) of each component of a Discrete or MultiDiscrete; none of other spaces."""
    return list(zip(starts_of(space), choices(space))) if isinstance(space, spaces.Discrete | spaces.MultiDiscrete) else []


def _size(space: spaces.Space) -> int:
    """Length of an encoded leaf."""
    return sum(n for _, n in _table(space)) or math.prod(space.shape)  # type: ignore[arg-type]


def _encode(table: list[tuple[int, int]], observation: Tensor) -> Tensor:
    """A leaf [B, ...] as float32 [B, D]."""
    if table and observation.dim() == 1:
        start, count = table[0]
        return F.one_hot(observation.long() - start if start else observation.long(), count).float()
    flat = observation.flatten(1) if observation.dim() > 1 else observation.unsqueeze(1)
    if table:
        flat = flat.long()
        return torch.cat([F.one_hot(flat[:, i] - start, count) for i, (start, count) in enumerate(table)], dim=1).float()
    return flat.float() / 255.0 if flat.dtype == torch.uint8 else flat.float()
