"""Buffers in a GPU's memory, and mirrored there: the CPU's records, indices and batches."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import test_replay_machine as machine
import torch
from gymnasium.spaces import Box, Dict, Discrete
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from pyrl.buffers import PrioritizedReplayBuffer, ReplayBuffer
from pyrl.errors import DeviceError, DTypeError

SPACE = Dict({"image": Box(0, 255, (84, 84), np.uint8), "vector": Box(-9, 9, (5,), np.float32)})
OPTIONS: dict[str, Any] = {"n_step": 3, "frame_stack": 4, "gamma": 0.9, "seed": 5}
WAYS = pytest.mark.parametrize("way", ["rows", "tensors", "host_copy"])


def test_whatever_is_done_to_it() -> None:
    """The machine of the CPU's tests, on the GPU."""
    places = {"device": {"device": "cuda:0"}, "both": {"device": "cuda:0", "host_copy": True}}
    quick = settings(max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck))
    with patch.dict(machine.PLACES, places):
        run_state_machine_as_test(machine.ReplayMachine, settings=quick)


class Feed:
    """The same steps for both buffers; `step` gives NumPy rows, which `there` may turn into tensors on the GPU."""

    def __init__(self, num_envs: int, space: Any = SPACE, seed: int = 0) -> None:
        self.rng, self.num_envs, self.space = np.random.default_rng(seed), num_envs, space
        self.observation = self.draw()

    def draw(self) -> Any:
        vector = self.rng.standard_normal((self.num_envs, 5)).astype(np.float32)
        if not isinstance(self.space, Dict):
            return vector
        return {"image": self.rng.integers(0, 255, (self.num_envs, 84, 84), np.uint8), "vector": vector}

    def step(self) -> tuple[Any, ...]:
        N, here = self.num_envs, self.observation
        after = self.draw()
        self.observation = after if self.rng.random() < 0.9 else self.draw()
        ends = self.rng.random((2, N)) < 0.05
        return here, self.rng.integers(0, 3, N), self.rng.standard_normal(N).astype(np.float32), after, ends[0], ends[1]


def on_gpu(rows: Any) -> Any:
    if isinstance(rows, dict):
        return {k: on_gpu(v) for k, v in rows.items()}
    return torch.from_numpy(np.ascontiguousarray(rows)).cuda()


def add(buffer: ReplayBuffer, step: tuple[Any, ...], way: str) -> None:
    buffer.add(*(on_gpu(rows) for rows in step)) if way == "tensors" else buffer.add(*step)


def same(batch: Any, want: Any) -> None:
    assert batch.index.is_cuda
    batch = machine.on_host(batch)
    np.testing.assert_array_equal(batch.index, want.index)
    for field in ("observation", "next_observation"):
        for got, wanted in zip(machine.leaves(getattr(batch, field)), machine.leaves(getattr(want, field))):
            np.testing.assert_array_equal(got, wanted)
    for field in ("action", "reward", "terminated", "discount"):
        np.testing.assert_array_equal(getattr(batch, field), getattr(want, field))
    if want.weight is not None:
        np.testing.assert_array_equal(batch.weight, want.weight)


def pair(way: str, space: Any = SPACE, num_envs: int = 3, capacity: int = 600, made: Any = ReplayBuffer) -> tuple[Any, Any]:
    options = {**OPTIONS, "num_envs": num_envs}
    there = made(capacity, space, Discrete(3), device="cuda", host_copy=way == "host_copy", **options)
    return made(capacity, space, Discrete(3), **options), there


@WAYS
def test_images_and_vectors_equal_the_cpus(way: str) -> None:
    here, there = pair(way)
    feed = Feed(3)
    batch = None
    for t in range(300):
        step = feed.step()
        here.add(*step)
        add(there, step, way)
        if t % 7 == 6:
            batch = there.sample(20, out=batch)
            same(batch, here.sample(20))
        if t % 50 == 49:
            assert len(here) == len(there)
            same(there.sample(20, replacement=False), here.sample(20, replacement=False))
            same(there.get(batch.index[:5]), here.get(batch.index[:5].cpu().numpy()))
    if way == "tensors":
        assert there.bytes_copied == 0


@pytest.mark.parametrize("num_envs", [1, 4096])
@WAYS
def test_one_lane_and_many(way: str, num_envs: int) -> None:
    space = SPACE["vector"]
    here, there = pair(way, space, num_envs, 40 * num_envs)
    feed = Feed(num_envs, space)
    for _ in range(60):
        step = feed.step()
        here.add(*step)
        add(there, step, way)
    for _ in range(5):
        same(there.sample(25), here.sample(25))


def test_out_is_filled_in_place() -> None:
    _, there = pair("rows", SPACE["vector"])
    feed = Feed(3, SPACE["vector"])
    for _ in range(50):
        there.add(*feed.step())
    batch = there.sample(8)
    addresses = batch.observation.data_ptr(), batch.reward.data_ptr(), batch.index.data_ptr()
    first = batch.index.clone()
    assert there.sample(8, out=batch) is batch
    assert (batch.observation.data_ptr(), batch.reward.data_ptr(), batch.index.data_ptr()) == addresses
    assert (batch.index != first).any()
    batch.reward = batch.reward.cpu()
    with pytest.raises(DeviceError, match=r"sample: out.reward is on the CPU, expected cuda:0 \(as this buffer is\)"):
        there.sample(8, out=batch)


@WAYS
def test_nothing_waits_for_the_current_stream(way: str) -> None:
    here, there = pair(way, SPACE["vector"])
    feed = Feed(3, SPACE["vector"])
    for _ in range(40):
        step = feed.step()
        here.add(*step)
        add(there, step, way)
        there.sample(3)  # loads the kernels, which may wait
        here.sample(3)
    step, later = feed.step(), feed.step()
    steps = [tuple(on_gpu(rows) for rows in s) if way == "tensors" else s for s in (step, later)]
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.empty(1, device="cuda"), torch.empty(1 << 20, device="cuda")  # memory for this stream, which torch may wait for
        torch.cuda._sleep(200_000_000)  # about 0.1 s
        there.add(*steps[0])
        first = there.sample(16)
        there.add(*steps[1])
        second = there.sample(16)
        assert not stream.query()
    stream.synchronize()
    here.add(*step)
    same(first, here.sample(16))
    here.add(*later)
    same(second, here.sample(16))


@WAYS
@pytest.mark.parametrize("made", [ReplayBuffer, PrioritizedReplayBuffer])
def test_replays_of_a_graph_draw_anew(way: str, made: Any) -> None:
    here, there = pair(way, SPACE["vector"], made=made)
    feed = Feed(3, SPACE["vector"])
    for _ in range(40):
        step = feed.step()
        here.add(*step)
        add(there, step, way)
    batch = there.sample(16)
    here.sample(16)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        there.sample(16, out=batch)
    for _ in range(3):
        graph.replay()
        same(batch, here.sample(16))
        step = feed.step()
        here.add(*step)
        add(there, step, way)
        there.flush()


def test_what_waits_to_be_copied_stops_a_capture() -> None:
    _, there = pair("rows", SPACE["vector"])
    feed = Feed(3, SPACE["vector"])
    for _ in range(40):
        there.add(*feed.step())
    batch = there.sample(4)
    there.add(*feed.step())
    torch.cuda.synchronize()
    with torch.cuda.graph(torch.cuda.CUDAGraph()):
        batch.reward.zero_()  # a graph of nothing would be a complaint of torch's
        with pytest.raises(ValueError, match=r"sample: 1 adds wait to be copied"):
            there.sample(4, out=batch)
    there.flush()
    there.sample(4, out=batch)


def test_what_waits_is_refused_in_a_capture_which_goes_on() -> None:
    here, there = pair("rows", SPACE["vector"], made=PrioritizedReplayBuffer)
    feed = Feed(3, SPACE["vector"])
    for _ in range(40):
        step = feed.step()
        here.add(*step)
        there.add(*step)
    batch = there.sample(4)
    here.sample(4)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for waiting in (lambda: len(there), there.state_dict, lambda: there.get(np.arange(2))):
            with pytest.raises(ValueError, match="waits for the GPU, which a graph cannot do"):
                waiting()
        with pytest.raises(ValueError, match="add: rows from the CPU are copied at once for their priorities, which a graph cannot do"):
            there.add(*feed.step())
        there.sample(4, out=batch)
    graph.replay()
    same(batch, here.sample(4))
    assert len(there) == len(here)


@WAYS
def test_priorities_equal_the_cpus(way: str) -> None:
    here, there = pair(way, SPACE["vector"], made=PrioritizedReplayBuffer)
    feed = Feed(3, SPACE["vector"])
    rng = np.random.default_rng(2)
    for t in range(250):
        step = feed.step()
        here.add(*step)
        add(there, step, way)
        if t < 3:
            continue
        a, b = here.sample(8), there.sample(8)
        same(b, a)
        index, priority = np.append(a.index, 10**9), rng.random(9).astype(np.float32)
        here.update_priorities(index, priority)
        there.update_priorities(on_gpu(index), on_gpu(priority))
    assert there.total_priority == here.total_priority
    assert there.stale_updates == here.stale_updates
    there.update_priorities(b.index, torch.full((8,), torch.nan, device="cuda"))
    assert there.refused_updates == 8
    assert there.total_priority == here.total_priority


def test_rows_of_tensors_that_are_not_finite_are_left_out() -> None:
    here, there = pair("tensors", SPACE["vector"])
    feed = Feed(3, SPACE["vector"])
    for t in range(30):
        step = feed.step()
        if t % 5 == 0:
            step[2][1] = np.nan
        here.add(*step, valid=np.isfinite(step[2]))
        add(there, step, "tensors")
    for buffer in (here, there):  # the second was sure of 90 until it looked
        with pytest.raises(ValueError, match="batch_size is 85, but only 84 transitions are stored"):
            buffer.sample(85, replacement=False)
    assert there.skipped_rows == 6
    same(there.sample(10), here.sample(10))


def test_the_bytes_of_a_mirror_are_those_of_new_records() -> None:
    buffer = ReplayBuffer(64, SPACE["vector"], Discrete(3), num_envs=2, device="cuda", host_copy=True)
    rows = np.arange(20, dtype=np.float32).reshape(2, 2, 5)
    flags = np.zeros(2, bool)
    for t in range(10):
        before = buffer.bytes_copied
        buffer.add(rows[0] + t, np.zeros(2, np.int64), np.zeros(2), rows[0] + t + 1, flags, flags)
        buffer.flush()
        assert buffer.bytes_copied - before == 2 * (4 + 4 + 8 + 20 + (20 if t == 0 else 0))


def test_states_move_between_places() -> None:
    here, there = pair("rows")
    feed = Feed(3)
    for _ in range(250):
        here.add(*feed.step())
    there.load_state_dict(here.state_dict())
    same(there.sample(20), here.sample(20))
    again, _ = pair("rows")
    again.load_state_dict(there.state_dict())
    same(there.sample(20), again.sample(20))


def test_rows_of_the_wrong_kind_are_refused() -> None:
    _, there = pair("tensors", SPACE["vector"])
    step = [on_gpu(rows) for rows in Feed(3, SPACE["vector"]).step()]
    for place, wrong, error, message in (
        (2, step[2].double(), DTypeError, "add: reward has dtype float64, expected float32"),
        (2, step[2].cpu(), DeviceError, r"add: reward is on the CPU, expected cuda:0 \(as this buffer is\)"),
        (3, step[3].cpu(), DeviceError, "add: next_observation is on the CPU"),
        (0, step[0].t().contiguous().t(), ValueError, "add: observation is not contiguous in row-major order"),
    ):
        bad = list(step)
        bad[place] = wrong
        with pytest.raises(error, match=message):
            there.add(*bad)
    assert len(there) == 0
    _, mirrored = pair("host_copy", SPACE["vector"])
    with pytest.raises(DeviceError, match="a buffer with host_copy=True keeps its records there"):
        mirrored.add(*step)
