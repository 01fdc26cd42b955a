"""What the adapters share: checks of the hosts' arguments, and columns of rows as the spaces that `pyrl.buffers` is made from."""

from __future__ import annotations

import operator
from numbers import Real
from typing import Any

import numpy as np

from pyrl.errors import DeviceError, DTypeError, ShapeError


def count(caller: str, name: str, value: Any, least: int = 1) -> int:
    """The argument ``name``; DTypeError if it is not an integer, ValueError below ``least``."""
    try:
        number = operator.index(value)
    except TypeError:
        raise DTypeError(f"{caller}: {name} is {value!r}, expected an integer") from None
    if number < least:
        raise ValueError(f"{caller}: {name} is {value!r}, expected at least {least}")
    return number


def share(caller: str, name: str, value: Any) -> float:
    """The argument ``name``; DTypeError if it is not a number, ValueError outside of [0, 1]."""
    if not isinstance(value, Real):
        raise DTypeError(f"{caller}: {name} is {value!r}, expected a number")
    if not 0 <= float(value) <= 1:
        raise ValueError(f"{caller}: {name} is {value!r}, expected a number in [0, 1]")
    return float(value)


def flag(caller: str, name: str, value: Any) -> bool:
    """The argument ``name``; DTypeError if it is not True or False: "False" would be true."""
    if not isinstance(value, bool | np.bool_):
        raise DTypeError(f"{caller}: {name} is {value!r}, expected True or False")
    return bool(value)


def device_of(caller: str, device: Any) -> Any:
    """A torch.device; DeviceError for what torch does not take for one. "auto" is a GPU if torch finds one."""
    import torch

    if isinstance(device, str) and device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return torch.device(device)
    except (RuntimeError, TypeError):
        raise DeviceError(f"{caller}: device is {device!r}, expected a device of torch, such as 'cpu' or 'cuda:0'") from None


def rows_of(caller: str, name: str, rows: Any, shape: tuple[int, ...]) -> np.ndarray:
    """The rows as an array of this shape: dimensions of 1 may be missing or too many. ShapeError for any other shape: images with their
    channels last, or rows that are turned over, have the same number of values."""
    array = np.asarray(rows)
    if array.shape == shape:
        return array
    if _extents(array.shape) != _extents(shape):
        raise ShapeError(f"{caller}: {name} has shape {list(array.shape)}, expected {list(shape)}")
    return array.reshape(shape)


def action_rows(caller: str, action: Any, space_shape: tuple[int, ...], rows: tuple[int, ...]) -> np.ndarray:
    """Actions in the shape of their space, or flat, as [N, A] or [N], ``rows``."""
    array = np.asarray(action)
    if array.shape == rows:
        return array
    whole = (rows[0], *space_shape)
    if array.shape == whole or _extents(array.shape) == _extents(whole):
        return array.reshape(rows)
    return rows_of(caller, "action", array, rows)


def _extents(shape: tuple[int, ...]) -> list[int]:
    return [n for n in shape if n != 1]


def column_space(shape: tuple[int, ...], dtype: Any) -> Any:
    """The space of a column with rows of this shape and dtype, whatever their values: numbers or bool."""
    from gymnasium.spaces import Box, MultiBinary

    dtype = np.dtype(dtype)
    if dtype == np.bool_:
        return MultiBinary(shape)
    low, high = (-np.inf, np.inf) if dtype.kind == "f" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    return Box(low, high, shape, dtype.type)
