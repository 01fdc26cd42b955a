"""The border between an agent's actions and an environment's: the only place where one becomes the other.

An agent counts discrete actions from zero and may choose any real number for a Box. The environment gets what its space
says: Discrete and MultiDiscrete shifted by the space's ``start``, Box clipped to its bounds. What is stored is the
agent's own.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import Space, spaces

from pyrl.errors import DTypeError, NonFiniteError, ShapeError
from pyrl.types import Array

_FEW = 256  # numbers up to which a set of Python integers beats two comparisons of arrays


class ActionBorder:
    """Checks N actions and translates them."""

    def __init__(self, space: Space, num_envs: int) -> None:
        self.space: Any = space
        self.shape = (num_envs, *space.shape)  # type: ignore[misc]
        self._discrete = isinstance(space, spaces.Discrete)
        self._box = isinstance(space, spaces.Box)
        self._dtype = np.dtype(space.dtype)
        if isinstance(space, spaces.Box):
            self._low, self._high = space.low, space.high
            self._bounded = bool(np.isfinite(space.low).any() or np.isfinite(space.high).any())
        elif isinstance(space, spaces.Discrete):
            self._count: Any = int(space.n)
            self._start: Any = int(space.start)
            self._legal = frozenset(range(self._count)) if self._count <= 4096 else None
        elif isinstance(space, spaces.MultiDiscrete):
            self._count, self._start = space.nvec, space.start
        self._from_zero = not np.any(getattr(space, "start", 0))

    def check(self, action: Any) -> Array:
        """The agent's action as an array of the right shape and kind."""
        array = np.asarray(action)
        if array.dtype is self._dtype and array.shape == self.shape:
            return array
        if array.shape != self.shape:
            raise ShapeError(f"step: action has shape {list(array.shape)}, expected [N, ...] = {list(self.shape)}")
        if array.dtype.kind not in ("fiu" if self._box else "iu"):
            raise DTypeError(f"step: action has dtype {array.dtype}, expected {self._dtype}")
        return array

    def batch(self, action: np.ndarray) -> np.ndarray:
        """Checked actions [N, ...] in the environment's units, in memory that an environment may keep."""
        if self._box:
            if not np.isfinite(action).all():
                raise NonFiniteError(f"step: action of environment {self._first(~np.isfinite(action))} is not finite")
            if self._bounded:
                action = np.maximum(action, self._low)
                return np.minimum(action, self._high).astype(self._dtype, copy=False)
            return action.astype(self._dtype)
        if self._discrete and action.size <= _FEW and self._legal is not None:
            legal = self._legal.issuperset(action.tolist())
        else:
            legal = bool((action >= 0).all() and (action < self._count).all())
        if not legal:
            raise self._out_of_range(action, self._first((action < 0) | (action >= self._count)))
        action = action.astype(self._dtype)
        if not self._from_zero:
            action += self._start
        return action

    def each(self, action: np.ndarray) -> list[Any]:
        """The same, one action per environment; discrete ones as Python numbers, the fastest for environments."""
        if not self._discrete:
            return list(self.batch(action))
        numbers: list[Any] = action.tolist()
        legal = self._legal.issuperset(numbers) if self._legal is not None else min(numbers) >= 0 and max(numbers) < self._count
        if not legal:
            raise self._out_of_range(action, self._first((action < 0) | (action >= self._count)))
        return [number + self._start for number in numbers] if not self._from_zero else numbers

    def _first(self, wrong: np.ndarray) -> int:
        return int(np.argwhere(wrong)[0][0])

    def _out_of_range(self, action: np.ndarray, index: int) -> ValueError:
        count = self._count if self._discrete else self._count.tolist()
        return ValueError(
            f"step: action of environment {index} is {action[index].tolist()}, expected at least 0 and less than "
            f"{count} (agents count from zero; the space is {self.space})"
        )
