"""A storage of the host that keeps each observation once, by position: `RecordStorage`."""

from __future__ import annotations

from collections.abc import Iterator
from multiprocessing.context import get_spawning_popen
from typing import Any

import numpy as np
import torch
from tensordict import TensorDict, TensorDictBase
from torchrl.data import LazyTensorStorage

from pyrl import ops
from pyrl.adapters.columns import count, device_of
from pyrl.adapters.torchrl.following import Following, Run, ring, runs_of
from pyrl.errors import CheckpointError, DeviceError, DTypeError, SettingError, ShapeError

_FLAGS = {"done", "terminated", "truncated", "reward"}  # which say something else in "next" than in the step after it
_CPU = torch.device("cpu")
_NUMPY = {  # what NumPy has too
    torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.float16, torch.float32, torch.float64,
}  # fmt: skip
Key = tuple[str, ...]


class RecordStorage(LazyTensorStorage):
    """``storage=`` of TorchRL's replay buffers, under any of its samplers and writers: ``("next", "observation")`` is kept as the
    ``observation`` of the position behind it, wherever that is bit for bit what was added there, and by itself elsewhere: at an episode's
    end, at the newest position, where a stream is broken off. What is read is what was added.

    Args:
        max_size: elements.
        shared: keys that are kept once, of any depth, such as ``["observation", ("agents", "observation")]``; by default all that "next"
            has too, of the same shape and dtype, but done, terminated, truncated and reward.
        device: the CPU.

    Data without "next", with other things than tensors, and elements that are sequences are kept as the host keeps them. Reads are copies:
    writing into one does not change the storage.
    """

    _storage: Any  # of the host

    def __init__(self, max_size: int, *, shared: Any = None, device: torch.device | str = "cpu") -> None:
        if device_of("RecordStorage", device).type != "cpu":
            raise DeviceError(f"RecordStorage: device is {device}, expected the CPU")
        size = count("RecordStorage", "max_size", max_size)
        super().__init__(size, device=torch.device("cpu"))
        self._wanted = None if shared is None else _keys(shared)
        self._following: Following | None = None  # from the first data on, if they share keys
        self._columns: dict[Key, np.ndarray] | None = None
        self._layout: dict[Key, tuple[tuple[int, ...], np.dtype]] | None = None

    # -- writing ----------------------------------------------------------------------------------------------------------

    def set(self, cursor: Any, data: Any, *, set_cursor: bool = True) -> None:
        """Elements at positions ``cursor``, one or [K]. ShapeError or DTypeError name the key; then nothing is stored."""
        if isinstance(data, list) and data and all(isinstance(each, TensorDictBase) for each in data):
            data = torch.stack(data)
        leaves = dict(_leaves(data)) if isinstance(data, TensorDictBase) else {}
        if not self.initialized:
            several = isinstance(cursor, slice) or np.ndim(cursor) > 0
            elements = data.ndim - several if leaves else 0
            if elements and self._wanted is not None:
                size = list(data.batch_size[data.ndim - elements :])
                raise ShapeError(f"RecordStorage: shared is given, and elements of data have batch size {size}, expected none")
            self._following = None if elements else self._plan(data, leaves)  # elements that are sequences follow each other no more
        if self._following is None:
            super().set(cursor, data, set_cursor=set_cursor)
            return
        if not leaves:
            raise DTypeError(f"RecordStorage: data is a {type(data).__name__}, expected a TensorDict with 'next'")
        positions = _positions(cursor, self.max_size)
        runs = runs_of(positions, self.max_size)
        _check_once(positions, runs, self.max_size)
        given = {key: _rows(leaf, data.ndim, len(positions)) for key, leaf in leaves.items()}
        keys = self._following.keys
        first = self._columns is None and not self.initialized
        if not first:
            self._check(given)
        here, after = ([given[(*prefix, *key)] for key in keys] for prefix in ((), ("next",)))
        if first:
            alone = data.exclude(*(("next", *key) for key in keys)).detach().reshape(-1)
            super().set(torch.from_numpy(positions), alone, set_cursor=set_cursor)
            self._following.stored = [self._storage.get(key).numpy() for key in keys]
            self._following.write(runs, here, after, None)
            return
        old = self._following.first_rows(runs)
        pieces: list[tuple[Any, slice]] = [(positions, slice(None))]
        if len(runs) == 1:
            pieces = [*ring(runs[0].first, len(positions), self.max_size)]
        for key, column in self._stored().items():
            for where, rows in pieces:
                column[where] = given[key][rows]
        if set_cursor:
            self._set_last_cursor(cursor)
            self._len = min(len(self) + len(positions), self.max_size)
        self._following.write(runs, here, after, old)
        self._bump_mutation_revision()

    def _plan(self, data: Any, leaves: dict[Key, Any]) -> Following | None:
        """What is shared, of the first data."""
        found = []
        tensors = all(isinstance(leaf, torch.Tensor) and leaf.dtype in _NUMPY for leaf in leaves.values())
        following = {key[1:]: leaf for key, leaf in leaves.items() if key[0] == "next"} if tensors else {}
        for key in following if self._wanted is None else self._wanted:
            one, other = leaves.get(key), following.get(key)
            same = one is not None and other is not None and one.shape == other.shape and one.dtype == other.dtype
            if self._wanted is not None and not same:
                name = "/".join(key)
                raise SettingError(
                    f"RecordStorage: shared has {name}, expected tensors {name} and next/{name} in data, of one shape and dtype"
                )
            if same and (self._wanted is not None or key[-1] not in _FLAGS):
                found.append(key)
        shapes = [tuple(leaves[key].shape[data.ndim :]) for key in found]
        return Following(self.max_size, found, shapes, [str(leaves[key].dtype)[6:] for key in found]) if found else None

    def _stored(self) -> dict[Key, np.ndarray]:
        """The columns that hold elements, [max_size, ...]."""
        if self._columns is None:
            self._columns = {key: leaf.numpy() for key, leaf in _leaves(self._storage)}
        return self._columns

    def _elements(self) -> dict[Key, tuple[tuple[int, ...], np.dtype]]:
        """Shape and dtype of an element's keys, "next" too."""
        if self._layout is None:
            following: Any = self._following
            self._layout = {key: (column.shape[1:], column.dtype) for key, column in self._stored().items()}
            for key, shape, dtype in zip(following.keys, following.shapes, following.dtypes):
                self._layout[("next", *key)] = (shape, np.dtype(dtype))
        return self._layout

    def _check(self, given: dict[Key, np.ndarray]) -> None:
        wanted = self._elements()
        if odd := wanted.keys() ^ given.keys():
            name = min(odd)
            raise ShapeError(
                f"RecordStorage: data has {'a new' if name in given else 'no'} key {'/'.join(name)}, expected those of the first data"
            )
        for key, (shape, dtype) in wanted.items():
            array = given[key]
            if array.shape[1:] != shape:
                has = f"has shape {list(array.shape[1:])} an element"
                raise ShapeError(f"RecordStorage: {'/'.join(key)} {has}, expected {list(shape)}, that of the first data")
            if array.dtype != dtype:
                raise DTypeError(f"RecordStorage: {'/'.join(key)} has dtype {array.dtype}, expected {dtype}, that of the first data")

    # -- reading ----------------------------------------------------------------------------------------------------------

    def get(self, index: Any) -> Any:
        """The elements at these positions (any index), with their "next" whole."""
        if self._following is None:
            return super().get(index)
        if type(index) is torch.Tensor and index.dtype is torch.int64 and index.ndim == 1 and index.is_cpu:  # of a sampler
            at = index.contiguous().numpy()
            if not len(at) or (at.min() >= 0 and at.max() < len(self)):
                return self._gathered(at)
        length = len(self)
        if isinstance(index, tuple) and len(index) == 1:
            index = index[0]
        if isinstance(index, int):
            if not -length <= index < length:
                raise IndexError(f"RecordStorage: index is {index}, expected one below {length}")
            return self._gathered(np.array([index % length]))[0]
        if not isinstance(index, torch.Tensor | slice | type(...) | type(None)):
            index = torch.as_tensor(index)
        where = torch.arange(length)[index]  # IndexError is torch's
        return self._gathered(where.reshape(-1).numpy()).reshape(where.shape)

    def _gathered(self, at: np.ndarray) -> TensorDict:
        assert self._following is not None
        columns = self._stored()
        found: dict[str, Any] = {}
        for key, array in zip(columns, ops.take_rows(tuple(columns.values()), at)):
            _put(found, key, torch.from_numpy(array))
        for key, array in zip(self._following.keys, self._following.take(at)):
            _put(found, ("next", *key), torch.from_numpy(array))
        return _tensordict(found, torch.Size([len(at)]))

    # -- everything at once -------------------------------------------------------------------------------------------------

    @property
    def nbytes(self) -> int:
        """Bytes of all that is stored."""
        if not self.initialized:
            return 0
        leaves = self._storage.values(True, True) if isinstance(self._storage, TensorDictBase) else [self._storage]
        return sum(leaf.nbytes for leaf in leaves) + (0 if self._following is None else self._following.nbytes)

    def _empty(self) -> None:
        super()._empty()
        if self._following is not None:
            self._following.clear()

    def state_dict(self) -> dict[str, Any]:
        """The host's, and beside it the next observations that are kept by themselves."""
        state = super().state_dict()
        return state if self._following is None else {**state, "following": self._following.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """ShapeError for a state of another size, CheckpointError for a damaged one; then nothing has changed."""
        if not isinstance(state_dict, dict):
            raise CheckpointError(f"RecordStorage: state_dict is a {type(state_dict).__name__}, expected what state_dict() gives")
        state = dict(state_dict)
        following = Following.of_state(self.max_size, state.pop("following", None))
        self._check_state(state, following)
        before: Any = self._storage
        if following is not None and self.initialized and not _alike(_flattened(state["_storage"]), _leaves(before)):
            self._storage = None  # the host copies into what is there
        try:
            super().load_state_dict(state)
        except (ValueError, TypeError, KeyError, RuntimeError, AttributeError) as error:
            self._storage = before
            raise CheckpointError(f"RecordStorage: the state is damaged: {error}") from None
        self._restore(following)

    def _check_state(self, state: Any, following: Following | None) -> None:
        """Of the host's part: what is shared is there, and whole."""
        length, columns = state.get("_len"), state.get("_storage")
        if not isinstance(length, int) or isinstance(length, bool) or not 0 <= length <= self.max_size:
            raise CheckpointError(f"RecordStorage: the state is damaged: _len is {length!r}, expected 0 to max_size, {self.max_size}")
        if not isinstance(state.get("initialized"), bool):
            raise CheckpointError(f"RecordStorage: the state is damaged: initialized is {state.get('initialized')!r}, expected a flag")
        if following is None:
            return
        if not isinstance(columns, dict):
            raise CheckpointError(f"RecordStorage: the state is damaged: _storage is a {type(columns).__name__}, expected a dict")
        for name, column in _flattened(columns):
            if not isinstance(column, torch.Tensor) or not column.ndim or len(column) != self.max_size:
                what = list(column.shape) if isinstance(column, torch.Tensor) else f"a {type(column).__name__}"
                raise CheckpointError(f"RecordStorage: the state is damaged: {'/'.join(name)} is {what}, expected {self.max_size} elements")
        for key, shape, dtype in zip(following.keys, following.shapes, following.dtypes):
            column = dict(_flattened(columns)).get(key)
            if not isinstance(column, torch.Tensor) or tuple(column.shape[1:]) != shape or str(column.dtype)[6:] != dtype:
                what = f"a {type(column).__name__}" if not isinstance(column, torch.Tensor) else f"{column.dtype} {list(column.shape)}"
                raise CheckpointError(
                    f"RecordStorage: the state is damaged: {'/'.join(key)} is {what}, expected {dtype} {[self.max_size, *shape]}"
                )
        if (following.row[:length] < 0).any():
            raise CheckpointError("RecordStorage: the state is damaged: elements have no next observation")

    def _restore(self, following: Following | None) -> None:
        self._columns, self._layout, self._following = None, None, following
        if following is not None:
            following.stored = [self._storage.get(key).numpy() for key in following.keys]

    def dumps(self, path: Any) -> None:
        super().dumps(path)
        Following.save(self._following, path)

    def loads(self, path: Any) -> None:
        following = Following.of_state(self.max_size, Following.saved(path))
        super().loads(path)
        if following is not None:
            self._check_state({**super().state_dict()}, following)
        self._restore(following)

    def __getstate__(self) -> dict[str, Any]:
        if get_spawning_popen() is not None:
            raise RuntimeError("RecordStorage: it cannot be shared between processes; LazyMemmapStorage can")
        return {**super().__getstate__(), "_columns": None, "_layout": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if self._following is not None:
            self._following.stored = [self._storage.get(key).numpy() for key in self._following.keys]


def _keys(shared: Any) -> tuple[Key, ...]:
    listed = [shared] if isinstance(shared, str) else shared
    if not isinstance(listed, list | tuple) or not all(isinstance(name, str | tuple) for name in listed):
        raise DTypeError(f"RecordStorage: shared is {shared!r}, expected a list of keys")
    return tuple((name,) if isinstance(name, str) else name for name in listed)


def _flattened(columns: dict[str, Any]) -> Iterator[tuple[Key, Any]]:
    """The columns of a state of the host's, which joins their keys with dots."""
    for name, column in columns.items():
        key = tuple(name.split("."))
        if not key[-1].startswith("__"):  # the host's notes
            yield key, column


def _alike(one: Iterator[tuple[Key, Any]], other: Iterator[tuple[Key, Any]]) -> bool:
    """Whether both have the same columns."""
    found = [{key: (column.shape, column.dtype) for key, column in columns} for columns in (one, other)]
    return found[0] == found[1]


def _leaves(data: TensorDictBase, path: Key = ()) -> Iterator[tuple[Key, Any]]:
    for name, value in data.items():
        if isinstance(value, TensorDictBase):
            yield from _leaves(value, (*path, name))
        else:
            yield (*path, name), value


def _rows(leaf: torch.Tensor, ndim: int, count: int) -> np.ndarray:
    """[K, ...]; ShapeError for another number of elements."""
    array = leaf.numpy() if leaf.is_cpu and not leaf.requires_grad else leaf.detach().cpu().numpy()
    if ndim == 0:
        array = array[None]
    if ndim > 1 or len(array) != count:
        shape = list(leaf.shape[:ndim])
        raise ShapeError(f"RecordStorage: data has batch size {shape}, expected [{count}], one element for each position of cursor")
    return array


def _positions(cursor: Any, size: int) -> np.ndarray:
    """int64 [K]; IndexError outside of the storage."""
    if isinstance(cursor, slice):
        cursor = range(*cursor.indices(size))
    elif isinstance(cursor, tuple) and len(cursor) == 1:
        (cursor,) = cursor
    plain = isinstance(cursor, torch.Tensor) and cursor.dtype is torch.int64 and cursor.is_cpu
    positions = np.asarray(cursor.numpy() if plain else cursor, np.int64).reshape(-1)
    if not len(positions):
        return positions
    least, most = positions.min(), positions.max()
    if least < -size or most >= size:
        raise IndexError(f"RecordStorage: cursor has {most if most >= size else least}, expected positions below {size}")
    return positions % size if least < 0 else positions


def _check_once(positions: np.ndarray, runs: list[Run], size: int) -> None:
    """ShapeError where a position comes twice."""
    if len(positions) > size:
        raise ShapeError(f"RecordStorage: cursor has {len(positions)} positions, expected at most max_size, {size}")
    if len(runs) > 1 and len(np.unique(positions)) != len(positions):
        raise ShapeError("RecordStorage: cursor has a position twice, expected each once")


def _put(nest: dict[str, Any], key: Key, value: torch.Tensor) -> None:
    for name in key[:-1]:
        nest = nest.setdefault(name, {})
    nest[key[-1]] = value


def _tensordict(nest: dict[str, Any], size: torch.Size) -> TensorDict:
    whole = {name: _tensordict(entry, size) if isinstance(entry, dict) else entry for name, entry in nest.items()}
    return TensorDict._new_unsafe(whole, batch_size=size, device=_CPU)  # of fresh tensors: the checks would cost more than the draw
