"""Acting in one call equals its parts, one by one, to the bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pyrl import ops
from pyrl.errors import DTypeError, NonFiniteError, ShapeError
from pyrl.nets.distributions import masked
from pyrl.nets.noise import standard_normal
from pyrl.ops.acting import Moments, Scale, act, act_continuously, act_greedily, is_plain

D = 5


class Case:
    """A network D -> width, observations, and moments that have seen others."""

    def __init__(self, width: int, count: int = 7, dtype: str = "float32", seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        layers = [ops.Layer(D, 16, 0, 80, activation="tanh"), ops.Layer(16, width, 96, 96 + 16 * width)]
        self.network = ops.Network(layers, dtype)
        self.parameters = rng.standard_normal(96 + 17 * width).astype(dtype)
        self.x = rng.standard_normal((count, D)).astype(dtype)
        self.running = ops.RunningMoments((D,))
        self.running.update(rng.standard_normal((50, D)) * 3 + 1)
        self.moments = Moments(*self.running.arrays, 1.5, 1e-8)
        self.mask = rng.random((count, width)) < 0.7
        self.mask[:, 0] = True

    def output(self, normalized: bool, is_masked: bool = False) -> np.ndarray:
        x = self.running.normalize(self.x, clip=1.5, epsilon=1e-8) if normalized else self.x
        return masked(self.network.infer(self.parameters, x), self.mask if is_masked else None)


def same(got: Any, expected: Any) -> None:
    for a, b in zip(got, expected, strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("normalized", [False, True])
@pytest.mark.parametrize("is_masked", [False, True])
@pytest.mark.parametrize("count", [0, 1, 7, 3000])
def test_categorical(count: int, is_masked: bool, normalized: bool, deterministic: bool) -> None:
    case, (ours, theirs) = Case(4, count), (ops.RandomStream(3) for _ in range(2))
    moments, mask = case.moments if normalized else None, case.mask if is_masked else None
    for _ in range(3):
        got = act(case.network, case.parameters, case.x, moments, mask, 4, None, ours, deterministic)
        same(got, ops.sample_categorical(case.output(normalized, is_masked), theirs, deterministic=deterministic))
    assert ours.state == theirs.state


@pytest.mark.parametrize(("width", "nvec"), [(6, (2, 3, 1)), (3, (3,)), (4, (2, 2))])
def test_several_components(width: int, nvec: tuple[int, ...]) -> None:
    case, (ours, theirs) = Case(width), (ops.RandomStream(3) for _ in range(2))
    got = act(case.network, case.parameters, case.x, None, case.mask, nvec, None, ours, False)
    same(got, ops.sample_multi_categorical(case.output(False, True), nvec, theirs))


@pytest.mark.parametrize("width", [1, 4])
def test_binary_components(width: int) -> None:
    case, (ours, theirs) = Case(width), (ops.RandomStream(3) for _ in range(2))
    pairs = np.zeros((7, 2 * width), np.float32)
    pairs[:, 1::2] = case.output(True)
    got = act(case.network, case.parameters, case.x, case.moments, None, (2,) * width, None, ours, False)
    same(got, ops.sample_multi_categorical(pairs, [2] * width, theirs))


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("normalized", [False, True])
def test_gaussian(normalized: bool, deterministic: bool) -> None:
    case, (ours, theirs) = Case(3), (ops.RandomStream(3) for _ in range(2))
    log_std = np.array([-1.0, 0.0, 0.5], np.float32)
    got = act(case.network, case.parameters, case.x, case.moments if normalized else None, None, None, log_std, ours, deterministic)
    same(got, ops.sample_gaussian(case.output(normalized), log_std, theirs, deterministic=deterministic))
    assert ours.state == theirs.state


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("is_masked", [False, True])
@pytest.mark.parametrize("epsilon", [None, 0.0, 0.4, 1.0])
def test_greedily(epsilon: float | None, is_masked: bool, dtype: str) -> None:
    case, (ours, theirs) = Case(4, 500, dtype), (ops.RandomStream(3) for _ in range(2))
    mask = case.mask if is_masked else None
    for _ in range(3):
        got = act_greedily((case.network,), case.parameters, case.x, None, mask, epsilon, ours)
        q = case.output(False, is_masked)
        expected = q.argmax(axis=1)
        if epsilon is not None:
            uniform = ops.uniform_indices(500, 1 << 53, theirs) * 2.0**-53
            logits = np.zeros(q.shape, np.float32)
            other = ops.sample_categorical(logits, theirs, mask=mask)[0] if is_masked else ops.uniform_indices(500, 4, theirs)
            expected = np.where(uniform < epsilon, other, expected)
        same([got], [expected])
    assert ours.state == theirs.state


def test_greedily_takes_a_nan_as_numpy_does_and_the_first_of_equals() -> None:
    network, parameters = ops.Network([ops.Layer(3, 3, 0)]), np.eye(3, dtype=np.float32).ravel()
    for row in ([0, 1, 1], [2, 2, 1], [np.nan, 5, np.nan]):
        x = np.array([row], np.float32)
        with np.errstate(invalid="ignore"):
            expected = network.infer(parameters, x).argmax(axis=1)
        assert act_greedily((network,), parameters, x, None, None, None, ops.RandomStream(0)) == expected


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("is_masked", [False, True])
def test_tells_values_by_a_rate_for_each_row(is_masked: bool, dtype: str) -> None:
    case, (ours, theirs) = Case(4, 300, dtype), (ops.RandomStream(3) for _ in range(2))
    mask, epsilon = case.mask if is_masked else None, np.linspace(0.0, 1.0, 300)
    for _ in range(3):
        got = act_greedily((case.network,), case.parameters, case.x, None, mask, epsilon, ours, True)
        q = case.output(False, is_masked)
        uniform, logits = ops.uniform_indices(300, 1 << 53, theirs) * 2.0**-53, np.zeros(q.shape, np.float32)
        other = ops.sample_categorical(logits, theirs, mask=mask)[0] if is_masked else ops.uniform_indices(300, 4, theirs)
        action = np.where(uniform < epsilon, other, q.argmax(axis=1))
        same(got, [action, np.take_along_axis(q, action[:, None], 1)[:, 0], q.max(axis=1)])
    assert ours.state == theirs.state


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("has_trunk", [False, True])
def test_a_dueling_network(has_trunk: bool, dtype: str) -> None:
    rng, width = np.random.default_rng(0), 8 if has_trunk else D
    trunk = ops.Network([ops.Layer(D, 8, 0, 48, activation="relu")], dtype)
    value = ops.Network([ops.Layer(width, 1, 64)], dtype)
    advantage = ops.Network([ops.Layer(width, 4, 80, 128)], dtype)
    parameters, x = (rng.standard_normal(shape).astype(dtype) for shape in ((160,), (9, D)))
    hidden = trunk.infer(parameters, x) if has_trunk else x
    q = ops.dueling(value.infer(parameters, hidden), advantage.infer(parameters, hidden))
    parts = (value, advantage, trunk) if has_trunk else (value, advantage)
    got = act_greedily(parts, parameters, x, None, None, None, ops.RandomStream(0), True)
    same(got, [q.argmax(axis=1), q.max(axis=1), q.max(axis=1)])


def test_a_dueling_network_whose_parts_do_not_fit_is_refused() -> None:
    x, random = np.zeros((2, D), np.float32), ops.RandomStream(0)
    parameters, one, four = np.zeros(99, np.float32), ops.Network([ops.Layer(D, 1, 0)]), ops.Network([ops.Layer(D, 4, 0)])
    for parts, text in (
        ((one, ops.Network([ops.Layer(3, 4, 0)])), "a stream has 3 inputs of float32, expected 5"),
        ((one, ops.Network([ops.Layer(D, 4, 0)], "float64")), "a stream has 5 inputs of float64, expected 5 of float32"),
        ((four, four), "the network of values has 4 outputs, expected 1"),
        ((one, four, one), "a stream has 5 inputs"),
        ((one, four, one, one), "network is a tuple of 4"),
    ):
        with pytest.raises(ShapeError, match=text):
            act_greedily(parts, parameters, x, None, None, None, random)


def box(action: np.ndarray, scale: Scale) -> np.ndarray:
    return (scale.center + scale.half * action).astype(np.float64 if scale.is_double else np.float32, copy=False)


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("is_double", [False, True])
@pytest.mark.parametrize("std", [None, 0.0, 0.3])
@pytest.mark.parametrize("squashes", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_continuously(dtype: str, squashes: bool, std: float | None, is_double: bool, deterministic: bool) -> None:
    case, streams = Case(6, 40, dtype), [ops.RandomStream(seed) for seed in (3, 4, 3, 4)]
    size, span = (3, (-1.0, 0.5)) if squashes else (6, None)
    scale = Scale(np.linspace(-1, 3, size, dtype=np.float32), np.linspace(0.1, 9, size, dtype=np.float32), is_double)
    normalized = dtype == "float32"
    ours, ours_noise, theirs, theirs_noise = streams
    for _ in range(3):
        noise = None if std is None else (std, ours_noise)
        moments = case.moments if normalized else None
        got = act_continuously(case.network, case.parameters, case.x, moments, span, noise, scale, ours, deterministic)
        action = case.output(normalized)
        if span is not None:
            xi = np.zeros((40, size), dtype) if deterministic else standard_normal((40, size), theirs).astype(dtype)
            action = ops.squashed_gaussian(action, xi, log_std_range=span)[0]
        if std is not None:
            action = (action + std * standard_normal(action.shape, theirs_noise)).clip(-1.0, 1.0)
        same([got], [box(action, scale)])
    assert [ours.state, ours_noise.state] == [theirs.state, theirs_noise.state]


def test_continuously_refuses_by_name_and_leaves_the_streams() -> None:
    case, random, other = Case(4), ops.RandomStream(3), ops.RandomStream(4)
    half = np.ones(2, np.float32)

    def call(**changed: Any) -> None:
        usual = dict(
            network=case.network, parameters=case.parameters, features=case.x, moments=None, log_std_range=(-1.0, 1.0), noise=(0.1, other),
            scale=Scale(half, half, False), random=random, deterministic=False,
        )  # fmt: skip
        act_continuously(*{**usual, **changed}.values())  # type: ignore[arg-type]

    for error, text, changed in (
        (ValueError, r"log_std_range\[1\] is -2", {"log_std_range": (-1.0, -2.0)}),
        (ShapeError, r"scale\[0\] has shape \[2\], expected \[A\] = \[4\]", {"log_std_range": None}),
        (DTypeError, "scale is a list", {"scale": [half, half, False]}),
        (DTypeError, r"scale\[1\] has dtype float64", {"scale": Scale(half, half.astype(float), False)}),
        (ValueError, r"noise\[0\] is nan", {"noise": (np.nan, other)}),
        (DTypeError, "random is a int", {"noise": (0.1, 3)}),
        (NonFiniteError, r"squashed_gaussian: output \[7, 4\] holds nan", {"parameters": np.full_like(case.parameters, np.nan)}),
    ):
        with pytest.raises(error, match=text):
            call(**changed)
        assert (random.state, other.state) == (ops.RandomStream(3).state, ops.RandomStream(4).state)
    call()
    assert random.state != ops.RandomStream(3).state


def test_normalizes_float64_as_the_parts_do() -> None:
    case, (ours, theirs) = Case(4), (ops.RandomStream(3) for _ in range(2))
    x = case.x.astype(np.float64) * 1.7
    got = act(case.network, case.parameters, x, case.moments, None, 4, None, ours, False)
    features = case.running.normalize(x, clip=1.5, epsilon=1e-8)
    same(got, ops.sample_categorical(case.network.infer(case.parameters, features), theirs))


def test_refuses_by_name_and_leaves_the_stream() -> None:
    case, random = Case(4), ops.RandomStream(3)
    before = random.state

    def call(**other: Any) -> None:
        usual = dict(
            network=case.network, parameters=case.parameters, features=case.x, moments=None, mask=None, nvec=4, log_std=None, random=random,
            deterministic=False,
        )  # fmt: skip
        act(*{**usual, **other}.values())  # type: ignore[arg-type]

    log_std = np.zeros(4, np.float32)
    for error, text, other in (
        (ShapeError, "act: observation has shape", {"features": case.x[:, :3].copy()}),
        (DTypeError, "act: observation has dtype float64", {"features": case.x.astype(np.float64)}),
        (ValueError, "act: observation is not contiguous", {"features": np.asfortranarray(case.x)}),
        (ShapeError, "act: mask has shape", {"mask": case.mask[:3]}),
        (DTypeError, "act: mask has dtype", {"mask": case.mask.astype(np.float32)}),
        (ShapeError, "act: nvec is 3", {"nvec": 3}),
        (ShapeError, "expected .* sum of nvec", {"nvec": (2, 3)}),
        (ValueError, "act: expected one of nvec", {"nvec": None}),
        (ValueError, "act: expected one of nvec", {"log_std": log_std}),
        (ValueError, "act: mask is given, but a Gaussian", {"nvec": None, "log_std": log_std, "mask": case.mask}),
        (DTypeError, "act: moments is a list", {"moments": [1]}),
        (ShapeError, "act: parameters has shape", {"parameters": case.parameters[:9]}),
        (DTypeError, "act: deterministic is 1", {"deterministic": 1}),
        (NonFiniteError, "sample_categorical: ", {"parameters": np.full_like(case.parameters, np.nan)}),
    ):
        with pytest.raises(error, match=text):
            call(**other)
        assert random.state == before
    double = Case(4, dtype="float64")
    with pytest.raises(DTypeError, match="the network is of float64"):
        act(double.network, double.parameters, double.x, None, None, 4, None, random, False)
    with pytest.raises(ValueError, match=r"act_greedily: epsilon is 1\.5"):
        act_greedily((case.network,), case.parameters, case.x, None, None, 1.5, random)
    forbidden = np.zeros_like(case.mask)
    with pytest.raises(ValueError, match="sample_categorical: "):
        act_greedily((case.network,), case.parameters, case.x, None, forbidden, 0.5, random)
    assert random.state == before


def test_what_is_plain() -> None:
    like = np.zeros((1, 2, 3), np.float32)
    x = np.ones((4, 2, 3), np.float32)
    assert is_plain(x, like)
    assert is_plain(x[:0], like)
    assert is_plain(x.astype(float), like.astype(float))
    wrong = np.where(np.arange(24).reshape(4, 2, 3) == 23, np.nan, x).astype(np.float32)
    shapes, dtypes = (x[0], x[:, :1], x[..., :2], x[None], x[::2]), (x.astype(float), x.astype(">f4"))
    for other in (*shapes, *dtypes, wrong, -np.inf * x, x.tolist(), None, np.ma.array(x)):
        assert not is_plain(other, like)
    for bad in (np.zeros((1, 3), int), np.zeros((), np.float32)):
        with pytest.raises(DTypeError, match="is_plain: like is of dtype"):
            is_plain(x, bad)
    with pytest.raises(DTypeError, match="is_plain: like"):
        is_plain(x, None)  # type: ignore[arg-type]
