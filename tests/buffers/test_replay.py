"""The replay buffer by hand: windows, draws, errors, memory, state. The state machine beside this file covers the rest."""

from __future__ import annotations

import gc
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, Text
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import stats

from pyrl import _core
from pyrl.buffers import PrioritizedReplayBuffer, ReplayBuffer, RolloutBuffer
from pyrl.errors import DTypeError, NonFiniteError, ShapeError, SpaceError

OBSERVATION, ACTION = Box(-9, 9, (2,), np.float32), Discrete(3)


def filled(count: int, *, capacity: int = 64, end_every: int = 0, num_envs: int = 1, make: Any = ReplayBuffer, **options: Any) -> Any:
    """Observation t has the value t; reward t; every ``end_every``-th transition terminates."""
    buffer = make(capacity, OBSERVATION, ACTION, num_envs=num_envs, **options)
    for t in range(count):
        ended = np.full(num_envs, bool(end_every) and (t + 1) % end_every == 0)
        here, there = (np.full((num_envs, 2), x, np.float32) for x in (t + 0.5 * bool(end_every and t % end_every == 0), t + 1))
        buffer.add(here, np.full(num_envs, t % 3), np.full(num_envs, float(t)), there, ended, np.zeros(num_envs, bool))
    return buffer


def snapshot(buffer: ReplayBuffer) -> dict[str, bytes]:
    return {k: repr(v).encode() if k == "options" else np.asarray(v).tobytes() for k, v in buffer.state_dict().items()}


def test_stores_each_observation_once() -> None:
    buffer = filled(10)
    assert len(buffer) == 10
    batch = buffer.get(np.arange(10))
    np.testing.assert_array_equal(batch.observation[:, 0], np.arange(10))
    np.testing.assert_array_equal(batch.next_observation[:, 0], np.arange(1, 11))
    assert buffer.state_dict()["heads"].tolist() == [11]  # ten transitions and the pending observation
    assert buffer.nbytes < 64 * (4 + 8 + 8 + 16) + 64


def test_n_step_by_hand() -> None:
    buffer = filled(6, n_step=3, gamma=0.5, end_every=5)
    batch = buffer.get(np.array([0, 3, 4, 6]))  # slot 5 is the tail of the first episode; record 6 is its successor
    np.testing.assert_allclose(batch.reward, [0 + 0.5 * 1 + 0.25 * 2, 3 + 0.5 * 4, 4, 5])
    np.testing.assert_array_equal(batch.terminated, [False, True, True, False])
    np.testing.assert_allclose(batch.discount, [0.125, 0, 0, 0.5])
    np.testing.assert_array_equal(batch.next_observation[:, 0], [3, 5, 5, 6])


def test_a_manual_reset_cuts_the_stream() -> None:
    buffer = filled(3, n_step=5, gamma=0.5)
    buffer.add(np.float32([[7, 7]]), [1], [1.0], np.float32([[8, 8]]), [False], [False])
    batch = buffer.get(np.array([2]))
    assert batch.reward == 2
    assert batch.discount == 0.5
    assert not batch.terminated
    assert [e["ended"] for e in buffer.episodes()] == ["cut", None]


@pytest.mark.parametrize(("padding", "first"), [("repeat", [0.5, 0.5, 0.5]), ("zero", [0, 0, 0.5])])
def test_frame_stack_by_hand(padding: Any, first: list[float]) -> None:
    buffer = filled(5, frame_stack=3, stack_padding=padding, end_every=4)
    batch = buffer.get(np.array([0, 2, 5]))
    assert batch.observation.shape == (3, 3, 2)
    np.testing.assert_array_equal(batch.observation[0, :, 0], first)
    np.testing.assert_array_equal(batch.observation[1, :, 0], [0.5, 1, 2])
    np.testing.assert_array_equal(batch.next_observation[1, :, 0], [1, 2, 3])
    np.testing.assert_array_equal(batch.observation[2, -1], [4.5, 4.5])


def test_dead_steps_are_not_stored() -> None:
    buffer = ReplayBuffer(20, OBSERVATION, ACTION, num_envs=2)
    zeros, flags = np.zeros((2, 2), np.float32), np.zeros(2, bool)
    buffer.add(zeros, [0, 1], [1.0, np.nan], zeros + 1, flags, flags, valid=np.array([True, False]))
    assert len(buffer) == 1
    assert buffer.episodes()[0]["env"] == 0


def test_indices_go_stale_and_never_return() -> None:
    buffer = filled(100, capacity=16)
    assert len(buffer) == 15
    assert not buffer.is_drawable(np.array([0, 84, 100, -1])).any()
    assert buffer.is_drawable(np.array([85, 99])).all()
    with pytest.raises(ValueError, match=r"get: index\[0\] is 84, a record that is no longer \(or not\) drawable"):
        buffer.get(np.array([84, 99]))
    old = buffer.sample(1).index
    buffer.clear()
    assert len(buffer) == 0
    assert not buffer.is_drawable(old)[0]


@pytest.mark.parametrize("size", [1, 2, 3, 1000])
@pytest.mark.parametrize("num_envs", [1, 3])
def test_uniform(size: int, num_envs: int) -> None:
    """Chi-square over every drawable record, with tails and holes between them."""
    fresh = os.environ.get("PYRL_FRESH_SEEDS") == "1"
    seed = int.from_bytes(os.urandom(4), "little") if fresh else 7
    buffer = filled(size, capacity=3 * size * num_envs, end_every=2, num_envs=num_envs, seed=seed)
    counts: dict[int, int] = {}
    batch = None
    for _ in range(max(20, 200_000 // len(buffer))):
        batch = buffer.sample(len(buffer), out=batch)
        for index in batch.index.tolist():
            counts[index] = counts.get(index, 0) + 1
    assert len(counts) == len(buffer) == size * num_envs
    if len(counts) > 1:
        assert stats.chisquare(list(counts.values())).pvalue > (1e-6 if fresh else 1e-4)


def test_draws_depend_on_the_seed_alone() -> None:
    def draws(seed: int, threads: int = 1, level: int = 2) -> np.ndarray:
        before = _core.simd_level()
        _core.set_num_threads(threads)
        _core.set_simd_level(level)
        try:
            buffer = filled(50_000, capacity=60_000, end_every=7, seed=seed)
            return np.concatenate([buffer.sample(20_000).index for _ in range(3)])
        finally:
            _core.set_num_threads(0)
            _core.set_simd_level(before)

    once = draws(1)
    for threads, level in ((1, 0), (1, 1), (2, 2), (4, 2)):
        np.testing.assert_array_equal(draws(1, threads, level), once)
    assert (draws(2) != once).any()


def test_epoch_and_distinct_draws_meet_each_record_once() -> None:
    buffer = filled(50, end_every=7, num_envs=2, capacity=200)
    batches = list(buffer.epoch(16))
    assert [len(b.index) for b in batches] == [16] * 6 + [4]
    assert len({i for b in batches for i in b.index.tolist()}) == 100
    assert len(list(buffer.epoch(16, drop_last=True))) == 6
    assert len(set(buffer.sample(100, replacement=False).index.tolist())) == 100


@settings(max_examples=150, deadline=None)
@given(
    width=st.integers(1, 600),
    num_envs=st.sampled_from([1, 2, 15, 16, 17, 40]),
    second_leaf=st.booleans(),
    level=st.integers(0, 2),
    seed=st.integers(0, 2**16),
)
@example(width=16 * 1024 + 7, num_envs=64, second_leaf=False, level=2, seed=0)  # rows that bypass the caches
@example(width=16 * 1024, num_envs=65, second_leaf=True, level=0, seed=0)
def test_observations_of_every_width_are_compared_and_stored(width: int, num_envs: int, second_leaf: bool, level: int, seed: int) -> None:
    """Where one byte of an observation is not what was announced, a new episode begins; steps that are not valid leave no trace."""
    rng = np.random.default_rng(seed)
    leaf = Box(0, 255, (width,), np.uint8)
    buffer = ReplayBuffer(6 * num_envs, Dict({"a": leaf, "b": OBSERVATION}) if second_leaf else leaf, ACTION, num_envs=num_envs)
    first, second, third = rng.integers(0, 256, (3, num_envs, width), np.uint8)
    other = np.zeros((num_envs, 2), np.float32)
    reward, action, never = rng.normal(size=(2, num_envs)).astype(np.float32), rng.integers(0, 3, (2, num_envs)), np.zeros(num_envs, bool)
    changed, valid = rng.random(num_envs) < 0.3, rng.random(num_envs) < 0.8
    reward[1, ~valid] = np.nan
    announced = second.copy()
    announced[changed, rng.integers(0, width, changed.sum())] ^= np.uint8(1 << rng.integers(8))

    def leaves(x: np.ndarray) -> Any:
        return {"a": x, "b": other} if second_leaf else x

    before = _core.simd_level()
    _core.set_simd_level(level)
    try:
        buffer.add(leaves(first), action[0], reward[0], leaves(announced), never, never)
        buffer.add(leaves(second), action[1], reward[1], leaves(third), never, never, valid=valid)
        batch = buffer.sample(len(buffer), replacement=False)
    finally:
        _core.set_simd_level(before)
    assert len(buffer) == num_envs + valid.sum()
    where = {index: i for i, index in enumerate(batch.index.tolist())}
    observation, following = ((x["a"] if second_leaf else x) for x in (batch.observation, batch.next_observation))
    for env in range(num_envs):
        steps = [(0, 0, first, announced)] + [(2 if changed[env] else 1, 1, second, third)] * bool(valid[env])
        for position, step, here, there in steps:
            i = where.pop(position * num_envs + env)
            np.testing.assert_array_equal(observation[i], here[env])
            np.testing.assert_array_equal(following[i], there[env])
            assert (batch.reward[i], batch.action[i]) == (reward[step, env], action[step, env])
    assert not where


def test_out_is_filled_in_place_numpy_and_torch() -> None:
    buffer = filled(30)
    batch = buffer.sample(8)
    where = batch.observation.ctypes.data
    again = buffer.sample(8, out=batch)
    assert again is batch
    assert batch.observation.ctypes.data == where
    tensors = filled(30, kind="torch").sample(8)
    assert isinstance(tensors.observation, torch.Tensor)
    address = tensors.reward.data_ptr()
    assert filled(30, seed=3).sample(8, out=tensors) is tensors
    assert tensors.reward.data_ptr() == address
    np.testing.assert_array_equal(tensors.observation[:, 0].numpy(), tensors.reward.numpy())
    with pytest.raises(ShapeError, match=r"out.observation has shape \[8, 2\], expected \[B, ...\] = \[9, 2\]"):
        buffer.sample(9, out=batch)


def test_dtypes_are_kept_and_harmless_ones_converted() -> None:
    space = Dict({"a": Box(0, 255, (3,), np.uint8), "b": Box(-1, 1, (2,), np.float64), "c": Box(-1, 1, (2,), np.float16)})
    buffer = ReplayBuffer(8, space, Discrete(3), extra={"mask": ((2,), bool)})
    one = {"a": np.arange(3, dtype=np.uint8), "b": np.array([0.1, 0.2]), "c": np.array([0.5, 0.25], np.float16)}
    buffer.add(one, 2, 1, one, False, np.bool_(False), mask=np.array([True, False]))
    batch = buffer.sample(1)
    for key, leaf in one.items():
        assert batch.observation[key].dtype == leaf.dtype
        np.testing.assert_array_equal(batch.observation[key][0], leaf)
    assert batch.action.dtype == np.int64
    assert batch.reward.dtype == np.float32
    assert batch.extra["mask"].tolist() == [[True, False]]
    floats = ReplayBuffer(8, OBSERVATION, Box(-1, 1, (1,)))
    floats.add([[0.1, 0.2]], [[0.3]], np.array([2]), np.array([[1.0, 2.0]]), [False], [False])  # lists and float64 are rounded
    assert floats.sample(1).observation.tolist() == np.float32([[0.1, 0.2]]).tolist()
    strided = np.zeros((1, 4), np.float32)[:, ::2]
    floats.add(torch.zeros(1, 2), strided[:, :1], 0.0, strided, False, False)
    assert len(floats) == 2


ROW = (np.zeros((2, 2), np.float32), np.zeros(2, np.int64), np.zeros(2), np.ones((2, 2), np.float32), np.zeros(2, bool), np.zeros(2, bool))


@pytest.mark.parametrize(
    ("place", "value", "error", "message"),
    [
        (0, np.zeros((2, 3), np.float32), ShapeError, r"add: observation has shape \[2, 3\], expected \[N, ...\] = \[2, 2\]"),
        (0, np.zeros(2, np.float32), ShapeError, "add: observation has shape"),
        (0, np.zeros((2, 2), np.complex64), DTypeError, "add: observation has dtype complex64, expected float32"),
        (0, None, DTypeError, "add: observation is a NoneType, expected a NumPy array or a torch tensor"),
        (1, np.zeros(2, np.float32), DTypeError, "add: action has dtype float32, expected int64"),
        (1, np.zeros((2, 1), np.int64), ShapeError, "add: action has shape"),
        (2, np.array([0.0, np.nan]), NonFiniteError, "add: reward of environment 1 is nan, expected a finite number"),
        (2, np.array([np.inf, 0.0]), NonFiniteError, "add: reward of environment 0 is inf"),
        (2, np.zeros(3), ShapeError, "add: reward has shape"),
        (3, np.zeros((1, 2), np.float32), ShapeError, "add: next_observation has shape"),
        (4, np.zeros(2), DTypeError, "add: terminated has dtype float64, expected bool"),
        (5, np.zeros(1, bool), ShapeError, "add: truncated has shape"),
        (0, torch.zeros(2, 2, requires_grad=True), ValueError, "add: observation requires grad"),
    ],
)
def test_a_bad_row_is_named_and_changes_nothing(place: int, value: Any, error: type[Exception], message: str) -> None:
    buffer = filled(5, num_envs=2)
    before = snapshot(buffer)
    row = list(ROW)
    row[place] = value
    with pytest.raises(error, match=message):
        buffer.add(*row)
    assert snapshot(buffer) == before
    with pytest.raises(ValueError, match=r"add: extra columns are \['colour'\], expected \[\]"):
        buffer.add(*ROW, colour=np.zeros(2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"capacity": 0}, "capacity is 0, expected at least 2 slots"),
        ({"capacity": 10, "num_envs": 6}, "capacity is 10, expected at least 12 slots"),
        ({"capacity": 7, "n_step": 5, "frame_stack": 3}, "capacity is 7, expected at least 8"),
        ({"num_envs": 0}, "num_envs is 0"),
        ({"n_step": 0}, "n_step is 0"),
        ({"frame_stack": 0}, "frame_stack is 0"),
        ({"gamma": 1.1}, "gamma is 1.1"),
        ({"stack_padding": "mirror"}, "stack_padding is 'mirror', expected one of repeat, zero"),
        ({"linked": False, "n_step": 2}, "linked=False stores transitions without order"),
        ({"capacity": 2**61}, "more than memory can hold"),
        ({"capacity": 2**45}, "^ReplayBuffer: capacity is 35184372088832, about 524288 GiB, more than memory can hold"),
        ({"gamma": None}, "^ReplayBuffer: gamma is None, expected a number"),
        ({"linked": "no"}, "^ReplayBuffer: linked is 'no', expected True or False"),
        ({"seed": None}, "^seed is None, expected an integer"),
        ({"seed": 0.5}, "^seed is 0.5, expected an integer"),
        ({"extra": ["log_prob"]}, r"^ReplayBuffer: extra is \['log_prob'\], expected the shape of a row and a dtype by name"),
        ({"extra": {"x": "float32"}}, "^ReplayBuffer: extra is {'x': 'float32'}, expected the shape of a row and a dtype by name"),
        ({"extra": {"x": ((), "blah")}}, "^ReplayBuffer: extra is .*, expected the shape of a row and a dtype by name"),
        ({"observation_space": Dict({"a": Dict({})})}, r"^ReplayBuffer: observation_space\['a'\] is Dict\(\), expected at least one entry"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, DTypeError, MemoryError), match=message):
        ReplayBuffer(**{"capacity": 64, "observation_space": OBSERVATION, "action_space": ACTION, **options})


def test_bad_draws() -> None:
    buffer = filled(5)
    for size, message in ((6, "batch_size is 6, but only 5 transitions are stored"), (0, "batch_size is 0"), (-1, "batch_size is -1")):
        with pytest.raises(ValueError, match=message):
            buffer.sample(size, replacement=False)
    with pytest.raises(DTypeError, match=r"batch_size is 2\.5, expected an integer"):
        buffer.sample(2.5)  # type: ignore[arg-type]
    with pytest.raises(DTypeError, match="out is a tuple, expected a Batch"):
        buffer.sample(2, out=(OBSERVATION, ACTION))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="but only 0 transitions are stored"):
        ReplayBuffer(64, OBSERVATION, ACTION).sample(1)


@pytest.mark.parametrize("kind", [ReplayBuffer, PrioritizedReplayBuffer])
@pytest.mark.parametrize("stored", [1, 2, 3, 5, 40])
def test_with_replacement_whatever_is_drawable_is_drawn(kind: type[ReplayBuffer], stored: int) -> None:
    """Batches larger than what is stored, into memory of the caller too; each transition about equally often."""
    buffer = filled(stored, make=kind)
    batch = buffer.sample(400)
    assert buffer.sample(400, out=batch) is batch
    names, counts = np.unique(batch.index, return_counts=True)
    assert buffer.is_drawable(names).all()
    assert len(names) == len(buffer) == stored
    assert counts.min() > 400 / stored / 10
    np.testing.assert_array_equal(batch.reward, buffer.get(batch.index).reward)


@pytest.mark.parametrize("space", [2, 2.0, "Discrete(2)", None, np.zeros(2, np.float32), Discrete, Text(3)])
def test_what_is_no_space_is_named(space: Any) -> None:
    said = re.escape(repr(space))
    actions = "Box, Discrete, MultiDiscrete or MultiBinary"
    observations = "Box, Discrete, MultiDiscrete, MultiBinary, Dict or Tuple"
    with pytest.raises(SpaceError, match=f"^ReplayBuffer: action_space is {said}, expected {actions}$"):
        ReplayBuffer(64, OBSERVATION, space)
    with pytest.raises(SpaceError, match=f"^ReplayBuffer: observation_space is {said}, expected {observations}$"):
        ReplayBuffer(64, space, ACTION)
    with pytest.raises(SpaceError, match=r"^ReplayBuffer: action_space is Dict"):
        ReplayBuffer(64, OBSERVATION, Dict({"a": ACTION}))
    with pytest.raises(SpaceError, match=r"^RolloutBuffer: action_space is"):
        RolloutBuffer(4, 2, OBSERVATION, space)
    with pytest.raises(SpaceError, match=r"^RolloutBuffer: observation_space is"):
        RolloutBuffer(4, 2, space, ACTION)
    nested = SimpleNamespace(spaces={"a": OBSERVATION, "b": SimpleNamespace(spaces=(ACTION, space))})
    with pytest.raises(SpaceError, match=rf"^ReplayBuffer: observation_space\['b'\]\[1\] is {said}, expected"):
        ReplayBuffer(64, nested, ACTION)


def test_state_round_trip_and_refusals() -> None:
    buffer = filled(40, capacity=32, end_every=5, num_envs=2, n_step=3)
    buffer.sample(8)
    state = buffer.state_dict()
    other = filled(3, capacity=32, num_envs=2, n_step=3)
    other.load_state_dict(state)
    for _ in range(3):
        a, b = buffer.sample(16), other.sample(16)
        for field in ("observation", "action", "reward", "next_observation", "terminated", "discount", "index"):
            assert getattr(a, field).tobytes() == getattr(b, field).tobytes()
    small = filled(3, capacity=30, num_envs=2)
    before = snapshot(small)
    with pytest.raises(ValueError, match="the state is of a buffer with capacity 32, this one has 30"):
        small.load_state_dict(state)
    assert snapshot(small) == before


def damaged(state: dict[str, Any], name: str, place: tuple[int, ...], value: int) -> dict[str, Any]:
    array = state[name].copy()
    array[place] = value
    return {**state, name: array}


def test_a_damaged_state_is_refused_and_changes_nothing() -> None:
    """A checkpoint is a file from elsewhere: none may crash, hang, or leave half of itself behind."""
    buffer = filled(9, capacity=64, end_every=5, num_envs=2, n_step=3)  # 9 transitions, one tail, one pending: 11 slots a lane
    state, before = buffer.state_dict(), snapshot(buffer)
    assert state["flags"].shape == (2, 11)
    bad: list[tuple[dict[str, Any], str]] = [
        ({k: v for k, v in state.items() if k != "heads"}, "heads is missing"),
        ({k: v for k, v in state.items() if k != "random"}, "random is missing"),
        ({**state, "options": {**state["options"], "n_step": 1}}, "of a buffer with n_step 1, this one has 3"),
        ({**state, "options": {}}, "of a buffer with capacity None"),
        (
            {k: v[:, :10] if k == "flags" or k.startswith("column.") else v for k, v in state.items()},
            "heads and the number of written slots of lane 0 are impossible",
        ),
        ({**state, "flags": state["flags"][:1]}, r"flags has shape \[1, 11\]"),
        ({**state, "column.reward": state["column.reward"][:, :10]}, r"column.reward has shape \[2, 10, 4\]"),
        (damaged(state, "heads", (1,), -1), "origins and heads of lane 1"),
        (damaged(state, "heads", (0,), 2**62), "origins and heads of lane 0"),
        (damaged(state, "heads", (0,), 12), "heads and the number of written slots of lane 0"),
        (damaged(state, "heads", (0,), 10), "flags of the newest slot of lane 0"),
        (damaged(state, "origins", (0,), 1), "origins and heads of lane 0"),
        (damaged(state, "flags", (1, 3), 128), "flags of lane 1"),
        (damaged(state, "flags", (1, 10), 3), "flags of the newest slot of lane 1"),
        (damaged(state, "flags", (1, 9), 0), "flags of the newest transition of lane 1"),
        (damaged(state, "pending", (0,), 0), "pending marks of lane 0"),
        (damaged(state, "pending", (0,), 7), "pending marks of lane 0"),
    ]
    for wrong, message in bad:
        with pytest.raises(ValueError, match=message):
            buffer.load_state_dict(wrong)
        assert snapshot(buffer) == before
    with pytest.raises(DTypeError, match="heads has dtype float64, expected int64"):
        buffer.load_state_dict({**state, "heads": state["heads"].astype(float)})
    empty = ReplayBuffer(64, OBSERVATION, ACTION, num_envs=2, n_step=3)
    with pytest.raises(ValueError, match="pending marks of lane 0"):
        empty.load_state_dict(damaged(empty.state_dict(), "pending", (0,), 1))
    buffer.load_state_dict(damaged(state, "flags", (0, 0), state["flags"][0, 0] & 0xFD))  # what can be drawn follows from the rest
    assert len(buffer) == 18


@pytest.mark.parametrize("kind", [ReplayBuffer, PrioritizedReplayBuffer])
def test_a_state_of_another_rank_is_refused(kind: Any) -> None:
    """Also where there are as many numbers: one environment, one record of one number."""
    buffer = kind(4, Box(-1, 1, (1,), np.float32), Discrete(2))
    buffer.add(
        np.zeros((1, 1), np.float32), np.zeros(1, np.int64), np.zeros(1), np.ones((1, 1), np.float32), np.zeros(1, bool), np.zeros(1, bool)
    )
    state = buffer.state_dict()
    arrays = {name: array for name, array in state.items() if isinstance(array, np.ndarray)}
    assert len(arrays) > 6
    for name, array in arrays.items():
        for other in (array[None], array[..., None], array.reshape(array.shape[1:])):
            with pytest.raises(ValueError, match=f"load_state_dict: {name}"):
                buffer.load_state_dict(state | {name: other})
    buffer.load_state_dict(state)


def test_threads_may_share_a_buffer() -> None:
    """Concurrent adds and draws: every drawn window is one that was added whole."""
    buffer = filled(200, capacity=256)
    stop = threading.Event()
    failures: list[str] = []

    def draw() -> None:
        while not stop.is_set():
            batch = buffer.sample(64)
            if not (batch.next_observation[:, 0] - batch.observation[:, 0] == 1).all():
                failures.append("torn window")

    threads = [threading.Thread(target=draw) for _ in range(2)]
    for thread in threads:
        thread.start()
    for t in range(200, 5000):
        buffer.add(np.full((1, 2), t, np.float32), [0], [0.0], np.full((1, 2), t + 1, np.float32), [False], [False])
    stop.set()
    for thread in threads:
        thread.join()
    assert not failures


@pytest.fixture
def switches_often() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def run_together(*bodies: Callable[[], None], seconds: float = 300.0) -> None:
    """A thread each; fails, and does not hang, if they wait for each other for ever."""
    failures: list[BaseException] = []

    def guarded(body: Callable[[], None]) -> None:
        try:
            body()
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=guarded, args=(body,), daemon=True) for body in bodies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(seconds)
        assert not thread.is_alive(), "deadlock"
    if failures:
        raise failures[0]


@pytest.mark.usefixtures("switches_often")
def test_threads_that_add_converted_rows_do_not_mix_them() -> None:
    """float64 and strided rows go through memory of the call's own, while NumPy lets other threads run."""
    space = Box(-9, 9, (32,), np.float32)
    buffer = ReplayBuffer(20_000, space, space)

    def adding(value: float) -> None:
        wide, strided = np.full((1, 32), value), np.full((1, 64), value, np.float32)[:, ::2]
        for _ in range(3000):
            buffer.add(wide, strided.astype(np.float16), value, strided, False, False)

    run_together(*(partial(adding, float(value)) for value in range(3)))
    batch = buffer.sample(len(buffer), replacement=False)
    assert len(buffer) == 9000
    for leaf in (batch.observation, batch.action):
        np.testing.assert_array_equal(leaf, np.repeat(batch.reward[:, None], 32, axis=1))


@pytest.mark.usefixtures("switches_often")
def test_nothing_that_threads_call_together_deadlocks() -> None:
    buffer = filled(500, capacity=4000)
    rounds = range(300)

    def adding() -> None:
        for t in rounds:
            for _ in range(5):
                buffer.add(np.full((1, 2), t, np.float32), [0], [0.0], np.full((1, 2), t + 1, np.float32), [False], [False])

    def looking() -> None:
        for _ in rounds:
            buffer.load_state_dict(buffer.state_dict())
            buffer.episodes()
            buffer.is_drawable(np.arange(100))
            [[] for _ in range(100)]

    def drawing_and_clearing() -> None:
        for t in rounds:
            with suppress(ValueError):  # fewer are left than were asked for
                list(buffer.epoch(500))
                buffer.sample(64)
            if t % 10 == 0:
                buffer.clear()

    before = gc.get_threshold()
    gc.set_threshold(1)  # each allocation of the core's may run a finaliser and let another thread in
    try:
        run_together(adding, looking, drawing_and_clearing)
    finally:
        gc.set_threshold(*before)


@pytest.mark.parametrize("size", [3, 400, 1000])
def test_distinct_draws_are_uniform(size: int) -> None:
    """Each record is in a batch of `size` of 1000 equally often, by either way of drawing."""
    buffer = filled(1000, capacity=2000, end_every=3, seed=11)
    counts = np.zeros(2000, int)
    rounds = 60_000 // size
    for _ in range(rounds):
        index = buffer.sample(size, replacement=False).index
        assert len(set(index.tolist())) == size
        counts[index] += 1
    names = np.flatnonzero(buffer.is_drawable(np.arange(2000)))
    assert counts.sum() == counts[names].sum()
    if size == 1000:
        assert (counts[names] == rounds).all()
    else:  # the variance of draws without replacement is smaller by (N - n) / (N - 1)
        expected = rounds * size / 1000
        statistic = ((counts[names] - expected) ** 2).sum() / expected * 999 / (1000 - size)
        assert 1e-4 < stats.chi2.sf(statistic, 999) < 1 - 1e-4


def test_pairs_of_distinct_draws_are_uniform() -> None:
    """The repeated elements of small batches are drawn again without favouring anything: all ordered pairs of 8 equally often."""
    buffer = filled(8, capacity=30, end_every=2, seed=5)
    names = np.flatnonzero(buffer.is_drawable(np.arange(30)))
    pairs: dict[tuple[int, ...], int] = {}
    for _ in range(30_000):
        pair = tuple(buffer.sample(2, replacement=False).index.tolist())
        pairs[pair] = pairs.get(pair, 0) + 1
    assert len(pairs) == len(names) * (len(names) - 1) == 56
    assert stats.chisquare(list(pairs.values())).pvalue > 1e-4


def test_integers_are_converted_only_if_they_fit() -> None:
    buffer = ReplayBuffer(20, OBSERVATION, MultiBinary(2))
    zeros = np.zeros((1, 2), np.float32)
    buffer.add(zeros, np.array([[0, 1]]), np.int32(3), zeros, np.array([2], np.uint8), np.False_)
    assert buffer.get(np.array([0])).action.tolist() == [[0, 1]]
    assert buffer.get(np.array([0])).reward.tolist() == [3]
    assert buffer.state_dict()["flags"][0, 0] & 8
    with pytest.raises(ValueError, match="add: action has values that int8 does not hold"):
        buffer.add(zeros, np.array([[0, 300]]), 0.0, zeros, False, False)
    whole = ReplayBuffer(20, OBSERVATION, ACTION)
    for action in (2**70, -(2**70)):
        with pytest.raises(ValueError, match=f"add: action is {action}, more than int64 holds"):
            whole.add(zeros, action, 0.0, zeros, False, False)
    with pytest.raises(NonFiniteError, match="add: reward of environment 0 is inf"):
        whole.add(zeros, 0, 1e300, zeros, False, False)
    assert len(whole) == 0


def test_options_of_the_wrong_kind_are_named() -> None:
    for name in ("capacity", "num_envs", "n_step", "frame_stack"):
        with pytest.raises(DTypeError, match=rf"ReplayBuffer: {name} is 2\.5, expected an integer"):
            ReplayBuffer(**{"capacity": 64, "observation_space": OBSERVATION, "action_space": ACTION, name: 2.5})
    with pytest.raises(ValueError, match="extra has a column named 'reward', which is an argument of add"):
        ReplayBuffer(64, OBSERVATION, ACTION, extra={"reward": ((), "float32")})
    with pytest.raises(ShapeError, match="observation has 7 dimensions, at most 6 are supported"):
        ReplayBuffer(64, Box(-1, 1, (1,) * 7, np.float32), ACTION)
