"""The next observations that no row of a buffer holds, where the host would store none of them (``ignore_obs_next``)."""

from __future__ import annotations

from typing import Any

import numpy as np
from tianshou.data import Batch


class Following:
    """By position: of each episode's last step, of the newest ones, and of steps after which a stream was broken off."""

    def __init__(self, size: int) -> None:
        self._rows: dict[int, Any] = {}
        self._there = np.zeros(size, bool)

    def __bool__(self) -> bool:
        return bool(self._rows)

    def keep(self, position: int, observation: Any) -> None:
        self._rows[position], self._there[position] = copy(observation), True

    def drop(self, position: int) -> None:
        if self._rows.pop(position, None) is not None:
            self._there[position] = False

    def clear(self) -> None:
        self._rows.clear()
        self._there[:] = False

    def is_row(self, position: int, observation: Any) -> bool:
        """Whether this is what follows the position."""
        return position in self._rows and same(self._rows[position], observation)

    def put_into(self, batch: Any, index: Any, stacked: bool) -> None:
        """Into ``obs_next`` of the samples ``index``."""
        at = np.asarray(index)
        if at.ndim == 0:
            kept = self._rows.get(int(at) % len(self._there))
            if kept is not None:
                batch.obs_next = moved_on(batch.obs, kept) if stacked else copy(kept)
            return
        for row in zip(*np.nonzero(self._there[at])):
            kept = self._rows[int(at[row]) % len(self._there)]
            batch.obs_next[row] = moved_on(batch.obs[row], kept) if stacked else kept


def row(value: Any, number: int) -> Any:
    return {name: row(entry, number) for name, entry in value.items()} if isinstance(value, Batch | dict) else value[number]


def copy(value: Any) -> Any:
    return Batch({name: copy(entry) for name, entry in value.items()}) if isinstance(value, Batch | dict) else np.array(value)


def same(one: Any, other: Any) -> bool:
    if isinstance(one, Batch):
        return all(name in other and same(entry, other[name]) for name, entry in one.items())
    return np.array_equal(one, other)


def moved_on(stack: Any, newest: Any) -> Any:
    """A stack of frames a step later."""
    if isinstance(stack, Batch):
        return Batch({name: moved_on(entry, newest[name]) for name, entry in stack.items()})
    return np.concatenate((stack[1:], np.asarray(newest, stack.dtype)[None]))
