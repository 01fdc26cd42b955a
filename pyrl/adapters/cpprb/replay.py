"""The buffers."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any
from zipfile import BadZipFile

import numpy as np

from pyrl import buffers
from pyrl.adapters.columns import column_space
from pyrl.adapters.cpprb.arguments import Column, columns_of, names_in, whole_number
from pyrl.adapters.cpprb.windows import Frames, NStep
from pyrl.buffers.layout import check_number
from pyrl.errors import CheckpointError, DTypeError, SettingError, SettingTypeError, ShapeError

__all__ = ["PrioritizedReplayBuffer", "ReplayBuffer"]

_UNREADABLE = (ValueError, TypeError, AttributeError, EOFError, OverflowError, RuntimeError, BadZipFile, zlib.error, struct.error)


class ReplayBuffer:
    """cpprb's ReplayBuffer: any columns, drawn uniformly.

    Args:
        size: transitions it holds, the oldest are overwritten; a float such as 1e6 is taken.
        env_dict: the columns, ``{"obs": {"shape": 3, "dtype": np.float32}}``; ``shape`` is 1 where it is left out: rows ``[1]``.
        next_of: columns whose next value ``next_<name>`` is stored once, as the value of the step after it.
        stack_compress: those of ``next_of`` again: stacks of frames in the last dimension, of which each frame is stored once. Stacks start
            with repeats of an episode's first frame or with zeros, and move on by a frame a step.
        default_dtype: of columns without ``dtype``; float32.
        Nstep: ``{"size": n, "gamma": 0.99, "rew": name or names, "next": name or names}``; needs the column ``done``.
        mmap_prefix: refused.

    Draws follow NumPy's global seed, as cpprb's do: it is read once, here.
    """

    _name = "ReplayBuffer"

    def __init__(
        self,
        size: float,
        env_dict: Mapping[str, Mapping[str, Any]] | None = None,
        next_of: Any = None,
        *,
        stack_compress: Any = None,
        default_dtype: Any = None,
        Nstep: Mapping[str, Any] | None = None,
        mmap_prefix: str | None = None,
    ) -> None:
        self._size = whole_number(self._name, "size", size)
        if mmap_prefix is not None:
            raise SettingError(f"{self._name}: mmap_prefix is {mmap_prefix!r}, expected None: records are in memory")
        self._columns = columns_of(self._name, env_dict, default_dtype)
        self._next_of = names_in(self._name, "next_of", next_of, self._columns)
        compressed = names_in(self._name, "stack_compress", stack_compress, self._columns)
        self._frames = Frames(self._name, compressed, self._next_of, self._columns) if compressed else None
        self._n_step = None if Nstep is None else NStep(self._name, Nstep, self._columns, self._next_of)
        self._stored = {k: c for k, c in self._columns.items() if k not in self._next_of}
        if self._n_step is not None:
            self._stored["discounts"] = Column((1,), np.dtype(np.float32))
        self._keys = [(name, f"column {name}") for name in self._stored]  # apart from the names that the stream has itself
        for name in self._next_of:
            if f"next_{name}" in self._columns:
                raise SettingError(f"{self._name}: next_of is {next_of!r}, and env_dict has next_{name} too; leave it out of env_dict")
        self._buffer = self._made()
        self._given = {**self._columns, **{f"next_{name}": self._columns[name] for name in self._next_of}}
        self._episode_length = self._stored_ever = 0
        self._idle = _idle(1)

    def _made(self) -> Any:
        return buffers.ReplayBuffer(*self._arguments(), **self._options())

    def _arguments(self) -> tuple[int, Any, Any]:
        from gymnasium.spaces import Dict

        nothing = column_space((1,), np.uint8)
        if not self._next_of:
            return self._size, nothing, nothing
        stored = {k: self._columns[k] if self._frames is None else self._frames.column(self._columns[k]) for k in self._next_of}
        return self._size + 1, Dict({k: column_space(*column) for k, column in stored.items()}), nothing  # one for the newest next value

    def _options(self) -> dict[str, Any]:
        try:
            extra = {key: (self._stored[name].shape, self._stored[name].dtype) for name, key in self._keys}
            seed = int(np.random.randint(2**31))  # noqa: NPY002
            stacking = (
                {} if self._frames is None else {"frame_stack": self._frames.depth, "stack_padding": self._frames.padding or "repeat"}
            )
            return {"linked": bool(self._next_of), "extra": extra, "seed": seed, **stacking}
        except TypeError as error:
            raise SettingTypeError(f"{self._name}: env_dict is not understood: {error}") from None

    def add(self, **columns: Any) -> int | None:
        """Store one step, or several in their order: every column of ``env_dict``, rows [...] or [T, ...].

        Returns the index of the first record that was stored, None if the n-step windows are all still open. KeyError names a column that
        is missing; ShapeError, DTypeError.
        """
        rows, steps = self._rows(columns)
        self._episode_length += steps
        if self._n_step is None:
            return self._store(rows, steps) if self._frames is None else self._store_frames(rows, steps)
        whole = self._n_step.add(rows)
        return None if whole is None else self._store(whole, len(whole["done"]))

    def on_episode_end(self) -> None:
        """The episode is over, whether it terminated or was cut: n-step windows end here."""
        self._episode_length = 0
        if self._frames is not None:
            self._frames.end()
        if self._n_step is not None:
            rows = self._n_step.end()
            if rows is not None:
                self._store(rows, len(rows["done"]))

    def sample(self, batch_size: int) -> dict[str, np.ndarray]:
        """``batch_size`` transitions drawn uniformly, with replacement: a dict of arrays [B, ...]. ValueError if nothing is stored."""
        return self._dictionary(self._buffer.sample(batch_size))

    def get_all_transitions(self, shuffle: bool = False) -> dict[str, np.ndarray]:
        """All that is stored, oldest first, or in random order."""
        index = self._buffer.indices()
        return self._dictionary(self._buffer.get(np.random.permutation(index) if shuffle else index))  # noqa: NPY002

    def clear(self) -> None:
        self._buffer.clear()
        self._stored_ever = -(-self._stored_ever // self._size) * self._size  # so that an index is never given twice
        self._episode_length = 0
        if self._frames is not None:
            self._frames.end()
        if self._n_step is not None:
            self._n_step.clear()

    def get_stored_size(self) -> int:
        return len(self._buffer)

    def get_buffer_size(self) -> int:
        return self._size

    def get_next_index(self) -> int:
        """How many records were stored so far, cut at ``size`` as positions of a ring are."""
        return (self._newest() + 1) % self._size

    def get_current_episode_len(self) -> int:
        return self._episode_length

    def is_Nstep(self) -> bool:
        return self._n_step is not None

    def save_transitions(self, file: Any, *, safe: bool = True) -> None:
        """All transitions as an .npz file without pickles; ``safe`` is cpprb's, and makes no difference here."""
        columns: dict[str, Any] = self.get_all_transitions()
        np.savez(file, **columns)

    def load_transitions(self, file: Any) -> None:
        """Add the transitions of `save_transitions`, n-step ones as they were stored."""
        wanted = {**self._given, **self._stored}
        try:
            # NumPy leaves a damaged file open.
            opened = nullcontext(file) if hasattr(file, "read") else open(file, "rb")  # noqa: SIM115
            with opened as stream, np.load(stream, allow_pickle=False) as saved:
                if missing := sorted(wanted.keys() - set(saved.files)):
                    raise KeyError(f"load_transitions: file has no column {missing[0]!r}, expected {', '.join(wanted)}")
                rows = {name: np.asarray(saved[name], column.dtype) for name, column in wanted.items()}
        except _UNREADABLE as error:
            raise CheckpointError(f"load_transitions: {file} is damaged, or not of save_transitions: {error}") from None
        steps = len(np.atleast_1d(next(iter(rows.values()))))
        for name, (shape, _) in wanted.items():
            if rows[name].shape != (steps, *shape):
                raise ShapeError(f"load_transitions: {name} has shape {list(rows[name].shape)}, expected {[steps, *shape]}")
        self._store(rows, steps)

    def _newest(self) -> int:
        """The index of the newest record: where observations are not linked, every record takes the next one."""
        return int(self._buffer.newest[0]) if self._next_of else self._stored_ever - 1

    def _rows(self, columns: dict[str, Any]) -> tuple[dict[str, np.ndarray], int]:
        """The columns as [T, ...] of the stored dtypes, and T."""
        rows: dict[str, np.ndarray] = {}
        steps, first = -1, ""
        for name, (shape, dtype) in self._given.items():
            try:
                value = self._value(name, columns[name], dtype)
            except KeyError:
                raise KeyError(f"add: column {name!r} is missing, expected {', '.join(self._given)}") from None
            if value.shape == shape:
                value = value[None]
            elif shape == (1,) and value.ndim <= 1:  # rows of one element may be numbers
                value = value.reshape(-1, 1)
            elif value.shape[1:] != shape:
                dense = [n for n in shape if n != 1]
                if [n for n in value.shape if n != 1] != dense and [n for n in value.shape[1:] if n != 1] != dense:
                    raise ShapeError(f"add: {name} has shape {list(value.shape)}, expected {list(shape)} or [T, ...] of it")
                value = value.reshape((-1, *shape))
            rows[name] = value
            if steps < 0:
                steps, first = len(value), name
            elif len(value) != steps:
                raise ShapeError(f"add: {name} has {len(value)} rows, {first} has {steps}")
        if len(columns) != len(rows):
            unknown = next(name for name in columns if name not in rows)
            raise SettingError(f"add: column {unknown!r} is not in env_dict, expected {', '.join(self._given)}")
        return rows, steps

    @staticmethod
    def _value(name: str, given: Any, dtype: np.dtype) -> np.ndarray:
        """Of the column's dtype. DTypeError or ValueError where it does not hold what is given."""
        try:
            value = np.asarray(given)
            if value.dtype == dtype:
                return value
            if value.dtype.kind == "O":
                raise TypeError("objects")
            with np.errstate(invalid="ignore"):
                cast = value.astype(dtype)
        except (TypeError, ValueError, OverflowError) as error:
            raise DTypeError(f"add: {name} is {given!r}, expected numbers of dtype {dtype}: {error}") from None
        if dtype.kind in "iub" and not np.array_equal(cast, value):
            raise ValueError(f"add: {name} is {given!r}, which {dtype}, the dtype of its column, does not hold")
        return cast

    def _store(self, rows: dict[str, np.ndarray], steps: int) -> int:
        nothing, zero, false = self._idle if steps == 1 else _idle(steps)
        now: Any = nothing
        following: Any = nothing
        if self._next_of:
            now, following = {k: rows[k] for k in self._next_of}, {k: rows[f"next_{k}"] for k in self._next_of}
        put = self._buffer.add if steps == 1 else self._buffer.extend
        put(now, nothing, zero, following, false, false, **{key: rows[name] for name, key in self._keys})
        self._stored_ever += steps
        return self._newest() - steps + 1

    def _store_frames(self, rows: dict[str, np.ndarray], steps: int) -> int:
        assert self._frames is not None
        padding = self._frames.padding
        runs = list(self._frames.streams(rows, steps))
        if self._frames.padding != padding and self._frames.padding == "zero":
            if len(self._buffer):
                raise SettingError(
                    "add: the first stacks that were added are all zeros, so that nobody knows how they are padded; clear() first"
                )
            self._buffer = self._made()
        for begins, run in runs:
            if begins:
                self._buffer.cut()
            newest = {
                name: np.ascontiguousarray(rows[name][run, ..., -1]) for name in (*self._next_of, *(f"next_{k}" for k in self._next_of))
            }
            self._store({name: column[run] for name, column in rows.items()} | newest, run.stop - run.start)
        return self._newest() - steps + 1

    def _dictionary(self, batch: Any) -> dict[str, np.ndarray]:
        found = dict(zip(self._stored, batch.extra.values()))
        for name in self._next_of:
            for key, column in ((name, batch.observation[name]), (f"next_{name}", batch.next_observation[name])):
                found[key] = column if self._frames is None else np.moveaxis(column, 1, -1)
        return found


class PrioritizedReplayBuffer(ReplayBuffer):
    """cpprb's PrioritizedReplayBuffer: record i is drawn in proportion to ``(priority_i + eps)^alpha``.

    A new record has the largest priority in the buffer. Draws are stratified.

    Args:
        size, env_dict: those of `ReplayBuffer`, and its keywords.
        alpha, eps: exponent in [0, 1], and what is added to every priority, positive.
        check_for_update: True or False: late priorities are dropped either way.
    """

    _name = "PrioritizedReplayBuffer"

    def __init__(
        self,
        size: float,
        env_dict: Mapping[str, Mapping[str, Any]] | None = None,
        *,
        alpha: float = 0.6,
        eps: float = 1e-4,
        check_for_update: bool = False,
        **options: Any,
    ) -> None:
        check_number(self._name, "alpha", alpha)
        check_number(self._name, "eps", eps)
        if not 0.0 < eps < float("inf"):
            raise SettingError(f"{self._name}: eps is {eps}, expected a positive number")
        self._alpha, self._eps = float(alpha), float(eps)
        super().__init__(size, env_dict, **options)

    def _made(self) -> Any:
        return buffers.PrioritizedReplayBuffer(
            *self._arguments(), alpha=self._alpha, epsilon=self._eps, weights_over="buffer", **self._options()
        )

    def add(self, *, priorities: Any = None, **columns: Any) -> int | None:
        """As `ReplayBuffer.add`; ``priorities`` (a number a row) instead of the largest in the buffer. Not with ``Nstep``."""
        if priorities is None:
            return super().add(**columns)
        if self._n_step is not None:
            raise SettingError("add: priorities is given, and the buffer has Nstep; call update_priorities after the add")
        first = super().add(**columns)
        assert first is not None
        given = np.asarray(priorities, np.float64).ravel()
        self.update_priorities(np.arange(first, self._newest() + 1), given)
        return first

    def sample(self, batch_size: int, beta: float = 0.4) -> dict[str, np.ndarray]:
        """By priority: the columns, ``weights`` (float32 [B], divided by the largest of the buffer) and ``indexes`` (int64 [B])."""
        self._buffer.beta = beta
        batch = self._buffer.sample(batch_size)
        found = self._dictionary(batch)
        found["weights"], found["indexes"] = batch.weight, batch.index
        return found

    def update_priorities(self, indexes: Any, priorities: Any) -> None:
        """New priorities, a number each, from 0 on; those of records that are gone are dropped."""
        if indexes is None or priorities is None:
            raise DTypeError(f"update_priorities: {'indexes' if indexes is None else 'priorities'} is None, expected an array")
        given = np.asarray(indexes)
        if given.dtype.kind not in "iu" and given.size:
            raise DTypeError(f"update_priorities: indexes have dtype {given.dtype}, expected integers")
        index, priority = given.astype(np.int64, copy=False).ravel(), np.asarray(priorities, np.float64).ravel()
        if len(index) != len(priority):
            raise ShapeError(f"update_priorities: priorities has {len(priority)} elements, indexes has {len(index)}")
        self._buffer.update_priorities(index, priority)

    def get_max_priority(self) -> float:
        """The largest in the buffer; 1 before the first update (less ``eps``), in an empty buffer and with alpha 0."""
        leaves = self._buffer.priorities(self._buffer.indices())
        if not len(leaves) or self._alpha == 0:
            return 1.0
        return float(leaves.max() ** (1 / self._alpha) - self._eps)


def _idle(steps: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What the stream asks for and cpprb does not have: rows of a byte, rewards, flags."""
    return np.zeros((steps, 1), np.uint8), np.zeros(steps, np.float32), np.zeros(steps, np.bool_)
