"""Observations as rows of features."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from pyrl.nets.encoder import Encoder

SHAPES: list[tuple[int, ...]] = [(3,), (2, 3), (), (1,)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, np.uint8, np.int64])
@pytest.mark.parametrize("to", [np.float32, np.float64])
@pytest.mark.parametrize("layout", ["contiguous", "strided", "tensor"])
def test_arrays_are_encoded_as_tensors_are(shape: tuple[int, ...], dtype: Any, to: Any, layout: str) -> None:
    encoder = Encoder(spaces.Box(0, 100, shape, dtype))
    values: Any = (np.random.default_rng(0).random((14, *shape)) * 100).astype(dtype)
    if dtype == np.float64:
        values[3] = 1e300  # more than float32 holds
    expected = encoder(torch.from_numpy(values)).numpy().reshape(14, -1)
    if layout == "strided":
        values, expected = values[::2], expected[::2]
    found = encoder.array(torch.from_numpy(values) if layout == "tensor" else values, to)
    assert (found.dtype, found.flags.c_contiguous) == (to, True)
    np.testing.assert_array_equal(found, expected.astype(to))
    assert encoder.array(values[:0], to).shape == (0, encoder.size)
