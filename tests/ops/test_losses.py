"""Losses against float64 autograd: every kind of action, batch, option and dtype, and strict about their input."""

from __future__ import annotations

import os
import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyrl import _core, ops
from pyrl.errors import DTypeError, NonFiniteError, ShapeError

torch = pytest.importorskip("torch")
reference = pytest.importorskip("reference_losses")
F, Case = torch.nn.functional, reference.Case

MORE = int(os.environ.get("PYRL_EXAMPLES", "1"))

LEVELS = st.sampled_from(range(_core.supported_simd_level() + 1))
TOLERANCES = {"float32": 1e-5, "float64": 1e-11}


def assert_close(actual: Any, expected: Any, tolerance: float, size: Any, what: str) -> None:
    """In norm. ``size``: of the terms that were added up, where they cancel."""
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert actual.shape == expected.shape, what
    error, allowed = np.linalg.norm(actual - expected), tolerance * (np.linalg.norm(expected) + np.linalg.norm(size))
    assert error <= allowed, f"{what}: {error}, allowed {allowed}"


# -- the policy's loss --------------------------------------------------------------------------------------------------


@given(reference.policy_cases() | reference.policy_cases("float64"), LEVELS)
@settings(max_examples=370 * MORE)
def test_policy_loss(case, level):
    _core.set_simd_level(level)
    tolerance, leaves = TOLERANCES[str(case.dtype)], case.leaves()
    expected = reference.policy_reference(case, leaves)
    (loss, entropy, kl, clipped), size = expected["report"], expected["size"]
    *report, d_output = case.call()
    assert d_output.dtype == case.dtype
    assert_close(report[0], loss, tolerance, size["loss"] * (1 + size["log_prob"].max(initial=0)), "loss")
    assert_close(report[1], entropy, tolerance, 1, "entropy")
    assert_close(report[2], kl, tolerance, 0.5, "kl")
    assert report[3] == pytest.approx(clipped, abs=1e-12)
    by_output, by_log_std = leaves["output"].grad.numpy(), leaves["log_std"].grad if "log_std" in leaves else None
    # log pi is a sum of many terms: its rounding is the ratio's.
    spread = np.linalg.norm(size["slope"]) + 0.1 * np.linalg.norm(size["log_prob"]) + case.options["ent_coef"] * len(by_output) ** -0.5
    if by_log_std is None:
        assert_close(d_output, by_output, tolerance, spread, "d_output")
        return
    z = (case.arrays["action"] - case.arrays["output"]).astype(float) * np.exp(-case.arrays["log_std"].astype(float))
    spread_z = np.abs(z * np.exp(-case.arrays["log_std"].astype(float)))
    weight = (size["slope"] + 0.1 * size["log_prob"])[:, None]
    assert_close(d_output, by_output, tolerance, weight * spread_z, "d_output")
    assert_close(case.arrays["d_log_std"], by_log_std, tolerance, (weight * (z**2 + 1)).sum(0), "d_log_std")


def test_policy_loss_of_logits_that_are_far_apart():
    """Nothing overflows where exp(logit) would."""
    output = np.array([[1e4, -1e4, 0], [-300, -300, -301], [88, 90, 700]], np.float32)
    loss, entropy, _, _, d_output = ops.policy_loss(output, np.array([1, 0, 2]), np.ones(3, np.float32), nvec=[3])
    log_p = torch.log_softmax(torch.tensor(output).double(), 1)
    assert loss == pytest.approx(-log_p[[0, 1, 2], [1, 0, 2]].mean().item(), rel=1e-6)
    assert entropy == pytest.approx(-(log_p.exp() * log_p).sum(1).mean().item(), rel=1e-6)
    one_hot = F.one_hot(torch.tensor([1, 0, 2]), 3)
    np.testing.assert_allclose(d_output, (log_p.exp() - one_hot) / 3, atol=1e-7)


# -- the losses of values -----------------------------------------------------------------------------------------------


@given(reference.value_cases() | reference.value_cases("float64"))
@settings(max_examples=230 * MORE)
def test_value_loss(case):
    tolerance, leaves = TOLERANCES[str(case.dtype)], case.leaves()
    (expected,) = reference.value_reference(case, leaves)["report"]
    loss, d_value = case.call()
    B = len(case.arrays["value"])
    assert d_value.shape == (B, 1)
    assert loss == pytest.approx(expected, rel=tolerance, abs=tolerance)
    assert_close(d_value, leaves["value"].grad.numpy().reshape(B, 1), tolerance, B**-0.5, "d_value")


@given(reference.q_cases() | reference.q_cases("float64"))
@settings(max_examples=230 * MORE)
def test_q_loss(case):
    tolerance, leaves, B = TOLERANCES[str(case.dtype)], case.leaves(), len(case.arrays["q"])
    expected = reference.q_reference(case, leaves)
    loss, q_mean, d_q, td_error = case.call()
    size = sum(float(np.abs(case.arrays[name]).max()) for name in ("q", "reward", "next_q_target"))
    assert loss == pytest.approx(expected["report"][0], rel=tolerance, abs=tolerance * min(size, 1))
    assert q_mean == pytest.approx(expected["report"][1], rel=tolerance, abs=tolerance * size)
    assert_close(td_error, expected["td_error"], tolerance, 0.1 * size, "td_error")
    assert_close(d_q, leaves["q"].grad, tolerance, 0.1 * size * B**-0.5, "d_q")


@given(reference.BATCHES, reference.WIDTHS, reference.SEEDS, st.sampled_from(["float32", "float64"]))
@settings(max_examples=80 * MORE)
def test_dueling(B, A, seed, dtype):
    rng, tolerance = np.random.default_rng(seed), TOLERANCES[dtype]
    value, advantage, d_q = (rng.normal(size=(B, width)).astype(dtype) for width in (1, A, A))
    v, a = (torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in (value, advantage))
    expected = v + a - a.mean(1, keepdim=True)
    expected.backward(torch.tensor(d_q, dtype=torch.float64))
    q = ops.dueling(value, advantage)
    assert_close(q, expected.detach(), tolerance, 1, "q")
    d_value, d_advantage = ops.dueling_backward(d_q)
    assert_close(d_value, v.grad, tolerance, 1, "d_value")
    assert_close(d_advantage, a.grad, tolerance, 1, "d_advantage")
    # in place
    assert ops.dueling(value, advantage, advantage) is advantage
    np.testing.assert_array_equal(advantage, q)
    ops.dueling_backward(d_q, None, d_q)
    np.testing.assert_array_equal(d_q, d_advantage)


# -- squashed Gaussians -------------------------------------------------------------------------------------------------


@given(reference.squashed_cases() | reference.squashed_cases("float64"), st.sampled_from([0.0, -0.3, 1.0]), st.booleans(), LEVELS)
@settings(max_examples=180 * MORE)
def test_squashed_gaussian(case, d_log_prob, through_action, level):
    _core.set_simd_level(level)
    tolerance, leaves, (B, A) = TOLERANCES[str(case.dtype)], case.leaves(), case.arrays["noise"].shape
    expected = reference.squashed_reference(case, leaves)
    action, log_prob = case.call()
    u, size = expected["u"], np.abs(case.arrays["output"]).sum(1) + A
    assert np.abs(action).max() <= 1
    assert_close(action, expected["action"].detach(), tolerance, 1, "action")
    assert_close(log_prob, expected["log_prob"].detach(), tolerance, size + np.abs(u).sum(1), "log_prob")

    d_action = np.random.default_rng(0).normal(size=(B, A)).astype(case.dtype) if through_action else None
    by_action = 0.0 if d_action is None else (expected["action"] * torch.tensor(d_action)).sum()
    (by_action + d_log_prob * expected["log_prob"].sum()).backward()
    d_output = ops.squashed_gaussian_backward(**case.arrays, **case.options, action=action, d_action=d_action, d_log_prob=d_log_prob)
    given = (0.0 if d_action is None else np.abs(d_action)) + 2 * abs(d_log_prob)
    assert_close(d_output, leaves["output"].grad, tolerance, given * (1 + np.abs(u - case.arrays["output"][:, :A])), "d_output")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_squashed_gaussian_at_its_bounds(dtype):
    """Where tanh is 1 up to rounding, log(1 - tanh(u)^2) is still exact: 2 log 2 - 2 |u|."""
    u = np.array([[30.0], [-30.0], [300.0], [-1e4]], dtype)
    action, log_prob = ops.squashed_gaussian(np.hstack([u, np.zeros_like(u)]), np.zeros_like(u))
    np.testing.assert_array_equal(action, np.sign(u))
    np.testing.assert_allclose(log_prob, 2 * abs(u[:, 0]) - 2 * np.log(2) - 0.5 * np.log(2 * np.pi), rtol=1e-6)
    d_output = ops.squashed_gaussian_backward(np.hstack([u, u * 0]), u * 0, action, np.ones_like(u), 0.5)
    np.testing.assert_array_equal(d_output, np.hstack([np.sign(u), u * 0 - 0.5]))


# -- the same on every path ---------------------------------------------------------------------------------------------


def forward_and_backward(case: Case) -> Case:
    """The call that goes back from a squashed Gaussian."""
    action, _ = case.call()
    arrays = {**case.arrays, "action": action, "d_action": np.cos(action)}
    return Case("squashed_gaussian_backward", arrays, {**case.options, "d_log_prob": 0.2}, {"d_output": case.arrays["output"].shape})


def dueling_cases(draw: Any, dtype: str) -> list[Case]:
    rng = np.random.default_rng(draw(reference.SEEDS))
    B, A = draw(reference.BATCHES), draw(reference.WIDTHS)
    value, advantage = rng.normal(size=(B, 1)).astype(dtype), rng.normal(size=(B, A)).astype(dtype)
    forward = Case("dueling", {"advantage": advantage, "value": value}, {}, {"out": (B, A)})
    return [forward, Case("dueling_backward", {"d_q": advantage}, {}, {"d_value": (B, 1), "d_advantage": (B, A)})]


@st.composite
def all_cases(draw: Any) -> list[Case]:
    """One call of every function."""
    dtype = draw(st.sampled_from(["float32", "float64"]))
    policies = [draw(reference.policy_cases(dtype, kind)) for kind in ("categorical", "multi-categorical", "gaussian")]
    squashed = draw(reference.squashed_cases(dtype))
    values = [draw(reference.value_cases(dtype)), draw(reference.q_cases(dtype)), *dueling_cases(draw, dtype)]
    return [*policies, *values, squashed, forward_and_backward(squashed)]


def flat(result: Any) -> list[Any]:
    return list(result) if isinstance(result, tuple) else [result]


def assert_same(actual: Any, expected: Any) -> None:
    for a, b in zip(flat(actual), flat(expected), strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


@given(all_cases())
@settings(max_examples=25 * MORE)
def test_tensors_and_given_outputs_are_the_same(cases):
    for case in cases:
        expected = case.call()
        written = {name: case.arrays[name].copy() for name in case.written}
        tensors = {name: torch.from_numpy(x.copy()) for name, x in case.arrays.items()}
        by_torch = case.call(**tensors)
        assert all(isinstance(x, torch.Tensor) for x in flat(by_torch) if not isinstance(x, float))
        assert_same(by_torch, expected)
        for name, x in written.items():
            np.testing.assert_array_equal(tensors[name], x)

        outputs = {name: np.full(shape, np.nan, case.dtype) for name, shape in case.outputs.items()}
        result = case.call(**outputs)
        assert_same(result, expected)
        assert all(any(x is y for y in flat(result)) for x in outputs.values())


@given(all_cases())
@settings(max_examples=10 * MORE)
def test_calls_side_by_side_do_not_disturb_each_other(cases):
    cases = [case for case in cases if not case.written] * 4
    with ThreadPoolExecutor(4) as threads:
        results = list(threads.map(Case.call, cases))
    for case, result in zip(cases, results):
        assert_same(result, case.call())


@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_an_empty_batch(kind):
    def empty(*shape: int, dtype: str = "float32") -> Any:
        return np.empty(shape, dtype) if kind == "numpy" else torch.empty(shape, dtype=getattr(torch, dtype))

    none, action, some = empty(0), empty(0, dtype="int64"), empty(0, 3)
    assert ops.policy_loss(some, action, none, nvec=[3], log_prob_old=none, normalize_advantage=True)[:4] == (0, 0, 0, 0)
    log_std, d_log_std = np.zeros(3, np.float32), np.ones(3, np.float32)
    assert ops.policy_loss(some, some, none, log_std=log_std, ent_coef=0.1, d_log_std=d_log_std)[:4] == (0, 0, 0, 0)
    assert not d_log_std.any()
    assert ops.value_loss(none, none)[0] == 0
    assert ops.q_loss(some, action, none, none, some)[:2] == (0, 0)
    assert ops.dueling(empty(0, 1), some).shape == (0, 3)
    assert ops.squashed_gaussian(empty(0, 6), some)[0].shape == (0, 3)


# -- numbers that are none ----------------------------------------------------------------------------------------------

REFERENCES = {"policy_loss": reference.policy_reference, "value_loss": reference.value_reference, "q_loss": reference.q_reference}


@given(st.data(), st.sampled_from(["float32", "float64"]))
@settings(max_examples=300 * MORE)
def test_a_loss_that_is_not_finite_is_an_error_that_names_the_array(data, dtype):
    """Just where it, or a log_prob that the clip hides from it, is not finite for torch either: a NaN in the Q of another action,
    or an infinite value behind the clip, harms nothing."""
    case = data.draw(st.one_of(reference.policy_cases(dtype), reference.value_cases(dtype), reference.q_cases(dtype)))
    name = data.draw(st.sampled_from([k for k, x in case.arrays.items() if x.dtype == case.dtype and k not in case.written]))
    place = data.draw(st.integers(0, case.arrays[name].size - 1))
    case.arrays[name].ravel()[place] = data.draw(st.sampled_from([np.nan, np.inf, -np.inf]))
    if REFERENCES[case.function](case, case.leaves())["finite"]:
        result = case.call()
        assert np.isfinite(result[0])
        assert np.isfinite(result[-1 if case.function != "q_loss" else 2]).all()
        return
    with pytest.raises(NonFiniteError, match=rf"^{case.function}: {name} \[.*\] holds .* \(element {place}\)"):
        case.call()


@given(reference.squashed_cases(), st.data())
@settings(max_examples=50 * MORE)
def test_a_squashed_gaussian_that_is_not_finite(case, data):
    wrong = data.draw(st.sampled_from([np.nan, np.inf, -np.inf]))
    backward = forward_and_backward(case)
    for call, names in ((case, ("output", "noise")), (backward, ("d_action",))):
        name = data.draw(st.sampled_from(names))
        place = data.draw(st.integers(0, case.arrays["noise"].size - 1))
        array = call.arrays[name] = call.arrays[name].copy()
        array[np.unravel_index(place, case.arrays["noise"].shape)] = wrong  # of output a mean: an infinite log_std is clamped
        with pytest.raises(NonFiniteError, match=rf"^{call.function}: {name} \[.*\] holds {wrong}"):
            call.call()


def test_finite_numbers_whose_loss_overflows_are_an_error():
    with pytest.raises(NonFiniteError, match="value_loss: the result is not finite, though its inputs are: they are too large"):
        ops.value_loss(np.full(3, 1e30, np.float32), np.zeros(3, np.float32))


# -- strict about their input -------------------------------------------------------------------------------------------


def strict_cases() -> dict[str, Case]:
    x, b, i = np.full((5, 4), 0.5, np.float32), np.full(5, 0.5, np.float32), np.array([0, 1, 1, 0, 1])
    discrete = {"output": x, "action": i, "advantage": b, "log_prob_old": b}
    options = {"nvec": [4], "clip_range": 0.2, "ent_coef": 0.1, "normalize_advantage": True}
    gaussian = {"output": x, "action": x, "advantage": b, "log_std": x[0].copy(), "d_log_std": x[0].copy()}
    q = {"q": x, "action": i, "reward": b, "discount": b, "next_q_target": x, "next_q_online": x, "weight": b}
    span = {"log_std_range": (-5.0, 2.0)}
    return {
        "categorical": Case("policy_loss", discrete, options, {"d_output": (5, 4)}),
        "multi-categorical": Case("policy_loss", {**discrete, "action": np.stack([i, i], 1)}, {**options, "nvec": (2, 2)}),
        "gaussian": Case("policy_loss", gaussian, {}, {}, ("d_log_std",)),
        "value_loss": Case("value_loss", {"value": b, "return_": b, "value_old": b}, {"clip_range": 0.1}, {"d_value": (5, 1)}),
        "q_loss": Case("q_loss", q, {"huber": True}, {"d_q": (5, 4), "td_error": (5,)}),
        "dueling": Case("dueling", {"advantage": x, "value": b[:, None]}, {}, {"out": (5, 4)}),
        "dueling_backward": Case("dueling_backward", {"d_q": x}, {}, {"d_value": (5, 1), "d_advantage": (5, 4)}),
        "squashed_gaussian": Case("squashed_gaussian", {"output": x, "noise": x[:, :2].copy()}, span),
        "squashed_gaussian_backward": Case(
            "squashed_gaussian_backward", {"output": x, **{name: x[:, :2].copy() for name in ("noise", "action", "d_action")}},
            {"d_log_prob": 0.1, **span}, {"d_output": (5, 4)},
        ),
    }  # fmt: skip


STRICT = strict_cases()
ARRAYS = [(name, array) for name, case in STRICT.items() for array in (*case.arrays, *case.outputs)]


@pytest.mark.parametrize(("case", "name"), ARRAYS, ids="-".join)
def test_every_array_is_checked(case, name):
    case = strict_cases()[case]
    valid = case.arrays.get(name)
    is_output = valid is None or name in case.written
    valid = np.zeros(case.outputs[name], np.float32) if valid is None else valid
    first = name == next(iter(case.arrays))  # decides B, so that another array is the one that differs
    wide = np.zeros((*valid.shape[:-1], 2 * valid.shape[-1]), valid.dtype)
    wrong = [
        (valid.tolist(), DTypeError, f"{name} is a list"),
        (valid.astype(np.float16), DTypeError, f"{name} has dtype float16"),
        (np.concatenate([valid, valid[:1]]), ShapeError, "" if first else f"{name} has shape"),
        (valid[None, None], ShapeError, f"{name} has shape"),
        (wide[..., ::2] if valid.shape[-1] > 1 else np.zeros((10, 1), valid.dtype)[::2], ValueError, f"{name} is not contiguous"),
    ]
    if not first:
        decided = f"float64, expected float32 (from {next(iter(case.arrays))})"
        other = (np.int32, "int32, expected int64") if valid.dtype == np.int64 else (np.float64, decided)
        wrong.append((valid.astype(other[0]), DTypeError, f"{name} has dtype {other[1]}"))
    if valid.dtype == np.float32:
        wrong.append((torch.tensor(valid, requires_grad=True), ValueError, f"{name} requires grad"))
    if is_output:
        frozen = valid.copy()
        frozen.flags.writeable = False
        wrong.append((frozen, ValueError, f"{name} is read-only"))
    outputs = {k: np.full(shape, 7, np.float32) for k, shape in case.outputs.items()}
    before = {k: x.copy() for k, x in {**case.arrays, **outputs}.items()}
    for value, error, text in wrong:
        with pytest.raises(error, match=re.escape(f"{case.function}: {text}")):
            case.call(**{**outputs, name: value})
    for k, x in {**case.arrays, **outputs}.items():
        np.testing.assert_array_equal(x, before[k])


@pytest.mark.parametrize(
    ("case", "changes", "error", "text"),
    [
        ("categorical", {"nvec": None}, ValueError, "nvec and log_std are both None, expected one of them"),
        ("gaussian", {"nvec": [4]}, ValueError, "nvec and log_std are both given, expected one of them"),
        ("gaussian", {"d_log_std": None}, DTypeError, "d_log_std is a NoneType"),
        ("categorical", {"nvec": [3]}, ShapeError, "output has shape [5, 4], expected [B, sum of nvec] = [5, 3]"),
        ("categorical", {"nvec": [2**62] * 4}, ShapeError, "output has shape [5, 4], expected [B, sum of nvec]"),
        ("categorical", {"nvec": [0, 4]}, ValueError, "nvec[0] is 0, expected at least 1"),
        ("categorical", {"nvec": [-1, 5]}, ValueError, "nvec[0] is -1, expected at least 1"),
        ("categorical", {"nvec": []}, ShapeError, "output has shape [5, 4], expected [B, sum of nvec]"),
        ("categorical", {"nvec": 4}, DTypeError, "nvec is a int, expected a sequence of integers"),
        ("categorical", {"nvec": [4.0]}, DTypeError, "nvec is 4.0, expected an integer"),
        ("categorical", {"action": np.array([0, 1, 4, 0, 1])}, ValueError, "action of row 2 is 4, expected at least 0 and less than 4"),
        ("categorical", {"action": np.array([0, 1, 2, 0, -1])}, ValueError, "action of row 4 is -1"),
        ("multi-categorical", {"action": np.full((5, 2), 2)}, ValueError, "action of row 0 is 2, expected at least 0 and less than 2"),
        ("categorical", {"clip_range": -0.1}, ValueError, "clip_range is -0.1, expected a number in [0, inf]"),
        ("categorical", {"clip_range": np.nan}, ValueError, "clip_range is nan"),
        ("categorical", {"ent_coef": np.nan}, ValueError, "ent_coef is nan, expected a finite number"),
        ("categorical", {"ent_coef": None}, DTypeError, "ent_coef is None, expected a number"),
        ("categorical", {"normalize_advantage": 1}, DTypeError, "normalize_advantage is 1, expected True or False"),
        ("value_loss", {"clip_range": -1.0}, ValueError, "clip_range is -1.0"),
        ("value_loss", {"coefficient": np.inf}, ValueError, "coefficient is inf, expected a finite number"),
        ("value_loss", {"huber": None}, DTypeError, "huber is None, expected True or False"),
        ("q_loss", {"huber": "yes"}, DTypeError, "huber is 'yes', expected True or False"),
        ("q_loss", {"action": np.array([0, 1, 2, 0, 9])}, ValueError, "action of row 4 is 9, expected at least 0 and less than 4"),
        ("squashed_gaussian", {"output": np.zeros((5, 3), np.float32)}, ShapeError, "output has shape [5, 3], expected [B, 2 A]"),
        ("squashed_gaussian", {"log_std_range": (2.0, 1.0)}, ValueError, "log_std_range[1] is 1.0, expected a number in [2, inf]"),
        ("squashed_gaussian", {"log_std_range": (np.nan, 1.0)}, ValueError, "log_std_range[1] is 1.0"),
        ("squashed_gaussian", {"out": (np.zeros((5, 1), np.float32), None)}, ShapeError, "out[0] has shape [5, 1], expected [B, A]"),
        ("squashed_gaussian", {"out": (None, np.zeros(4, np.float32))}, ShapeError, "out[1] has shape [4], expected [B] = [5]"),
        ("squashed_gaussian_backward", {"d_log_prob": np.nan}, ValueError, "d_log_prob is nan, expected a finite number"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_named(case, changes, error, text):
    case = strict_cases()[case]
    with pytest.raises(error, match=re.escape(f"{case.function}: {text}")):
        case.call(**changes)
