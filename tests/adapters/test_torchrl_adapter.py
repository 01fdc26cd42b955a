"""TorchRL's samplers and returns on pyrl's kernels, in its own replay buffers and against its own functions (0.14.1,
`pip install 'pyrl[torchrl]'`).

Of TorchRL's tests of `PrioritizedSampler` those of its trees are left out: they read `_sum_tree` and `_min_tree`.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pyrl.errors import DeviceError, DTypeError, NonFiniteError, SettingError, ShapeError

pytest.importorskip("torchrl", reason="torchrl is not installed: pip install 'pyrl[torchrl]'")

from tensordict import TensorDict
from torchrl.data import LazyTensorStorage, ReplayBuffer, TensorDictReplayBuffer
from torchrl.data.replay_buffers.samplers import PrioritizedSampler as HostSampler
from torchrl.data.replay_buffers.samplers import prioritized as host_trees
from torchrl.objectives.value import functional as host

from pyrl.adapters import torchrl as ours
from pyrl.adapters.torchrl import PrioritizedSampler, RandomSampler

HOST_SAMPLERS = [HostSampler] if host_trees.SumSegmentTreeFp32 is not None else []


def rows(count: int) -> TensorDict:
    return TensorDict({"obs": torch.arange(count).float(), "td_error": torch.arange(count) + 0.5}, [count])


def counted(buffer: Any, draws: int, size: int) -> np.ndarray:
    return np.bincount(buffer.sample(draws)["obs"].long().flatten().numpy(), minlength=size)


def test_uniform_draws_over_the_hosts_storages() -> None:
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(50), sampler=RandomSampler())
    buffer.extend(rows(20), update_priority=False)
    counts = counted(buffer, 20_000, 20)
    assert counts.shape == (20,)
    assert counts.min() > 800
    two = ReplayBuffer(storage=LazyTensorStorage(40, ndim=2), sampler=RandomSampler(), dim_extend=1)
    two.extend(TensorDict({"obs": torch.arange(40).view(4, 10)}, [4, 10]))
    assert set(two.sample(2000)["obs"].tolist()) == set(range(40))
    with pytest.raises(RuntimeError, match="storage is empty"):
        TensorDictReplayBuffer(storage=LazyTensorStorage(5), sampler=RandomSampler()).sample(3)


@pytest.mark.parametrize("within", [False, True])
@pytest.mark.parametrize(("alpha", "beta"), [(0.7, 0.5), (0.0, 1.0), (1.0, 0.0), (1.3, 1.2)])
def test_priorities_weights_and_defaults_are_the_hosts(alpha: float, beta: float, within: bool) -> None:
    """By the host's formulas; and by the host itself where its C++ extension loads, which depends on the version of torch."""
    options = {"alpha": alpha, "beta": beta, "eps": 1e-3, "max_priority_within_buffer": within}
    expected = np.array([*(np.arange(20) + 0.5), *(10 * [19.5])])  # new ones: the largest so far
    expected[[3, 4]] = 40, 0
    expected = (expected + 1e-3) ** alpha
    for made in (PrioritizedSampler, *HOST_SAMPLERS):
        sampler = made(30, **options)
        buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(30), sampler=sampler, priority_key="td_error", batch_size=4000)
        buffer.extend(rows(20).exclude("td_error"))
        assert (buffer.sample()["priority_weight"] == 1).all()
        buffer.update_tensordict_priority(rows(20).set("index", torch.arange(20)))
        buffer.update_priority(torch.arange(20, 30), torch.full((10,), 19.5))
        if alpha or not within:
            assert float(sampler.default_priority) == pytest.approx(19.5, rel=1e-5)
        buffer.extend(rows(10).exclude("td_error"))
        buffer.update_priority(torch.tensor(3), 40.0)
        buffer.update_priority(torch.tensor([4, -1]), torch.tensor([0.0, 1e9]))  # -1 is left out
        data = buffer.sample()
        weight = (expected / expected.min()) ** -beta
        np.testing.assert_allclose(data["priority_weight"], weight[data["index"]], rtol=1e-4)
        if alpha or not within:
            assert float(sampler.default_priority) == pytest.approx(40, rel=1e-5)
        counts = np.bincount(data["index"], minlength=30)
        tolerance = 2 if made is PrioritizedSampler else 200  # ours are stratified
        np.testing.assert_allclose(counts, 4000 * expected / expected.sum(), atol=tolerance)


def test_the_hosts_writes_overwrite_and_empty() -> None:
    sampler = PrioritizedSampler(8, alpha=1.0, beta=1.0)
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(8), sampler=sampler, priority_key="td_error", batch_size=64)
    buffer.extend(rows(8))
    buffer.update_tensordict_priority(rows(8).set("index", torch.arange(8)))
    buffer.update_priority(torch.tensor([0]), torch.tensor([1e6]))
    assert set(buffer.sample()["index"].tolist()) == {0}
    for row in rows(3).exclude("td_error"):  # the first three again: each the largest so far
        buffer.add(row)
    assert set(buffer.sample()["index"].tolist()) == {0, 1, 2}
    buffer.empty()
    with pytest.raises(RuntimeError, match="storage is empty"):
        buffer.sample()
    assert sampler.default_priority == 1.0


def test_trajectories_in_two_dimensions() -> None:
    sampler = PrioritizedSampler(40, alpha=1.0, beta=1.0)
    buffer = TensorDictReplayBuffer(
        storage=LazyTensorStorage(40, ndim=2), sampler=sampler, priority_key="td_error", batch_size=400, dim_extend=1
    )
    buffer.extend(TensorDict({"obs": torch.arange(40).view(4, 10), "td_error": torch.ones(4, 10)}, [4, 10]))
    data = buffer.sample()
    assert set(data["obs"].flatten().tolist()) == set(range(40))
    index = torch.tensor([[2, 3]])
    sampler.update_priority(index, 1e9, storage=buffer._storage)
    assert set(buffer.sample()["obs"].flatten().tolist()) == {int(buffer._storage.get((2, 3))["obs"])}


def test_alpha_can_be_annealed() -> None:
    sampler = PrioritizedSampler(4, alpha=1.0, beta=1.0)
    sampler.update_priority(torch.arange(3), torch.tensor([1.0, 4.0, 9.0]))
    sampler.alpha = 0.5
    np.testing.assert_allclose(sampler.state_dict()["tree"], [1, 2, 3, 0], rtol=1e-6)


def test_states_files_and_generators(tmp_path: Path) -> None:
    storage = LazyTensorStorage(6)
    storage.set(torch.arange(6), rows(6))
    sampler = PrioritizedSampler(6, alpha=0.8, beta=0.3)
    sampler.update_priority(torch.arange(6), torch.arange(6) + 0.25)
    sampler.dumps(tmp_path / "sampler")
    others = [PrioritizedSampler(6, alpha=0.1, beta=0.9) for _ in range(2)]
    others[0].loads(tmp_path / "sampler")
    others[1].load_state_dict(sampler.state_dict())
    others.append(pickle.loads(pickle.dumps(sampler)))
    drawn = []
    for each in (sampler, *others):
        each._rng = torch.Generator().manual_seed(3)  # as the host's buffers hand it down
        index, info = each.sample(storage, 100)
        drawn.append((index, info["priority_weight"]))
        assert each.default_priority == 5.25
    for index, weight in drawn[1:]:
        torch.testing.assert_close(index, drawn[0][0])
        torch.testing.assert_close(weight, drawn[0][1])


def returns(shape: tuple[int, ...], dtype: torch.dtype = torch.float64) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(len(shape))
    numbers = {name: torch.randn(shape, dtype=dtype, generator=generator) for name in ("state_value", "next_state_value", "reward")}
    done = torch.rand(shape, generator=generator) < 0.2
    return {**numbers, "done": done, "terminated": done & (torch.rand(shape, generator=generator) < 0.5)}


NEAR = {"rtol": 1e-4, "atol": 1e-5}  # the host's discounts are float32, whatever the dtype
SHAPES = [
    ((4, 50, 1), -2),
    ((50, 3), -2),
    ((50, 3), 0),
    ((4, 50), -1),
    ((2, 3, 50, 2), 2),
    ((2, 50, 3, 2), 1),
    ((2, 50, 3, 2), -3),
    ((1, 1, 1), -2),
]


@pytest.mark.parametrize(("shape", "time_dim"), SHAPES, ids=str)
@pytest.mark.parametrize("with_terminated", [True, False])
def test_gae_is_the_hosts(shape: tuple[int, ...], time_dim: int, with_terminated: bool) -> None:
    data = returns(shape)
    if not with_terminated:
        data.pop("terminated")
    own = ours.generalized_advantage_estimate(0.97, 0.9, **data, time_dim=time_dim)
    for mine, other in zip(own, host.generalized_advantage_estimate(0.97, 0.9, **data, time_dim=time_dim)):
        assert mine.is_contiguous()
        torch.testing.assert_close(mine, other, **NEAR)


@pytest.mark.parametrize("shape", [(4, 50, 1), (50, 3), (2, 3, 50, 2)], ids=str)
def test_vtrace_is_the_hosts(shape: tuple[int, ...]) -> None:
    data = returns(shape)
    after = data["state_value"].roll(-1, -2)
    data["next_state_value"] = torch.where(data["done"], data["next_state_value"], after)  # they agree within an episode
    log_mu = -torch.rand(shape, dtype=torch.float64)
    call = (0.97, log_mu + 0.3 * data["reward"], log_mu, *data.values())
    for limits in ((1.0, 1.0), (torch.tensor(0.9), 1.2)):
        for mine, other in zip(ours.vtrace_advantage_estimate(*call, *limits), host.vtrace_advantage_estimate(*call, *limits)):
            torch.testing.assert_close(mine, other, **NEAR)
    time_first = [x.movedim(-2, 0) if isinstance(x, torch.Tensor) else x for x in call]
    for mine, other in zip(ours.vtrace_advantage_estimate(*time_first, time_dim=0), host.vtrace_advantage_estimate(*call)):
        torch.testing.assert_close(mine.movedim(0, -2), other, **NEAR)


def test_a_time_limit_bootstraps_and_a_terminal_step_does_not() -> None:
    """By hand: two steps of one episode worth 1 each, next values of 10, gamma 0.5; the second step ends it."""
    one, done = torch.ones(2, 1), torch.tensor([[False], [True]])
    call = (0.5, 1.0, 0 * one, 10 * one, one, done)
    for terminated, expected in ((~done & False, [1 + 0.5 * 10 + 0.5 * 6, 6.0]), (done, [6 + 0.5 * 1, 1.0]), (None, [6.5, 1.0])):
        advantage, _ = ours.generalized_advantage_estimate(*call, terminated)
        assert advantage.flatten().tolist() == expected


def test_dtypes() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        data = returns((4, 50, 1), dtype)
        for mine, other in zip(
            ours.generalized_advantage_estimate(0.97, 0.9, **data), host.generalized_advantage_estimate(0.97, 0.9, **data)
        ):
            assert mine.dtype == dtype
            if dtype is torch.float32:
                torch.testing.assert_close(mine, other, **NEAR)


def gae(**changes: Any) -> None:
    ours.generalized_advantage_estimate(**{"gamma": 0.9, "lmbda": 0.9, **returns((4, 5, 1)), **changes})


def made(**changes: Any) -> PrioritizedSampler:
    return PrioritizedSampler(**{"max_capacity": 4, "alpha": 0.5, "beta": 0.5, **changes})


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: made(alpha=-1), SettingError, "PrioritizedSampler: alpha is -1, expected a non-negative number"),
        (lambda: made(beta=-1), SettingError, "beta is -1"),
        (lambda: made(eps=0), SettingError, "eps is 0, expected a positive number"),
        (lambda: made(dtype=torch.int64), DTypeError, "dtype is torch.int64, expected torch.float32 or torch.float64"),
        (lambda: made(device="cuda"), DeviceError, "device is cuda, expected the CPU"),
        (lambda: made(max_capacity=0), ValueError, "max_capacity is 0"),
        (lambda: made().update_priority([5], 1.0), ValueError, "update_priority: element 0 of index is 5, expected 0 to 3"),
        (lambda: made().update_priority([0, 1], [1.0, -1.0]), ValueError, "update_priority: element 1 of priority is -1"),
        (lambda: made().update_priority([0], torch.nan), NonFiniteError, "update_priority: element 0 of priority is nan"),
        (lambda: made().update_priority([0, 1], [1.0, 1.0, 1.0]), ShapeError, "priority has 3 elements, index has 2"),
        (lambda: made().update_priority([[0, 1]], 1.0), ShapeError, r"index has shape \[1, 2\], which needs storage"),
        (lambda: made().load_state_dict({}), ValueError, "state_dict has no 'alpha'"),
        (lambda: made().load_state_dict(made(max_capacity=5).state_dict()), ShapeError, r"tree has shape \[5\], expected \[4\]"),
        (lambda: gae(gamma=2), SettingError, r"gamma is 2.0, expected a number in \[0, 1\]"),
        (lambda: gae(lmbda=torch.ones(3)), DTypeError, "lmbda is tensor.*, expected a number"),
        (lambda: gae(reward=torch.ones(4, 5)), ShapeError, r"reward has shape \[4, 5\], expected \[4, 5, 1\], that of next_state_value"),
        (lambda: gae(done=np.ones(3)), DTypeError, "done is a ndarray, expected a tensor"),
        (lambda: gae(state_value=torch.ones(4, 5, 1, requires_grad=True)), DTypeError, "state_value requires grad"),
        (lambda: gae(time_dim=3), ShapeError, r"time_dim is 3, and next_state_value has shape \[4, 5, 1\]"),
    ],
)
def test_mistakes(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
