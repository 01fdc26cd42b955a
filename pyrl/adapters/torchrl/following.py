"""Where each position's next observation is: at a position, or kept by itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from pyrl import ops
from pyrl.errors import ShapeError

_NONE = -1
_COLUMNS = "following_{}.npy"


class Following:
    """Of ``size`` positions in a ring. ``row[p]`` is the position that holds p's next observation, ``size + r`` where it is row r
    of those that are kept by themselves, -1 where nothing was written.

    ``stored`` are the columns [size, ...] whose rows are the observations; all columns are followed together.
    """

    def __init__(self, size: int, keys: list[tuple[str, ...]], shapes: list[tuple[int, ...]], dtypes: list[str]) -> None:
        self.size, self.keys, self.shapes, self.dtypes = size, keys, shapes, dtypes
        self.stored: list[np.ndarray] | None = None
        self.clear()

    def clear(self) -> None:
        self.row = np.full(self.size, _NONE, np.int64)
        self.kept = [np.empty((0, *shape), dtype) for shape, dtype in zip(self.shapes, self.dtypes)]
        self.free: list[int] = []

    @property
    def nbytes(self) -> int:
        return self.row.nbytes + sum(column.nbytes for column in self.kept)

    def first_rows(self, positions: np.ndarray) -> list[np.ndarray] | None:
        """Of each run of positions the row that is stored at its first one, for `write`; None before anything was written."""
        if self.stored is None:
            return None
        return [column[positions[self._starts(positions)]] for column in self.stored]

    def _starts(self, positions: np.ndarray) -> np.ndarray:
        """Where runs of positions one behind the other begin, int64 [runs]."""
        return np.flatnonzero(np.append(len(positions) > 0, positions[1:] != (positions[:-1] + 1) % self.size))

    def write(self, positions: np.ndarray, here: list[np.ndarray], after: list[np.ndarray], old: list[np.ndarray] | None) -> None:
        """Positions [K] have observations ``here`` now, and ``after`` follows them, [K, ...] each; ``old``: `first_rows` of before."""
        starts = self._starts(positions)
        for run, (start, end) in enumerate(zip(starts.tolist(), [*starts[1:].tolist(), len(positions)])):
            before, first = int(positions[start] - 1) % self.size, int(positions[start])
            if old is not None and end - start < self.size and self.row[before] != _NONE:
                self._overwritten(before, first, [x[run : run + 1] for x in old], [x[start : start + 1] for x in here])
            self._write_run(positions[start:end], [x[start:end] for x in here], [x[start:end] for x in after])

    def _write_run(self, positions: np.ndarray, here: list[np.ndarray], after: list[np.ndarray]) -> None:
        """Positions one behind the other."""
        self._release(self.row[positions])
        linked = np.ones(len(positions) - 1, bool)
        for one, other in zip(after, here):
            linked &= _equal(one[:-1], other[1:])
        alone = np.append(~linked, True)
        rows = np.append(positions[1:], 0)
        rows[alone] = self.size + self._keep([x[alone] for x in after])
        self.row[positions] = rows

    def _overwritten(self, before: int, position: int, old: list[np.ndarray], here: list[np.ndarray]) -> None:
        """``position`` has another observation than the ``old`` one: that of what follows ``before``, or not."""
        row = int(self.row[before])
        if row == position and not _same(old, here):
            self.row[before] = self.size + int(self._keep(old)[0])
        elif row >= self.size and _same([column[row - self.size :][:1] for column in self.kept], here):
            self._release(np.array([row]))
            self.row[before] = position

    def _keep(self, rows: list[np.ndarray]) -> np.ndarray:
        """Where they are kept, int64 [K]."""
        number = len(rows[0])
        have = len(self.kept[0])
        if len(self.free) < number:
            more = max(number - len(self.free), have // 4, 8)
            self.free.extend(range(have + more - 1, have - 1, -1))
            self.kept = [np.concatenate((column, np.empty((more, *column.shape[1:]), column.dtype))) for column in self.kept]
        places = np.array(self.free[len(self.free) - number :][::-1], np.int64)
        del self.free[len(self.free) - number :]
        for column, values in zip(self.kept, rows):
            column[places] = values
        return places

    def _release(self, rows: np.ndarray) -> None:
        self.free.extend((rows[rows >= self.size] - self.size).tolist())

    def take(self, index: np.ndarray) -> tuple[np.ndarray, ...]:
        """What follows these positions: of each column [B, ...]."""
        assert self.stored is not None
        rows = self.row[index]
        (alone,) = np.nonzero(rows >= self.size)
        places = rows[alone] - self.size
        rows[alone] = 0
        found = ops.take_rows(tuple(self.stored), rows)
        if len(alone):
            for array, column in zip(found, self.kept):
                array[alone] = column[places]
        return found

    def state_dict(self) -> dict[str, Any]:
        import torch

        numbers = {
            "keys": [list(key) for key in self.keys],
            "shapes": [list(s) for s in self.shapes],
            "dtypes": self.dtypes,
            "free": [*self.free],
        }
        return {**numbers, "row": torch.from_numpy(self.row.copy()), "kept": [torch.from_numpy(x.copy()) for x in self.kept]}

    @classmethod
    def of_state(cls, size: int, state: dict[str, Any] | None) -> Following | None:
        """None of None: nothing was shared."""
        if state is None:
            return None
        row = np.asarray(state["row"], np.int64).copy()
        if row.shape != (size,):
            raise ShapeError(f"RecordStorage: the state is of {len(row)} elements, expected max_size, {size}")
        made = cls(size, [tuple(key) for key in state["keys"]], [tuple(shape) for shape in state["shapes"]], list(state["dtypes"]))
        made.row, made.kept, made.free = row, [np.asarray(x).copy() for x in state["kept"]], list(state["free"])
        return made

    @staticmethod
    def save(following: Following | None, path: Any) -> None:
        folder = Path(path)
        if following is None:
            (folder / "following.json").unlink(missing_ok=True)  # of an earlier save
            return
        state = following.state_dict()
        for number, column in enumerate((state.pop("row"), *state.pop("kept"))):
            np.save(folder / _COLUMNS.format(number), column.numpy())
        (folder / "following.json").write_text(json.dumps(state))

    @staticmethod
    def saved(path: Any) -> dict[str, Any] | None:
        folder = Path(path)
        if not (folder / "following.json").exists():
            return None
        state = json.loads((folder / "following.json").read_text())
        row, *kept = (np.load(folder / _COLUMNS.format(number), allow_pickle=False) for number in range(1 + len(state["keys"])))
        return {**state, "row": row, "kept": kept}


def _equal(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Which rows are the same bits, NaN too: bool [K]."""
    number = len(one)
    if not number or not one[0].size:
        return np.ones(number, bool)
    bits = [np.ascontiguousarray(x).reshape(number, -1).view(np.uint8) for x in (one, other)]
    return (bits[0] == bits[1]).all(1)


def _same(one: list[np.ndarray], other: list[np.ndarray]) -> bool:
    return all(_equal(x, y)[0] for x, y in zip(one, other))
