"""Buffers as pickles and copies: the arguments of the constructor, the state, and a checksum over both.

A pickle names `restore` and holds bytes, nothing else, so that reading one runs the constructor and `load_state_dict`, which check
what they are given. With protocol 5 the bytes can travel out of band, without a copy.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from pickle import PickleBuffer
from typing import Any, TypeVar

import numpy as np

from pyrl.checkpoint import checkpoint_errors, space_from_json, space_to_json
from pyrl.checkpoint.format import array_keys, array_name
from pyrl.checkpoint.strict_json import parse
from pyrl.errors import CheckpointError, SpaceError

_DTYPES = ("bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float16", "float32", "float64")
_SPACES = ("observation_space", "action_space")
_classes: dict[str, type[Pickled]] = {}

PickledType = TypeVar("PickledType", bound="type[Pickled]")


class Pickled:
    """A buffer that says what it consists of."""

    def arguments(self) -> dict[str, Any]:
        """The arguments of the constructor: spaces and JSON values. An error where a copy would differ from the original."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        raise NotImplementedError

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        raise NotImplementedError

    def __reduce_ex__(self, protocol: Any) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        header, arrays = _packed(self)
        pieces: list[Any] = [a.tobytes() for a in arrays] if protocol < 5 else list(map(PickleBuffer, arrays))  # type: ignore[arg-type]
        return restore, (header, *pieces)

    def __deepcopy__(self, memo: Any) -> Any:
        """Shares nothing with the original."""
        copied = _known(type(self))(**self.arguments())
        copied.load_state_dict(self.state_dict())
        return copied

    def __copy__(self) -> Any:
        """A copy that shared its records with the original would be a trap."""
        return self.__deepcopy__({})


def pickled(cls: PickledType) -> PickledType:
    """Class decorator: `restore` makes these."""
    _classes[cls.__name__] = cls
    return cls


def restore(header: str, *pieces: Any) -> Any:
    """The buffer of a pickle. CheckpointError where its bytes have changed."""
    with checkpoint_errors("in a pickle", "does not make a buffer"):
        if not isinstance(header, str):
            raise CheckpointError("a pickled buffer is damaged: it has no header")
        about = parse(header.encode())
        if about.pop("sha256", None) != _digest(about, pieces):
            raise CheckpointError("a pickled buffer is damaged: its SHA-256 is not the one it states")
        arrays = [_array(entry, piece) for entry, piece in zip(about["arrays"], pieces, strict=True)]
        spaces = {name: space_from_json(about["arguments"][name]) for name in _SPACES}
        buffer = _classes[about["class"]](**{**about["arguments"], **spaces})
        buffer.load_state_dict(_joined(about["values"], {entry[0]: array for entry, array in zip(about["arrays"], arrays)}))
        return buffer


def _known(cls: type[Pickled]) -> type[Pickled]:
    if _classes.get(cls.__name__) is not cls:
        raise TypeError(
            f"{cls.__name__}: a subclass of a buffer cannot be copied or pickled as it is; define __reduce_ex__ and __deepcopy__"
        )
    return cls


def _packed(buffer: Pickled) -> tuple[str, list[np.ndarray]]:
    values, arrays = _parted(buffer.state_dict())
    arguments = buffer.arguments()
    about = {
        "class": _known(type(buffer)).__name__,
        "arguments": {**arguments, **{name: _space_json(arguments[name]) for name in _SPACES}},
        "values": values,
        "arrays": [[name, array.dtype.name, list(array.shape)] for name, array in arrays.items()],
    }
    about = json.loads(json.dumps(about, allow_nan=False))
    pieces = [np.ascontiguousarray(array).reshape(-1).view(np.uint8) for array in arrays.values()]
    return json.dumps({"sha256": _digest(about, pieces), **about}), pieces


def _space_json(space: Any) -> dict[str, Any]:
    data = space_to_json(space)
    if space_from_json(data) != space:
        raise SpaceError(f"space is {space}: it cannot be pickled, as no description of it gives it back")
    return data


def _digest(about: Mapping[str, Any], pieces: Any) -> str:
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()


def _array(entry: Any, piece: Any) -> np.ndarray:
    name, dtype, shape = entry
    view = memoryview(piece)
    if dtype not in _DTYPES or math.prod(shape) * np.dtype(dtype).itemsize != view.nbytes:
        raise CheckpointError(f"a pickled buffer is damaged: {name} has {view.nbytes} bytes, which are no {dtype} {shape}")
    return np.frombuffer(view, dtype).reshape(shape)


def _parted(tree: Mapping[str, Any], path: tuple[str, ...] = ()) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The JSON leaves of a state, nested as they were, and its arrays by name."""
    values: dict[str, Any] = {}
    arrays: dict[str, np.ndarray] = {}
    for key, value in tree.items():
        if isinstance(value, np.ndarray):
            arrays[array_name((*path, key))] = value
        elif isinstance(value, Mapping):
            values[key], inner = _parted(value, (*path, key))
            arrays |= inner
        else:
            values[key] = value
    return values, arrays


def _joined(values: dict[str, Any], arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    for name, array in arrays.items():
        *above, last = array_keys(name)
        node = values
        for key in above:
            node = node[key]
        node[last] = array
    return values
