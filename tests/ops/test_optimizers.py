"""Optimiser steps against those of torch in float64, on states that both engines take turns on, and strict about their input."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyrl import _core, ops
from pyrl.errors import DTypeError, NonFiniteError, ShapeError

torch = pytest.importorskip("torch")
optimizers = pytest.importorskip("pyrl.engine.optimizers")

MORE = int(os.environ.get("PYRL_EXAMPLES", "1"))

LEVELS = st.sampled_from(range(_core.supported_simd_level() + 1))
SIZES = st.one_of(st.integers(1, 70), st.sampled_from([127, 128, 1000, 4099]))
TOLERANCES = {"float32": 1e-5, "float64": 1e-11}
NORMS = st.sampled_from([None, 0.0, 0.5, 10.0, np.inf])


@dataclass
class Rule:
    """An optimiser of torch, with its options, and the kernel that takes the same step on the same state."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)

    def torch(self, parameters: Any, **more: Any) -> Any:
        classes = {"TensorFlowRMSprop": optimizers.TensorFlowRMSprop}
        return (classes.get(self.name) or getattr(torch.optim, self.name))([parameters], **self.options, **more)

    def native(self, parameters: Any, gradients: Any, state: dict[str, Any], max_grad_norm: float | None) -> float:
        options = {**self.options, "max_grad_norm": max_grad_norm}
        if self.name.startswith("Adam"):
            moments = state["exp_avg"], state["exp_avg_sq"]
            return ops.adam(parameters, gradients, *moments, state["step"], decoupled=self.name == "AdamW", **options)
        inside = self.name == "TensorFlowRMSprop"
        return ops.rmsprop(parameters, gradients, state["square_avg"], state["step"], epsilon_inside=inside, **options)

    def state(self, parameters: Any) -> dict[str, Any]:
        """Before the first step."""
        if self.name.startswith("Adam"):
            return {"step": torch.zeros(()), "exp_avg": torch.zeros_like(parameters), "exp_avg_sq": torch.zeros_like(parameters)}
        start = torch.ones_like if self.name == "TensorFlowRMSprop" else torch.zeros_like
        return {"step": torch.zeros(()), "square_avg": start(parameters)}


@st.composite
def rules(draw) -> Rule:
    name = draw(st.sampled_from(["Adam", "AdamW", "RMSprop", "TensorFlowRMSprop"]))
    options: dict[str, Any] = {"lr": draw(st.sampled_from([0.0, 1e-3, 0.1])), "weight_decay": draw(st.sampled_from([0.0, 0.01]))}
    options["eps"] = draw(st.sampled_from([1e-8, 1e-5, 1e-2]))
    if name.startswith("Adam"):
        options["betas"] = draw(st.sampled_from([(0.9, 0.999), (0.5, 0.9), (0.0, 0.99)]))
    else:
        options["alpha"] = draw(st.sampled_from([0.99, 0.9, 0.0]))
    return Rule(name, options)


def gradients_of(size: int, steps: int, seed: int) -> np.ndarray:
    """[steps, size], of very different sizes, and some zero."""
    rng = np.random.default_rng(seed)
    gradients = rng.normal(size=(steps, size)) * 10.0 ** rng.integers(-2, 2, size)
    return np.where(rng.random((steps, size)) < 0.05, 0, gradients)


def expected_steps(
    rule: Rule, start: np.ndarray, gradients: np.ndarray, max_grad_norm: float | None
) -> tuple[Any, dict[str, Any], list[float]]:
    """(parameters, state, norms), by torch in float64."""
    w = torch.nn.Parameter(torch.tensor(start, dtype=torch.float64))
    optimizer, norms = rule.torch(w, foreach=False), []
    for g in gradients:
        w.grad = torch.tensor(g, dtype=torch.float64)
        limit = np.inf if max_grad_norm is None else max_grad_norm
        norms.append(torch.nn.utils.clip_grad_norm_([w], limit).item())
        optimizer.step()
    return w.detach(), optimizer.state[w], norms


def assert_close(actual: Any, expected: Any, tolerance: float, size: float, what: str) -> None:
    error = (torch.as_tensor(actual).double() - expected).norm().item()
    assert error <= tolerance * (expected.norm().item() + size), f"{what}: {error}"


@given(
    rules(),
    SIZES,
    st.lists(st.booleans(), min_size=1, max_size=12),
    NORMS,
    st.sampled_from(["float32", "float64"]),
    LEVELS,
    st.integers(0, 2**32),
)
@settings(max_examples=300 * MORE)
def test_both_engines_take_turns_on_one_state(rule, size, turns, max_grad_norm, dtype, level, seed):
    """Whoever takes which step, the parameters and the state are those of torch alone, in float64."""
    _core.set_simd_level(level)
    start = np.random.default_rng(seed).normal(size=size).astype(dtype)
    gradients = gradients_of(size, len(turns), seed).astype(dtype)
    expected, expected_state, norms = expected_steps(rule, start, gradients, max_grad_norm)

    w = torch.nn.Parameter(torch.tensor(start))
    optimizer = rule.torch(w, **({"fused": True} if rule.name.startswith("Adam") else {}))
    state = optimizer.state[w]
    for native, g, norm in zip(turns, gradients, norms):
        w.grad = torch.tensor(g)
        if not native:
            torch.nn.utils.clip_grad_norm_([w], np.inf if max_grad_norm is None else max_grad_norm)
            optimizer.step()
            continue
        if not state:
            state.update(rule.state(w.detach()))
        assert rule.native(w.detach(), w.grad, state, max_grad_norm) == pytest.approx(norm, rel=TOLERANCES[dtype])
        np.testing.assert_array_equal(w.grad, g)  # not scaled
    tolerance, travelled = TOLERANCES[dtype], (expected - torch.tensor(start).double()).norm().item()
    assert state["step"].dtype == torch.float32
    assert state["step"] == len(turns)
    for name in state.keys() - {"step"}:
        assert_close(state[name], expected_state[name], tolerance, 0, name)
    error = (w.detach().double() - expected).norm().item()
    rounding = len(turns) * 2 * float(np.finfo(dtype).eps) * np.linalg.norm(start)
    assert error <= 4 * tolerance * travelled + rounding, f"parameters: {error} of {travelled}"


@given(rules(), SIZES, st.sampled_from(["float32", "float64"]), st.integers(0, 2**32))
@settings(max_examples=30 * MORE)
def test_numpy_arrays_and_tensors_are_the_same(rule, size, dtype, seed):
    w, g = np.random.default_rng(seed).normal(size=size).astype(dtype), gradients_of(size, 1, seed)[0].astype(dtype)
    tensor = torch.tensor(w)
    state = rule.state(tensor)
    arrays = {name: x.numpy().copy() for name, x in state.items()}
    assert rule.native(tensor, torch.tensor(g), state, 0.5) == rule.native(w, g, arrays, 0.5)
    for a, b in zip((tensor, *state.values()), (w, *arrays.values())):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["Adam", "AdamW", "RMSprop", "TensorFlowRMSprop"])
def test_moments_of_a_weight_without_gradient_end_at_zero(name, dtype):
    """As subnormal numbers, rounded up at every step, they would stay for ever; the weights are torch's all the same."""
    rule = Rule(
        name,
        {"lr": 1e-3, "betas": (0.6, 0.6), "weight_decay": 0.0}
        if name.startswith("Adam")
        else {"lr": 1e-3, "alpha": 0.6, "weight_decay": 0.0},
    )
    start, gradients = torch.linspace(-1, 1, 37, dtype=dtype), torch.zeros(37, dtype=dtype)
    gradients[:5] = 1e-3  # the others are dead from the second step on
    weights, state = start.clone(), rule.state(start)
    expected = torch.nn.Parameter(start.clone())
    theirs = rule.torch(expected, foreach=False)
    for step in range(2000):
        now = torch.full_like(gradients, 0.1) if step == 0 else gradients
        rule.native(weights, now, state, None)
        expected.grad = now.clone()
        theirs.step()
    smallest = torch.finfo(dtype).tiny
    for moment in (state[key] for key in state if key != "step"):
        assert not ((moment.abs() < smallest) & (moment != 0)).any()
        assert (moment[5:] == 0).all()
        assert (moment[:5] != 0).all()
    torch.testing.assert_close(weights, expected.detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["Adam", "RMSprop"])
def test_results_do_not_depend_on_the_threads(name):
    size, seen = (1 << 20) + 37, []
    rng = np.random.default_rng(0)
    w0, g = rng.normal(size=size).astype(np.float32), rng.normal(size=size).astype(np.float32)
    for threads in (1, 2, 4):
        ops.set_num_threads(threads)
        w, target = w0.copy(), w0[::-1].copy()
        state = {k: x.numpy() for k, x in Rule(name).state(torch.from_numpy(w)).items()}
        norm = Rule(name, {"lr": 0.01}).native(w, g, state, 0.5)
        ops.polyak(target, w, 0.3)
        seen.append([norm, w, target, *state.values()])
    for other in seen[1:]:
        for a, b in zip(seen[0], other):
            np.testing.assert_array_equal(a, b)


@given(rules(), SIZES, st.sampled_from([np.nan, np.inf, -np.inf]), st.sampled_from(["float32", "float64"]), st.data())
@settings(max_examples=40 * MORE)
def test_a_gradient_that_is_not_finite_changes_nothing(rule, size, wrong, dtype, data):
    w, g = np.ones(size, dtype), np.full(size, 0.5, dtype)
    place = data.draw(st.integers(0, size - 1))
    g[place] = wrong
    state = {name: x.numpy() for name, x in rule.state(torch.ones(size, dtype=getattr(torch, dtype))).items()}
    before = {name: x.copy() for name, x in state.items()}
    with pytest.raises(NonFiniteError, match=re.escape(f": gradients [{size}] holds {wrong} (element {place})")):
        rule.native(w, g, state, 0.5)
    assert (w == 1).all()
    for name, x in state.items():
        np.testing.assert_array_equal(x, before[name])


# -- polyak -------------------------------------------------------------------------------------------------------------


@given(SIZES, st.floats(0, 1), st.sampled_from(["float32", "float64"]), LEVELS, st.integers(0, 2**32))
@settings(max_examples=60 * MORE)
def test_polyak(size, tau, dtype, level, seed):
    _core.set_simd_level(level)
    target, online = np.random.default_rng(seed).normal(size=(2, size)).astype(dtype)
    expected = torch.lerp(torch.tensor(target).double(), torch.tensor(online).double(), tau)
    assert ops.polyak(target, online, tau) is None
    np.testing.assert_allclose(target, expected, rtol=0, atol=8 * np.finfo(dtype).eps * max(1, abs(expected).max()))


def test_polyak_at_its_ends():
    target, online = np.array([np.nan, np.inf, 1e-30, 3], np.float32), np.array([1e30, -1e-30, 7, 0.1], np.float32)
    kept = target.copy()
    kept[:2] = 5, -5
    mixed = kept.copy()
    ops.polyak(mixed, online, 0.0)
    np.testing.assert_array_equal(mixed, kept)
    ops.polyak(target, online, 1.0)
    np.testing.assert_array_equal(target, online)


# -- strict about their input -------------------------------------------------------------------------------------------


def call(function: str, **changes: Any) -> Any:
    """With arrays of 6 and sensible options, but for the changes."""
    names = {
        "adam": ("parameters", "gradients", "exp_avg", "exp_avg_sq"),
        "rmsprop": ("parameters", "gradients", "square_avg"),
        "polyak": ("target", "online"),
    }[function]
    arguments: dict[str, Any] = {name: np.ones(6, np.float32) for name in names}
    arguments |= {"tau": 0.1} if function == "polyak" else {"step": np.zeros((), np.float32), "lr": 0.1}
    arguments |= changes
    before = {name: x.copy() for name, x in arguments.items() if isinstance(x, np.ndarray)}
    try:
        return getattr(ops, function)(**arguments)
    except Exception:
        for name, x in before.items():
            np.testing.assert_array_equal(arguments[name], x)
        raise


ARRAYS = [
    *(("adam", name) for name in ("parameters", "gradients", "exp_avg", "exp_avg_sq", "step")),
    *(("rmsprop", name) for name in ("parameters", "gradients", "square_avg", "step")),
    *(("polyak", name) for name in ("target", "online")),
]


@pytest.mark.parametrize(("function", "name"), ARRAYS, ids="-".join)
def test_every_array_is_checked(function, name):
    valid = np.zeros((), np.float32) if name == "step" else np.ones(6, np.float32)
    first = name in ("gradients", "target")  # decides the size, so that another array is the one that differs
    decided = {"polyak": " (from target)"}.get(function, " (from gradients)") * (name != "step")
    frozen = valid.copy()
    frozen.flags.writeable = False
    wrong = [
        ([1.0], DTypeError, f"{name} is a list"),
        (valid.astype(np.float16), DTypeError, f"{name} has dtype float16"),
        (valid.astype(np.float64), DTypeError, "" if first else f"{name} has dtype float64, expected float32{decided}"),
        (np.ones(7, np.float32), ShapeError, "" if first else f"{name} has shape [7]"),
        (np.ones((6, 1), np.float32), ShapeError, f"{name} has shape [6, 1]"),
        (torch.tensor(valid, requires_grad=True), ValueError, f"{name} requires grad"),
    ]
    if name not in ("gradients", "online"):
        wrong.append((frozen, ValueError, f"{name} is read-only"))
    if name != "step":
        wrong.append((np.ones(12, np.float32)[::2], ValueError, f"{name} is not contiguous"))
    for value, error, text in wrong:
        with pytest.raises(error, match=re.escape(f"{function}: {text}")):
            call(function, **{name: value})


@pytest.mark.parametrize(
    ("function", "changes", "error", "text"),
    [
        ("adam", {"lr": -1.0}, ValueError, "lr is -1.0, expected a number in [0, inf)"),
        ("adam", {"lr": np.inf}, ValueError, "lr is inf, expected a number in [0, inf)"),
        ("adam", {"lr": "fast"}, DTypeError, "lr is 'fast', expected a number"),
        ("adam", {"betas": (1.0, 0.9)}, ValueError, "beta1 is 1.0, expected a number in [0, 1)"),
        ("adam", {"betas": (0.9, np.nan)}, ValueError, "beta2 is nan, expected a number in [0, 1)"),
        ("adam", {"eps": -1e-8}, ValueError, "eps is -1e-08"),
        ("adam", {"weight_decay": np.inf}, ValueError, "weight_decay is inf"),
        ("adam", {"decoupled": 1}, DTypeError, "decoupled is 1, expected True or False"),
        ("adam", {"max_grad_norm": -0.5}, ValueError, "max_grad_norm is -0.5, expected a number in [0, inf]"),
        ("adam", {"max_grad_norm": np.nan}, ValueError, "max_grad_norm is nan"),
        ("rmsprop", {"lr": np.nan}, ValueError, "lr is nan"),
        ("rmsprop", {"alpha": 1.5}, ValueError, "alpha is 1.5, expected a number in [0, 1]"),
        ("rmsprop", {"eps": np.inf}, ValueError, "eps is inf"),
        ("rmsprop", {"weight_decay": -1.0}, ValueError, "weight_decay is -1.0"),
        ("rmsprop", {"epsilon_inside": None}, DTypeError, "epsilon_inside is None, expected True or False"),
        ("rmsprop", {"max_grad_norm": "0.5"}, DTypeError, "max_grad_norm is '0.5', expected a number"),
        ("polyak", {"tau": 1.5}, ValueError, "tau is 1.5, expected a number in [0, 1]"),
        ("polyak", {"tau": np.nan}, ValueError, "tau is nan"),
        ("polyak", {"tau": None}, DTypeError, "tau is None, expected a number"),
    ],
)
def test_wrong_arguments_are_named(function, changes, error, text):
    with pytest.raises(error, match=re.escape(f"{function}: {text}")):
        call(function, **changes)


@given(
    dtype=st.sampled_from(["bool", "uint8", "float16", "float32", "int64", "float64"]),
    shape=st.lists(st.integers(0, 40), max_size=3),
    offsets=st.tuples(st.integers(0, 70), st.integers(0, 70)),
    as_tensor=st.booleans(),
)
def test_what_is_set_aside_is_the_same_and_nothing_else_is_written(dtype, shape, offsets, as_tensor):
    size = int(np.prod(shape, dtype=int))
    source, target = np.random.default_rng(size).integers(0, 2, (2, size + 70)).astype(dtype)
    array, kept = (x[at:][:size].reshape(shape) for x, at in zip((source, target), offsets))
    expected, before = target.copy(), source.copy()
    expected[offsets[1] :][:size] = array.ravel()
    ops.copy_nontemporal(*(torch.from_numpy(x) if as_tensor else x for x in (array, kept)))
    np.testing.assert_array_equal(target, expected)
    np.testing.assert_array_equal(source, before)


@pytest.mark.parametrize(
    ("array", "kept", "error", "text"),
    [
        (np.zeros(3), np.zeros(4), ShapeError, "kept has shape [4], expected [...] = [3]"),
        (np.zeros(3), np.zeros(3, np.float32), DTypeError, "kept has dtype float32, expected float64"),
        (np.zeros(6)[::2], np.zeros(3), ValueError, "array is not contiguous"),
        (np.zeros(3), np.zeros(6)[::2], ValueError, "kept is not contiguous"),
        (np.zeros(3), np.zeros(1), ShapeError, "kept has shape [1]"),
        (np.zeros(3, complex), np.zeros(3, complex), DTypeError, "array has"),
        ([0.0], np.zeros(1), DTypeError, "array is a list"),
    ],
)
def test_what_cannot_be_set_aside(array, kept, error, text):
    with pytest.raises(error, match=re.escape(f"copy_nontemporal: {text}")):
        ops.copy_nontemporal(array, kept)
