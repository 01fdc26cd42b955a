"""The border between an agent's actions and an environment's: the only place where one becomes the other.

==============  =====================================================  =====================================================
space           the agent's own: what policies return and is stored    what the environment, and the caller of `act`, gets
==============  =====================================================  =====================================================
Discrete        int64 [N], counted from zero                           [N], counted from ``start``
MultiDiscrete   int64 [N, M], counted from zero, components in a row   [N, *shape], counted from ``start``
MultiBinary     int64 [N, M], 0 or 1, components in a row              [N, *shape]
Box             any real numbers [N, *shape], float32 or more precise  [N, *shape], clipped; rounded where the Box holds integers
==============  =====================================================  =====================================================

The environment's are of the space's dtype and are in the space. What is stored is what was drawn, so that its probability can be
computed again.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
from gymnasium import Space, spaces

from pyrl.errors import NonFiniteError
from pyrl.spaces import all_finite, check_action_space, choices, starts_of

_FEW = 256  # numbers up to which a set of Python integers beats two comparisons of arrays


class Actions:
    """What an action space means. ``stored`` is the space of the agent's own actions."""

    def __init__(self, space: Space, where: str) -> None:
        """SpaceError, which begins with ``where``, for a space without a legal action."""
        check_action_space(space, where)
        self.space: Any = space
        self._dtype = dtype = np.dtype(space.dtype)
        self._discrete, self.is_box = isinstance(space, spaces.Discrete), isinstance(space, spaces.Box)
        if isinstance(space, spaces.Box):
            self._whole = dtype.kind != "f"
            self._low, self._high = space.low, space.high
            if not self._whole:
                self._bounded = bool(np.isfinite(space.low).any() or np.isfinite(space.high).any())
                limits = np.finfo(dtype)
                if not space.is_bounded():
                    self._low, self._high = np.maximum(space.low, limits.min), np.minimum(space.high, limits.max)
        else:
            counts = choices(space)
            self._count: Any = counts[0] if self._discrete else np.array(counts)
            self._start: Any = starts_of(space)[0] if self._discrete else np.reshape(starts_of(space), space.shape)
            self._from_zero = not np.any(self._start)
            self._legal = frozenset(range(counts[0])) if self._discrete and counts[0] <= 4096 else None

    @property
    def counted(self) -> tuple[int, int] | None:
        """(start, count) of a Discrete space; None of other spaces."""
        return (self._start, self._count) if self._discrete else None

    @cached_property
    def stored(self) -> Any:
        """Made where something is stored: a Box takes ten times the memory of an action."""
        if self.is_box:
            return spaces.Box(-np.inf, np.inf, self.space.shape, np.result_type(self._dtype, np.float32))
        counts = choices(self.space)
        return spaces.Discrete(counts[0]) if self._discrete else spaces.MultiDiscrete(counts)

    def batch(self, action: np.ndarray) -> np.ndarray:
        """Actions [N, ...] of any agent in the environment's units, in memory that the environment may keep.

        NonFiniteError or ValueError for an action that means nothing; it names the environment.
        """
        if not self.is_box:
            if self._discrete and action.size <= _FEW and self._legal is not None:
                legal = self._legal.issuperset(action.tolist())
            else:
                legal = bool((action >= 0).all() and (action < self._count).all())
            if not legal:
                raise self._out_of_range(action)
        return self.chosen(action, "step: action of environment", copy=True)

    def chosen(self, action: np.ndarray, where: str, copy: bool = False) -> np.ndarray:
        """The same for what pyrl's own policy has just chosen: discrete actions are legal, and the memory is not shared."""
        if self.is_box:
            if not all_finite(action):
                raise NonFiniteError(f"{where} {self._first(~np.isfinite(action))} is not finite")
            if self._whole:
                return self._rounded(action)
            if not self._bounded and action.dtype == self._dtype:
                return action.copy() if copy else action
            clipped = np.maximum(action, self._low)
            np.minimum(clipped, self._high, out=clipped)
            return clipped if clipped.dtype == self._dtype else clipped.astype(self._dtype)
        if not self._discrete:
            action = action.reshape(-1, *self.space.shape)
        return (action if self._from_zero else action + self._start).astype(self._dtype, copy=copy)

    def given_out(self, action: Any, single: bool) -> Any:
        """What `Agent.act` returns of actions [N, ...] that a policy has just chosen: those of the environment, or the ``single`` one."""
        action = self.chosen(np.asarray(action), "act: action of row")
        if not single:
            return action
        return action[0, ...] if self.is_box else action[0]  # which of a Box () is an array, too

    def each(self, action: np.ndarray) -> list[Any]:
        """The same, one action per environment; discrete ones as Python numbers, the fastest for environments."""
        if not self._discrete:
            batch = self.batch(action)
            return list(batch) if batch.ndim > 1 else [batch[i, ...] for i in range(len(batch))]
        numbers: list[Any] = action.tolist()
        legal = self._legal.issuperset(numbers) if self._legal is not None else min(numbers) >= 0 and max(numbers) < self._count
        if not legal:
            raise self._out_of_range(action)
        return [number + self._start for number in numbers] if not self._from_zero else numbers

    def _rounded(self, action: np.ndarray) -> np.ndarray:
        """The nearest integers of the Box. Only what is inside is converted: 2^63 as a float is not an int64."""
        whole = np.rint(action) if action.dtype.kind == "f" else action
        result = np.where(whole <= self._low, self._low, self._high)
        inside = (whole > self._low) & (whole < self._high)
        result[inside] = whole[inside]
        return result

    def _first(self, wrong: np.ndarray) -> int:
        return int(np.argwhere(wrong)[0][0])

    def _out_of_range(self, action: np.ndarray) -> ValueError:
        index = self._first((action < 0) | (action >= self._count))
        count = self._count if self._discrete else self._count.tolist()
        return ValueError(
            f"step: action of environment {index} is {action[index].tolist()}, expected at least 0 and less than "
            f"{count} (agents count from zero; the space is {self.space})"
        )
