"""What the adapters share: counts among the hosts' arguments, and columns of rows as the spaces that `pyrl.buffers` is made from."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np

from pyrl.errors import DTypeError


def count(caller: str, name: str, value: Any, least: int = 1) -> int:
    """The argument ``name``; DTypeError if it is not an integer, ValueError below ``least``."""
    try:
        number = operator.index(value)
    except TypeError:
        raise DTypeError(f"{caller}: {name} is {value!r}, expected an integer") from None
    if number < least:
        raise ValueError(f"{caller}: {name} is {value!r}, expected at least {least}")
    return number


def column_space(shape: tuple[int, ...], dtype: Any) -> Any:
    """The space of a column with rows of this shape and dtype, whatever their values: numbers or bool."""
    from gymnasium.spaces import Box, MultiBinary

    dtype = np.dtype(dtype)
    if dtype == np.bool_:
        return MultiBinary(shape)
    low, high = (-np.inf, np.inf) if dtype.kind == "f" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    return Box(low, high, shape, dtype.type)
