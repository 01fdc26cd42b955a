"""Reading the observations that `Agent.act` is given: one or a batch, checked against the space, as finite arrays."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from gymnasium import spaces

from pyrl.errors import DTypeError, NonFiniteError, ShapeError
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
    """One observation or a batch of them as finite arrays of the space's shapes, whose ``leading`` dimensions are collected."""
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
    # A sum of squares costs less than half of a look at each number, which decides if the sum overflows.
    if array.dtype.kind == "f" and not math.isfinite(np.vdot(array, array)) and not np.isfinite(array).all():
        at = np.argwhere(~np.isfinite(array))[0].tolist()
        raise NonFiniteError(f"act: {name} holds {array[tuple(at)]} at {at}, expected finite numbers")
    leading.append(array.shape[:count])
    return array


def _entry(value: Any, key: Any, name: str) -> Any:
    try:
        return value[key]
    except (LookupError, TypeError):
        raise ValueError(f"act: {name} is a {type(value).__name__} without the entry {key!r}, which its space has") from None
