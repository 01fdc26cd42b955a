"""The samplers: equal to their definitions, distributed as they say, the same on every path, and strict about their input."""

from __future__ import annotations

import os
import secrets
from collections import Counter
from itertools import permutations

import numpy as np
import pytest
import reference_sampling as reference
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from pyrl import _core
from pyrl.errors import DTypeError, NonFiniteError, ShapeError
from pyrl.ops.random import RandomStream
from pyrl.ops.sampling import (
    permutation,
    sample_categorical,
    sample_gaussian,
    sample_multi_categorical,
    uniform_indices,
)

MORE = int(os.environ.get("PYRL_EXAMPLES", "1"))
FRESH = os.environ.get("PYRL_FRESH_SEEDS") == "1"
ALPHA = 1e-6  # chance that a correct sampler fails a test under fresh seeds

KEYS = st.integers(0, 2**64 - 1)
DRAWS = st.integers(0, 2**64 - 2)


def stream(key: int = 1, draw: int = 0) -> RandomStream:
    return RandomStream.from_state((key, 0, draw))


@pytest.fixture
def random(request):
    seed = secrets.randbits(64) if FRESH else 2024
    print(f"RandomStream({seed}, {request.node.name!r})")  # shown if the test fails
    return RandomStream(seed, request.node.name)


def assert_uniform(counts) -> None:
    assert stats.chisquare(counts).pvalue > ALPHA, counts


# -- equal to the definitions ------------------------------------------------------------------------------------------


@given(size=st.integers(0, 200), high=st.one_of(st.integers(1, 300), st.integers(1, 2**63 - 1)), key=KEYS, draw=DRAWS)
@settings(max_examples=40 * MORE, deadline=None)
def test_uniform_indices_equal_their_definition(size, high, key, draw):
    random = stream(key, draw)
    np.testing.assert_array_equal(uniform_indices(size, high, random), reference.uniform_indices(size, high, key, draw))
    assert random.draw == draw + 1


@given(st.integers(0, 200), st.one_of(st.integers(0, 5), st.integers(0, 2000), st.integers(0, 2**62)), KEYS, DRAWS)
@settings(max_examples=40 * MORE, deadline=None)
def test_distinct_indices_equal_their_definition(size, more, key, draw):
    high = max(1, size + more)
    result = uniform_indices(size, high, stream(key, draw), replacement=False)
    np.testing.assert_array_equal(result, reference.distinct_indices(size, high, key, draw))
    assert len(set(result.tolist())) == size


@given(n=st.integers(0, 400), key=KEYS, draw=DRAWS)
@settings(max_examples=30 * MORE, deadline=None)
def test_permutation_equals_its_definition(n, key, draw):
    np.testing.assert_array_equal(permutation(n, stream(key, draw)), reference.permutation(n, key, draw))


@st.composite
def logits_and_masks(draw):
    nvec = draw(st.lists(st.integers(1, 9), min_size=1, max_size=5))
    if draw(st.integers(0, 9)) == 0:
        nvec.append(draw(st.integers(60, 200)))  # beyond what is held at a time
    batch = draw(st.integers(0, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    logits = rng.standard_normal((batch, sum(nvec))) * draw(st.sampled_from([0.0, 1.0, 30.0, 1e30]))
    logits = logits.astype(np.float32)
    masked = draw(st.booleans())
    allowed = np.ones(logits.shape, bool)
    if masked or draw(st.booleans()):
        allowed = rng.random(logits.shape) < 0.5
        for end, n in zip(np.cumsum(nvec), nvec):
            allowed[np.arange(batch), end - 1 - rng.integers(n, size=batch)] = True
    if masked:
        logits[~allowed] = rng.choice([np.nan, np.inf, 3e38, 0.0], size=(~allowed).sum())
        return logits, nvec, allowed, np.where(allowed, logits, -np.inf).astype(np.float32)
    logits[~allowed] = -np.inf
    return logits, nvec, None, logits


@given(logits_and_masks(), KEYS, DRAWS, st.booleans())
@settings(max_examples=80 * MORE, deadline=None)
def test_categorical_equals_its_definition(case, key, draw, deterministic):
    logits, nvec, mask, effective = case
    random = stream(key, draw)
    action, log_prob = sample_multi_categorical(logits, nvec, random, mask=mask, deterministic=deterministic)
    expected, expected_log_prob, doubtful = reference.multi_categorical(effective, nvec, key, draw, deterministic=deterministic)
    assert (action.dtype, log_prob.dtype) == (np.int64, np.float32)
    sure = ~doubtful
    np.testing.assert_array_equal(action[sure], expected[sure])
    np.testing.assert_allclose(log_prob[sure], expected_log_prob[sure], rtol=1e-5, atol=1e-5)
    assert random.draw == draw + (not deterministic)
    if len(nvec) == 1:
        single = sample_categorical(logits, stream(key, draw), mask=mask, deterministic=deterministic)
        np.testing.assert_array_equal(single[0], action[:, 0])
        np.testing.assert_array_equal(single[1], log_prob)


@given(st.integers(0, 40), st.integers(0, 21), KEYS, DRAWS, st.booleans(), st.sampled_from([1.0, 1e-3, 1e3]))
@settings(max_examples=60 * MORE, deadline=None)
def test_gaussian_equals_its_definition(batch, size, key, draw, shared, scale):
    rng = np.random.default_rng(key)
    mean = (rng.standard_normal((batch, size)) * scale).astype(np.float32)
    log_std = rng.uniform(-3, 2, (size,) if shared else (batch, size)).astype(np.float32)
    random = stream(key, draw)
    action, log_prob = sample_gaussian(mean, log_std, random)
    z = reference.standard_normal(batch, size, key, draw)
    np.testing.assert_allclose(action, mean + np.exp(log_std.astype(np.float64)) * z, rtol=2e-6, atol=1e-5)
    expected = reference.gaussian_log_prob(action, mean, log_std)
    np.testing.assert_allclose(log_prob, expected, rtol=1e-5, atol=1e-5)
    assert random.draw == draw + 1

    action, log_prob = sample_gaussian(mean, log_std, random, deterministic=True)
    np.testing.assert_array_equal(action, mean)
    np.testing.assert_allclose(log_prob, reference.gaussian_log_prob(mean, mean, log_std), rtol=1e-5, atol=1e-5)
    assert random.draw == draw + 1


def test_known_answers():
    """What the stream gives for ever: other devices and later versions must agree."""
    key = 0x0123456789ABCDEF
    assert uniform_indices(6, 1000, stream(key)).tolist() == GOLDEN["indices"]
    assert uniform_indices(6, 8, stream(key), replacement=False).tolist() == GOLDEN["distinct"]
    assert permutation(10, stream(key)).tolist() == GOLDEN["permutation"]
    logits = np.linspace(-1, 1, 24, dtype=np.float32).reshape(6, 4)
    action, log_prob = sample_categorical(logits, stream(key))
    assert action.tolist() == GOLDEN["action"]
    np.testing.assert_allclose(log_prob, GOLDEN["log_prob"], atol=1e-5)
    mean, log_std = logits[:2, :3].copy(), logits[0, :3].copy()
    np.testing.assert_allclose(sample_gaussian(mean, log_std, stream(key))[0].ravel(), GOLDEN["gaussian"], atol=1e-5)


GOLDEN = {
    "indices": [719, 80, 848, 614, 754, 706],
    "distinct": [5, 1, 7, 6, 2, 4],
    "permutation": [2, 3, 7, 1, 6, 9, 8, 5, 4, 0],
    "action": [3, 3, 3, 1, 2, 3],
    "log_prob": [-1.26058, -1.26058, -1.26058, -1.434493, -1.347537, -1.26058],
    "gaussian": [-0.959508, -1.235328, -1.799441, -0.777158, -0.3801, -0.761751],
}


# -- distributed as they say -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("high", [2, 7, 100, 1000])
def test_indices_are_uniform(random, high):
    assert_uniform(np.bincount(uniform_indices(200_000, high, random), minlength=high))


def test_large_indices_are_uniform_in_their_high_and_low_parts(random):
    index = uniform_indices(200_000, 3 << 60, random)
    assert_uniform(np.bincount(index // (3 << 54), minlength=64))
    assert_uniform(np.bincount(index % 61, minlength=61))


def test_neighbouring_elements_and_draws_are_independent(random):
    draws = np.stack([uniform_indices(1000, 4, random) for _ in range(100)])
    for pairs in (draws[:, :-1] * 4 + draws[:, 1:], draws[:-1] * 4 + draws[1:]):
        assert_uniform(np.bincount(pairs.ravel(), minlength=16))


@pytest.mark.parametrize(("size", "high"), [(2, 4), (4, 4), (3, 40)])
def test_distinct_indices_are_uniform_in_order_too(random, size, high):
    drawn = Counter(tuple(uniform_indices(size, high, random, replacement=False).tolist()) for _ in range(6000))
    if high == 4:
        assert_uniform([drawn[p] for p in permutations(range(4), size)])
    for position in range(size):
        counts = np.zeros(high)
        for selection, count in drawn.items():
            counts[selection[position]] += count
        assert_uniform(counts)


def test_every_permutation_of_four_is_equally_likely(random):
    drawn = Counter(tuple(permutation(4, random).tolist()) for _ in range(24_000))
    assert_uniform([drawn[p] for p in permutations(range(4))])


def test_every_entry_of_a_permutation_is_everywhere_equally_often(random):
    drawn = np.stack([permutation(97, random) for _ in range(4000)])
    for entry in (0, 1, 48, 96):
        assert_uniform(np.bincount(np.argmax(drawn == entry, axis=1), minlength=97))
    ascents = (drawn[:, 1:] > drawn[:, :-1]).sum(axis=1)  # their number has variance (n + 1) / 12
    assert abs(ascents.mean() - 48) < stats.norm.isf(ALPHA / 2) * np.sqrt(98 / 12 / len(drawn))
    assert (np.sort(drawn, axis=1) == np.arange(97)).all()


@pytest.mark.parametrize("categories", [1, 2, 4, 18, 200])
def test_categorical_frequencies(random, categories):
    logits = np.random.default_rng(categories).standard_normal(categories).astype(np.float32)
    action, log_prob = sample_categorical(np.tile(logits, (100_000, 1)), random)
    p = np.exp(reference.log_softmax(logits))
    counts = np.bincount(action, minlength=categories)
    assert stats.chisquare(counts, p / p.sum() * counts.sum()).pvalue > ALPHA if categories > 1 else counts[0] == 100_000
    np.testing.assert_allclose(log_prob, np.log(p)[action], atol=1e-5)


def test_components_are_independent(random):
    action, _ = sample_multi_categorical(np.zeros((100_000, 9), np.float32), [3, 3, 3], random)
    assert_uniform(np.bincount(action @ [9, 3, 1], minlength=27))


def test_impossible_actions_are_never_drawn(random):
    logits = np.full((50_000, 5), -np.inf, np.float32)
    logits[:, 1], logits[:, 3] = 80.0, -80.0
    action, log_prob = sample_categorical(logits, random)
    assert set(action.tolist()) == {1}
    np.testing.assert_array_equal(log_prob, 0.0)
    mask = np.zeros((50_000, 5), bool)
    mask[:, [0, 4]] = True
    action, log_prob = sample_categorical(np.zeros((50_000, 5), np.float32), random, mask=mask)
    assert set(action.tolist()) == {0, 4}
    np.testing.assert_allclose(log_prob, np.log(0.5), atol=1e-6)


def test_gaussian_is_standard_normal(random):
    z, _ = sample_gaussian(np.zeros((40_000, 6), np.float32), np.zeros(6, np.float32), random)
    z = z.astype(np.float64)
    for column in z.T:
        assert stats.kstest(column, "norm").pvalue > ALPHA
    n = z.size
    limit = stats.norm.isf(ALPHA / 2)
    assert abs(z.mean()) < limit / np.sqrt(n)
    assert abs(z.var() - 1) < limit * np.sqrt(2 / n)
    assert abs((z**3).mean()) < limit * np.sqrt(15 / n)
    assert abs((z**4).mean() - 3) < limit * np.sqrt(96 / n)
    correlation = np.corrcoef(z.T)[np.triu_indices(6, 1)]
    assert np.abs(correlation).max() < limit / np.sqrt(len(z)) * 1.3
    assert stats.kstest((z[:, :2] ** 2).sum(axis=1), stats.chi2(2).cdf).pvalue > ALPHA
    assert abs((np.abs(z) > 3).mean() - 2 * stats.norm.sf(3)) < limit * np.sqrt(0.0027 / n)


# -- the same on every path --------------------------------------------------------------------------------------------

PATHS = {
    "uniform_indices": lambda r, as_: uniform_indices(70_000, 1_000_003, r),
    "distinct_indices": lambda r, as_: uniform_indices(3_000, 100_000, r, replacement=False),
    "permutation": lambda r, as_: permutation(5_000, r),
    "categorical": lambda r, as_: sample_categorical(as_(numbers(9001, 5)), r),
    "large categorical": lambda r, as_: sample_categorical(as_(numbers(301, 150)), r),
    "masked multi_categorical": lambda r, as_: sample_multi_categorical(
        as_(numbers(4001, 7)), [2, 1, 4], r, mask=as_(numbers(4001, 7) > np.array([0, -9, -9, -9, 0, 0, 0]))
    ),
    "deterministic categorical": lambda r, as_: sample_categorical(as_(numbers(9001, 5)), r, deterministic=True),
    "gaussian": lambda r, as_: sample_gaussian(as_(numbers(9001, 7)), as_(numbers(7)), r),
    "gaussian of many dimensions": lambda r, as_: sample_gaussian(as_(numbers(901, 37)), as_(numbers(37)), r),
    "gaussian with log_std [B, A]": lambda r, as_: sample_gaussian(as_(numbers(9001, 3)), as_(numbers(9001, 3)), r),
}


def numbers(*shape: int) -> np.ndarray:
    return np.random.default_rng(5).standard_normal(shape).astype(np.float32)


def bits(result) -> list[bytes]:
    return [np.asarray(x).tobytes() for x in (result if isinstance(result, tuple) else (result,))]


@pytest.mark.parametrize("name", PATHS)
def test_bitwise_equal_over_threads_levels_and_kinds(name):
    torch = pytest.importorskip("torch")
    expected = None
    for level in range(_core.supported_simd_level() + 1):
        for threads in (1, 2, 4):
            for as_ in (np.ascontiguousarray, lambda x: torch.from_numpy(np.ascontiguousarray(x))):
                _core.set_simd_level(level)
                _core.set_num_threads(threads)
                result = bits(PATHS[name](stream(77, 3), as_))
                expected = expected or result
                assert result == expected, (level, threads)


@pytest.mark.parametrize("batch", [1, 5, 15, 16, 17, 40])
def test_a_row_does_not_depend_on_the_rows_after_it(batch):
    logits, mean = numbers(64, 6), numbers(64, 5)
    for whole, part in (
        (sample_categorical(logits, stream()), sample_categorical(logits[:batch], stream())),
        (sample_gaussian(mean, numbers(5), stream()), sample_gaussian(mean[:batch], numbers(5), stream())),
    ):
        for a, b in zip(whole, part):
            np.testing.assert_array_equal(a[:batch], b)


def test_results_are_of_the_kind_of_the_input_and_out_is_filled():
    torch = pytest.importorskip("torch")
    logits, mean, log_std = numbers(10, 4), numbers(10, 3), numbers(3)
    calls = (
        (lambda as_, **o: sample_categorical(as_(logits), stream(), **o), (10,)),
        (lambda as_, **o: sample_multi_categorical(as_(logits), np.array([2, 2]), stream(), **o), (10, 2)),
        (lambda as_, **o: sample_gaussian(as_(mean), as_(log_std), stream(), **o), (10, 3)),
    )
    for as_, kind in ((np.asarray, np.ndarray), (torch.from_numpy, torch.Tensor)):
        for call, shape in calls:
            action, log_prob = call(as_)
            assert isinstance(action, kind)
            assert isinstance(log_prob, kind)
            assert tuple(action.shape) == shape
            out = as_(np.empty_like(np.asarray(action))), as_(np.empty(10, np.float32))
            again = call(as_, out=out)
            assert again[0] is out[0]
            assert again[1] is out[1]
            assert bits(again) == bits((action, log_prob))
        index = as_(np.empty(9, np.int64))
        assert uniform_indices(9, 5, stream(), out=index) is index
        assert bits(index) == bits(uniform_indices(9, 5, stream()))
        assert permutation(9, stream(), out=index) is index
        assert bits(index) == bits(permutation(9, stream()))


def test_one_element_and_none():
    random = stream()
    assert uniform_indices(0, 0, random).shape == (0,)
    assert uniform_indices(1, 1, random).tolist() == [0]
    assert uniform_indices(1, 1, random, replacement=False).tolist() == [0]
    assert permutation(0, random).shape == (0,)
    assert permutation(1, random).tolist() == [0]
    action, log_prob = sample_categorical(np.full((1, 1), 7.0, np.float32), random)
    assert (action.tolist(), log_prob.tolist()) == ([0], [0.0])
    action, log_prob = sample_categorical(np.empty((0, 3), np.float32), random)
    assert (action.shape, log_prob.shape) == ((0,), (0,))
    action, log_prob = sample_multi_categorical(np.empty((2, 0), np.float32), [], random)
    assert (action.shape, log_prob.tolist()) == ((2, 0), [0.0, 0.0])
    action, log_prob = sample_gaussian(np.empty((2, 0), np.float32), np.empty(0, np.float32), random)
    assert (action.shape, log_prob.tolist()) == ((2, 0), [0.0, 0.0])


def test_many():
    index = uniform_indices(3_000_000, 10, stream())
    assert_uniform(np.bincount(index))
    assert (np.sort(permutation(1_000_000, stream())) == np.arange(1_000_000)).all()
    assert len(np.unique(uniform_indices(500_000, 2**40, stream(), replacement=False))) == 500_000


# -- strict about their input ------------------------------------------------------------------------------------------


def with_value(array: np.ndarray, at: tuple[int, ...], value: float) -> np.ndarray:
    array = array.copy()
    array[at] = value
    return array


L, M, S = numbers(20, 4), numbers(20, 3), numbers(3)
ROW_MASK = np.ones((20, 4), bool)
ROW_MASK[7] = False
BAD = [
    (lambda r: uniform_indices(-1, 5, r), ValueError, "uniform_indices: size is -1"),
    (lambda r: uniform_indices(3, 0, r), ValueError, "uniform_indices: high is 0, expected at least 1"),
    (lambda r: uniform_indices(6, 5, r, replacement=False), ValueError, "size is 6, expected at most high = 5"),
    (lambda r: uniform_indices(2.5, 5, r), DTypeError, "uniform_indices: size is 2.5, expected an integer"),
    (lambda r: uniform_indices(3, 5, 0), DTypeError, "random is a int, expected a pyrl.RandomStream"),
    (lambda r: uniform_indices(3, 5, r, out=np.empty(4, np.int64)), ShapeError, r"out has shape \[4\], expected \[size\] = \[3\]"),
    (lambda r: uniform_indices(3, 5, r, out=np.empty(3)), DTypeError, "out has dtype float64, expected int64"),
    (lambda r: permutation(-1, r), ValueError, "permutation: n is -1"),
    (lambda r: permutation(1 << 32, r), ValueError, "permutation: n is 4294967296"),
    (lambda r: permutation(3, r, out=np.empty((3, 1), np.int64)), ShapeError, "permutation: out"),
    (lambda r: sample_categorical(L.astype(np.float64), r), DTypeError, "logits has dtype float64, expected float32"),
    (lambda r: sample_categorical(L[0], r), ShapeError, r"logits has shape \[4\], expected 2 dimensions \[B, K\]"),
    (lambda r: sample_categorical(L[:, ::2], r), ValueError, "logits is not contiguous"),
    (lambda r: sample_categorical(L.tolist(), r), DTypeError, "logits is a list"),
    (lambda r: sample_categorical(np.empty((3, 0), np.float32), r), ShapeError, "with K at least 1"),
    (lambda r: sample_categorical(with_value(L, (13, 2), np.nan), r), NonFiniteError, "logits has nan in row 13, column 2"),
    (lambda r: sample_categorical(with_value(L, (13, 2), np.inf), r), ValueError, "logits has inf in row 13, column 2"),
    (lambda r: sample_categorical(with_value(L, (13,), -np.inf), r), ValueError, "row 13 allows no action"),
    (lambda r: sample_categorical(L, r, mask=ROW_MASK), ValueError, "row 7 allows no action"),
    (lambda r: sample_categorical(L, r, mask=ROW_MASK, deterministic=True), ValueError, "row 7 allows no action"),
    (lambda r: sample_categorical(L, r, mask=ROW_MASK[:5]), ShapeError, r"mask has shape \[5, 4\], expected \[B, K\] = \[20, 4\]"),
    (lambda r: sample_categorical(L, r, mask=ROW_MASK.astype(np.int64)), DTypeError, "mask has dtype int64, expected bool"),
    (lambda r: sample_categorical(L, r, out=np.empty(20)), DTypeError, r"out is a numpy.ndarray, expected a tuple"),
    (lambda r: sample_multi_categorical(L, [2, 3], r), ShapeError, r"expected \[B, sum of nvec\] = \[20, 5\]"),
    (lambda r: sample_multi_categorical(L, [4, 0], r), ValueError, r"nvec\[1\] is 0, expected at least 1"),
    (lambda r: sample_multi_categorical(L, 4, r), DTypeError, "nvec is a int, expected a sequence"),
    (lambda r: sample_multi_categorical(with_value(L, (3, slice(2, 4)), -np.inf), [2, 2], r), ValueError, r"row 3 allows .*columns 2 to 3"),
    (lambda r: sample_gaussian(M, S[:2], r), ShapeError, r"log_std has shape \[2\], expected \[A\] = \[3\]"),
    (lambda r: sample_gaussian(M, M[:4], r), ShapeError, r"expected \[A\] or \[B, A\] = \[20, 3\]"),
    (lambda r: sample_gaussian(with_value(M, (11, 1), np.nan), S, r), NonFiniteError, "mean has nan in row 11, column 1"),
    (lambda r: sample_gaussian(with_value(M, (11, 1), -np.inf), S, r), ValueError, "mean has -inf in row 11, column 1"),
    (lambda r: sample_gaussian(M, with_value(S, (2,), 81.0), r), ValueError, r"log_std has 81 in row 0, column 2, expected .* \[-80, 80\]"),
    (lambda r: sample_gaussian(M, M.astype(np.float16), r), DTypeError, "log_std has dtype float16"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "error", "message"), BAD, ids=[m for _, _, m in BAD])
def test_bad_input_is_named_and_draws_nothing(call, error, message):
    random = stream(9, 4)
    with pytest.raises(error, match=message):
        call(random)
    assert random.state == (9, 0, 4)


@pytest.mark.parametrize("row", [0, 15, 16, 4999])
def test_the_first_bad_row_is_named_and_nothing_is_written(row):
    _core.set_num_threads(4)
    logits = numbers(5000, 4)
    logits[row, 1] = np.nan
    logits[4999, 3] = np.inf
    out = np.full(5000, -7, np.int64), np.full(5000, -7, np.float32)
    with pytest.raises(ValueError, match=f"in row {row}, "):
        sample_categorical(logits, stream(), out=out)
    assert (out[0] == -7).all()
    assert (out[1] == -7).all()


def test_outputs_must_lie_apart():
    memory = np.zeros(400, np.float32)
    logits = memory[:80].reshape(20, 4)
    with pytest.raises(ValueError, match=r"out\[1\] shares memory with logits"):
        sample_categorical(logits, stream(), out=(np.empty(20, np.int64), memory[70:90]))
    with pytest.raises(ValueError, match=r"out\[1\] shares memory with out\[0\]"):
        sample_categorical(logits, stream(), out=(memory[100:140].view(np.int64), memory[120:140]))
    with pytest.raises(ValueError, match=r"out\[0\] shares memory with mean"):
        sample_gaussian(logits, np.zeros(4, np.float32), stream(), out=(logits, np.empty(20, np.float32)))


def test_tensors_that_require_grad_are_refused():
    torch = pytest.importorskip("torch")
    with pytest.raises(ValueError, match="logits requires grad"):
        sample_categorical(torch.zeros(2, 2, requires_grad=True), stream())
