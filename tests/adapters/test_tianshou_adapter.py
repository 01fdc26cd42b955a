"""Tianshou's tree, buffers and returns on pyrl's kernels, against its own (2.0.1).

Tianshou needs an older filelock than the other tests' packages, so it has an environment of its own; without it only these tests skip:

    python3 -m venv /opt/venv-tianshou
    /opt/venv-tianshou/bin/pip install torch==2.13.0 tianshou==2.0.1 safetensors pytest pytest-timeout hypothesis
    PYTHONPATH=$PWD /opt/venv-tianshou/bin/python -m pytest tests/adapters/test_tianshou_adapter.py
"""

from __future__ import annotations

import copy
import functools
import pickle
from typing import Any

import numpy as np
import pytest

from pyrl.errors import DTypeError, NonFiniteError, SettingError, ShapeError

try:
    from tianshou.algorithm import algorithm_base
    from tianshou.data import Batch
    from tianshou.data import PrioritizedReplayBuffer as HostBuffer
    from tianshou.data import PrioritizedVectorReplayBuffer as HostVectorBuffer
    from tianshou.data import ReplayBuffer as HostReplayBuffer
    from tianshou.data import SegmentTree as HostTree
    from tianshou.data import VectorReplayBuffer as HostVector

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


KINDS = {
    "single": ("ReplayBuffer", 0, {}),
    "single, alone": ("ReplayBuffer", 0, {"buffer_ids": [0]}),
    "vector": ("VectorReplayBuffer", 3, {}),
    "prioritized": ("PrioritizedReplayBuffer", 0, {}),
    "prioritized vector": ("PrioritizedVectorReplayBuffer", 3, {}),
}


def assert_same(own: Any, host: Any) -> None:
    assert list(own.keys()) == list(host.keys())
    for name, value in host.items():
        if isinstance(value, Batch):
            assert_same(own[name], value)
        else:
            compare = np.testing.assert_allclose if name == "weight" else np.testing.assert_array_equal
            compare(own[name], value, err_msg=name)
            assert own[name].dtype == value.dtype


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("columns", ["arrays", "nested", "objects", "tensors"])
def test_streams_are_stored_as_the_host_stores_them(kind: str, columns: str) -> None:
    """Positions, episodes, neighbours and every column after each of 200 adds, of some of the environments at times; files too."""
    import tianshou.data
    import torch

    name, number, options = KINDS[kind]
    sizes = {"total_size": 50, "buffer_num": number} if number else {"size": 50}
    settings = {**sizes, **({"alpha": 0.7, "beta": 0.5} if "Prioritized" in name else {})}
    own, host = (getattr(module, name)(**settings) for module in (ours, tianshou.data))
    rng, leading = np.random.default_rng(0), number or (1 if options else None)
    for step in range(200):
        rows = batch(rng, leading)
        if columns == "nested":
            rows.obs, rows.obs_next = (Batch(a=x, b=Batch(c=x[..., 0])) for x in (rows.obs, rows.obs_next))
        elif columns == "objects":
            rows.info = Batch(name=np.array([f"{step}"] * leading, object) if leading else f"{step}")
        elif columns == "tensors":
            rows.policy = Batch(hidden=torch.from_numpy(rng.normal(size=(*((leading,) if leading else ()), 2))))
        ids = dict(options)
        if number and step % 3 == 0:
            ids = {"buffer_ids": np.sort(rng.choice(number, 2, replace=False))}
            rows = rows[ids["buffer_ids"]]
        if step == 100:  # another column comes up
            rows.info.more = rng.normal(size=len(ids.get("buffer_ids", range(leading or 1)))) if leading else 1.0
        for mine, other in zip(own.add(rows, **ids), host.add(rows, **ids)):
            np.testing.assert_array_equal(mine, other)
        everything = host.sample_indices(0)
        np.testing.assert_array_equal(own.sample_indices(0), everything)
        np.testing.assert_array_equal(own.prev(everything), host.prev(everything))
        np.testing.assert_array_equal(own.next(everything), host.next(everything))
        np.testing.assert_array_equal(own.unfinished_index(), host.unfinished_index())
        if step % 20 in (0, 1):
            assert_same(own[everything], host[everything])
            if not number and step > 60:  # else these positions are not written yet
                assert_same(own[-2:], host[-2:])
                np.testing.assert_array_equal(own[np.array([-1, 0])].rew, host.rew[[-1, 0]])
    drawn, index = own.sample(2000)
    assert_same(drawn, host[index]) if "Prioritized" not in name else np.testing.assert_array_equal(drawn.obs, host[index].obs)
    counts = np.bincount(index, minlength=own.maxsize)
    assert counts[everything].min() > 0
    for again in (copy.deepcopy(own), pickle.loads(pickle.dumps(own))):
        assert_same(again[everything], own[everything])


def last_observations(**options: Any) -> tuple[Any, Any]:
    """Ours and the host's, of observations 0 to 3 whose third is a time limit's last, and 10 to 12, broken off."""
    made = ours.ReplayBuffer(8, ignore_obs_next=True, **options), HostReplayBuffer(8, ignore_obs_next=True, **options)
    steps = [(0, False, False), (1, False, False), (2, False, True), (10, False, False), (11, False, False), (20, True, False)]
    for buffer in made:
        for obs, terminated, truncated in steps:
            row = np.array([obs], float)
            buffer.add(Batch(obs=row, act=0, rew=1.0, terminated=terminated, truncated=truncated, obs_next=row + 1, info={}))
    return made


def test_ignored_next_observations_are_those_that_were_added() -> None:
    own, host = last_observations()
    assert host[:].obs_next[:, 0].tolist() == [1, 2, 2, 11, 20, 20]
    assert own[:].obs_next[:, 0].tolist() == [1, 2, 3, 11, 12, 21]
    assert own[2].obs_next.tolist() == [3]
    assert "obs_next" not in own._meta
    stacked, _ = last_observations(stack_num=2)
    assert stacked[:].obs_next[..., 0].tolist() == [[0, 1], [1, 2], [2, 3], [10, 11], [11, 12], [20, 21]]
    for again in (copy.deepcopy(own), pickle.loads(pickle.dumps(own))):
        assert again[:].obs_next[:, 0].tolist() == [1, 2, 3, 11, 12, 21]
    for obs in (21.0, 22.0, 23.0, 24.0):  # the ring goes round: what was kept of positions that are written again is gone
        own.add(Batch(obs=np.array([obs]), act=0, rew=1.0, terminated=False, truncated=False, obs_next=np.array([obs + 1]), info={}))
    assert own[np.arange(8)].obs_next[:, 0].tolist() == [24, 25, 3, 11, 12, 21, 22, 23]


@pytest.mark.parametrize("nested", [False, True])
def test_a_whole_vector_of_ignored_next_observations(nested: bool) -> None:
    def observed(state: Any) -> Any:
        return Batch(a=state, b=Batch(c=state[:, 0])) if nested else state

    rng = np.random.default_rng(0)
    own = ours.VectorReplayBuffer(60, 3, ignore_obs_next=True, stack_num=1)
    full = HostVector(60, 3)
    state = rng.normal(size=(3, 2))
    for _ in range(100):
        ends, limits = rng.random((2, 3)) < 0.1
        rows = Batch(
            obs=observed(state),
            act=np.zeros(3),
            rew=np.ones(3),
            terminated=ends,
            truncated=limits & ~ends,
            obs_next=observed(state + 1.0),
            info={},
        )
        own.add(rows)
        full.add(rows)
        state = np.where((ends | limits)[:, None], rng.normal(size=(3, 2)), state + 1.0)
    index = full.sample_indices(0)
    assert_same(Batch(found=own[index].obs_next), Batch(found=full[index].obs_next))


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
@pytest.mark.parametrize("made", [HostReplayBuffer, ours.ReplayBuffer, functools.partial(ours.ReplayBuffer, ignore_obs_next=True)])
def test_a_time_limit_bootstraps_and_a_terminal_step_does_not(
    installed: Any, made: Any, terminated: bool, truncated: bool, expected: float
) -> None:
    """Through the host's own `compute_nstep_return` and `compute_episodic_return`: two steps, rewards of 1, next values of 8."""
    import torch

    buffer = made(10)
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


def row(count: int | None = None) -> Batch:
    return batch(np.random.default_rng(0), count)


def filled() -> Any:
    buffer = ours.ReplayBuffer(5)
    buffer.add(row())
    return buffer


def vector() -> Any:
    buffer = ours.VectorReplayBuffer(9, 3)
    buffer.add(row(3))
    return buffer


def added(**changes: Any) -> None:
    """Nothing of a row with a mistake is stored."""
    buffer, rows = filled(), row()
    rows.update(changes)
    try:
        buffer.add(rows)
    finally:
        assert len(buffer) == 1
        assert buffer.last_index.tolist() == [0]


def pixels(value: float) -> None:
    """An image between 0 and 1 after one of bytes."""
    buffer = ours.ReplayBuffer(5)
    for pixel in (np.zeros(3, np.uint8), np.full(3, value)):
        step = row()
        step.update(obs=pixel, obs_next=pixel)
        buffer.add(step)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: ours.SegmentTree(3).__setitem__(3, 1.0), IndexError, "index is 3, expected 0 to 2"),
        (lambda: ours.SegmentTree(3).__setitem__(0, -1.0), ValueError, "weight is -1"),
        (lambda: ours.SegmentTree(3).__setitem__(0, np.nan), NonFiniteError, "weight is nan"),
        (lambda: ours.SegmentTree(3)[1.5], DTypeError, "index is 1.5, expected an integer"),
        (lambda: ours.SegmentTree(3).get_prefix_sum_idx(0.0), ValueError, "all weights are zero"),
        (lambda: ours.SegmentTree(3).reduce(0, 4), ValueError, "end is 4, expected 0 to 3"),
        (lambda: added(obs=np.zeros(4)), ShapeError, r"add: obs has shape \[4\], expected \[3\]"),
        (lambda: added(terminated=np.zeros(2, bool)), ShapeError, r"add: terminated has shape \[2\]"),
        (lambda: filled().add({"obs": 1}), DTypeError, "add: batch is a dict, expected a tianshou.data.Batch"),
        (lambda: filled().add(Batch(obs=1, act=1, rew=1.0, terminated=False)), ValueError, "add: batch has no truncated"),
        (lambda: filled().add(row(), buffer_ids=[1]), ValueError, r"add: buffer_ids is \[1\], expected None or \[0\]"),
        (lambda: vector().add(row(2), buffer_ids=[0, 3]), ValueError, r"buffer_ids is \[0, 3\], expected 0 to 2"),
        (lambda: vector().add(row(2), buffer_ids=[1, 1]), ValueError, "expected each subbuffer once"),
        (lambda: vector().add(row(2)), ShapeError, r"rew has shape \[2\], expected \[3\], a row for each of buffer_ids"),
        (lambda: added(rew=np.nan), NonFiniteError, "add: rew is nan, expected finite numbers"),
        (lambda: pixels(0.5), DTypeError, "add: obs has dtype float64, expected uint8"),
        (lambda: ours.ReplayBuffer(5).add(row(2)), ShapeError, r"terminated has shape \[2\], .* single buffer; give buffer_ids=\[0\]"),
        (lambda: ours.ReplayBuffer(5, alpha=0.6), SettingError, "ReplayBuffer: alpha is given, expected ignore_obs_next"),
        (lambda: ours.VectorReplayBuffer(5, 2, ignore_obs_next=3), DTypeError, "ignore_obs_next is 3, expected True or False"),
        (lambda: ours.ReplayBuffer(5, stack_num=0), ValueError, "stack_num is 0, expected at least 1"),
        (lambda: pairs(False)[0].set_beta(-1), SettingError, "set_beta: beta is -1"),
        (lambda: pairs(False)[0].update_weight([0], None), DTypeError, "update_weight: new_weight is None, expected numbers"),
        (lambda: ours.ReplayBuffer(5).sample(2), ValueError, "batch_size is 2, and nothing is stored"),
        (lambda: filled().sample(2.5), DTypeError, "batch_size is 2.5, expected an integer"),
        (lambda: ours.ReplayBuffer(-1), ValueError, "ReplayBuffer: size is -1, expected at least 0"),
        (lambda: ours.VectorReplayBuffer(2, 3), ValueError, "VectorReplayBuffer: total_size is 2, expected at least 3"),
        (lambda: ours.VectorReplayBuffer(2, 0), ValueError, "buffer_num is 0, expected at least 1"),
        (lambda: ours.PrioritizedReplayBuffer(5, 0, 0.4), SettingError, "PrioritizedReplayBuffer: alpha is 0, expected a positive number"),
        (lambda: ours.PrioritizedVectorReplayBuffer(6, 3, alpha=0.6, beta=-1), SettingError, "beta is -1"),
        (lambda: pairs(False)[0].update_weight([0], [1.0, 2.0]), ShapeError, "new_weight has 2 elements, index has 1"),
        (lambda: pairs(False)[0].update_weight([0], [np.nan]), NonFiniteError, "new_weight has nan, expected finite numbers"),
        (lambda: ours.gae(ONES[:2], ONES, ONES, ONES, 0.9, 0.9), ShapeError, r"gae: v_s has shape \[2\], expected \[T\], that of rew"),
        (lambda: ours.gae(ONES, ONES, ONES, ONES, 2, 0.9), ValueError, r"gamma is 2, expected a number in \[0, 1\]"),
        (lambda: ours.nstep_return(ONES, ONES, ONES, ONES, 0.9, 3), ShapeError, r"target_q_IA has shape \[3\], expected \[I, A\]"),
        (lambda: ours.nstep_return(ONES, ONES, ONES[:, None], np.zeros((2, 3), int), 0.9, 3), ShapeError, r"= \[3, 3\]"),
    ],
)
def test_mistakes(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
