"""Tianshou's tree, buffers and returns on pyrl's kernels, against its own (2.0.1).

Tianshou needs an older filelock than the other tests' packages, so it has an environment of its own; without it only these tests skip:

    python3 -m venv /opt/venv-tianshou
    /opt/venv-tianshou/bin/pip install torch==2.13.0 tianshou==2.0.1 safetensors pytest pytest-timeout hypothesis
    PYTHONPATH=$PWD /opt/venv-tianshou/bin/python -m pytest tests/adapters/test_tianshou_adapter.py
"""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest

from pyrl.errors import DTypeError, NonFiniteError, ShapeError

try:
    from tianshou.algorithm import algorithm_base
    from tianshou.data import Batch
    from tianshou.data import PrioritizedReplayBuffer as HostBuffer
    from tianshou.data import PrioritizedVectorReplayBuffer as HostVectorBuffer
    from tianshou.data import ReplayBuffer as HostReplayBuffer
    from tianshou.data import SegmentTree as HostTree

    from pyrl.adapters import tianshou as ours
except ModuleNotFoundError as missing:
    pytest.skip(f"{missing.name} has an environment of its own: the docstring of {__name__} says how", allow_module_level=True)


@pytest.fixture
def installed() -> Any:
    before = algorithm_base._gae, algorithm_base._nstep_return
    ours.install()
    yield
    algorithm_base._gae, algorithm_base._nstep_return = before


@pytest.mark.parametrize("size", [1, 10, 1000])
def test_the_tree_is_the_hosts(size: int) -> None:
    rng = np.random.default_rng(size)
    own, host = ours.SegmentTree(size), HostTree(size)
    for tree in (own, host):
        assert len(tree) == size
    for _ in range(5):
        index, weight = rng.permutation(size)[:100], rng.exponential(size=min(size, 100)) + 0.1
        at = int(rng.integers(size))
        for tree in (own, host):
            tree[index] = weight
            tree[at] = 0.5
        np.testing.assert_array_equal(own[np.arange(size)], host[np.arange(size)])
        assert own[at] == host[at] == 0.5
        assert own.reduce() == pytest.approx(host.reduce())
        for start, end in np.sort(rng.integers(0, size + 1, (20, 2))).tolist():
            assert own.reduce(start, end) == pytest.approx(host.reduce(start, end), abs=1e-9)
        assert own.reduce(0, -1) == pytest.approx(host.reduce(0, -1), abs=1e-9)
        value = rng.random(200) * own.reduce() * (1 - 1e-9)
        np.testing.assert_array_equal(own.get_prefix_sum_idx(value), host.get_prefix_sum_idx(value.copy()))
        assert own.get_prefix_sum_idx(float(value[0])) == host.get_prefix_sum_idx(float(value[0]))


def batch(rng: np.random.Generator, count: int | None = None) -> Batch:
    shape = () if count is None else (count,)
    return Batch(
        obs=rng.normal(size=(*shape, 3)), act=rng.integers(0, 2, shape), rew=rng.normal(size=shape),
        terminated=rng.random(shape) < 0.1, truncated=rng.random(shape) < 0.1, obs_next=rng.normal(size=(*shape, 3)), info={},
    )  # fmt: skip


def pairs(vector: bool) -> list[Any]:
    options = {"alpha": 0.7, "beta": 0.5}
    if vector:
        return [made(60, buffer_num=3, **options) for made in (ours.PrioritizedVectorReplayBuffer, HostVectorBuffer)]
    return [made(60, **options) for made in (ours.PrioritizedReplayBuffer, HostBuffer)]


@pytest.mark.parametrize("vector", [False, True])
def test_prioritized_buffers_are_the_hosts(vector: bool) -> None:
    """The same calls, seeds included: the same indices, weights and batches."""
    own, host = pairs(vector)
    for buffer in (own, host):
        rng = np.random.default_rng(0)
        for step in range(40):
            buffer.add(batch(rng, 3 if vector else None), **({"buffer_ids": np.arange(3)} if vector else {}))
            if step % 10 == 9:
                np.random.seed(step)  # noqa: NPY002
                drawn, index = buffer.sample(32)
                buffer.update_weight(index, rng.exponential(size=32))
                buffer.last = drawn, index
    np.testing.assert_array_equal(own.last[1], host.last[1])
    np.testing.assert_allclose(own.last[0].weight, host.last[0].weight, rtol=1e-12)
    np.testing.assert_array_equal(own.last[0].obs, host.last[0].obs)
    own.set_beta(1.0)
    host.set_beta(1.0)
    np.testing.assert_allclose(own.get_weight(np.arange(20)), host.get_weight(np.arange(20)), rtol=1e-12)
    for again in (copy.deepcopy(own), pickle.loads(pickle.dumps(own))):
        np.testing.assert_array_equal(again.weight[np.arange(60)], own.weight[np.arange(60)])


@pytest.mark.parametrize("steps", [1, 7, 2048])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_gae_is_the_hosts(steps: int, dtype: type) -> None:
    rng = np.random.default_rng(steps)
    value, following = rng.normal(size=(2, steps)).astype(dtype)
    call = (value, following, rng.normal(size=steps), rng.random(steps) < 0.1, 0.97, 0.9)
    mine = ours.gae(*call)
    assert mine.shape == (steps,)
    np.testing.assert_allclose(mine, algorithm_base._gae(*call), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("n_step", "width"), [(1, 1), (3, 1), (5, 4)])
def test_nstep_returns_are_the_hosts(n_step: int, width: int) -> None:
    rng = np.random.default_rng(n_step)
    index = rng.integers(0, 100, (n_step, 50))
    call = (rng.normal(size=100), rng.random(100) < 0.2, rng.normal(size=(50, width)).astype(np.float32), index, 0.9, n_step)
    np.testing.assert_allclose(ours.nstep_return(*call), algorithm_base._nstep_return(*call), rtol=1e-6)


@pytest.mark.parametrize(("terminated", "truncated", "expected"), [(False, True, 1 + 0.5 + 0.25 * 8), (True, False, 1.5)])
def test_a_time_limit_bootstraps_and_a_terminal_step_does_not(installed: Any, terminated: bool, truncated: bool, expected: float) -> None:
    """Through the host's own `compute_nstep_return` and `compute_episodic_return`: two steps, rewards of 1, next values of 8."""
    import torch

    buffer = HostReplayBuffer(10)
    for step in range(2):
        last = step == 1
        buffer.add(
            Batch(obs=step, act=0, rew=1.0, terminated=last and terminated, truncated=last and truncated, obs_next=step + 1, info={})
        )
    index = np.array([0])
    algorithm = algorithm_base.Algorithm
    found = algorithm.compute_nstep_return(buffer[index], buffer, index, lambda *_: torch.full((1, 1), 8.0), gamma=0.5, n_step=3)
    assert found.returns.item() == expected
    rows = np.arange(2)
    returns, _ = algorithm.compute_episodic_return(buffer[rows], buffer, rows, torch.full((2,), 8.0), torch.zeros(2), 0.5, 1.0)
    assert returns.tolist() == [1 + 0.5 * 8 + 0.5 * (1 + (4 if truncated else 0)), 5.0 if truncated else 1.0]


ONES = np.ones(3)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: ours.SegmentTree(3).__setitem__(3, 1.0), ValueError, "index is 3, expected 0 to 2"),
        (lambda: ours.SegmentTree(3).__setitem__(0, -1.0), ValueError, "weight is -1"),
        (lambda: ours.SegmentTree(3).__setitem__(0, np.nan), NonFiniteError, "weight is nan"),
        (lambda: ours.SegmentTree(3)[1.5], DTypeError, "index is 1.5, expected an integer"),
        (lambda: ours.SegmentTree(3).get_prefix_sum_idx(0.0), ValueError, "all weights are zero"),
        (lambda: ours.SegmentTree(3).reduce(0, 4), ValueError, "end is 4, expected 0 to 3"),
        (lambda: ours.gae(ONES[:2], ONES, ONES, ONES, 0.9, 0.9), ShapeError, r"gae: v_s has shape \[2\], expected \[T\], that of rew"),
        (lambda: ours.gae(ONES, ONES, ONES, ONES, 2, 0.9), ValueError, r"gamma is 2, expected a number in \[0, 1\]"),
        (lambda: ours.nstep_return(ONES, ONES, ONES, ONES, 0.9, 3), ShapeError, r"target_q_IA has shape \[3\], expected \[I, A\]"),
        (lambda: ours.nstep_return(ONES, ONES, ONES[:, None], np.zeros((2, 3), int), 0.9, 3), ShapeError, r"= \[3, 3\]"),
    ],
)
def test_mistakes(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
