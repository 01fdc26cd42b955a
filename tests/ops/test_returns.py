"""The returns kernels against their float64 definitions, on the product of their options."""

from __future__ import annotations

import os
import re
import threading

import numpy as np
import pytest
import reference_returns as reference
from hypothesis import given, settings
from hypothesis import strategies as st

from pyrl import _core
from pyrl.errors import DTypeError, ShapeError
from pyrl.ops.returns import discounted_return, gae, lambda_return, n_step_return, vtrace

MORE = int(os.environ.get("PYRL_EXAMPLES", "1"))

UNIT = st.sampled_from([0.0, 0.5, 0.99, 1.0])
# Small shapes meet every vector width and remainder; the large ones tiles and threads.
SHAPES = st.one_of(
    st.tuples(st.integers(0, 9), st.integers(0, 40)),
    st.tuples(st.integers(0, 513), st.integers(0, 257)),
)
# Of every kernel, together.
OPTIONS = {
    "shape": SHAPES,
    "gamma": UNIT,
    "lambda_": UNIT,
    "dtype": st.sampled_from([np.float32, np.float64]),
    "rows": st.booleans(),
    "with_valid": st.booleans(),
    "final": st.booleans(),
    "n": st.integers(1, 12),
    "bars": st.tuples(st.sampled_from([0.5, 1.0, 2.0, np.inf]), st.sampled_from([0.0, 1.0])),
    "seed": st.integers(0, 2**32 - 1),
}


class Rollout:
    """Random inputs in float64 and in the dtype under test; unread entries are NaN, so that reading one shows."""

    def __init__(self, T, N, dtype=np.float32, seed=0, rows=False, with_valid=False, final=True):
        rng = np.random.default_rng(seed)

        def draw(*shape):
            return rng.standard_normal(shape).astype(dtype)

        self.dtype, self.T, self.N = dtype, T, N
        self.reward = draw(T, N)
        self.terminated = rng.random((T, N)) < 0.1
        self.truncated = rng.random((T, N)) < (0.1 if final else 0.0)
        self.valid = rng.random((T, N)) < 0.9 if with_valid else None
        self.value = draw(T + 1 if rows else T, N)
        self.log_prob, self.behaviour_log_prob = draw(T, N), draw(T, N)
        self.final_value = None
        if rows:
            self.next_value = None
            if final:
                self.final_value = draw(T, N)
            full_next = reference.next_value_of(self.value, self.terminated, self.truncated, self.final_value).copy()
            if final:
                self.final_value[~(self.truncated & ~self.terminated)] = np.nan
        else:
            self.next_value = draw(T, N)
            full_next = self.next_value.copy()
            self.next_value[self.terminated] = np.nan
        if with_valid:
            dead = ~self.valid
            for array in (self.reward, self.log_prob, self.behaviour_log_prob, self.next_value, self.final_value):
                if array is not None:
                    array[dead] = np.nan
            if not rows:
                self.value[dead] = np.nan
        self.reference_arguments = tuple(None if a is None else a.copy() for a in (full_next, self.terminated, self.truncated, self.valid))

    @property
    def first(self):
        return self.reward, self.value, self.next_value, self.terminated, self.truncated

    @property
    def options(self):
        return {"final_value": self.final_value, "valid": self.valid}

    def as_torch(self):
        torch = pytest.importorskip("torch")
        for name, array in vars(self).items():
            if isinstance(array, np.ndarray):
                setattr(self, name, torch.from_numpy(array.copy()))
        return self


def call(name, r, gamma, lambda_, n=3, rho_bar=1.0, c_bar=1.0, out=None):
    """The kernel ``name`` on a rollout; always a tuple of arrays."""
    if name == "gae":
        return gae(*r.first, gamma=gamma, gae_lambda=lambda_, **r.options, out=out)
    if name == "vtrace":
        bars = {"rho_bar": rho_bar, "c_bar": c_bar}
        return vtrace(r.log_prob, r.behaviour_log_prob, *r.first, gamma=gamma, lambda_=lambda_, **bars, **r.options, out=out)
    out = None if out is None else out[0]
    if name == "lambda_return":
        return (lambda_return(*r.first, gamma=gamma, lambda_=lambda_, **r.options, out=out),)
    if name == "n_step_return":
        return (n_step_return(*r.first, n=n, gamma=gamma, **r.options, out=out),)
    form = {"value": r.value, "next_value": r.next_value}
    return (discounted_return(r.reward, r.terminated, r.truncated, gamma=gamma, **form, **r.options, out=out),)


def expected(name, r, gamma, lambda_, n=3, rho_bar=1.0, c_bar=1.0):
    reward, value = r.reward, r.value[: r.T]
    if name == "gae":
        return reference.gae(reward, value, *r.reference_arguments, gamma, lambda_)
    if name == "vtrace":
        logs = r.log_prob, r.behaviour_log_prob
        return reference.vtrace(*logs, reward, value, *r.reference_arguments, gamma, lambda_, rho_bar, c_bar)
    if name == "lambda_return":
        return (reference.lambda_return(reward, *r.reference_arguments, gamma, lambda_),)
    if name == "n_step_return":
        return (reference.n_step_return(reward, *r.reference_arguments, gamma, n),)
    return (reference.lambda_return(reward, *r.reference_arguments, gamma, 1.0),)


KERNELS = ["gae", "lambda_return", "discounted_return", "n_step_return", "vtrace"]


def assert_close(got, want, dtype, T):
    assert got.dtype == dtype
    assert got.shape == want.shape
    if want.size == 0:
        return
    scale = max(1.0, float(np.abs(want).max()))
    tolerance = 4 * max(T, 1) * np.finfo(np.float32).eps if dtype == np.float32 else 1e-12
    np.testing.assert_allclose(got, want, rtol=0, atol=tolerance * scale)


@pytest.mark.parametrize("name", KERNELS)
@settings(max_examples=60 * MORE)
@given(**OPTIONS, torch_tensors=st.booleans())
def test_equals_the_definition(name, shape, gamma, lambda_, dtype, rows, with_valid, final, torch_tensors, n, bars, seed):
    r = Rollout(*shape, dtype, seed, rows, with_valid, final)
    want = expected(name, r, gamma, lambda_, n, *bars)
    if torch_tensors:
        r.as_torch()
    got = call(name, r, gamma, lambda_, n, *bars)
    assert len(got) == len(want)
    for g, w in zip(got, want):
        assert type(g) is type(r.reward)
        assert_close(np.asarray(g), w, dtype, shape[0])


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("N", [1, 2, 3, 4, 5, 7, 8, 11, 16, 17, 31, 33, 64, 1029, 4100])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_same_bits_for_any_threads_and_instruction_set(name, N, dtype):
    T = 6000 // N + 130 if N < 1000 else 300  # the widest are split between threads
    for rows, with_valid in [(False, False), (True, True)]:
        r = Rollout(T, N, dtype, N, rows, with_valid)
        results = []
        for threads in (1, 2, 4):
            for level in range(_core.supported_simd_level() + 1):
                _core.set_num_threads(threads)
                _core.set_simd_level(level)
                results.append([g.tobytes() for g in call(name, r, 0.99, 0.95)])
        assert all(result == results[0] for result in results)


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("shape", [(0, 0), (0, 5), (5, 0), (1, 1), (1, 3), (20000, 1), (3, 20000)])
@pytest.mark.parametrize("rows", [False, True])
def test_extreme_shapes(name, shape, rows):
    r = Rollout(*shape, np.float64, 1, rows, with_valid=True)
    for g, w in zip(call(name, r, 0.99, 0.5), expected(name, r, 0.99, 0.5)):
        assert_close(g, w, np.float64, shape[0])


@pytest.mark.parametrize("name", KERNELS)
def test_out_is_written_and_returned(name):
    r = Rollout(37, 19, np.float32, 3)
    fresh = call(name, r, 0.9, 0.8)
    out = tuple(np.full_like(r.reward, np.nan) for _ in fresh)
    for _ in range(2):
        again = call(name, r, 0.9, 0.8, out=out)
        assert all(a is o for a, o in zip(again, out))
        assert all(a.tobytes() == f.tobytes() for a, f in zip(again, fresh))


@pytest.mark.parametrize("name", KERNELS)
def test_torch_out_and_numpy_inputs_mix(name):
    torch = pytest.importorskip("torch")
    r = Rollout(9, 5, np.float32, 3)
    want = call(name, r, 0.9, 0.8)
    out = tuple(torch.empty(9, 5) for _ in want)
    got = call(name, r, 0.9, 0.8, out=out)
    assert all(g is o and np.array_equal(g.numpy(), w) for g, o, w in zip(got, out, want))
    fresh = call(name, r.as_torch(), 0.9, 0.8)
    assert all(isinstance(g, torch.Tensor) and np.array_equal(g.numpy(), w) for g, w in zip(fresh, want))


def test_truncation_bootstraps_and_termination_does_not():
    # Reward 1 for ever, gamma 1/2: the value of the endless task is 2. A cut at step 1 must not show in the result; an
    # end must.
    reward, value = np.ones((3, 1)), np.full((3, 1), 2.0)
    flag, none = np.array([[False], [True], [False]]), np.zeros((3, 1), bool)
    poison = np.array([[2.0], [2.0], [np.nan], [2.0]])  # row 2 belongs to the next episode
    final = np.array([[np.nan], [2.0], [np.nan]])
    for lambda_ in (0.0, 0.5, 1.0):
        advantage, return_ = gae(reward, value, value, none, flag, gamma=0.5, gae_lambda=lambda_)
        assert advantage.ravel().tolist() == [0, 0, 0]
        assert return_.ravel().tolist() == [2, 2, 2]
        advantage, return_ = gae(reward, poison, None, none, flag, gamma=0.5, gae_lambda=lambda_, final_value=final)
        assert return_.ravel().tolist()[:2] == [2, 2]
        _, return_ = gae(reward, value, value, flag, none, gamma=0.5, gae_lambda=lambda_)
        assert return_.ravel().tolist() == [2 - lambda_ / 2, 1, 2]
    assert discounted_return(reward, none, flag, gamma=0.5, next_value=value).ravel().tolist() == [2, 2, 2]
    assert discounted_return(reward, flag, none, gamma=0.5, next_value=value).ravel().tolist() == [1.5, 1, 2]
    assert discounted_return(reward, none, flag, gamma=0.5).ravel().tolist() == [1.5, 1, 1]
    assert n_step_return(reward, None, value, flag, none, n=2, gamma=0.5).ravel().tolist() == [1.5, 1, 2]
    assert n_step_return(reward, None, value, none, flag, n=2, gamma=0.5).ravel().tolist() == [2, 2, 2]


def test_sums_read_next_value_only_where_they_end():
    r = Rollout(40, 21, np.float32, 8)
    want = discounted_return(r.reward, r.terminated, r.truncated, gamma=0.9, next_value=r.next_value)
    sparse = np.full_like(r.next_value, np.nan)
    ends = r.truncated & ~r.terminated
    ends[-1] = True
    sparse[ends] = r.next_value[ends]
    got = discounted_return(r.reward, r.terminated, r.truncated, gamma=0.9, next_value=sparse)
    assert got.tobytes() == want.tobytes()
    long = n_step_return(r.reward, None, sparse, r.terminated, r.truncated, n=40, gamma=0.9)
    assert long.tobytes() == want.tobytes()


def test_a_step_that_is_both_counts_as_terminated():
    both = np.ones((1, 1), bool)
    one = np.ones((1, 1))
    advantage, return_ = gae(one, 0 * one, 9 * one, both, both, gamma=1, gae_lambda=1)
    assert advantage.item() == return_.item() == 1
    # and needs no final_value
    assert gae(one, np.zeros((2, 1)), None, both, both, gamma=1, gae_lambda=1)[0].item() == 1


def test_gae_and_lambda_return_and_vtrace_agree():
    r = Rollout(50, 7, np.float64, 5, rows=True, with_valid=True)
    _, return_ = gae(*r.first, gamma=0.97, gae_lambda=0.9, **r.options)
    same = lambda_return(*r.first, gamma=0.97, lambda_=0.9, **r.options)
    np.testing.assert_allclose(same, return_, rtol=0, atol=1e-12)
    vs, _ = vtrace(r.log_prob, r.log_prob, *r.first, gamma=0.97, lambda_=0.9, **r.options)
    np.testing.assert_allclose(vs, return_, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_vtrace_exponential_is_accurate_over_the_whole_range(dtype):
    # One step, reward 1, value 0, the bars out of the way: vs is the ratio itself.
    low, high = (-104, 89) if dtype is np.float32 else (-746, 710)
    log_ratio = np.concatenate([np.linspace(low, high, 20001), np.linspace(-1, 1, 2001), [-np.inf, np.inf, np.nan]])
    log_ratio = log_ratio.astype(dtype)[None]
    one, zero, none = np.ones_like(log_ratio), np.zeros_like(log_ratio), np.zeros(log_ratio.shape, bool)
    top = np.finfo(dtype).max
    with np.errstate(over="ignore", under="ignore"):
        want = np.minimum(np.exp(log_ratio.astype(np.longdouble)).astype(dtype), top)
    got, _ = vtrace(log_ratio, zero, one, zero, zero, none, none, gamma=1, rho_bar=top, c_bar=top)
    normal = np.isfinite(want) & (want >= np.finfo(dtype).tiny)
    assert np.abs(got[normal] / want[normal] - 1).max() < 2 * np.finfo(dtype).eps
    np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
    tiny = want < np.finfo(dtype).tiny
    np.testing.assert_allclose(got[tiny], want[tiny], rtol=0, atol=2 * np.finfo(dtype).smallest_subnormal)


@pytest.mark.parametrize("name", KERNELS)
def test_nan_spreads_to_earlier_steps_of_its_episode_only(name):
    T = 12
    r = Rollout(T, 1, np.float64, 0)
    r.terminated[:], r.truncated[:] = False, False
    r.terminated[3], r.truncated[8] = True, True
    r.next_value[:] = 0.5
    r.reward[6] = np.nan
    for result in call(name, r, 0.9, 0.9, n=2):
        bad = np.flatnonzero(np.isnan(result.ravel()))
        assert set(bad) <= {4, 5, 6}
        assert 6 in bad


@pytest.mark.parametrize("name", KERNELS)
def test_a_cut_needs_final_value(name):
    r = Rollout(8, 6, np.float32, 2, rows=True, final=False)
    r.truncated[:], r.terminated[:] = False, False
    call(name, r, 0.9, 0.9)
    r.truncated[3, 4] = True
    out = tuple(np.full((8, 6), 7, np.float32) for _ in range(2))
    with pytest.raises(ValueError, match=re.escape(f"{name}: truncated[3, 4] is set and final_value is None")):
        call(name, r, 0.9, 0.9, out=out)
    assert all((o == 7).all() for o in out)
    r.valid = np.ones((8, 6), bool)
    r.valid[3, 4] = False  # no transition: nothing to bootstrap
    call(name, r, 0.9, 0.9)


def test_flags_may_be_bytes():
    r = Rollout(30, 21, np.float32, 4, with_valid=True)
    want = call("gae", r, 0.9, 0.9)
    for name in ("terminated", "truncated", "valid"):
        setattr(r, name, getattr(r, name).astype(np.uint8) * 3)
    assert all(g.tobytes() == w.tobytes() for g, w in zip(call("gae", r, 0.9, 0.9), want))


@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_fresh_results_are_never_written_again(kind):
    """Large outputs reuse the memory of dead ones, and only of dead ones; a view keeps its array alive."""
    r = Rollout(400, 64, np.float32, 4)
    if kind == "torch":
        r.as_torch()
    held, copies = [], []
    for i in range(20):
        r.reward[0, 0] = i
        advantage, return_ = call("gae", r, 0.9, 0.9)
        held.append((advantage[0], return_[5:]))
        copies.append((np.asarray(advantage[0]).copy(), np.asarray(return_[5:]).copy()))
        if i % 3 == 0:
            del held[len(held) // 2], copies[len(copies) // 2]
        del advantage, return_
    for pair, copy in zip(held, copies):
        assert all(np.asarray(a).tobytes() == c.tobytes() for a, c in zip(pair, copy))


def test_calls_from_many_threads():
    r = Rollout(200, 300, np.float32, 4)
    want = call("gae", r, 0.9, 0.9)[0].tobytes()
    wrong = []

    def work():
        for _ in range(20):
            if call("gae", r, 0.9, 0.9)[0].tobytes() != want:
                wrong.append(1)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# -- bad input ---------------------------------------------------------------------------------------------------------

T, N = 8, 6
LIKE_REWARD = "expected [T, N] = [8, 6] (from reward)"
ROWS = "expected [T+1, N] without next_value = [9, 6] (from reward)"
BAD_ARRAYS = [
    ("reward", lambda a: a.tolist(), DTypeError, "reward is a list, expected a NumPy array or a torch tensor"),
    ("reward", lambda a: a.astype(np.int64), DTypeError, "reward has dtype int64, expected float32 or float64"),
    ("reward", lambda a: a[0], ShapeError, "reward has shape [6], expected 2 dimensions [T, N]"),
    ("reward", lambda a: np.asfortranarray(a), ValueError, "reward is not contiguous in row-major order"),
    ("value", lambda a: a.astype(np.float64), DTypeError, "value has dtype float64, expected float32 (from reward)"),
    ("value", lambda a: a[:, :5].copy(), ShapeError, f"value has shape [8, 5], {LIKE_REWARD}"),
    ("value", lambda a: np.zeros((16, 6), np.float32)[::2], ValueError, "value is not contiguous in row-major order"),
    ("value", lambda a: a.astype(">f4"), DTypeError, r"value has dtype >f4 (in the other byte order), expected float32 (from reward)"),
    ("next_value", lambda a: a[1:], ShapeError, f"next_value has shape [7, 6], {LIKE_REWARD}"),
    ("next_value", lambda a: None, ShapeError, f"value has shape [8, 6], {ROWS}"),
    ("terminated", lambda a: a.astype(np.float32), DTypeError, "terminated has dtype float32, expected bool"),
    ("terminated", lambda a: a[:, 0], ShapeError, f"terminated has shape [8], {LIKE_REWARD}"),
    ("truncated", lambda a: None, DTypeError, "truncated is a NoneType, expected a NumPy array or a torch tensor"),
    ("valid", lambda a: np.ones((8, 7), bool), ShapeError, f"valid has shape [8, 7], {LIKE_REWARD}"),
    ("valid", lambda a: np.ones((8, 6)), DTypeError, "valid has dtype float64, expected bool"),
    ("final_value", lambda a: np.ones((8, 6), np.float32), ValueError, "final_value belongs to the form without"),
]


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize(("argument", "spoil", "error", "message"), BAD_ARRAYS)
def test_bad_arrays_are_named_and_nothing_is_written(name, argument, spoil, error, message):
    r = Rollout(T, N, np.float32, 1)
    setattr(r, argument, spoil(getattr(r, argument)))
    out = tuple(np.full((T, N), 7, np.float32) for _ in range(2))
    with pytest.raises(error, match=f"^{re.escape(f'{name}: {message}')}"):
        call(name, r, 0.9, 0.9, out=out)
    assert all((o == 7).all() for o in out)


def _readonly(a):
    a.flags.writeable = False
    return a


BAD_OUT = [
    (lambda r: np.zeros((T, N), np.float64), DTypeError, "has dtype float64, expected float32 (from reward)"),
    (lambda r: np.zeros((T + 1, N), np.float32), ShapeError, f"has shape [9, 6], {LIKE_REWARD}"),
    (lambda r: np.zeros((N, T), np.float32).T, ValueError, "is not contiguous in row-major order"),
    (lambda r: _readonly(np.zeros((T, N), np.float32)), ValueError, "is read-only, expected a writable array"),
    (lambda r: r.reward, ValueError, "shares memory with reward, expected memory of its own"),
    (lambda r: r.next_value, ValueError, "shares memory with next_value, expected memory of its own"),
    (lambda r: [1.0], DTypeError, "is a list, expected a NumPy array or a torch tensor"),
]


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize(("make", "error", "message"), BAD_OUT)
def test_bad_out(name, make, error, message):
    r = Rollout(T, N, np.float32, 1)
    pair = name in ("gae", "vtrace")
    good = np.zeros((T, N), np.float32)
    for place in range(2 if pair else 1):
        label = f"out[{place}]" if pair else "out"
        out = [good, good.copy()]
        out[place] = make(r)
        with pytest.raises(error, match=f"^{re.escape(f'{name}: {label} {message}')}"):
            call(name, r, 0.9, 0.9, out=tuple(out))


@pytest.mark.parametrize("name", ["gae", "vtrace"])
def test_out_must_be_a_pair_of_distinct_arrays(name):
    r = Rollout(T, N, np.float32, 1)
    a = np.zeros((T, N), np.float32)
    with pytest.raises(ValueError, match=re.escape(f"{name}: out[1] shares memory with out[0]")):
        call(name, r, 0.9, 0.9, out=(a, a))
    with pytest.raises(DTypeError, match=f"^{name}: out is a list, expected a tuple of two arrays"):
        call(name, r, 0.9, 0.9, out=[a, a])


def test_vtrace_out_may_not_be_a_log_prob():
    r = Rollout(T, N, np.float32, 1)
    with pytest.raises(ValueError, match=re.escape("vtrace: out[1] shares memory with log_prob")):
        call("vtrace", r, 0.9, 0.9, out=(np.zeros((T, N), np.float32), r.log_prob))


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("bad", [-0.1, 1.5, float("nan"), float("inf")])
def test_numbers_out_of_range(name, bad):
    r = Rollout(T, N, np.float32, 1)
    with pytest.raises(ValueError, match=f"^{name}: gamma is {bad}, expected a number in \\[0, 1\\]"):
        call(name, r, bad, 0.9)
    with pytest.raises(DTypeError, match=f"^{name}: gamma is 'x', expected a number"):
        call(name, r, "x", 0.9)
    if name in ("gae", "lambda_return", "vtrace"):
        label = "gae_lambda" if name == "gae" else "lambda_"
        with pytest.raises(ValueError, match=f"^{name}: {label} is {bad}, expected a number in \\[0, 1\\]"):
            call(name, r, 0.9, bad)


def test_other_numbers():
    r = Rollout(T, N, np.float32, 1)
    with pytest.raises(ValueError, match=r"^n_step_return: n is 0, expected at least 1"):
        call("n_step_return", r, 0.9, 0.9, n=0)
    with pytest.raises(DTypeError, match=r"^n_step_return: n is 1\.5, expected an integer"):
        call("n_step_return", r, 0.9, 0.9, n=1.5)
    for label in ("rho_bar", "c_bar"):
        with pytest.raises(ValueError, match=rf"^vtrace: {label} is -1, expected a number in \[0, inf\]"):
            call("vtrace", r, 0.9, 0.9, **{label: -1})
    # NumPy and torch scalars are numbers.
    assert np.array_equal(call("gae", r, np.float32(0.5), 1)[0], call("gae", r, 0.5, 1.0)[0], equal_nan=True)


def test_gae_and_vtrace_need_value_and_lambda_return_needs_one_of_both():
    r = Rollout(T, N, np.float32, 1)
    r.value = None
    for name in ("gae", "vtrace"):
        with pytest.raises(DTypeError, match=f"^{name}: value is None, expected"):
            call(name, r, 0.9, 0.9)
    call("lambda_return", r, 0.9, 0.9)
    r.next_value = None
    with pytest.raises(DTypeError, match=r"^lambda_return: value and next_value are None"):
        call("lambda_return", r, 0.9, 0.9)


def test_torch_tensors_that_kernels_cannot_take():
    torch = pytest.importorskip("torch")
    r = Rollout(T, N, np.float32, 1).as_torch()
    r.value.requires_grad_()
    with pytest.raises(ValueError, match=r"^gae: value requires grad, .*; pass value\.detach\(\)"):
        call("gae", r, 0.9, 0.9)
    r.value = r.value.detach().half()
    with pytest.raises(DTypeError, match=r"^gae: value has dtype float16, expected float32"):
        call("gae", r, 0.9, 0.9)
    r.value = torch.zeros(N, T).t()
    with pytest.raises(ValueError, match=r"^gae: value is not contiguous"):
        call("gae", r, 0.9, 0.9)
    r.value = torch.zeros(T, N, device="meta")
    with pytest.raises((ValueError, TypeError, RuntimeError, BufferError)):
        call("gae", r, 0.9, 0.9)
