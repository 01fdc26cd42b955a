"""A sum tree by itself: weights of n elements with their sum and extremes, and draws in proportion to them."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np

from pyrl._core import SumTreeCore
from pyrl.errors import DTypeError
from pyrl.ops.random import RandomStream
from pyrl.types import Array

__all__ = ["SumTree"]


class SumTree:
    """Weights (float64, not negative) of ``size`` elements, all zero at first.

    For priorities of records that lie in somebody else's storage; `pyrl.buffers.PrioritizedReplayBuffer` has its own. Sums are computed
    anew from their parts, in a fixed order: no drift. An element of weight zero is never drawn. Arrays are NumPy arrays or torch tensors of
    the CPU, contiguous; results are of the kind of the first argument. Errors (ShapeError, DTypeError, NonFiniteError, ValueError) name the
    argument, and nothing has changed then. Threads may share a tree.

    >>> tree = SumTree(100_000)
    >>> tree.set_priority(index, np.abs(td_error), alpha=0.6)
    >>> index = tree.draw(256, random)
    >>> weight = tree.importance(index, beta=0.4)
    """

    def __init__(self, size: int) -> None:
        try:
            self._size = operator.index(size)
        except TypeError:
            raise DTypeError(f"SumTree: size is {size!r}, expected an integer") from None
        if not 1 <= self._size < 1 << 40:
            raise ValueError(f"SumTree: size is {size}, expected 1 to 2^40")
        self._core = SumTreeCore(self._size)

    def __len__(self) -> int:
        return self._size

    def set(self, index: Array, weight: Array) -> None:
        """Give the elements ``index`` (int64 [B]) these weights [B], float32 or float64; of an element that comes twice the last counts."""
        self._core.set(index, weight)

    def set_priority(self, index: Array, priority: Array, *, alpha: float, epsilon: float = 1e-8) -> None:
        """`set` with ``(priority + epsilon)^alpha``; ``epsilon`` is positive."""
        self._core.set_priority(index, priority, alpha, epsilon)

    def get(self, index: Array) -> Array:
        """float64 [B]: the weights of these elements (int64 [B])."""
        return self._core.get(index)

    def importance(self, index: Array, beta: float) -> Array:
        """float32 [B]: ``(weight / smallest weight that is not zero)^-beta``, importance weights whose largest over the tree is 1."""
        return self._core.importance(index, beta)

    def find(self, value: Array) -> Array:
        """int64 [B]: of each value (float64 [B], from 0 to below the total) the first element whose running sum exceeds it."""
        return self._core.find(value)

    def draw(self, size: int, random: RandomStream, *, kind: str = "numpy") -> Array:
        """int64 [size]: elements in proportion to their weights, stratified (Schaul et al., 2016).

        ``kind`` "torch" gives a tensor. ValueError if all weights are zero."""
        if kind not in ("numpy", "torch"):
            raise ValueError(f"SumTree.draw: kind is {kind!r}, expected one of numpy, torch")
        return self._core.draw(size, random, kind == "torch")

    def sum(self, start: int = 0, end: int | None = None) -> float:
        """Of the elements start, ..., end - 1."""
        return self._core.sum(start, self._size if end is None else end)

    @property
    def total(self) -> float:
        return self._core.total

    @property
    def largest(self) -> float:
        return self._core.largest

    @property
    def smallest(self) -> float:
        """Of those that are not zero; infinity if all are."""
        return self._core.smallest

    def clear(self) -> None:
        """All weights are zero again."""
        self._core.clear()

    def weights(self) -> np.ndarray:
        """float64 [size]: a copy of all."""
        return self.get(np.arange(self._size))

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (self.weights(),)

    def __repr__(self) -> str:
        return f"SumTree({self._size}, total={self.total:g})"


def _restored(weights: np.ndarray) -> SumTree:
    tree = SumTree(len(weights))
    tree.set(np.arange(len(weights)), weights)
    return tree
