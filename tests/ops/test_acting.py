"""Acting in one call equals its parts, one by one, to the bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pyrl import ops
from pyrl.errors import DTypeError, NonFiniteError, ShapeError
from pyrl.nets.distributions import masked
from pyrl.ops.acting import Moments, act, act_greedily

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
        got = act_greedily(case.network, case.parameters, case.x, None, mask, epsilon, ours)
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
        assert act_greedily(network, parameters, x, None, None, None, ops.RandomStream(0)) == expected


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
        act_greedily(case.network, case.parameters, case.x, None, None, 1.5, random)
    forbidden = np.zeros_like(case.mask)
    with pytest.raises(ValueError, match="sample_categorical: "):
        act_greedily(case.network, case.parameters, case.x, None, forbidden, 0.5, random)
    assert random.state == before
