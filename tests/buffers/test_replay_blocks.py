"""Blocks of steps, other windows, deletion, and sizes told beforehand: by hand. The state machine covers what they do."""

from __future__ import annotations

import pickle
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete

from pyrl import _core
from pyrl.buffers import PrioritizedReplayBuffer, ReplayBuffer, Window
from pyrl.errors import DTypeError, NonFiniteError, ShapeError

OBSERVATION, ACTION = Box(-9, 9, (2,), np.float32), Discrete(3)


def filled(count: int, capacity: int = 64) -> ReplayBuffer:
    """Observation t has the value t; reward t; no episode ends."""
    buffer = ReplayBuffer(capacity, OBSERVATION, ACTION)
    for t in range(count):
        buffer.add(np.full(2, t), 0, float(t), np.full(2, t + 1.0), False, False)
    return buffer


def test_a_forecast_is_what_is_reserved() -> None:
    """For every kind of layout; the constructor's own errors come from it too."""
    for space in (OBSERVATION, Box(0, 255, (30, 30), np.uint8), Dict({"a": Discrete(3), "b": Box(-1, 1, (300,))})):
        for kind in (ReplayBuffer, PrioritizedReplayBuffer):
            for linked in (True, False):
                options: Any = {"num_envs": 3, "linked": linked, "extra": {"log_prob": ((), "float32")}}
                assert kind.forecast(1000, space, ACTION, **options) == kind(1000, space, ACTION, **options).nbytes
    assert ReplayBuffer.forecast(10**15, OBSERVATION, ACTION) > 10**16  # nothing is allocated
    with pytest.raises(ValueError, match="capacity is 1, expected at least 2 slots"):
        ReplayBuffer.forecast(1, OBSERVATION, ACTION)


def test_a_block_is_stored_whole_or_not_at_all() -> None:
    buffer = ReplayBuffer(40, OBSERVATION, ACTION, num_envs=2)
    zeros, flags = np.zeros((3, 2, 2), np.float32), np.zeros((3, 2), bool)
    reward = np.array([[0, 1], [2, 3], [4, np.nan]])
    with pytest.raises(NonFiniteError, match="extend: reward of step 2, environment 1 is nan"):
        buffer.extend(zeros, np.zeros((3, 2), int), reward, zeros, flags, flags)
    for bad in ({"action": np.zeros((2, 2), int)}, {"terminated": np.zeros((3, 1), bool)}):
        given = {"observation": zeros, "action": np.zeros((3, 2), int), "reward": reward[:, :1] + [[0, 1]], "next_observation": zeros}
        given |= {"terminated": flags, "truncated": flags} | bad
        with pytest.raises(ShapeError, match=r"extend: (action|terminated) has shape .* expected \[T, N, ...\]"):
            buffer.extend(**given)
    with pytest.raises(ShapeError, match=r"extend: reward has shape \[\], expected \[T, N, ...\]"):
        buffer.extend(zeros, 0, 1.0, zeros, False, False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch: a prototype
        nested = torch.nested.nested_tensor([torch.zeros(2), torch.zeros(1)])
    for odd, kind in ((nested, "nested tensor"), (None, "NoneType"), (object(), "object")):
        with pytest.raises(DTypeError, match=f"extend: reward is a {kind}, expected"):
            buffer.extend(zeros, np.zeros((3, 2), int), odd, zeros, flags, flags)
    assert len(buffer) == 0
    buffer.extend(zeros[:0], np.zeros((0, 2), int), reward[:0], zeros[:0], flags[:0], flags[:0])
    assert len(buffer) == 0


def test_a_block_of_one_environment_needs_no_dimension_for_it() -> None:
    steps = np.arange(8, dtype=np.float32).reshape(4, 2)
    rows = (steps, np.array([0, 1, 1, 0]), np.arange(4.0), steps + 1, np.array([0, 0, 0, 1], bool), np.zeros(4, bool))
    plain, led = ReplayBuffer(20, OBSERVATION, ACTION), ReplayBuffer(20, OBSERVATION, ACTION)
    plain.extend(*rows)
    led.extend(*(row[:, None] for row in rows))
    assert str(plain.episodes()) == str(led.episodes())
    np.testing.assert_array_equal(plain.sample(9).observation, led.sample(9).observation)


def test_windows_are_refused_where_there_are_none() -> None:
    buffer = ReplayBuffer(20, OBSERVATION, ACTION, linked=False)
    buffer.add(np.zeros(2), 0, 1.0, np.ones(2), False, False)
    with pytest.raises(ValueError, match="get: this buffer stores transitions without order"):
        buffer.get(np.array([0]), window=Window(n_step=2))
    with pytest.raises(DTypeError, match="get: window is 3, expected a Window"):
        buffer.get(np.array([0]), window=3)  # type: ignore[arg-type]
    linked = filled(5)
    for window, message in ((Window(0), "n_step is 0"), (Window(frame_stack=10**6), "frame_stack is 1000000, expected at most")):
        with pytest.raises(ValueError, match=f"get: {message}"):
            linked.get(np.array([0]), window=window)


def test_a_deleted_episode_stays_deleted_in_a_state() -> None:
    buffer = filled(10, capacity=40)
    assert buffer.delete(np.array([3])) == 10  # it still runs: the next row begins another
    assert len(buffer) == 0
    buffer.add(np.full(2, 10.0), 0, 5.0, np.full(2, 11.0), False, False)
    copy = pickle.loads(pickle.dumps(buffer))
    for one in (buffer, copy):
        assert [e["length"] for e in one.episodes()] == [1]
        assert one.sample(3).reward.tolist() == [5, 5, 5]
    with pytest.raises(ValueError, match=r"delete: index\[0\] is 3, a record that is no longer"):
        copy.delete(np.array([3]))


@pytest.mark.parametrize(
    "form", [np.asarray, torch.from_numpy, lambda a: a.view(type("Subclass", (np.ndarray,), {}))], ids=["numpy", "torch", "subclass"]
)
def test_a_state_that_no_add_would_have_made_is_refused_in_every_form(form: Any) -> None:
    buffer = ReplayBuffer(8, Box(-1, 1, (2,)), Discrete(3), extra={"flag": ((), "bool")})
    for t in range(4):
        buffer.add(np.zeros(2, np.float32), 0, 1.0, np.zeros(2, np.float32), False, False, flag=t % 2 == 0)
    state = buffer.state_dict()
    for name, wrong, error, message in (
        ("column.flag", 2, ValueError, r"column\.flag holds bytes other than 0 and 1"),
        ("column.reward", 255, NonFiniteError, "a reward is NaN or infinite"),
    ):
        damaged = state[name].copy()
        damaged[0, 1] = wrong
        with pytest.raises(error, match=f"load_state_dict: {message}"):
            buffer.load_state_dict({**state, name: form(damaged)})
        buffer.load_state_dict({**state, name: form(state[name])})
        assert len(buffer) == 4


@pytest.mark.parametrize("prioritized", [False, True])
@pytest.mark.parametrize("linked", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_rows_of_some_environments_are_rows_of_all_of_which_others_are_not_valid(seed: int, linked: bool, prioritized: bool) -> None:
    """The same ring, bit for bit; and the indices name the new records."""
    random, N = np.random.default_rng(seed), int(np.random.default_rng(seed).integers(1, 40))
    space = Dict({"a": OBSERVATION, "b": Discrete(7)})
    kind = PrioritizedReplayBuffer if prioritized else ReplayBuffer
    options: Any = {"num_envs": N, "linked": linked, "extra": {"mark": ((), "int64")}, "seed": seed}
    options |= {"n_step": 3, "frame_stack": 2} if linked else {}
    some, all_ = kind(30 * N, space, ACTION, **options), kind(30 * N, space, ACTION, **options)
    now, marks = {"a": np.zeros((N, 2), np.float32), "b": np.zeros(N, np.int64)}, 0
    for _ in range(12):
        first = int(random.integers(N))
        n, T = int(random.integers(1, N - first + 1)), int(random.integers(0, 9))
        a = random.normal(size=(T + 1, n, 2)).astype(np.float32)
        b = random.integers(0, 7, (T + 1, n))
        if random.random() < 0.7:  # goes on where these environments are
            a[0], b[0] = now["a"][first : first + n], now["b"][first : first + n]
        terminated, truncated, valid = (random.random((T, n)) < p for p in (0.1, 0.1, 0.9))
        rows: list[Any] = [
            {"a": a[:-1], "b": b[:-1]}, random.integers(0, 3, (T, n)), random.normal(size=(T, n)).astype(np.float32),
            {"a": a[1:], "b": b[1:]}, terminated, truncated, valid,
        ]  # fmt: skip
        mark = marks + np.arange(T * n).reshape(T, n)
        marks += T * n
        index = some.extend_some(first, *rows, mark=mark)
        now["a"][first : first + n], now["b"][first : first + n] = a[-1], b[-1]

        def wide(x: Any) -> Any:
            whole = np.zeros((T, N, *x.shape[2:]), x.dtype)  # noqa: B023
            whole[:, first : first + n] = x  # noqa: B023
            return whole

        all_.extend(*({k: wide(x) for k, x in row.items()} if isinstance(row, dict) else wide(row) for row in rows), mark=wide(mark))
        assert index.shape == (T, n)
        assert ((index >= 0) == valid).all()
        kept = valid & some.is_drawable(np.ascontiguousarray(index).ravel()).reshape(T, n)
        np.testing.assert_array_equal(some.column("mark", index[kept]), mark[kept])
        assert str(some.episodes()) == str(all_.episodes())
        if len(some):
            one, other = some.sample(20), all_.sample(20)
            for name in ("observation", "next_observation", "action", "reward", "discount", "index", "extra"):
                assert str(getattr(one, name)) == str(getattr(other, name))
                np.testing.assert_equal(getattr(one, name), getattr(other, name))
            if prioritized:
                np.testing.assert_array_equal(some.priorities(one.index), all_.priorities(other.index))


def test_rows_of_environments_that_are_not_there_are_refused() -> None:
    buffer = ReplayBuffer(40, OBSERVATION, ACTION, num_envs=4)
    zeros, flags = np.zeros((3, 2, 2), np.float32), np.zeros((3, 2), bool)
    rows = zeros, np.zeros((3, 2), int), np.zeros((3, 2)), zeros, flags, flags, None
    for first, words in ((3, "environments 3 to 4, expected some of 0 to 3"), (-1, "environments -1 to 0, expected some of 0 to 3")):
        with pytest.raises(ValueError, match=words):
            buffer.extend_some(first, *rows)
    with pytest.raises(NonFiniteError, match="extend: reward of step 1, environment 3 is inf"):
        buffer.extend_some(2, *rows[:2], np.array([[0, 0], [0, np.inf], [0, 0]]), *rows[3:])
    with pytest.raises(ShapeError, match="extend: action"):
        buffer.extend_some(2, zeros, np.zeros((3, 4), int), *rows[2:])
    assert len(buffer) == 0
    assert (buffer.extend_some(2, *rows) % 4).tolist() == [[2, 3]] * 3


@pytest.mark.parametrize("level", [0, 2])
@pytest.mark.parametrize("wide", [False, True])
def test_steps_that_all_continue_their_streams_are_stored_as_any(wide: bool, level: int) -> None:
    """Blocks of sixteen such environments have a path of their own in `add`: the ring is what rows of a few environments make it."""
    N, random = 40, np.random.default_rng(0)
    space = Dict({"a": OBSERVATION, "b": Box(-9, 9, (300 if wide else 3,), np.float32)})
    options: Any = {"num_envs": N, "extra": {"mark": ((), "int64")}, "seed": 0}
    blocks, few = ReplayBuffer(9 * N, space, ACTION, **options), ReplayBuffer(9 * N, space, ACTION, **options)
    shapes = {name: (N, *leaf.shape) for name, leaf in space.items()}
    here = {name: random.random(shape, np.float32) for name, shape in shapes.items()}
    before = _core.simd_level()
    _core.set_simd_level(level)
    try:
        for t in range(40):
            there = {name: random.random(shape, np.float32) for name, shape in shapes.items()}
            terminated, truncated, valid = (random.random(N) < p for p in (0.02, 0.02, 1.0 if t % 3 else 0.97))
            row: list[Any] = [here, random.integers(0, 3, N), random.random(N, np.float32), there, terminated, truncated, valid]
            mark = np.arange(N) + N * t
            blocks.add(*row, mark=mark)
            for first in range(0, N, 5):

                def part(x: Any, first: int = first) -> Any:
                    return {name: part(leaf) for name, leaf in x.items()} if isinstance(x, dict) else x[None, first : first + 5]

                few.extend_some(first, *map(part, row), mark=part(mark))
            ended = (terminated | truncated)[:, None]
            here = {name: np.where(ended, there[name] + 1, there[name]) for name in there}
            assert len(blocks) == len(few)
    finally:
        _core.set_simd_level(before)
    one, other = blocks.state_dict(), few.state_dict()
    np.testing.assert_equal(one, other)
