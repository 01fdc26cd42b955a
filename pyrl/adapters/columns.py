"""Columns of rows as the spaces that `pyrl.buffers` is made from. Shared by the adapters."""

from __future__ import annotations

from typing import Any

import numpy as np


def column_space(shape: tuple[int, ...], dtype: Any) -> Any:
    """The space of a column with rows of this shape and dtype, whatever their values: numbers or bool."""
    from gymnasium.spaces import Box, MultiBinary

    dtype = np.dtype(dtype)
    if dtype == np.bool_:
        return MultiBinary(shape)
    low, high = (-np.inf, np.inf) if dtype.kind == "f" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    return Box(low, high, shape, dtype.type)
