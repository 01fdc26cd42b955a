"""A buffer on a GPU, on a device that the CPU simulates: what callers see. test_replay_machine.py does everything else to it."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from test_replay import filled

from pyrl import ops
from pyrl.buffers import PrioritizedReplayBuffer, ReplayBuffer
from pyrl.errors import DeviceError, NonFiniteError

OBSERVATION, ACTION = Box(-9, 9, (2,), np.float32), Discrete(3)
PLACES = pytest.mark.parametrize("host_copy", [False, True])


@pytest.fixture
def simulated():
    """While this lasts, device="simulated" is one."""
    with patch("pyrl.buffers.replay._device", str):
        yield {"device": "simulated"}


def same(a: Any, b: Any) -> None:
    for field in ("observation", "action", "reward", "next_observation", "terminated", "discount", "index"):
        np.testing.assert_array_equal(getattr(a, field), getattr(b, field))


@PLACES
def test_batches_are_the_cpus(simulated, host_copy):
    options = {"capacity": 128, "end_every": 7, "num_envs": 2, "n_step": 3, "frame_stack": 2}
    here, there = filled(90, **options), filled(90, **options, **simulated, host_copy=host_copy)
    assert len(here) == len(there)
    for replacement in (True, False, True):
        same(here.sample(20, replacement=replacement), there.sample(20, replacement=replacement))
    for a, b in zip(here.epoch(16), there.epoch(16), strict=True):
        same(a, b)
    batch = there.sample(8)
    where = batch.observation.ctypes.data
    assert there.sample(8, out=batch) is batch
    assert batch.observation.ctypes.data == where
    here.sample(8)
    same(batch, here.sample(8))
    same(there.get(batch.index), batch)


@PLACES
def test_states_move_between_places(simulated, host_copy):
    options = {"capacity": 32, "end_every": 5, "num_envs": 2, "n_step": 3}
    here, there = filled(40, **options), filled(3, **options, **simulated, host_copy=host_copy)
    here.sample(5)
    there.load_state_dict(here.state_dict())
    same(here.sample(9), there.sample(9))
    back = filled(2, **options)
    back.load_state_dict(there.state_dict())
    same(here.sample(9), back.sample(9))
    for name, array in here.state_dict().items():
        np.testing.assert_array_equal(np.asarray(array, object), np.asarray(back.state_dict()[name], object))
    for buffer in (here, there):  # the stream goes on where it was, as if nothing had been in between
        buffer.add(
            np.full((2, 2), 40.5, np.float32), np.zeros(2, np.int64), np.zeros(2), np.full((2, 2), 41, np.float32), *np.zeros((2, 2), bool)
        )
    np.testing.assert_array_equal(here.state_dict()["flags"], there.state_dict()["flags"])


@PLACES
def test_the_bytes_that_are_copied_are_those_of_new_records(simulated, host_copy):
    """Reward, action and next observation, 4 bytes of header a row; the observation only where the host does not know it is there."""
    buffer = filled(0, num_envs=2, **simulated, host_copy=host_copy)
    record, observation, header = 4 + 8 + 8, 8, 4

    def add(value: float, valid: list[bool] | None = None) -> int:
        before = buffer.bytes_copied
        rows = np.full((2, 2), value, np.float32), np.zeros(2, np.int64), np.zeros(2), np.full((2, 2), value + 1, np.float32)
        buffer.add(*rows, *np.zeros((2, 2), bool), valid=None if valid is None else np.array(valid))
        buffer.flush()
        return buffer.bytes_copied - before

    whole, linked = header + record + observation, header + record + (0 if host_copy else observation)
    assert add(0) == 2 * whole
    assert add(1) == 2 * linked
    assert add(5) == 2 * whole
    assert add(6, valid=[True, False]) == linked + header
    assert add(7) == linked + whole  # the second lane's stream broke when its row was left out
    before = buffer.bytes_copied
    buffer.sample(5)
    buffer.flush()
    assert buffer.bytes_copied == before


@PLACES
def test_a_bad_reward_changes_nothing(simulated, host_copy):
    buffer = filled(5, num_envs=2, **simulated, host_copy=host_copy)
    before = buffer.state_dict()
    rows = np.zeros((2, 2), np.float32)
    with pytest.raises(NonFiniteError, match="add: reward of environment 1 is nan"):
        buffer.add(rows, np.zeros(2, np.int64), np.array([0, np.nan]), rows, *np.zeros((2, 2), bool))
    after = buffer.state_dict()
    assert all(np.array_equal(before[k], after[k]) for k in before if k not in ("options", "random"))
    assert buffer.skipped_rows == 0


@PLACES
def test_errors_are_the_cpus(simulated, host_copy):
    buffer = filled(5, **simulated, host_copy=host_copy)
    for size, message in ((6, "batch_size is 6, but only 5 transitions are stored"), (0, "batch_size is 0")):
        with pytest.raises(ValueError, match=message):
            buffer.sample(size)
    with pytest.raises(ValueError, match="get: 1 of 2 records are no longer"):
        buffer.get(np.array([0, 99]))
    buffer.clear()
    with pytest.raises(ValueError, match="but only 0 transitions are stored"):
        buffer.sample(1)


@PLACES
def test_priorities_are_the_cpus(simulated, host_copy):
    def made(**where: Any) -> PrioritizedReplayBuffer:
        return PrioritizedReplayBuffer(40, OBSERVATION, ACTION, num_envs=2, alpha=0.7, seed=3, **where)

    here, there = made(), made(**simulated, host_copy=host_copy)
    rng = np.random.default_rng(1)
    for t in range(60):
        rows = rng.integers(0, 3, (2, 2)).astype(np.float32)
        step = rows, np.zeros(2, np.int64), np.zeros(2), rows + 1, rng.random(2) < 0.2, np.zeros(2, bool)
        here.add(*step)
        there.add(*step)
        a, b = here.sample(2), there.sample(2)
        same(a, b)
        np.testing.assert_array_equal(a.weight, b.weight)
        index, priority = np.append(a.index, 10**6), rng.random(3) * (t % 5)
        here.update_priorities(index, priority)
        there.update_priorities(index, priority)
        np.testing.assert_array_equal(here.priorities(index), there.priorities(index))
    assert here.total_priority == there.total_priority
    assert there.stale_updates == here.stale_updates == 60
    assert there.refused_updates == 0
    for value, error in ((np.nan, NonFiniteError), (-1.0, ValueError)):
        with pytest.raises(error, match="priority of element 0 is"):
            there.update_priorities(index[:1], np.array([value]))
    other = made(**simulated, host_copy=not host_copy)
    other.load_state_dict(there.state_dict())
    a, b = here.sample(9), other.sample(9)
    same(a, b)
    np.testing.assert_array_equal(a.weight, b.weight)


def test_devices_that_cannot_be():
    with pytest.raises(DeviceError, match="ReplayBuffer: device is 'metal', expected 'cpu' or 'cuda'"):
        ReplayBuffer(64, OBSERVATION, ACTION, device="metal")
    with pytest.raises(ValueError, match="host_copy is True, and device is 'cpu', expected a GPU"):
        ReplayBuffer(64, OBSERVATION, ACTION, host_copy=True)
    if not ops.cuda_built():
        with pytest.raises(
            DeviceError, match=r"device is 'cuda', and this build of pyrl has no CUDA; build it with PYRL_CUDA=ON \(docs/cuda.md\)"
        ):
            ReplayBuffer(64, OBSERVATION, ACTION, device="cuda")
    elif not torch.cuda.is_available():
        with pytest.raises(DeviceError, match=r"device is 'cuda:1', and torch finds no GPU \(docs/cuda.md\)"):
            ReplayBuffer(64, OBSERVATION, ACTION, device=torch.device("cuda", 1))
