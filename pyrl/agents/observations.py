"""Reading the observations that `Agent.act` is given: one or a batch, as arrays of the space's dtypes."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces

from pyrl.errors import DTypeError, ShapeError
from pyrl.spaces.observations import Numbers
from pyrl.types import Observation, map_observation


def batched(space: spaces.Space, observation: Any) -> tuple[Observation, bool]:
    """``observation`` with the leading dimension N, and whether it was a single one that got N = 1.

    ShapeError, DTypeError, NonFiniteError or ValueError names the part of the observation that is not as ``space`` says.
    """
    leading: list[tuple[int, ...]] = []
    observation = _read(space, observation, "observation", leading)
    if leading.count(leading[0]) < len(leading):
        raise ShapeError(f"act: the entries of observation lead with {sorted(map(list, set(leading)))}, expected the same [N] or none")
    if leading[0]:
        return observation, False
    return observation[None] if isinstance(observation, np.ndarray) else map_observation(lambda x: x[None], observation), True


def _read(space: Any, value: Any, name: str, leading: list[tuple[int, ...]]) -> Observation:
    """One observation or a batch of them as the space has it, in shape, dtype and numbers; ``leading`` dimensions are collected."""
    if isinstance(space, spaces.Dict):
        return {key: _read(entry, _entry(value, key, name), f"{name}[{key!r}]", leading) for key, entry in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(_read(entry, _entry(value, i, name), f"{name}[{i}]", leading) for i, entry in enumerate(space.spaces))
    try:
        array = np.asarray(value)
    except ValueError:  # rows of several lengths
        raise ShapeError(f"act: {name} is a {type(value).__name__} that makes no array, expected {list(space.shape)} or [N, ...]") from None
    if array.dtype.kind not in "fiub":
        raise DTypeError(f"act: {name} has dtype {array.dtype}, expected numbers")
    count = array.ndim - len(space.shape)
    if count not in (0, 1) or array.shape[count:] != space.shape:
        raise ShapeError(f"act: {name} has shape {list(array.shape)}, expected {list(space.shape)} or [N, ...] of them")
    leading.append(array.shape[:count])
    return Numbers(space).read(array, f"act: {name}")


def _entry(value: Any, key: Any, name: str) -> Any:
    try:
        return value[key]
    except (LookupError, TypeError):
        raise ValueError(f"act: {name} is a {type(value).__name__} without the entry {key!r}, which its space has") from None
