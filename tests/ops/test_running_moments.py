"""Running moments: NumPy's over any split into batches, the same on every path, and strict about their input."""

from __future__ import annotations

import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_sampling import bits, numbers, with_value

from pyrl import _core
from pyrl.errors import DTypeError, ShapeError
from pyrl.ops.sampling import RunningMoments

MORE = int(os.environ.get("PYRL_EXAMPLES", "1"))


@given(st.data(), st.lists(st.integers(0, 300), max_size=6), st.sampled_from([(), (1,), (3,), (17,), (2, 5), (300,), (0,)]))
@settings(max_examples=60 * MORE, deadline=None)
def test_moments_equal_numpy_over_any_split(data, sizes, shape):
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    dtype = data.draw(st.sampled_from([np.float32, np.float64]))
    offset = data.draw(st.sampled_from([0.0, 1e3, -1e6]))
    rows = (rng.standard_normal((sum(sizes), *shape)) + offset).astype(dtype)
    moments = RunningMoments(shape)
    for part in np.split(rows, np.cumsum(sizes)[:-1]) if sizes else []:
        moments.update(part)
    assert moments.count == len(rows)
    if len(rows):
        wide = rows.astype(np.float64)
        np.testing.assert_allclose(moments.mean, wide.mean(axis=0), rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(moments.var, wide.var(axis=0), rtol=1e-8, atol=1e-12)
        np.testing.assert_allclose(moments.std, np.sqrt(moments.var))
    else:
        np.testing.assert_array_equal(moments.mean, 0.0)
        np.testing.assert_array_equal(moments.var, 1.0)
    x = (rng.standard_normal((4, *shape)) * 3 + offset).astype(dtype)
    for clip, center in ((None, True), (1.5, True), (2.0, False)):
        expected = (x - (moments.mean if center else 0.0)) / np.sqrt(moments.var + 1e-8)
        expected = expected if clip is None else np.clip(expected, -clip, clip)
        result = moments.normalize(x, clip=clip, center=center)
        assert (result.dtype, result.shape) == (np.float32, x.shape)
        np.testing.assert_allclose(result, expected.astype(np.float32), rtol=1e-6, atol=1e-6)


def test_moments_take_any_leading_dimensions_and_out():
    rows = numbers(6, 5, 4)
    a, b = RunningMoments((4,)), RunningMoments((4,))
    a.update(rows)
    b.update(rows.reshape(30, 4))
    assert bits((a.mean, a.var)) == bits((b.mean, b.var))
    a.update(rows[0, 0])
    assert a.count == 31
    expected = b.normalize(rows)
    out = np.empty_like(rows)
    assert b.normalize(rows, out=out) is out
    np.testing.assert_array_equal(out, expected)
    in_place = rows.copy()
    np.testing.assert_array_equal(b.normalize(in_place, out=in_place), expected)
    scalar = RunningMoments()
    scalar.update(rows)
    assert scalar.count == 120
    np.testing.assert_allclose(scalar.mean, rows.mean(dtype=np.float64))


@pytest.mark.parametrize("shape", [(), (6,), (700,)])
def test_moments_are_bitwise_equal_over_threads_and_levels(shape):
    rows = numbers(1003, *shape)
    expected = None
    for level in range(_core.supported_simd_level() + 1):
        for threads in (1, 2, 4):
            _core.set_simd_level(level)
            _core.set_num_threads(threads)
            moments = RunningMoments(shape)
            for part in np.split(rows, [10, 500]):
                moments.update(part)
            result = bits((moments.mean, moments.var, moments.normalize(rows)))
            expected = expected or result
            assert result == expected


def test_moments_take_tensors():
    torch = pytest.importorskip("torch")
    rows = numbers(50, 3)
    moments = RunningMoments((3,))
    moments.update(torch.from_numpy(rows))
    np.testing.assert_allclose(moments.mean, rows.mean(axis=0, dtype=np.float64))
    assert isinstance(moments.normalize(torch.from_numpy(rows)), torch.Tensor)
    assert bits(moments.normalize(torch.from_numpy(rows))) == bits(moments.normalize(rows))


def test_moments_state_goes_on_where_it_was():
    rows = numbers(100, 3)
    moments = RunningMoments((3,))
    moments.update(rows[:40])
    state = moments.state_dict()
    moments.update(rows[40:])
    again = RunningMoments((3,))
    again.load_state_dict(state)
    again.update(rows[40:])
    assert bits((again.mean, again.var)) == bits((moments.mean, moments.var))
    assert again.count == 100
    assert int(state["count"]) == 40
    assert all(isinstance(value, np.ndarray) for value in state.values())
    with pytest.raises(ShapeError, match=r"mean has shape \[3\], expected \[4\]"):
        RunningMoments((4,)).load_state_dict(state)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_moments_refuse_what_would_poison_them(value):
    moments = RunningMoments((3,))
    moments.update(numbers(10, 3))
    before = bits((moments.mean, moments.var))
    with pytest.raises(ValueError, match=f"batch has {value} in row 4, column 1"):
        moments.update(with_value(numbers(10, 3), (4, 1), value))
    assert bits((moments.mean, moments.var)) == before
    assert moments.count == 10


def test_moments_name_what_is_wrong():
    moments = RunningMoments((3,))
    with pytest.raises(ShapeError, match=r"update: batch has shape \[5, 4\], expected \[\.\.\., 3\]"):
        moments.update(numbers(5, 4))
    with pytest.raises(DTypeError, match="batch has dtype int64, expected float32 or float64"):
        moments.update(np.zeros((5, 3), np.int64))
    with pytest.raises(ValueError, match="clip is -1"):
        moments.normalize(numbers(5, 3), clip=-1)
    with pytest.raises(ShapeError, match="out has shape"):
        moments.normalize(numbers(5, 3), out=np.empty((4, 3), np.float32))
    memory = np.zeros(30, np.float32)
    with pytest.raises(ValueError, match="out shares memory with x"):
        moments.normalize(memory[:15].reshape(5, 3), out=memory[3:18].reshape(5, 3))
