"""The preallocated observations of N environments: written once per step, checked with one reduction."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import isfinite
from typing import Any

import numpy as np
from gymnasium import Space

from pyrl.types import Observation, zeros_for

_SMALL = 2048  # elements up to which BLAS's dot beats NumPy's sum (and stays on one thread)


def finite_test(array: np.ndarray) -> Callable[[], bool]:
    """A quick test that ``array``, as it is when called, holds no NaN and no infinity."""
    flat = array.reshape(-1)
    if flat.size > _SMALL:

        def by_sum() -> bool:
            with np.errstate(all="ignore"):
                # A sum of huge finite numbers may overflow: only then look at each.
                return isfinite(np.add.reduce(flat)) or bool(np.isfinite(flat).all())

        return by_sum

    dot, zeros = flat.dot, np.zeros_like(flat)

    def by_dot() -> bool:
        try:
            return bool(dot(zeros) == 0)  # NaN * 0 and inf * 0 are NaN
        except RuntimeWarning:  # inf * 0, where the user makes errors of warnings
            return False

    return by_dot


class Leaf:
    """One array of an observation [N, ...] and how to reach it inside a single observation."""

    __slots__ = ("_finite", "array", "path", "rows", "shape")

    def __init__(self, array: np.ndarray, path: tuple[Any, ...]) -> None:
        self.array = array
        self.path = path
        self.shape = array.shape[1:]
        # Environments' arrays laid end to end are the batch: concatenate copies them in one call and checks their
        # shapes.
        self.rows = array.reshape(-1, *array.shape[2:]) if self.shape else None
        self._finite = finite_test(array) if array.dtype.kind == "f" else None

    @property
    def name(self) -> str:
        return "observation" + "".join(f"[{key!r}]" for key in self.path)

    def pick(self, observation: Observation) -> Any:
        for key in self.path:
            observation = observation[key]
        return observation

    def write(self, column: Sequence[Any]) -> None:
        if self.rows is not None:
            np.concatenate(column, out=self.rows)
        else:
            self.array[:] = column

    def write_row(self, index: int, observation: Observation) -> None:
        value = self.pick(observation) if self.path else observation
        # The usual case at once; `fault` reads anything and is slow.
        if not (type(value) is np.ndarray and value.dtype is self.array.dtype and value.shape == self.shape):
            fault = self.fault(observation)
            if fault is not None:
                raise ValueError(fault)
        self.array[index] = value

    def finite(self) -> bool:
        return self._finite is None or self._finite()

    def fault(self, observation: Observation) -> str | None:
        """What is wrong with this leaf of one environment's observation."""
        name = self.name
        try:
            value = np.asarray(self.pick(observation))
        except (LookupError, TypeError, ValueError) as error:
            return f"{name} cannot be read from {type(observation).__name__}: {error!r}"
        if value.shape != self.shape:
            return f"{name} has shape {list(value.shape)}, expected {list(self.shape)}"
        if not np.can_cast(value.dtype, self.array.dtype, "same_kind"):
            return f"{name} has dtype {value.dtype}, expected {self.array.dtype}"
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            return f"{name} is {value.tolist() if value.size <= 16 else 'not finite'}, expected finite numbers"
        if value.dtype.kind == self.array.dtype.kind == "f" and value.dtype.itemsize > self.array.dtype.itemsize:
            huge = value[np.abs(value) > np.finfo(self.array.dtype).max]
            if huge.size:
                return f"{name} holds {huge.flat[0]:g}, out of the range of {self.array.dtype}"
        return None


class ObservationBuffer:
    """Arrays [N, ...] for every leaf of a space; ``value`` is the observation that they make up."""

    __slots__ = ("_only", "leaves", "value")

    def __init__(self, space: Space, num_envs: int) -> None:
        self.value: Observation = zeros_for(space, num_envs)
        self.leaves = [Leaf(array, path) for array, path in _walk(self.value, ())]
        self._only = self.leaves[0] if not self.leaves[0].path else None

    def write(self, observations: Sequence[Observation]) -> None:
        """One observation per environment; any exception means that one of them has a `fault`."""
        if self._only is not None:
            self._only.write(observations)
            return
        for leaf in self.leaves:
            leaf.write([leaf.pick(o) for o in observations])

    def write_row(self, index: int, observation: Observation) -> None:
        """The observation of one environment; ValueError saying what is wrong with its shape or dtype."""
        for leaf in self.leaves:
            leaf.write_row(index, observation)

    def write_batch(self, observation: Observation) -> None:
        """A batch as vector environments give it; ValueError saying what is wrong with its shape or dtype."""
        for leaf in self.leaves:
            value = np.asarray(leaf.pick(observation) if leaf.path else observation)
            if value.shape != leaf.array.shape:
                raise ValueError(f"{leaf.name} has shape {list(value.shape)}, expected {list(leaf.array.shape)}")
            np.copyto(leaf.array, value)

    def copy_from(self, other: ObservationBuffer) -> None:
        for leaf, source in zip(self.leaves, other.leaves):
            np.copyto(leaf.array, source.array)

    def copy_rows(self, other: Observation, mask: np.ndarray) -> None:
        for leaf in self.leaves:
            leaf.array[mask] = np.asarray(leaf.pick(other))[mask]

    def finite(self) -> bool:
        if self._only is not None:
            return self._only.finite()
        return all(leaf.finite() for leaf in self.leaves)

    def fault(self, observation: Observation) -> str | None:
        """What is wrong with one environment's observation, in words; None if nothing is."""
        return next((f for f in (leaf.fault(observation) for leaf in self.leaves) if f is not None), None)

    def not_finite_rows(self) -> list[int]:
        bad = np.zeros(len(self.leaves[0].array), bool)
        for leaf in self.leaves:
            if leaf.array.dtype.kind == "f":
                bad |= ~np.isfinite(leaf.array).reshape(len(bad), -1).all(axis=1)
        return np.flatnonzero(bad).tolist()


def _walk(value: Observation, path: tuple[Any, ...]) -> list[tuple[np.ndarray, tuple[Any, ...]]]:
    if isinstance(value, Mapping):
        return [found for key, entry in value.items() for found in _walk(entry, (*path, key))]
    if isinstance(value, tuple):
        return [found for key, entry in enumerate(value) for found in _walk(entry, (*path, key))]
    return [(value, path)]
