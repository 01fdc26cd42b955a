"""The replay equals the plain model, whatever is done to it, in whatever order.

Fast tier: 200 examples of 50 steps. `PYRL_EXAMPLES=5000 pytest tests/buffers/test_replay_machine.py` for the long run.
"""

from __future__ import annotations

import math
import os
from dataclasses import fields, replace
from functools import partial
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from replay_model import Lane

from pyrl.buffers import PrioritizedReplayBuffer, ReplayBuffer, Window
from pyrl.types import Batch

ALPHA, EPSILON = 0.7, 1e-3
EXAMPLES = int(os.environ.get("PYRL_EXAMPLES", "200"))

SPACES: dict[str, spaces.Space] = {
    "vector": spaces.Box(-9, 9, (3,), np.float32),
    "image": spaces.Box(0, 255, (2, 3), np.uint8),
    "wide": spaces.Box(-9, 9, (70,), np.float64),  # a row of its own beside the hot record
    "discrete": spaces.Discrete(4),
    "dict": spaces.Dict({"a": spaces.Box(-9, 9, (2,), np.float32), "b": spaces.Tuple((spaces.Discrete(3), spaces.MultiBinary(3)))}),
}


PLACES: dict[str, dict[str, Any]] = {"cpu": {}}  # and on a GPU: tests/gpu/test_gpu_replay.py


def on_host(value: Any) -> Any:
    """A batch, or a part of one, without tensors."""
    if isinstance(value, Batch):
        return replace(value, **{f.name: on_host(getattr(value, f.name)) for f in fields(value)})
    if isinstance(value, dict):
        return {k: on_host(v) for k, v in value.items()}
    if isinstance(value, tuple):
        return tuple(on_host(v) for v in value)
    return value.cpu().numpy() if hasattr(value, "cpu") else value


def leaves(value: Any) -> tuple[np.ndarray, ...]:
    if isinstance(value, dict):
        return tuple(leaf for v in value.values() for leaf in leaves(v))
    if isinstance(value, tuple):
        return tuple(leaf for v in value for leaf in leaves(v))
    return (np.asarray(value),)


def batched(space: spaces.Space, values: list[Any]) -> Any:
    if isinstance(space, spaces.Dict):
        return {k: batched(s, [v[k] for v in values]) for k, s in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(batched(s, [v[i] for v in values]) for i, s in enumerate(space.spaces))
    return np.stack([np.asarray(v, space.dtype) for v in values])


def stacked(steps: list[Any]) -> Any:
    """[T, N, ...] of T times [N, ...]."""
    if isinstance(steps[0], dict):
        return {k: stacked([step[k] for step in steps]) for k in steps[0]}
    if isinstance(steps[0], tuple):
        return tuple(stacked([step[i] for step in steps]) for i in range(len(steps[0])))
    return np.stack(steps)


class ReplayMachine(RuleBasedStateMachine):
    """Environments with random episode ends in any autoreset mode, manual resets, clears, checkpoints."""

    @initialize(
        kind=st.sampled_from(sorted(SPACES)),
        lanes=st.integers(1, 20),
        extra_slots=st.integers(0, 12),
        n_step=st.integers(1, 5),
        frame_stack=st.integers(1, 4),
        padding=st.sampled_from(["repeat", "zero"]),
        linked=st.booleans(),
        column=st.booleans(),
        prioritized=st.booleans(),
        mode=st.sampled_from(["same_step", "next_step", "disabled"]),
        place=st.sampled_from(sorted(PLACES)),
        seed=st.integers(0, 2**16),
    )
    def build(
        self,
        kind: str,
        lanes: int,
        extra_slots: int,
        n_step: int,
        frame_stack: int,
        padding: Any,
        linked: bool,
        column: bool,
        prioritized: bool,
        mode: str,
        place: str,
        seed: int,
    ) -> None:
        if not linked:
            n_step = frame_stack = 1
        self.space, self.mode, self.column, self.lanes = SPACES[kind], mode, column, lanes
        self.space.seed(seed)
        self.rng = np.random.default_rng(seed)
        options: dict[str, Any] = {"n_step": n_step, "frame_stack": frame_stack, "gamma": 0.9}
        capacity = lanes * (n_step + frame_stack + extra_slots) + int(self.rng.integers(lanes))
        made = partial(PrioritizedReplayBuffer, alpha=ALPHA, epsilon=EPSILON) if prioritized else ReplayBuffer
        self.make = lambda place: made(
            capacity, self.space, spaces.Box(-1, 1, (2,)), num_envs=lanes, seed=seed, stack_padding=padding, linked=linked,
            extra={"log_prob": ((), "float32")} if column else None, **PLACES[place], **options,
        )  # fmt: skip
        self.priority: dict[int, float] | None = {} if prioritized else None  # leaves by name
        self.buffer, self.place = self.make(place), place
        self.model = [Lane(capacity // lanes, padding=padding, linked=linked, **options) for _ in range(lanes)]
        self.observation = [self.draw() for _ in range(lanes)]
        self.ended = np.zeros(lanes, bool)

    def draw(self) -> Any:
        """Few different values, so that a manual reset sometimes meets an equal observation."""
        space = self.space
        if isinstance(space, spaces.Box):
            return self.rng.integers(0, 3, space.shape).astype(space.dtype)
        return space.sample()

    @rule(end=st.sampled_from([0.0, 0.1, 0.5, 1.0]), times=st.integers(1, 6))
    def step(self, end: float, times: int) -> None:
        for _ in range(times):
            self.buffer.add(**self.one_step(end))

    @rule(end=st.sampled_from([0.0, 0.1, 0.5, 1.0]), times=st.integers(1, 6))
    def extend(self, end: float, times: int) -> None:
        """Several steps at once, of which some begin anew."""
        steps = []
        for _ in range(times):
            steps.append(self.one_step(end))
            if self.rng.random() < 0.2:
                self.observation[int(self.rng.integers(self.lanes))] = self.draw()
        self.buffer.extend(**{name: stacked([step[name] for step in steps]) for name in steps[0]})

    def one_step(self, end: float) -> dict[str, Any]:
        """The arguments of add; the model has the step already."""
        N = self.lanes
        dead = self.ended if self.mode == "next_step" else np.zeros(N, bool)
        after = [self.draw() for _ in range(N)]
        terminated, truncated = (self.rng.random((2, N)) < end) & ~dead
        action = self.rng.random((N, 2)).astype(np.float32)
        reward = self.rng.normal(size=N)
        extra = {"log_prob": self.rng.random(N).astype(np.float32)} if self.column else {}
        given = {
            "observation": batched(self.space, self.observation), "action": action, "reward": reward,
            "next_observation": batched(self.space, after), "terminated": terminated, "truncated": truncated, "valid": ~dead, **extra,
        }  # fmt: skip
        for n in np.flatnonzero(~dead):
            here, there = leaves(batched(self.space, [self.observation[n]])), leaves(batched(self.space, [after[n]]))
            log_prob = extra["log_prob"][n] if self.column else None
            self.model[n].add(
                tuple(x[0] for x in here),
                action[n],
                reward[n],
                tuple(x[0] for x in there),
                bool(terminated[n]),
                bool(truncated[n]),
                log_prob,
            )
        self.follow()
        ended = terminated | truncated
        for n in range(N):
            # In the other modes the environment is reset in the same call, and acted on from there.
            self.observation[n] = self.draw() if ended[n] and self.mode != "next_step" else after[n]
        self.ended = ended
        return given

    def indices(self) -> list[int]:
        return sorted(p * self.lanes + n for n, lane in enumerate(self.model) for p in lane.drawables())

    def follow(self) -> None:
        """A record that becomes drawable gets the largest leaf that was in the buffer before; others go with their record."""
        if self.priority is not None:
            largest = max(self.priority.values(), default=1.0)
            self.priority = {name: self.priority.get(name, largest) for name in self.indices()}

    @precondition(lambda self: getattr(self, "priority", None) is not None)
    @rule(count=st.integers(1, 40), spread=st.integers(0, 6))
    def update_priorities(self, count: int, spread: int) -> None:
        """Some names are gone, some come twice: then the last counts."""
        newest = max(len(lane.slots) for lane in self.model) * self.lanes
        index = self.rng.integers(0, newest + 2, count)
        priority = 10.0 ** self.rng.uniform(-spread, spread, count)
        before = self.buffer.stale_updates
        self.buffer.update_priorities(index, priority)
        stale = 0
        for name, value in zip(index.tolist(), priority.tolist()):
            if name in self.priority:
                self.priority[name] = (value + EPSILON) ** ALPHA
            else:
                stale += 1
        assert self.buffer.stale_updates == before + stale

    @rule(which=st.integers(0, 2**16 - 1))
    def manual_reset(self, which: int) -> None:
        for n in range(self.lanes):
            if which >> n & 1:
                self.observation[n] = self.draw()

    @rule()
    def clear(self) -> None:
        self.buffer.clear()
        for lane in self.model:
            lane.clear()
        self.follow()

    @precondition(lambda self: len(self.buffer))
    @rule(pick=st.integers(0, 2**16))
    def delete(self, pick: int) -> None:
        """The episodes of one record or two."""
        indices = self.indices()
        index = np.array(sorted({indices[pick % len(indices)], indices[pick // 7 % len(indices)]}))
        before = len(indices)
        for name in index.tolist():
            self.model[name % self.lanes].delete(name // self.lanes)
        self.follow()
        assert self.buffer.delete(index) == before - len(self.indices())
        with pytest.raises(ValueError, match=rf"delete: index\[0\] is {index[0]}, a record that is no longer"):
            self.buffer.delete(index)

    @precondition(lambda self: len(self.buffer))
    @rule(n_step=st.integers(1, 7), frame_stack=st.integers(1, 6))
    def other_windows(self, n_step: int, frame_stack: int) -> None:
        """Of every record whose history is long enough; the others are refused, the first of them by its place."""
        if not self.model[0].linked:
            n_step = frame_stack = 1
        frame_stack = min(frame_stack, self.model[0].capacity)
        indices = np.array(self.indices())
        whole = np.array([self.model[i % self.lanes].drawable(i // self.lanes, frame_stack) for i in indices.tolist()])
        window = Window(n_step, frame_stack)
        if not whole.all():
            with pytest.raises(ValueError, match=rf"get: index\[{int(np.argmin(whole))}\] is {indices[np.argmin(whole)]}, a record"):
                self.buffer.get(indices, window=window)
        indices = indices[whole]
        if len(indices):
            self.check_windows(self.buffer.get(indices, window=window), indices, n_step, frame_stack)

    @precondition(lambda self: len(self.buffer))
    @rule(count=st.integers(1, 30))
    def draw_and_get(self, count: int) -> None:
        """`sample` is draw, get and weight in one call, bit for bit."""
        twin = self.make(self.place)
        twin.load_state_dict(self.buffer.state_dict())
        whole = on_host(self.buffer.sample(count))
        index = twin.draw(count)
        parts = on_host(twin.get(index))
        if self.priority is not None:
            parts.weight = on_host(twin.weight(index))
        assert str(whole) == str(parts)  # shapes and dtypes
        for field in fields(Batch):
            for a, b in zip(leaves(getattr(whole, field.name)), leaves(getattr(parts, field.name)), strict=True):
                assert a.tobytes() == b.tobytes() or a.dtype == object
        assert on_host(twin.sample(1)).index == on_host(self.buffer.sample(1)).index

    @rule(place=st.sampled_from(sorted(PLACES)))
    def save_and_load(self, place: str) -> None:
        """Into a buffer that may lie elsewhere."""
        state = self.buffer.state_dict()
        fresh = self.make(place)
        fresh.load_state_dict(state)
        if len(fresh):
            np.testing.assert_array_equal(on_host(fresh.sample(1).index), on_host(self.buffer.sample(1).index))
        self.buffer, self.place = fresh, place

    @precondition(lambda self: len(self.buffer))
    @rule(replacement=st.booleans())
    def draw_a_batch(self, replacement: bool) -> None:
        names = set(self.indices())
        if self.priority is not None:
            batch = on_host(self.buffer.sample(len(names)))
            assert set(batch.index.tolist()) <= names
            leaves_ = np.array([self.priority[name] for name in batch.index.tolist()])
            weight = (len(names) * leaves_ / sum(self.priority.values())) ** -self.buffer.beta
            np.testing.assert_allclose(batch.weight, weight / weight.max(), rtol=1e-5)
            return
        index = self.buffer.sample(len(names), replacement=replacement).index
        assert set(index.tolist()) <= names
        if not replacement:
            assert len(set(index.tolist())) == len(names)

    @precondition(lambda self: hasattr(self, "buffer"))
    @invariant()
    def equal(self) -> None:
        wanted = [(n, p) for n, lane in enumerate(self.model) for p in lane.drawables()]
        assert len(self.buffer) == len(wanted)
        longest = max(len(lane.slots) for lane in self.model)
        everything = np.arange(max(longest, 1) * self.lanes + 3)
        names = np.array(sorted(p * self.lanes + n for n, p in wanted), np.int64)
        np.testing.assert_array_equal(np.flatnonzero(self.buffer.is_drawable(everything)), names)
        table = [(e["env"], int(e["index"][0]) // self.lanes, e["length"], e["begins"], e["ended"]) for e in self.buffer.episodes()]
        assert table == [(n, s, e - s, begins, how) for n, lane in enumerate(self.model) for s, e, begins, how in lane.episodes()]
        if self.priority is not None:
            np.testing.assert_allclose(self.buffer.priorities(names), [self.priority[name] for name in names.tolist()], rtol=1e-12)
            assert self.buffer.total_priority == pytest.approx(math.fsum(self.priority.values()), rel=1e-12)
        if not len(names):
            return
        self.check_windows(self.buffer.get(names), names)

    def check_windows(self, batch: Batch, indices: np.ndarray, n_step: int | None = None, frame_stack: int | None = None) -> None:
        if not len(indices):
            return
        batch = on_host(batch)
        windows = [self.model[i % self.lanes].window(i // self.lanes, n_step, frame_stack) for i in indices.tolist()]
        for got, field in ((batch.observation, "observation"), (batch.next_observation, "next_observation")):
            for i, leaf in enumerate(leaves(got)):
                np.testing.assert_array_equal(leaf, np.stack([w[field][i] for w in windows]))
        np.testing.assert_array_equal(batch.index, indices)
        np.testing.assert_array_equal(batch.action, np.stack([w["action"] for w in windows]))
        np.testing.assert_array_equal(batch.terminated, [w["terminated"] for w in windows])
        np.testing.assert_allclose(batch.reward, [w["reward"] for w in windows], rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(batch.discount, [w["discount"] for w in windows], rtol=1e-6)
        if self.column:
            np.testing.assert_array_equal(batch.extra["log_prob"], [w["extra"] for w in windows])


ReplayMachine.TestCase.settings = settings(
    max_examples=EXAMPLES, stateful_step_count=50, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much]
)
TestReplay = ReplayMachine.TestCase
