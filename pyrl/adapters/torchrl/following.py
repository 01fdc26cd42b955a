"""Where each position's next observation is: at a position, or kept by itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pyrl import ops
from pyrl.errors import CheckpointError, ShapeError

_NONE = -1
_COLUMNS = "following_{}.npy"


class Run(NamedTuple):
    """Positions one behind the other in the ring, from ``first``, for the rows ``start`` to ``end - 1``."""

    first: int
    start: int
    end: int


def runs_of(positions: np.ndarray, size: int) -> list[Run]:
    """The positions [K] of a ring of ``size`` in their order."""
    count = len(positions)
    if not count:
        return []
    first = int(positions[0])
    if first + count <= size and np.array_equal(positions, np.arange(first, first + count)):
        return [Run(first, 0, count)]
    step = positions[1:] - positions[:-1]
    starts = np.flatnonzero((step != 1) & (step != 1 - size)) + 1
    edges = [0, *starts.tolist(), count]
    return [Run(int(positions[start]), start, end) for start, end in zip(edges, edges[1:])]


def ring(first: int, count: int, size: int) -> list[tuple[slice, slice]]:
    """A run's positions as slices, with the rows that belong there."""
    there = min(count, size - first)
    pieces = [(slice(first, first + there), slice(0, there))]
    return pieces if there == count else [*pieces, (slice(0, count - there), slice(there, count))]


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

    def first_rows(self, runs: list[Run]) -> list[np.ndarray] | None:
        """The row that is stored at the first position of each run, for `write`; None before anything was written."""
        if self.stored is None:
            return None
        first = [run.first for run in runs]
        return [column[first] for column in self.stored]

    def write(self, runs: list[Run], here: list[np.ndarray], after: list[np.ndarray], old: list[np.ndarray] | None) -> None:
        """The positions of these runs have observations ``here`` now, and ``after`` follows them, [K, ...] each; ``old``: `first_rows` of
        before."""
        for number, (first, start, end) in enumerate(runs):
            before = (first - 1) % self.size
            if old is not None and end - start < self.size and self.row[before] != _NONE:
                self._overwritten(before, first, [x[number : number + 1] for x in old], [x[start : start + 1] for x in here])
            self._write_run(first, [x[start:end] for x in here], [x[start:end] for x in after])

    def _write_run(self, first: int, here: list[np.ndarray], after: list[np.ndarray]) -> None:
        count = len(here[0])
        pieces = ring(first, count, self.size)
        for positions, _ in pieces:
            self._release(self.row[positions])
        broken = np.zeros(count, bool)
        broken[-1] = True
        for one, other in zip(after, here):
            broken[_unequal(one[:-1], other[1:])] = True
        alone = np.flatnonzero(broken)
        places = self.size + self._keep([x[alone] for x in after])
        for positions, _ in pieces:
            self.row[positions] = np.arange(positions.start + 1, positions.stop + 1)
        if pieces[0][0].stop == self.size:
            self.row[-1] = 0
        self.row[(first + alone) % self.size] = places

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
        kept = rows[rows >= self.size]
        if len(kept):
            self.free.extend((kept - self.size).tolist())

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
        try:
            row, kept = np.asarray(state["row"]).copy(), [np.asarray(x).copy() for x in state["kept"]]
            keys, shapes = [tuple(key) for key in state["keys"]], [tuple(shape) for shape in state["shapes"]]
            free, dtypes = np.asarray(state["free"], dtype=np.int64), [np.dtype(dtype) for dtype in state["dtypes"]]
        except (KeyError, TypeError, ValueError, IndexError, OverflowError) as error:
            raise CheckpointError(f"RecordStorage: the state is damaged: {error!r}") from None
        if row.ndim == 1 and len(row) != size:
            raise ShapeError(f"RecordStorage: the state is of {len(row)} elements, expected max_size, {size}")
        if not keys or not len(keys) == len(shapes) == len(dtypes) == len(kept) or not all(isinstance(n, str) for key in keys for n in key):
            raise CheckpointError("RecordStorage: the state is damaged: keys, shapes, dtypes and kept do not fit together")
        number = len(kept[0]) if kept[0].ndim else 0
        for key, shape, dtype, column in zip(keys, shapes, dtypes, kept):
            if column.dtype != dtype or column.shape != (number, *shape):
                what = f"{column.dtype} {list(column.shape)}, expected {dtype} {[number, *shape]}"
                raise CheckpointError(f"RecordStorage: the state is damaged: the next {'/'.join(key)} is {what}")
        there = row[row >= size] - size if row.dtype == np.int64 and row.ndim == 1 else None
        places = None if there is None or free.ndim != 1 else np.sort(np.concatenate((there, free)))
        if places is None or (row < _NONE).any() or not np.array_equal(places, np.arange(number)):  # each once: used or free
            raise CheckpointError("RecordStorage: the state is damaged: row does not say where next observations are")
        made = cls(size, keys, shapes, [dtype.name for dtype in dtypes])
        made.row, made.kept, made.free = row, kept, free.tolist()
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
        try:
            state = json.loads((folder / "following.json").read_text())
            row, *kept = (np.load(folder / _COLUMNS.format(number), allow_pickle=False) for number in range(1 + len(state["keys"])))
        except (ValueError, KeyError, TypeError, OSError, EOFError) as error:
            raise CheckpointError(f"RecordStorage: the files in {folder} are damaged: {error}") from None
        return {**state, "row": row, "kept": kept}


def _unequal(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The rows that are not the same bits (NaN may be), int64, perhaps more than once."""
    number = len(one)
    if not number or not one[0].size:
        return np.zeros(0, np.int64)
    width = one[0].nbytes
    word = next(size for size in (8, 4, 2, 1) if width % size == 0)  # the widest are the fewest
    bits = [np.ascontiguousarray(x).reshape(number, -1).view(f"u{word}") for x in (one, other)]
    different = bits[0] != bits[1]
    if np.count_nonzero(different) > number:
        return np.flatnonzero(different.any(1))
    return np.flatnonzero(different) // (width // word)  # a reduction of short rows takes longer


def _same(one: list[np.ndarray], other: list[np.ndarray]) -> bool:
    return all(x.tobytes() == y.tobytes() for x, y in zip(one, other))
