"""The preallocated observations of N environments: written once per step, checked with one reduction an array."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import isfinite
from typing import Any

import numpy as np
from gymnasium import Space

from pyrl.spaces import Path, leaves, pick
from pyrl.spaces.observations import Numbers
from pyrl.trees import zeros_for
from pyrl.types import Observation

_CHECKED_IN_C = (np.float32, np.float64, np.uint8)
_SMALL = 2048  # elements up to which BLAS's dot beats NumPy's sum (and stays on one thread)


def finite_test(array: np.ndarray) -> Callable[[], bool]:
    """A quick test that ``array``, as it is when called, holds no NaN and no infinity."""
    flat = array.reshape(-1)
    if flat.size > _SMALL:

        def by_sum() -> bool:
            with np.errstate(all="ignore"):
                # A sum of huge finite numbers may overflow: only then check each.
                return isfinite(np.add.reduce(flat)) or bool(np.isfinite(flat).all())

        return by_sum

    zeros = np.zeros_like(flat)
    return lambda: is_finite(flat, zeros)


def is_finite(vector: np.ndarray, zeros: np.ndarray) -> bool:
    """Whether ``vector`` [n] holds no NaN and no infinity; ``zeros`` [n] are of its dtype."""
    try:
        return bool(vector.dot(zeros) == 0)  # NaN * 0 and inf * 0 are NaN
    except RuntimeWarning:  # inf * 0, where the user makes errors of warnings
        return False


class Leaf:
    """One array of an observation [N, ...] and how to reach it inside a single observation."""

    __slots__ = ("_casting", "_finite", "array", "numbers", "path", "rows", "shape", "zeros")

    def __init__(self, array: np.ndarray, path: Path, space: Any) -> None:
        self.array = array
        self.path = path
        self.numbers = Numbers(space)
        self.shape = array.shape[1:]
        # Environments' arrays laid end to end are the batch: concatenate copies them in one call and checks their
        # shapes.
        self.rows = array.reshape(-1, *array.shape[2:]) if self.shape else None
        self._casting: Any = "same_kind" if self.numbers.floats else "no"  # floats are rounded, integers must stay what they are
        self._finite = finite_test(array) if self.numbers.floats else None
        quick = self.numbers.floats and len(self.shape) == 1 and self.shape[0] <= _SMALL
        self.zeros = np.zeros(self.shape, array.dtype) if quick else None  # for the test of one observation

    @property
    def name(self) -> str:
        return "observation" + "".join(f"[{key!r}]" for key in self.path)

    def write(self, column: Sequence[Any]) -> None:
        if self.rows is None:
            if self.numbers.known(column):  # a quarter of the time
                self.array[:] = column
            else:
                self.write_batch(column)
            return
        try:
            np.concatenate(column, out=self.rows, casting=self._casting)
        except TypeError:  # another dtype
            self.write_batch(column)
            return
        self._check_table()

    def write_batch(self, batch: Any) -> None:
        value = np.asarray(batch)
        if value.shape != self.array.shape:
            raise ValueError(f"{self.name} has shape {list(value.shape)}, expected {list(self.array.shape)}")
        np.copyto(self.array, value if self.numbers.floats else self.numbers.convert(value, self.name))
        self._check_table()

    def _check_table(self) -> None:
        """ValueError where there is no such row. Whether floats are finite is checked once a step (`finite`)."""
        if self.numbers.table and not self.numbers.legal(self.array):
            self.numbers.read(self.array, self.name)

    def write_row(self, index: int, observation: Observation) -> None:
        value = pick(observation, self.path)
        # Fast path for the usual case; `fault` reads anything and is slow.
        usual = type(value) is np.ndarray and value.dtype is self.array.dtype and value.shape == self.shape
        if self.numbers.table or not usual:
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
            value = np.asarray(pick(observation, self.path))
        except (LookupError, TypeError, ValueError) as error:
            return f"{name} cannot be read from {type(observation).__name__}: {error!r}"
        if value.shape != self.shape:
            return f"{name} has shape {list(value.shape)}, expected {list(self.shape)}"
        try:
            self.numbers.read(value, name)
        except (TypeError, ValueError) as error:
            return str(error)
        return None


class ObservationBuffer:
    """Arrays [N, ...] for every leaf of a space; ``value`` is the observation that they make up."""

    __slots__ = ("_only", "leaves", "value")

    def __init__(self, space: Space, num_envs: int) -> None:
        self.value: Observation = zeros_for(space, num_envs)
        self.leaves = [Leaf(pick(self.value, path), path, leaf) for path, leaf in leaves(space)]
        self._only = self.leaves[0] if not self.leaves[0].path else None

    def write(self, observations: Sequence[Observation]) -> None:
        """One observation per environment; any exception means that one of them has a `fault`."""
        if self._only is not None:
            self._only.write(observations)
            return
        for leaf in self.leaves:
            leaf.write([pick(o, leaf.path) for o in observations])

    def write_row(self, index: int, observation: Observation) -> None:
        """The observation of one environment; ValueError saying what is wrong with its shape or dtype."""
        for leaf in self.leaves:
            leaf.write_row(index, observation)

    def usual_copy(self, observation: Observation) -> np.ndarray | None:
        """A copy of one environment's observation if that is a plain array such as the space says, of finite numbers. None for all
        others, right and wrong: `write_row` and `finite` tell them apart, and take several times as long."""
        leaf = self._only
        if leaf is None or type(observation) is not np.ndarray or observation.dtype is not leaf.array.dtype or leaf.numbers.table:
            return None
        if observation.shape != leaf.shape or (leaf.zeros is None and leaf.numbers.floats):
            return None
        copy = observation.copy()
        return copy if leaf.zeros is None or is_finite(copy, leaf.zeros) else None

    def plain_array(self) -> np.ndarray | None:
        """The array [N, ...] of observations that are one array, of which dtype, shape and finite numbers are all there is to check."""
        leaf = self._only
        usual = leaf is not None and leaf.shape and not leaf.numbers.table and leaf.array.dtype in _CHECKED_IN_C
        return leaf.array if usual and leaf is not None else None

    def write_batch(self, observation: Observation) -> None:
        """A batch as vector environments give it; ValueError saying what is wrong with its shape or dtype."""
        for leaf in self.leaves:
            leaf.write_batch(pick(observation, leaf.path))

    def copy_from(self, other: ObservationBuffer) -> None:
        for leaf, source in zip(self.leaves, other.leaves):
            np.copyto(leaf.array, source.array)

    def copy_rows(self, other: Observation, mask: np.ndarray) -> None:
        for leaf in self.leaves:
            leaf.array[mask] = leaf.numbers.read(np.asarray(pick(other, leaf.path))[mask], leaf.name)

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
