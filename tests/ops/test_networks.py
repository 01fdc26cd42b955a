"""Networks by hand against float64 autograd: every width, batch, activation and norm, on every path, and strict about their input."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyrl import _core, ops
from pyrl.errors import DTypeError, ShapeError
from pyrl.ops import Layer, Network

torch = pytest.importorskip("torch")
F = torch.nn.functional

MORE = int(os.environ.get("PYRL_EXAMPLES", "1"))

ACTIVATIONS = ("identity", "relu", "tanh", "silu", "gelu")
LEVELS = range(_core.supported_simd_level() + 1)
# Mostly small, and around the widths of vectors, tiles and panels.
WIDTHS = st.one_of(
    st.integers(1, 9), st.sampled_from([15, 16, 17, 24, 31, 32, 33, 48, 63, 64, 65, 95, 128, 129, 255, 256, 257]), st.integers(1, 512)
)
BATCHES = st.one_of(st.integers(1, 9), st.sampled_from([12, 13, 24, 31, 32, 33, 63, 64, 65, 127, 128, 129, 256]), st.integers(1, 1024))


@dataclass(repr=False)
class Case:
    """A network over an arena whose gaps hold NaN, so that reading one shows, and an input as one matrix or two."""

    layers: list[Layer]
    parameters: np.ndarray
    x: np.ndarray  # [B, D]
    first: int  # columns of x that come as its first matrix; 0: one matrix
    dy: np.ndarray

    def __repr__(self) -> str:
        return f"Case({self.layers}, batch={len(self.x)}, first={self.first})"

    @property
    def dtype(self) -> str:
        return str(self.parameters.dtype)

    @property
    def inputs(self) -> list[np.ndarray]:
        parts = [self.x[:, : self.first], self.x[:, self.first :]] if self.first else [self.x]
        return [np.ascontiguousarray(part) for part in parts]

    def network(self) -> Network:
        return Network(self.layers, self.dtype)

    def tensors(self) -> dict[str, tuple[int, tuple[int, ...]]]:
        """Where each parameter lies, and its shape."""
        found = {}
        for i, layer in enumerate(self.layers):
            found[f"weight{i}"] = layer.weight, (layer.num_inputs, layer.num_outputs)
            for name in ("bias", "gain", "shift"):
                if (place := getattr(layer, name)) is not None:
                    found[f"{name}{i}"] = place, (layer.num_outputs,)
        return found

    def view(self, arena: np.ndarray, name: str) -> np.ndarray:
        place, shape = self.tensors()[name]
        return arena[place : place + int(np.prod(shape))].reshape(shape)


def make_case(widths, activations, *, batch, dtype="float32", bias=True, norms=(), first=0, seed=0) -> Case:
    rng = np.random.default_rng(seed)
    layers, at = [], 5

    def place(size):
        nonlocal at
        start, at = at, at + size + int(rng.integers(1, 20))
        return start

    for i, (m, n) in enumerate(zip(widths, widths[1:])):
        layer = Layer(m, n, place(m * n), place(n) if bias else None, activation=activations[i])
        layers.append(replace(layer, gain=place(n), shift=place(n)) if i in norms else layer)
    case = Case(layers, np.full(at, np.nan, dtype), rng.uniform(-1, 1, (batch, widths[0])).astype(dtype), first, np.empty(0))
    for name, (_, shape) in case.tensors().items():
        values = rng.uniform(-1, 1, shape) * (shape[0] ** -0.5 if name.startswith("weight") else 1)
        case.view(case.parameters, name)[:] = np.sign(values) * (0.5 + abs(values)) if name.startswith("gain") else values
    case.dy = rng.standard_normal((batch, widths[-1])).astype(dtype)
    return case


@st.composite
def cases(draw, dtype="float32"):
    widths = draw(st.lists(WIDTHS, min_size=2, max_size=4))
    activations = [draw(st.sampled_from(ACTIVATIONS)) for _ in widths[1:]]
    # A norm over one or two columns has a gradient that is the difference of equal numbers: see its own test.
    norms = [i for i, width in enumerate(widths[1:]) if width > 2 and draw(st.booleans())]
    most = max(1, 30_000_000 // sum(m * n for m, n in zip(widths, widths[1:])))
    first = draw(st.integers(0, widths[0] - 1))
    batch = min(most, draw(BATCHES))
    return make_case(
        widths, activations, batch=batch, dtype=dtype, bias=draw(st.booleans()), norms=norms, first=first, seed=draw(st.integers(0, 2**32))
    )


def reference(case: Case) -> tuple[np.ndarray, dict[str, np.ndarray], dict[str, float]]:
    """Of float64 autograd: y; the gradients; and for each (y too) the size that its error is in proportion to where terms cancel: |x|, or
    |x| |dy|, enlarged by the norms that follow.

    The slope of relu is taken from the network's own output: where z is 0 up to rounding either slope is right.
    """
    leaves = {name: torch.tensor(case.view(case.parameters, name), dtype=torch.float64, requires_grad=True) for name in case.tensors()}
    leaves["x"] = torch.tensor(case.x, dtype=torch.float64, requires_grad=True)
    h, dy = leaves["x"], torch.tensor(case.dy, dtype=torch.float64)
    sizes = {"x": dy.norm().item(), "y": h.norm().item()}
    terms = h.norm()  # of the sums that h came from, which may have cancelled, here or in a layer before
    for i, layer in enumerate(case.layers):
        for name in ("weight", "gain"):
            sizes[f"{name}{i}"] = (max(h.norm(), terms) * dy.norm()).item()
        for name in ("bias", "shift"):
            sizes[f"{name}{i}"] = len(case.x) ** 0.5 * dy.norm().item()
        terms = max(h.norm(), terms) * leaves[f"weight{i}"].norm()
        h = h @ leaves[f"weight{i}"]
        if layer.bias is not None:
            h = h + leaves[f"bias{i}"]
        if layer.gain is not None:
            enlarged = 1 / (h.var(dim=1, correction=0) + 1e-5).sqrt().min().item()
            sizes = {k: v * (1 if k in (f"gain{i}", f"shift{i}") else max(1, enlarged)) for k, v in sizes.items()}
            h = F.layer_norm(h, (layer.num_outputs,), leaves[f"gain{i}"], leaves[f"shift{i}"])
        if layer.activation == "relu":
            seen = Network(case.layers[: i + 1], case.dtype).infer(case.parameters, case.x)
            h = h * torch.tensor(seen > 0)
        elif layer.activation != "identity":
            h = getattr(F, layer.activation, getattr(torch, layer.activation, None))(h)
    h.backward(dy)
    gradients = {name: leaf.grad.numpy() for name, leaf in leaves.items()}
    return h.detach().numpy(), gradients, sizes


def assert_close(actual, expected, tolerance, size, what):
    error, norm = np.linalg.norm(actual - expected), np.linalg.norm(expected)
    assert error <= tolerance * norm + 0.05 * tolerance * size, f"{what}: {error} of {norm} (of {size})"


def check_against_autograd(case: Case, tolerance: float) -> None:
    network, parts = case.network(), case.inputs
    y, expected, sizes = reference(case)
    forward = network.forward(case.parameters, *parts)
    assert forward.dtype == case.dtype
    assert_close(forward, y, tolerance, sizes["y"], "y")
    np.testing.assert_array_equal(network.infer(case.parameters, *parts), forward)

    gradients = np.full_like(case.parameters, 7)
    dx = [np.full_like(part, np.nan) for part in parts]
    network.backward(case.parameters, gradients, case.dy, *dx)
    for name in case.tensors():
        view = case.view(gradients, name)
        assert_close(view, expected[name], tolerance, sizes[name], name)
        view[:] = 7
    assert (gradients == 7).all(), "written between the tensors"
    assert_close(np.concatenate(dx, axis=1), expected["x"], tolerance, sizes["x"], "dx")


@given(cases(), st.sampled_from(LEVELS))
@settings(max_examples=120 * MORE)
def test_gradients_are_those_of_autograd(case, level):
    _core.set_simd_level(level)
    check_against_autograd(case, 1e-5)


@given(cases(dtype="float64"), st.sampled_from(LEVELS))
@settings(max_examples=60 * MORE)
def test_gradients_in_float64_are_those_of_autograd(case, level):
    _core.set_simd_level(level)
    check_against_autograd(case, 1e-11)


@pytest.mark.slow
@given(cases(), st.sampled_from(LEVELS))
@settings(max_examples=1500 * MORE)
def test_gradients_are_those_of_autograd_at_length(case, level):
    _core.set_simd_level(level)
    check_against_autograd(case, 1e-5)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations_over_their_whole_range(activation, level):
    """One column with weight 1: y = f(x), dx = f'(x), for arguments from nothing to the end of the format."""
    _core.set_simd_level(level)
    magnitudes = np.concatenate([[0.0], np.geomspace(1e-30, 1, 300), np.linspace(0.01, 14, 5000), np.geomspace(14, 1e30, 200)])
    for dtype, tolerance in (("float32", 4e-7), ("float64", 1e-15)):
        z = np.concatenate([-magnitudes[::-1], magnitudes]).astype(dtype)[:, None]
        network = Network([Layer(1, 1, 0, activation=activation)], dtype)
        y, dx = network.forward(np.ones(1, dtype), z), np.empty_like(z)
        network.backward(np.ones(1, dtype), None, np.ones_like(z), dx)
        leaf = torch.tensor(z, dtype=torch.float64, requires_grad=True)
        expected = leaf if activation == "identity" else getattr(torch, activation, getattr(F, activation, None))(leaf)
        expected.sum().backward()
        near = abs(z) <= 12  # beyond, where f is its limit, the limit is enough
        for got, want in ((y, expected.detach().numpy()), (dx, leaf.grad.numpy())):
            assert (abs(got - want) <= tolerance * np.maximum(1, abs(z)) * np.where(near, 1, 4)).all(), abs(got - want).max()
        small = abs(z) <= 0.1  # there the value is as exact as the argument
        error = abs(y - expected.detach().numpy())[small & (z != 0)] / abs(expected.detach().numpy()[small & (z != 0)]).clip(1e-30)
        assert error.size == 0 or error.max() <= tolerance


@pytest.mark.parametrize(
    ("activation", "below", "above"),
    [("identity", -np.inf, np.inf), ("relu", 0, np.inf), ("tanh", -1, 1), ("silu", np.nan, np.inf), ("gelu", np.nan, np.inf)],
)  # silu and gelu of -inf are -inf * 0, as in torch
def test_non_finite_numbers_pass_through(activation, below, above):
    z = np.repeat(np.array([np.nan, -np.inf, np.inf], np.float32), 20)[:, None]
    y = Network([Layer(1, 1, 0, activation=activation)]).forward(np.ones(1, np.float32), z)
    np.testing.assert_array_equal(y.reshape(3, 20), np.repeat([[np.nan], [below], [above]], 20, axis=1))


@pytest.mark.parametrize("width", [1, 2])
def test_norm_of_one_or_two_columns(width):
    """There the gradient is a difference of nearly equal numbers, so the error is in proportion to those."""
    case = make_case([3, width, 2], ["tanh", "identity"], batch=17, norms=[0])
    y, expected, _ = reference(case)
    network, gradients, dx = case.network(), np.zeros_like(case.parameters), np.empty_like(case.x)
    np.testing.assert_allclose(network.forward(case.parameters, case.x), y, atol=1e-5)
    network.backward(case.parameters, gradients, case.dy, dx)
    for name in case.tensors():
        np.testing.assert_allclose(case.view(gradients, name), expected[name], atol=1e-3)
    np.testing.assert_allclose(dx, expected["x"], atol=1e-3)


# -- the same on every path ---------------------------------------------------------------------------------------------


def everything(case: Case) -> list[np.ndarray]:
    network, gradients = case.network(), np.zeros_like(case.parameters)
    y, dx = network.forward(case.parameters, *case.inputs), [np.empty_like(part) for part in case.inputs]
    network.backward(case.parameters, gradients, case.dy, *dx)
    return [y, network.infer(case.parameters, *case.inputs), gradients, *dx]


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("widths", [[300, 256, 300], [1031, 401, 17, 3], [64, 900, 12, 1]])
def test_results_do_not_depend_on_the_threads(widths, level):
    _core.set_simd_level(level)
    case = make_case(widths, ["relu", "tanh", "identity"][: len(widths) - 1], batch=701, norms=[0], first=5)
    seen = []
    for threads in (1, 2, 4):
        ops.set_num_threads(threads)
        seen.append(everything(case))
    for other in seen[1:]:
        for a, b in zip(seen[0], other):
            np.testing.assert_array_equal(a, b)


@given(cases(), st.data())
@settings(max_examples=20 * MORE)
def test_a_row_does_not_depend_on_the_others(case, data):
    start = data.draw(st.integers(0, len(case.x) - 1))
    rows = slice(start, data.draw(st.integers(start, len(case.x))))
    network = case.network()
    whole = network.infer(case.parameters, *case.inputs)
    part = network.infer(case.parameters, *[np.ascontiguousarray(x[rows]) for x in case.inputs])
    np.testing.assert_array_equal(part, whole[rows])


@given(cases())
@settings(max_examples=20 * MORE)
def test_tensors_and_given_outputs_are_the_same(case):
    y, inferred, gradients, *dx = everything(case)
    network = case.network()
    arena, parts = torch.from_numpy(case.parameters), [torch.from_numpy(x) for x in case.inputs]
    result = network.forward(arena, *parts)
    assert isinstance(result, torch.Tensor)
    np.testing.assert_array_equal(result.numpy(), y)
    out = torch.empty(y.shape, dtype=result.dtype)
    assert network.infer(arena, *parts, out=out) is out
    np.testing.assert_array_equal(out.numpy(), inferred)
    d_arena, d_parts = torch.zeros_like(arena), [torch.empty_like(x) for x in parts]
    network.backward(arena, d_arena, torch.from_numpy(case.dy), *d_parts)
    np.testing.assert_array_equal(d_arena.numpy(), gradients)
    for a, b in zip(d_parts, dx):
        np.testing.assert_array_equal(a.numpy(), b)


def test_only_what_is_asked_for():
    case = make_case([6, 33, 9, 2], ["relu", "gelu", "identity"], batch=19, norms=[1], first=4)
    _, _, gradients, d_first, d_second = everything(case)
    network, parts = case.network(), case.inputs
    network.forward(case.parameters, *parts)
    only = np.empty_like(d_second)
    network.backward(case.parameters, None, case.dy, None, only)  # the critic's gradient by its action
    np.testing.assert_array_equal(only, d_second)
    only = np.empty_like(d_first)
    network.backward(case.parameters, None, case.dy, only)
    np.testing.assert_array_equal(only, d_first)
    again = np.zeros_like(gradients)
    network.backward(case.parameters, again, case.dy)
    np.testing.assert_array_equal(again, gradients)


def test_batches_of_any_size_follow_each_other():
    """Memory grows and stays: a batch after a larger one, and one that `infer` came between, are what they are alone."""
    network = make_case([5, 40, 3], ["silu", "tanh"], batch=1, norms=[0]).network()
    for batch in (7, 300, 1, 64, 0, 12):
        case = make_case([5, 40, 3], ["silu", "tanh"], batch=batch, norms=[0])
        y, _, gradients, dx = everything(case)
        np.testing.assert_array_equal(network.forward(case.parameters, case.x), y)
        other = make_case([5, 40, 3], ["silu", "tanh"], batch=500, norms=[0], seed=9)
        network.infer(other.parameters, other.x)
        mine, my_dx = np.zeros_like(gradients), np.empty_like(dx)
        network.backward(case.parameters, mine, case.dy, my_dx)
        np.testing.assert_array_equal(mine, gradients)
        np.testing.assert_array_equal(my_dx, dx)


def test_an_empty_batch_has_no_gradient():
    case = make_case([4, 6, 2], ["tanh", "identity"], batch=0, norms=[0])
    y, inferred, gradients, dx = everything(case)
    assert y.shape == inferred.shape == (0, 2)
    assert dx.shape == (0, 4)
    assert not gradients.any()
    network, gradients = case.network(), np.full_like(case.parameters, 7)
    network.forward(case.parameters, case.x)
    network.backward(case.parameters, gradients, case.dy)
    assert not any(case.view(gradients, name).any() for name in case.tensors())


# -- strict about its input ---------------------------------------------------------------------------------------------

LAYERS = [Layer(3, 4, 0, 16, activation="tanh"), Layer(4, 2, 32, 48)]
P, X, X1, DY = np.zeros(50, np.float32), np.zeros((5, 3), np.float32), np.zeros((5, 1), np.float32), np.zeros((5, 2), np.float32)


def frozen(array):
    array = array.copy()
    array.flags.writeable = False
    return array


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda n: n.forward(P[:49], X), ShapeError, "forward: parameters has shape [49], expected at least [50]"),
        (lambda n: n.forward(P.astype(np.float64), X), DTypeError, "forward: parameters has dtype float64, expected float32"),
        (lambda n: n.forward(P.reshape(5, 10), X), ShapeError, "forward: parameters has shape [5, 10], expected 1 dimensions [size]"),
        (lambda n: n.forward(np.zeros(100, np.float32)[::2], X), ValueError, "forward: parameters"),
        (lambda n: n.forward(None, X), DTypeError, "forward: parameters"),
        (lambda n: n.forward(P, X.tolist()), DTypeError, "forward: x"),
        (lambda n: n.forward(P, X[0]), ShapeError, "forward: x has shape [3], expected 2 dimensions [B, D]"),
        (lambda n: n.forward(P, X.astype(np.float64)), DTypeError, "forward: x has dtype float64, expected float32"),
        (lambda n: n.forward(P, DY), ShapeError, "forward: x has 2 columns, expected 3"),
        (lambda n: n.forward(P, X, X1), ShapeError, "forward: x has 4 columns, expected 3"),
        (lambda n: n.forward(P, DY, X1[:4]), ShapeError, "forward: x[1] has shape [4, 1], expected [B, ...] with B = 5"),
        (lambda n: n.forward(P, np.zeros((3, 5), np.float32).T), ValueError, "forward: x"),
        (lambda n: n.forward(P, X, out=np.zeros((5, 3), np.float32)), ShapeError, "forward: out has shape [5, 3], expected"),
        (lambda n: n.forward(P, X, out=frozen(DY)), ValueError, "forward: out"),
        (lambda n: n.infer(P, DY), ShapeError, "infer: x has 2 columns, expected 3"),
        (lambda n: n.infer(P, X, out=DY.astype(np.float64)), DTypeError, "infer: out has dtype float64, expected float32"),
        (lambda n: n.backward(P, P[:49].copy(), DY), ShapeError, "backward: gradients has shape [49], expected at least [50]"),
        (lambda n: n.backward(P, frozen(P), DY), ValueError, "backward: gradients"),
        (lambda n: n.backward(P, None, DY[:4]), ShapeError, "backward: dy has shape [4, 2], expected"),
        (lambda n: n.backward(P, None, None), DTypeError, "backward: dy is None"),
        (lambda n: n.backward(P, None, DY, X[:, :2].copy()), ShapeError, "backward: dx has shape [5, 2], expected"),
        (lambda n: n.backward(P, None, DY, None, X1), ShapeError, "backward: dx[1] has shape [5, 1], expected"),
        (lambda n: n.backward(P, None, DY, frozen(X)), ValueError, "backward: dx"),
        (lambda n: Network([]), ValueError, "Network: layers is empty"),
        (lambda n: Network(LAYERS, "float16"), DTypeError, "Network: dtype is float16"),
        (lambda n: Network(LAYERS, None), DTypeError, "Network: dtype is None, expected a name"),
        (lambda n: Network(LAYERS, precision=16), DTypeError, "Network: precision is 16, expected a name"),
        (lambda n: Network(LAYERS, precision="float16"), ValueError, "Network: precision is 'float16', expected float32 or bfloat16"),
        (lambda n: Network([LAYERS[1], LAYERS[1]]), ShapeError, "Network: layer 1 takes 4 inputs, expected 2"),
        (lambda n: Network([Layer(0, 4, 0)]), ValueError, "Network: layer 0 is 0 -> 4 at 0"),
        (lambda n: Network([Layer(3, 4, -1)]), ValueError, "Network: layer 0 is 3 -> 4 at -1"),
        (lambda n: Network([Layer(3, 4, 0, -2)]), ValueError, "Network: layer 0"),
        (lambda n: Network([Layer(3, 4, 0, gain=16)]), ValueError, "Network: layer 0 has half a norm"),
        (lambda n: Network([Layer(3, 4, 0, activation="sine")]), ValueError, "Network: activation is 'sine'"),
        (lambda n: Network([Layer(2**40, 2**40, 0)]), ValueError, "Network: layer 0"),
        (lambda n: Network(LAYERS).backward(P, None, DY), ValueError, "backward: there was no forward"),
        (lambda n: Network(LAYERS).backward(P, None, DY[:0]), ValueError, "backward: there was no forward"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_named(call, error, text):
    network = Network(LAYERS)
    network.forward(P, X)
    with pytest.raises(error, match=re.escape(text)):
        call(network)


def test_tensors_that_autograd_follows_are_refused():
    with pytest.raises(ValueError, match="forward: x requires grad"):
        Network(LAYERS).forward(P, torch.zeros(5, 3, requires_grad=True))
    with pytest.raises(ValueError, match="forward: parameters requires grad"):
        Network(LAYERS).forward(torch.zeros(50, requires_grad=True), X)
