"""A buffer on a GPU as its callers see it: the CPU's batches, errors and trainings."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete
from test_replay import filled
from test_replay_machine import on_host

import pyrl
from pyrl.buffers import PrioritizedReplayBuffer, ReplayBuffer
from pyrl.errors import NonFiniteError

OBSERVATION, ACTION = Box(-9, 9, (2,), np.float32), Discrete(3)
PLACES = pytest.mark.parametrize("host_copy", [False, True])


def same(a: Any, b: Any) -> None:
    a, b = on_host(a), on_host(b)
    for field in ("observation", "action", "reward", "next_observation", "terminated", "discount", "index"):
        np.testing.assert_array_equal(getattr(a, field), getattr(b, field))


@PLACES
def test_batches_are_the_cpus(host_copy):
    options = {"capacity": 128, "end_every": 7, "num_envs": 2, "n_step": 3, "frame_stack": 2}
    here, there = filled(90, **options), filled(90, **options, device="cuda", host_copy=host_copy)
    assert len(here) == len(there)
    for replacement in (True, False, True):
        same(here.sample(20, replacement=replacement), there.sample(20, replacement=replacement))
    for a, b in zip(here.epoch(16), there.epoch(16), strict=True):
        same(a, b)
    batch = there.sample(8)
    assert there.sample(8, out=batch) is batch
    here.sample(8)
    same(batch, here.sample(8))
    same(there.get(batch.index), batch)


@PLACES
def test_states_move_between_places(host_copy):
    options = {"capacity": 32, "end_every": 5, "num_envs": 2, "n_step": 3}
    here, there = filled(40, **options), filled(3, **options, device="cuda", host_copy=host_copy)
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
def test_the_bytes_that_are_copied_are_those_of_new_records(host_copy):
    """Reward, action and next observation, 4 bytes of header a row; the observation only where the host does not know it is there."""
    buffer = filled(0, num_envs=2, device="cuda", host_copy=host_copy)
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
def test_a_bad_reward_changes_nothing(host_copy):
    buffer = filled(5, num_envs=2, device="cuda", host_copy=host_copy)
    before = buffer.state_dict()
    rows = np.zeros((2, 2), np.float32)
    with pytest.raises(NonFiniteError, match="add: reward of environment 1 is nan"):
        buffer.add(rows, np.zeros(2, np.int64), np.array([0, np.nan]), rows, *np.zeros((2, 2), bool))
    after = buffer.state_dict()
    assert all(np.array_equal(before[k], after[k]) for k in before if k not in ("options", "random"))
    assert buffer.skipped_rows == 0


@PLACES
def test_errors_are_the_cpus(host_copy):
    buffer = filled(5, device="cuda", host_copy=host_copy)
    for size, message in ((6, "batch_size is 6, but only 5 transitions are stored"), (0, "batch_size is 0")):
        with pytest.raises(ValueError, match=message):
            buffer.sample(size, replacement=False)
    assert len(buffer.sample(6).reward) == 6
    with pytest.raises(ValueError, match=r"get: index\[1\] is 99, a record that is no longer"):
        buffer.get(np.array([0, 99]))
    buffer.clear()
    with pytest.raises(ValueError, match="but only 0 transitions are stored"):
        buffer.sample(1)


@PLACES
def test_priorities_are_the_cpus(host_copy):
    def made(**where: Any) -> PrioritizedReplayBuffer:
        return PrioritizedReplayBuffer(40, OBSERVATION, ACTION, num_envs=2, alpha=0.7, seed=3, **where)

    here, there = made(), made(device="cuda", host_copy=host_copy)
    rng = np.random.default_rng(1)
    for t in range(60):
        rows = rng.integers(0, 3, (2, 2)).astype(np.float32)
        step = rows, np.zeros(2, np.int64), np.zeros(2), rows + 1, rng.random(2) < 0.2, np.zeros(2, bool)
        here.add(*step)
        there.add(*step)
        a, b = here.sample(2), there.sample(2)
        same(a, b)
        np.testing.assert_array_equal(a.weight, b.weight.cpu())
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
    other = made(device="cuda", host_copy=not host_copy)
    other.load_state_dict(there.state_dict())
    a, b = here.sample(9), other.sample(9)
    same(a, b)
    np.testing.assert_array_equal(a.weight, b.weight.cpu())


@pytest.mark.parametrize(
    ("algo", "env", "options"),
    [("dqn", "CartPole-v1", {"n_step": 3}), ("dqn", "CartPole-v1", {"prioritized": True, "clip_reward": 0.5}), ("sac", "Pendulum-v1", {})],
)
def test_where_the_replay_lies_does_not_change_a_training(monkeypatch, algo, env, options):
    """The networks on the CPU, so that only the replay differs."""
    options = {"total_steps": 400, "run_dir": False, "num_envs": 2, "learning_starts": 50, "batch_size": 16, "net_arch": (8,), **options}
    here = pyrl.train(algo, env, seed=3, **options)
    agent = type(here.agent)
    monkeypatch.setattr(agent, "storage", lambda self, storage=agent.storage: dataclasses.replace(storage(self), device="cuda"))
    for kind in (ReplayBuffer, PrioritizedReplayBuffer):
        monkeypatch.setattr(kind, "sample", lambda buffer, size, out=None, sample=kind.sample: on_host(sample(buffer, size)))
    there = pyrl.train(algo, env, seed=3, **options)
    assert here.agent.updates > 50
    for name, weight in here.agent.state_dict()["model"].items():
        np.testing.assert_array_equal(weight.numpy(), there.agent.state_dict()["model"][name].numpy(), err_msg=name)
