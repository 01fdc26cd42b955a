"""The host's sum tree."""

from __future__ import annotations

from typing import Any

import numpy as np

from pyrl import ops
from pyrl.errors import DTypeError


class SegmentTree:
    """The host's SegmentTree: ``size`` weights (float64, not negative), their sums, and where a running sum falls.

    An index is an integer or an int64 array of any shape. Errors name the argument: IndexError, ValueError, DTypeError, ShapeError.
    """

    def __init__(self, size: int) -> None:
        self._tree = ops.SumTree(size)

    def __len__(self) -> int:
        return len(self._tree)

    def __getitem__(self, index: Any) -> Any:
        """The weight, or an array of weights."""
        at = self._index(index)
        found = self._tree.get(at.ravel()).reshape(at.shape)
        return found.item() if np.ndim(index) == 0 else found

    def __setitem__(self, index: Any, value: Any) -> None:
        """Of an element that comes twice the last counts."""
        at, weight = self._index(index).ravel(), np.asarray(value, np.float64).ravel()
        if weight.size == 1 < at.size:
            weight = np.full(at.size, weight[0])
        try:
            self._tree.set(at, weight)
        except ValueError:
            self._check_range(at)
            raise

    def reduce(self, start: int = 0, end: int | None = None) -> float:
        """The sum of the elements start, ..., end - 1; a negative ``end`` counts from the size."""
        if start == 0 and end is None:
            return self._tree.total
        return self._tree.sum(start, end + len(self) if end is not None and end < 0 else end)

    def get_prefix_sum_idx(self, value: Any) -> Any:
        """Of each value, from 0 to below the total, the first element whose running sum exceeds it; never one of weight zero."""
        values = np.asarray(value, np.float64)
        found = self._tree.find(values.ravel()).reshape(values.shape)
        return found.item() if values.ndim == 0 else found

    def _index(self, index: Any) -> np.ndarray:
        at = np.asarray(index)
        if at.dtype.kind not in "iu":
            raise DTypeError(f"SegmentTree: index is {index!r}, expected an integer or an array of integers")
        return at.astype(np.int64, copy=False)

    def _check_range(self, at: np.ndarray) -> None:
        """IndexError, as the host's kind of error, once the tree has refused something."""
        wrong = at[(at < 0) | (at >= len(self._tree))]
        if wrong.size:
            raise IndexError(f"SegmentTree: index is {wrong.flat[0]}, expected 0 to {len(self._tree) - 1}") from None
