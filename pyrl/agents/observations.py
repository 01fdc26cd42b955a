"""Reading the observations that `Agent.act` is given: one or a batch, as arrays of the space's dtypes."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces

from pyrl.errors import DTypeError, ShapeError
from pyrl.ops.acting import is_plain
from pyrl.spaces.observations import Numbers
from pyrl.types import Observation, map_observation


class ObservationReader:
    """``read(observation) -> (observation with the leading dimension N, whether it was a single one that got N = 1)``.

    ShapeError, DTypeError, NonFiniteError or ValueError names the part of the observation that is not as ``space`` says.
    """

    def __init__(self, space: spaces.Space) -> None:
        self._root = _node(space, "observation")
        usual = type(self._root) is _Leaf and self._root.dtype in (np.float32, np.float64)
        self._like = np.zeros((1, *self._root.shape), self._root.dtype) if usual else None

    def __call__(self, observation: Any) -> tuple[Observation, bool]:
        if self._like is not None and is_plain(observation, self._like):
            return observation, False  # a batch as it should be, in a tenth of the time
        leading: list[tuple[int, ...]] = []
        observation = _read(self._root, observation, leading)
        if leading.count(leading[0]) < len(leading):
            raise ShapeError(f"act: the entries of observation lead with {sorted(map(list, set(leading)))}, expected the same [N] or none")
        if leading[0]:
            return observation, False
        return observation[None] if isinstance(observation, np.ndarray) else map_observation(lambda x: x[None], observation), True


class _Leaf(Numbers):
    def __init__(self, space: spaces.Space, name: str) -> None:
        super().__init__(space)
        self.name, self.caption = name, f"act: {name}"


def _node(space: Any, name: str) -> Any:
    """The tree of ``space`` with a `_Leaf` for each array; dicts and tuples have their names, too."""
    if isinstance(space, spaces.Dict):
        return name, {key: _node(entry, f"{name}[{key!r}]") for key, entry in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return name, tuple(_node(entry, f"{name}[{i}]") for i, entry in enumerate(space.spaces))
    return _Leaf(space, name)


def _read(node: Any, value: Any, leading: list[tuple[int, ...]]) -> Observation:
    """One observation or a batch of them as the space has it, in shape, dtype and numbers; ``leading`` dimensions are collected."""
    if not isinstance(node, _Leaf):
        name, entries = node
        if isinstance(entries, dict):
            return {key: _read(entry, _entry(value, key, name), leading) for key, entry in entries.items()}
        return tuple(_read(entry, _entry(value, i, name), leading) for i, entry in enumerate(entries))
    name, shape = node.name, node.shape
    try:
        array = np.asarray(value)
    except ValueError:  # rows of several lengths
        raise ShapeError(f"act: {name} is a {type(value).__name__} that makes no array, expected {list(shape)} or [N, ...]") from None
    if array.dtype.kind not in "fiub":
        raise DTypeError(f"act: {name} has dtype {array.dtype}, expected numbers")
    count = array.ndim - len(shape)
    if count not in (0, 1) or array.shape[count:] != shape:
        raise ShapeError(f"act: {name} has shape {list(array.shape)}, expected {list(shape)} or [N, ...] of them")
    leading.append(array.shape[:count])
    return node.read(array, node.caption)


def _entry(value: Any, key: Any, name: str) -> Any:
    try:
        return value[key]
    except (LookupError, TypeError):
        raise ValueError(f"act: {name} is a {type(value).__name__} without the entry {key!r}, which its space has") from None
