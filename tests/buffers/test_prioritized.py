"""Prioritized draws: their distribution, weights, drift, errors, state. The state machine beside this file covers the rest."""

from __future__ import annotations

import math
import os
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from scipy import stats

from pyrl.buffers import PrioritizedReplayBuffer
from pyrl.errors import DTypeError, NonFiniteError, ShapeError

SEED = int.from_bytes(os.urandom(4), "little") if os.environ.get("PYRL_FRESH_SEEDS") else 5


def filled(capacity: int, count: int | None = None, **options: Any) -> PrioritizedReplayBuffer:
    """``count`` transitions without order, added a few thousand at a time."""
    count = capacity if count is None else count
    lanes = math.gcd(math.gcd(capacity, count), 4096) if capacity > 4096 else 1
    buffer = PrioritizedReplayBuffer(capacity, Box(-1, 1, (1,)), Discrete(2), num_envs=lanes, linked=False, seed=SEED, **options)
    row, off = np.zeros((lanes, 1), np.float32), np.zeros(lanes, bool)
    for _ in range(count // lanes):
        buffer.add(row, np.zeros(lanes, np.int64), np.zeros(lanes), row, off, off)
    return buffer


@pytest.mark.parametrize("capacity", [1, 3, 7, 1000, 2**20 - 1, 2**20, 2**20 + 1])
def test_draws_follow_the_priorities(capacity: int) -> None:
    """A million draws with priorities over six decades: each record's share, by chi-square, where enough are expected of it."""
    buffer = filled(capacity, alpha=1.0, epsilon=1e-12)
    names = np.arange(capacity)
    random = np.random.default_rng(SEED)
    priority = 10.0 ** random.uniform(-3, 3, capacity)
    priority[random.random(capacity) < 0.1] = 1e-9  # next to never
    buffer.update_priorities(names, priority)
    batch_size = min(capacity, 10_000)
    draws = -(-1_000_000 // batch_size)
    counts = np.zeros(capacity)
    for _ in range(draws):
        np.add.at(counts, buffer.sample(batch_size).index, 1)
    # Neighbours share a bin until a hundred draws are expected of it.
    expected = priority / priority.sum() * draws * batch_size
    bins = np.floor(np.cumsum(expected) / 100).astype(np.int64)
    observed, wanted = np.bincount(bins, counts), np.bincount(bins, expected)
    keep = wanted > 20
    observed = np.append(observed[keep], observed[~keep].sum())
    wanted = np.append(wanted[keep], wanted[~keep].sum())
    chi2 = float(((observed - wanted) ** 2 / np.maximum(wanted, 1e-9))[wanted > 5].sum())
    # Stratified draws vary less than independent ones, so only the upper tail is an error.
    assert chi2 < stats.chi2.ppf(1 - 1e-6, max(1, len(observed) - 1))
    assert counts[priority < 1e-6].sum() <= 5 + 10 * expected[priority < 1e-6].sum()


def test_every_stratum_is_drawn_from() -> None:
    """With equal priorities a batch as large as the buffer draws each record about once: never fewer than a stratum allows."""
    buffer = filled(1024)
    index = np.sort(buffer.sample(1024).index)
    assert np.abs(index - np.arange(1024)).max() <= 1


def test_records_that_cannot_be_drawn_are_never_drawn() -> None:
    """Tails, pending slots, overwritten records and lone survivors among zeros, for every capacity."""
    for capacity in (2, 3, 15, 16, 17, 255, 256, 257, 300):
        buffer = PrioritizedReplayBuffer(capacity, Box(-9, 9, (1,)), Discrete(2), seed=SEED)
        random = np.random.default_rng(capacity)
        for t in range(3 * capacity):
            here, there = (np.full((1, 1), x, np.float32) for x in (t, t + 1))
            buffer.add(here, np.zeros(1, np.int64), np.zeros(1), there, random.random(1) < 0.4, np.zeros(1, bool))
            index = buffer.sample(len(buffer)).index if len(buffer) else np.zeros(0, np.int64)
            assert buffer.is_drawable(index).all()
            buffer.update_priorities(index, 10.0 ** random.uniform(-150, 3, len(index)))


def test_the_root_does_not_drift() -> None:
    """It is the exact sum within 1e-12 after 10^6 updates of six decades; PYRL_EXAMPLES=100000 makes them 10^7."""
    buffer = filled(100_003)
    random = np.random.default_rng(SEED)
    updates = 100 * int(os.environ.get("PYRL_EXAMPLES", "10000"))
    names = np.arange(100_003)
    for _ in range(updates // 1000):
        buffer.update_priorities(random.integers(0, 100_003, 1000), 10.0 ** random.uniform(-3, 3, 1000))
        if random.random() < 0.1:
            buffer.sample(16)
    assert buffer.total_priority == pytest.approx(math.fsum(buffer.priorities(names).tolist()), rel=1e-12)


def test_weights_by_hand() -> None:
    buffer = filled(4, alpha=1.0, beta=0.5, epsilon=1e-9)
    buffer.update_priorities(np.arange(4), np.array([1.0, 2.0, 4.0, 8.0]))
    batch = buffer.sample(4)
    p = np.array([1.0, 2.0, 4.0, 8.0])[batch.index]
    np.testing.assert_allclose(batch.weight, (p / p.min()) ** -0.5, rtol=1e-5)
    buffer.weights_over = "buffer"
    batch = buffer.sample(4)
    np.testing.assert_allclose(batch.weight, np.array([1.0, 2.0, 4.0, 8.0])[batch.index] ** -0.5, rtol=1e-5)
    buffer.beta = 0.0
    np.testing.assert_array_equal(buffer.sample(4).weight, np.ones(4))


def test_a_new_record_gets_the_largest_priority_there_is() -> None:
    buffer = filled(8, 3, alpha=1.0, epsilon=1e-9)
    np.testing.assert_allclose(buffer.priorities(np.arange(3)), 1.0)
    buffer.update_priorities(np.arange(3), np.array([0.5, 7.0, 2.0]))

    def add() -> None:
        row, off = np.zeros((1, 1), np.float32), np.zeros(1, bool)
        buffer.add(row, np.zeros(1, np.int64), np.zeros(1), row, off, off)

    add()
    assert buffer.priorities(np.array([3]))[0] == pytest.approx(7.0)
    buffer.update_priorities(np.array([1, 3]), np.array([0.1, 0.2]))  # nobody has 7 any more
    add()
    assert buffer.priorities(np.array([4]))[0] == pytest.approx(2.0)
    for _ in range(7):  # record 2, and then 4, are overwritten
        add()
    assert buffer.priorities(np.array([11]))[0] == pytest.approx(2.0)


def test_late_updates_are_dropped_and_counted() -> None:
    buffer = filled(4, 6)
    buffer.update_priorities(np.array([0, 1, 4, -3, 99]), np.full(5, 3.0))
    assert buffer.stale_updates == 4
    assert buffer.priorities(np.array([0]))[0] == 0.0
    assert buffer.priorities(np.array([4]))[0] == pytest.approx((3.0 + 1e-6) ** 0.6)


@pytest.mark.parametrize(
    ("index", "priority", "error", "message"),
    [
        (np.array([0]), np.array([-1.0]), ValueError, "priority of element 0 is -1, expected at least 0"),
        (np.array([0, 1]), np.array([1.0, np.nan]), NonFiniteError, "priority of element 1 is nan"),
        (np.array([0]), np.array([np.inf], np.float32), NonFiniteError, "priority of element 0 is inf"),
        (np.array([0, 1]), np.array([1.0]), ShapeError, r"priority has shape \[1\], expected \[B\] = \[2\]"),
        (np.array([0.0]), np.array([1.0]), DTypeError, "index has dtype float64, expected int64"),
        (np.array([0]), np.array([1]), DTypeError, "priority has dtype int64, expected float32 or float64"),
    ],
)
def test_bad_updates_change_nothing(index: np.ndarray, priority: np.ndarray, error: type, message: str) -> None:
    buffer = filled(8)
    before = buffer.priorities(np.arange(8))
    with pytest.raises(error, match=message):
        buffer.update_priorities(index, priority)
    np.testing.assert_array_equal(buffer.priorities(np.arange(8)), before)
    assert buffer.stale_updates == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": 1.5}, r"alpha is 1.5, expected a number in \[0, 1\]"),
        ({"beta": -0.1}, r"beta is -0.1, expected"),
        ({"epsilon": 0.0}, r"epsilon is 0.0, expected a positive number"),
        ({"weights_over": "all"}, "weights_over is 'all', expected one of batch, buffer"),
    ],
)
def test_bad_options(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        filled(8, **options)


def test_bad_draws() -> None:
    buffer = filled(8)
    with pytest.raises(ValueError, match="batch_size is 9, but only 0 transitions are stored"):
        filled(8, 0).sample(9)
    with pytest.raises(ValueError, match="replacement is False, expected True"):
        buffer.sample(2, replacement=False)
    batch = buffer.sample(4)
    batch.weight = None
    with pytest.raises(ValueError, match=r"out\.weight is None"):
        buffer.sample(4, out=batch)


def test_state_gives_the_same_draws() -> None:
    buffer = filled(50, 73)
    buffer.update_priorities(np.arange(30, 73), np.random.default_rng(0).random(43))
    again = filled(50, 0)
    again.load_state_dict(buffer.state_dict())
    for _ in range(3):
        ours, theirs = buffer.sample(20), again.sample(20)
        np.testing.assert_array_equal(ours.index, theirs.index)
        np.testing.assert_array_equal(ours.weight, theirs.weight)
    assert buffer.total_priority == again.total_priority
    state = buffer.state_dict()
    state["priorities"] = state["priorities"] * 0
    with pytest.raises(ValueError, match="priorities"):
        again.load_state_dict(state)
    assert buffer.total_priority == again.total_priority


def test_torch_batches_and_out() -> None:
    buffer = filled(64, kind="torch")
    batch = buffer.sample(16)
    assert isinstance(batch.weight, torch.Tensor)
    address = batch.weight.data_ptr()
    assert buffer.sample(16, out=batch) is batch
    assert batch.weight.data_ptr() == address
    buffer.update_priorities(batch.index, torch.rand(16))
