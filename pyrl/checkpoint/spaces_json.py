"""Gymnasium spaces as JSON: what a checkpoint's manifest says about the environment it was trained on.

Box, Discrete, MultiDiscrete, MultiBinary, Dict and Tuple; the space that comes back equals the one that went in.
Infinite bounds are written ``"inf"`` and ``"-inf"``, since JSON has no such number, and equal bounds are written once.
"""

from __future__ import annotations

import math
import reprlib
from collections import OrderedDict
from numbers import Integral
from typing import TYPE_CHECKING, Any

import numpy as np

from pyrl.errors import SpaceError

if TYPE_CHECKING:
    from gymnasium import Space

MAX_BYTES = 1 << 28  # of one observation or action
_MAX_ENTRIES = 4096  # spaces in a space
_MAX_DEPTH = 32
_MAX_RANK = 32
_DTYPES = {"bool", *(f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)), *(f"float{bits}" for bits in (16, 32, 64))}


def space_to_json(space: Space, max_bytes: int = MAX_BYTES) -> dict[str, Any]:
    """JSON values that `space_from_json` turns into an equal space; SpaceError for a space that it would refuse."""
    data = _json(space)
    try:
        _check_budget(data, max_bytes)
    except ValueError as error:
        raise SpaceError(f"space is {_shortened(space)}: {error}") from None
    return data


def _json(space: Space) -> dict[str, Any]:
    from gymnasium import spaces

    match space:
        case spaces.Box():
            bounds = {"low": _bounds_to_json(space.low), "high": _bounds_to_json(space.high)}
            return {"type": "Box", **bounds, "shape": list(space.shape), "dtype": space.dtype.name}
        case spaces.Discrete():
            return {
                "type": "Discrete",
                "n": int(space.n),
                "start": int(space.start),
                "dtype": np.dtype(space.dtype).name,
            }
        case spaces.MultiDiscrete():
            lists = {"nvec": space.nvec.tolist(), "start": space.start.tolist()}
            return {"type": "MultiDiscrete", **lists, "dtype": np.dtype(space.dtype).name}
        case spaces.MultiBinary():
            return {"type": "MultiBinary", "n": space.n if isinstance(space.n, int) else [int(n) for n in space.shape]}
        case spaces.Dict():
            keys = [_key_to_json(key) for key in space.spaces]
            entries = [_json(s) for s in space.spaces.values()]
            if all(isinstance(key, str) for key in keys):
                return {"type": "Dict", "spaces": dict(zip(keys, entries))}
            return {"type": "Dict", "keys": keys, "spaces": entries}
        case spaces.Tuple():
            return {"type": "Tuple", "spaces": [_json(s) for s in space.spaces]}
    raise SpaceError(f"space is {space}, expected Box, Discrete, MultiDiscrete, MultiBinary, or Dict or Tuple of them")


def space_from_json(data: Any, max_bytes: int = MAX_BYTES) -> Space:
    """The space that `space_to_json` described; SpaceError when ``data`` describes none, or one whose values take more than
    ``max_bytes`` each: nothing of it is made then."""
    try:
        _check_budget(data, max_bytes)
        with np.errstate(over="raise"):
            return _space(data)
    except SpaceError:
        raise
    except Exception as error:
        raise SpaceError(f"space is {_shortened(data)}, expected what space_to_json wrote ({error})") from error


def _check_budget(data: Any, max_bytes: int) -> None:
    """Before memory is asked for: what the description says it needs, whether or not it describes a space."""
    level, entries, size = [data], 0, 0
    for _ in range(_MAX_DEPTH):
        entries += len(level)
        if entries > _MAX_ENTRIES:
            raise SpaceError(f"space has more than {_MAX_ENTRIES} entries")
        size += sum(_bytes(entry) for entry in level)
        if size > max_bytes:
            raise SpaceError(f"space has values of {size} bytes each, expected at most {max_bytes}")
        inner = [entry["spaces"] for entry in level if "spaces" in entry]
        level = [entry for spaces in inner for entry in (spaces.values() if isinstance(spaces, dict) else spaces)]
        if not level:
            return
    raise SpaceError(f"space is nested deeper than {_MAX_DEPTH} levels")


def _bytes(entry: dict[str, Any]) -> int:
    """What one value of a Box or MultiBinary takes; the others are not larger than their description."""
    width = _dtype(entry).itemsize if "dtype" in entry else 1
    if entry["type"] not in ("Box", "MultiBinary"):
        return 0
    extents = entry["shape"] if entry["type"] == "Box" else entry["n"]
    shape = extents if isinstance(extents, list) else [extents]
    if len(shape) > _MAX_RANK or not all(type(extent) is int and 0 <= extent < 1 << 40 for extent in shape):
        raise ValueError(f"its shape is {_shortened(shape)}")
    return math.prod(shape) * width


def _dtype(entry: dict[str, Any]) -> np.dtype:
    if entry["dtype"] not in _DTYPES:
        raise ValueError(f"its dtype is {_shortened(entry['dtype'])}, expected one of {', '.join(sorted(_DTYPES))}")
    return np.dtype(entry["dtype"])


def _space(data: dict[str, Any]) -> Space:
    from gymnasium import spaces

    match data["type"]:
        case "Box":
            shape, dtype = tuple(data["shape"]), _dtype(data)
            low, high = (_bounds_from_json(data[k], shape, dtype) for k in ("low", "high"))
            return spaces.Box(low, high, shape, dtype.type)
        case "Discrete":
            return spaces.Discrete(data["n"], start=data["start"], dtype=_dtype(data).type)
        case "MultiDiscrete":
            return spaces.MultiDiscrete(np.array(data["nvec"]), dtype=_dtype(data).type, start=np.array(data["start"]))
        case "MultiBinary":
            return spaces.MultiBinary(data["n"])
        case "Dict" if "keys" in data:
            keys: list[Any] = [_key_to_json(key) for key in data["keys"]]
            if len(set(keys)) < len(keys):
                raise ValueError("a key occurs twice")
            return spaces.Dict(OrderedDict((key, _space(s)) for key, s in zip(keys, data["spaces"], strict=True)))
        case "Dict":
            return spaces.Dict(OrderedDict((key, _space(s)) for key, s in data["spaces"].items()))
        case "Tuple":
            return spaces.Tuple([_space(s) for s in data["spaces"]])
    raise SpaceError(f"space has type {_shortened(data['type'])}, expected Box, Discrete, MultiDiscrete, MultiBinary, Dict or Tuple")


def _key_to_json(key: Any) -> str | int:
    """JSON objects know strings only, so that Dicts with integers among their keys are written as two lists."""
    if isinstance(key, str):
        return str(key)
    if isinstance(key, Integral):
        return int(key)
    raise SpaceError(f"space is a Dict with the key {key!r}, expected strings and integers")


def _bounds_to_json(bounds: np.ndarray) -> Any:
    if bounds.size and (bounds == bounds.flat[0]).all():
        return _number_to_json(bounds.flat[0])
    return [_number_to_json(b) for b in bounds.ravel()]


def _number_to_json(bound: np.generic) -> Any:
    return str(bound.item()) if not np.isfinite(bound) else bound.item()


def _bounds_from_json(bounds: Any, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    if isinstance(bounds, list):
        return np.array([_number_from_json(b) for b in bounds], dtype).reshape(shape)
    return np.full(shape, _number_from_json(bounds), dtype)


def _number_from_json(bound: Any) -> Any:
    if isinstance(bound, str) and bound not in ("inf", "-inf"):
        raise ValueError(f"a bound is {_shortened(bound)}")
    return float(bound) if isinstance(bound, str) else bound


def _shortened(data: Any) -> str:
    text = reprlib.repr(data)
    return text if len(text) <= 80 else text[:77] + "..."
