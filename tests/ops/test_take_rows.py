"""Minibatches of rows: NumPy's indexing, for any dtypes and shapes."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyrl.errors import DTypeError, ShapeError
from pyrl.ops import take_rows

torch = pytest.importorskip("torch")

DTYPES = ["bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float16", "float32", "float64"]
SHAPES = st.lists(st.integers(0, 9), max_size=3).map(tuple)


@st.composite
def calls(draw):
    """(columns, index)"""
    rng, M = np.random.default_rng(draw(st.integers(0, 2**32))), draw(st.integers(1, 60))
    kinds = draw(st.lists(st.tuples(st.sampled_from(DTYPES), SHAPES), min_size=1, max_size=7))
    columns = tuple(rng.integers(0, 2 if dtype == "bool" else 120, (M, *shape)).astype(dtype) for dtype, shape in kinds)
    return columns, rng.integers(0, M, draw(st.integers(0, 100)))


@given(calls())
@settings(max_examples=150)
def test_rows_are_those_of_indexing(call):
    columns, index = call
    out = tuple(np.ones((len(index), *column.shape[1:]), column.dtype) for column in columns)
    result = take_rows(columns, index, out)
    assert all(a is b for a, b in zip(result, out, strict=True))
    by_torch = take_rows(tuple(map(torch.from_numpy, columns)), torch.from_numpy(index))
    for taken in (take_rows(columns, index), result, by_torch):
        for column, rows in zip(columns, taken, strict=True):
            assert isinstance(rows, torch.Tensor if taken is by_torch else np.ndarray)
            np.testing.assert_array_equal(rows, column[index])
            assert np.asarray(rows).dtype == column.dtype


def test_no_rows():
    empty, index = np.empty((0, 3), np.float32), np.empty(0, np.int64)
    assert take_rows((empty,), index)[0].shape == (0, 3)
    assert take_rows((np.empty((0, 0)),), index)[0].shape == (0, 0)
    with pytest.raises(ValueError, match=re.escape("take_rows: index[0] is 0, expected at least 0 and less than 0")):
        take_rows((empty,), np.zeros(1, np.int64))


X, INDEX, OUT = np.arange(12, dtype=np.float32).reshape(6, 2), np.array([5, 0, 0]), np.zeros((3, 2), np.float32)


@pytest.mark.parametrize(
    ("columns", "index", "out", "error", "text"),
    [
        ([X], INDEX, None, DTypeError, "columns is a list, expected a tuple of arrays"),
        ((), INDEX, None, DTypeError, "columns is a tuple"),
        ((X, [1, 2]), INDEX, None, DTypeError, "columns is a list, expected a NumPy array or a torch tensor"),
        ((X, X[:5]), INDEX, None, ShapeError, "columns[1] has 5 rows, expected M = 6 (from columns[0])"),
        ((np.zeros((), np.float32),), INDEX, None, ShapeError, "columns[0] has shape [], expected [M, ...]"),
        ((X.astype(complex),), INDEX, None, DTypeError, "columns[0] has dtype complex128"),
        ((X.T,), INDEX, None, ValueError, "columns is not contiguous"),
        ((X,), INDEX.astype(np.int32), None, DTypeError, "index has dtype int32, expected int64"),
        ((X,), INDEX[:, None], None, ShapeError, "index has shape [3, 1], expected 1 dimensions [B]"),
        ((X,), np.arange(6)[::2], None, ValueError, "index is not contiguous"),
        ((X,), [0, 1], None, DTypeError, "index is a list"),
        ((X,), np.array([0, 6, 1]), (OUT,), ValueError, "index[1] is 6, expected at least 0 and less than 6"),
        ((X,), np.array([0, 1, -1]), (OUT,), ValueError, "index[2] is -1, expected at least 0 and less than 6"),
        ((X,), INDEX, [OUT], DTypeError, "out is a list, expected a tuple of arrays"),
        ((X,), INDEX, (OUT, OUT), ValueError, "out holds 2 arrays, expected 1 (from columns)"),
        ((X, X), INDEX, (OUT, OUT[:2].copy()), ShapeError, "out has shape [2, 2], expected [B, ...] = [3, 2]"),
        ((X,), INDEX, (OUT.astype(np.float64),), DTypeError, "out has dtype float64, expected float32"),
        ((X,), INDEX, (np.zeros((2, 3), np.float32).T,), ValueError, "out is not contiguous"),
        ((X,), INDEX, (np.broadcast_to(np.float32(0), (3, 2)),), ValueError, "out is "),
    ],
)
def test_wrong_arguments_are_named(columns, index, out, error, text):
    with pytest.raises(error, match=re.escape(f"take_rows: {text}")):
        take_rows(columns, index, out)
    assert not OUT.any()
