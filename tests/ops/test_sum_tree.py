"""The sum tree against arrays of weights."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import torch

from pyrl.errors import DTypeError, NonFiniteError, ShapeError
from pyrl.ops import RandomStream, SumTree


@pytest.mark.parametrize("size", [1, 2, 16, 17, 256, 1000])
def test_against_an_array(size: int) -> None:
    rng = np.random.default_rng(size)
    tree, weight = SumTree(size), np.zeros(size)
    for _ in range(5):
        index = rng.integers(0, size, 40)  # some twice: the last counts
        new = rng.exponential(size=40) * (rng.random(40) < 0.8) + (np.arange(40) == 39)
        tree.set(index, new)
        for i, w in zip(index, new):
            weight[i] = w
        np.testing.assert_array_equal(tree.weights(), weight)
        np.testing.assert_array_equal(tree.get(index), weight[index])
        assert tree.total == pytest.approx(weight.sum(), rel=1e-14)
        assert (tree.largest, tree.smallest) == (weight.max(), weight[weight > 0].min())
        for start, end in np.sort(rng.integers(0, size + 1, (20, 2))):
            assert tree.sum(int(start), int(end)) == pytest.approx(weight[start:end].sum(), abs=1e-12)
        value = rng.random(300) * tree.total * (1 - 1e-12)
        np.testing.assert_array_equal(tree.find(value), np.searchsorted(np.cumsum(weight), value, side="right"))
    again = pickle.loads(pickle.dumps(tree))
    np.testing.assert_array_equal(again.weights(), weight)
    tree.clear()
    assert (tree.total, tree.largest, tree.smallest, again.total > 0) == (0, 0, np.inf, True)


def test_draws_and_weights() -> None:
    tree, priority = SumTree(50), np.random.default_rng(0).exponential(size=50)
    tree.set_priority(np.arange(50), priority, alpha=0.7, epsilon=0.01)
    weight = (priority + 0.01) ** 0.7
    np.testing.assert_allclose(tree.weights(), weight, rtol=1e-12)
    index = tree.draw(50_000, RandomStream(0))
    np.testing.assert_allclose(np.bincount(index, minlength=50), 50_000 * weight / weight.sum(), atol=2)  # stratified
    np.testing.assert_array_equal(index, tree.draw(50_000, RandomStream(0), kind="torch").numpy())
    np.testing.assert_allclose(tree.importance(index, 0.4), (weight[index] / weight.min()) ** -0.4, rtol=1e-6)
    tensor = torch.arange(50)
    assert isinstance(tree.importance(tensor, 0.4), torch.Tensor)
    tree.set(tensor[:49], torch.zeros(49))
    assert set(tree.draw(100, RandomStream(1))) == {49}


ONE = np.array([0])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda tree: SumTree(0), ValueError, "SumTree: size is 0"),
        (lambda tree: SumTree(2.0), DTypeError, "SumTree: size is 2.0, expected an integer"),
        (lambda tree: tree.set(np.array([3]), np.ones(1)), ValueError, "element 0 of index is 3, expected 0 to 2"),
        (lambda tree: tree.set(ONE, np.ones(2)), ShapeError, r"weight has shape \[2\], expected \[B\] = \[1\]"),
        (lambda tree: tree.set(ONE, np.array([-1.0])), ValueError, "element 0 of weight is -1"),
        (lambda tree: tree.set(ONE, np.array([np.inf])), NonFiniteError, "element 0 of weight is inf"),
        (lambda tree: tree.set(ONE, ONE), DTypeError, "weight has dtype int64, expected float32 or float64"),
        (lambda tree: tree.set([0], np.ones(1)), DTypeError, "index is a list"),
        (lambda tree: tree.set_priority(ONE, np.ones(1), alpha=-1.0), ValueError, "alpha is -1"),
        (lambda tree: tree.set_priority(ONE, np.ones(1), alpha=np.inf), ValueError, "alpha is inf"),
        (lambda tree: tree.set_priority(ONE, np.full(1, 1e100), alpha=3.0), ValueError, "the weight of element 0 is 1e.300"),
        (lambda tree: tree.importance(ONE, np.inf), ValueError, "beta is inf"),
        (lambda tree: tree.find(np.array([1.0])), ValueError, "element 0 of value is 1, expected 0 to below 1"),
        (lambda tree: SumTree(3).draw(1, RandomStream(0)), ValueError, "all weights are zero"),
        (lambda tree: SumTree(3).find(np.zeros(1)), ValueError, "all weights are zero"),
        (lambda tree: tree.draw(0, RandomStream(0)), ValueError, "size is 0, expected at least 1"),
        (lambda tree: tree.draw(1, RandomStream(0), kind="jax"), ValueError, "kind is 'jax'"),
        (lambda tree: tree.sum(0, 4), ValueError, "end is 4, expected 0 to 3"),
    ],
)
def test_mistakes_change_nothing(call: Any, error: type[Exception], message: str) -> None:
    tree = SumTree(3)
    tree.set(ONE, np.ones(1))
    with pytest.raises(error, match=message):
        call(tree)
    np.testing.assert_array_equal(tree.weights(), [1, 0, 0])
