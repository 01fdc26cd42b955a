"""Which numbers an array of an observation may hold, and how numbers of another dtype become them: unchanged, or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium import spaces

from pyrl.errors import DTypeError, NonFiniteError
from pyrl.spaces import all_finite, choices, starts_of

_FEW = 256  # numbers up to which a set of Python integers beats two comparisons of arrays


class Numbers:
    """Those of a single array: finite ones for a Box of floats, what the dtype holds for other Boxes, and the space's own elements for
    Discrete, MultiDiscrete and MultiBinary, which networks see as a table."""

    def __init__(self, space: Any) -> None:
        self.space = space
        self.shape, self.dtype = space.shape, np.dtype(space.dtype)
        self.floats, self.table = self.dtype.kind == "f", not isinstance(space, spaces.Box)
        self._elements: frozenset[int] | None = None
        if self.table:
            counts, starts = choices(space), starts_of(space)
            self._low, self._high = (np.reshape(x, space.shape) for x in (starts, [s + n - 1 for s, n in zip(starts, counts)]))
            if isinstance(space, spaces.Discrete) and counts[0] <= 4096:
                self._elements = frozenset(range(starts[0], starts[0] + counts[0]))

    def read(self, value: np.ndarray, name: str) -> np.ndarray:
        """``value`` [..., *shape] as the space has it. DTypeError, NonFiniteError or ValueError, which begins with ``name``."""
        array = self.convert(value, name)
        if self.floats:
            if not all_finite(array):
                raise self._fault(value, ~np.isfinite(array), name)
        elif self.table and not self.legal(array):
            raise self._fault(value, (array < self._low) | (array > self._high), name)
        return array

    def convert(self, value: np.ndarray, name: str) -> np.ndarray:
        """``value`` in the dtype of the space: rounded if that has floats, an error if another number would come of it."""
        if value.dtype == self.dtype:
            return value
        if value.dtype.kind not in "fiub":
            raise DTypeError(f"{name} has dtype {value.dtype}, expected {self.dtype}")
        with np.errstate(over="ignore", invalid="ignore"):
            array = value.astype(self.dtype)
        if not self.floats and (other := array != value).any():
            raise self._fault(value, other, name)
        return array

    def known(self, values: Sequence[Any]) -> bool:
        """Whether all of ``values`` are elements of a small Discrete space, as far as that can be seen at once."""
        try:
            return self._elements is not None and self._elements.issuperset(values)
        except TypeError:  # arrays, which have no hash
            return False

    def legal(self, array: np.ndarray) -> bool:
        """Whether integers of the space's dtype are elements of the space."""
        if self._elements is not None and array.size <= _FEW:
            return self._elements.issuperset(array.reshape(-1).tolist())
        return bool((array >= self._low).all() and (array <= self._high).all())

    def _fault(self, value: np.ndarray, wrong: np.ndarray, name: str) -> ValueError:
        at = np.argwhere(wrong)[0].tolist()
        number = value[tuple(at)]
        finite = bool(np.isfinite(number))
        expected = f"elements of {self.space}" if self.table else f"numbers that {self.dtype} holds"
        expected = "finite numbers" if self.floats and not finite else expected
        kind = ValueError if finite else NonFiniteError
        return kind(f"{name} {f'holds {number} at {at}' if at else f'is {number}'}, expected {expected}")
