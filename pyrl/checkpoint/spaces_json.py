"""Gymnasium spaces as JSON: what a checkpoint's manifest says about the environment it was trained on.

Box, Discrete, MultiDiscrete, MultiBinary, Dict and Tuple; the space that comes back equals the one that went in.
Infinite bounds are written ``"inf"`` and ``"-inf"``, since JSON has no such number, and equal bounds are written once.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from numbers import Integral
from typing import TYPE_CHECKING, Any

import numpy as np

from pyrl.errors import SpaceError

if TYPE_CHECKING:
    from gymnasium import Space

_MAX_SIZE = 1 << 28  # elements of an observation or action


def space_to_json(space: Space) -> dict[str, Any]:
    """JSON values that `space_from_json` turns into an equal space; SpaceError for a kind it does not know."""
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
            entries = [space_to_json(s) for s in space.spaces.values()]
            if all(isinstance(key, str) for key in keys):
                return {"type": "Dict", "spaces": dict(zip(keys, entries))}
            return {"type": "Dict", "keys": keys, "spaces": entries}
        case spaces.Tuple():
            return {"type": "Tuple", "spaces": [space_to_json(s) for s in space.spaces]}
    raise SpaceError(f"space is {space}, expected Box, Discrete, MultiDiscrete, MultiBinary, or Dict or Tuple of them")


def space_from_json(data: Any) -> Space:
    """The space that `space_to_json` described; SpaceError when ``data`` describes none."""
    from gymnasium import spaces

    try:
        match data["type"]:
            case "Box":
                shape, dtype = tuple(data["shape"]), np.dtype(data["dtype"])
                if math.prod(shape) > _MAX_SIZE:  # before memory is asked for
                    raise ValueError(f"shape is {shape}, expected at most {_MAX_SIZE} elements")
                low, high = (_bounds_from_json(data[k], shape, dtype) for k in ("low", "high"))
                return spaces.Box(low, high, shape, dtype.type)
            case "Discrete":
                return spaces.Discrete(data["n"], start=data["start"], dtype=np.dtype(data["dtype"]).type)
            case "MultiDiscrete":
                dtype = np.dtype(data["dtype"])
                return spaces.MultiDiscrete(np.array(data["nvec"]), dtype=dtype.type, start=np.array(data["start"]))
            case "MultiBinary":
                return spaces.MultiBinary(data["n"])
            case "Dict" if "keys" in data:
                keys: list[Any] = [_key_to_json(key) for key in data["keys"]]
                if len(set(keys)) < len(keys):
                    raise ValueError("a key occurs twice")
                return spaces.Dict(OrderedDict((key, space_from_json(s)) for key, s in zip(keys, data["spaces"], strict=True)))
            case "Dict":
                return spaces.Dict(OrderedDict((key, space_from_json(s)) for key, s in data["spaces"].items()))
            case "Tuple":
                return spaces.Tuple([space_from_json(s) for s in data["spaces"]])
    except SpaceError:
        raise
    except (AssertionError, AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise SpaceError(f"space is {_shortened(data)}, expected what space_to_json wrote ({error})") from error
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
    return float(bound) if isinstance(bound, str) else bound


def _shortened(data: Any) -> str:
    text = repr(data)
    return text if len(text) <= 80 else text[:77] + "..."
