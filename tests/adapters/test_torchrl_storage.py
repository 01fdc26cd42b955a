"""TorchRL's buffers over `RecordStorage`: each observation is stored once, and what is read is what the host's storage reads.

TorchRL's own tests of its storages (test/rb/test_storages.py) are here for ours, rewritten: state dicts, files, lists of tensordicts, lazy
stacks, single elements, writes at positions. Left out, with the reason:

- of TensorStorage's constructor, LazyMemmapStorage's files, ListStorage, CompressedListStorage, LazyStackStorage: other classes.
- of tensors, pytrees and tensorclasses: those are kept by the host's own code, which `test_what_is_not_shared_is_the_hosts` shows once.
- of storages of two dimensions: refused (ours has no ``ndim``).
- test_storage_inplace_writing writes through `buffer[3:4] = ...`: here; `_storage` as one tensordict, `_init` and shapes of it: internals.
- of storages between processes: refused by name.
"""

from __future__ import annotations

import copy
import multiprocessing
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pyrl.errors import CheckpointError, DeviceError, DTypeError, SettingError, ShapeError

pytest.importorskip("torchrl", reason="torchrl is not installed: pip install 'pyrl[torchrl]'")

from tensordict import LazyStackedTensorDict, TensorDict
from torchrl.data import LazyTensorStorage, ReplayBuffer, TensorDictMaxValueWriter, TensorDictReplayBuffer
from torchrl.data.replay_buffers.samplers import SamplerWithoutReplacement, SliceSampler

from pyrl.adapters.torchrl import PrioritizedSampler, RandomSampler, RecordStorage, generalized_advantage_estimate


def steps(count: int, seed: int, ends: float = 0.1, size: int = 3) -> TensorDict:
    """Of one stream, as a collector gives them: where an episode ends, what follows is not the next step's observation."""
    rng = np.random.default_rng(seed)
    observation = rng.normal(size=(count + 1, size)).astype(np.float32)
    following, done = observation[1:].copy(), rng.random((count, 1)) < ends
    following[done[:, 0]] += 1
    limit = done & (rng.random((count, 1)) < 0.5)
    action = torch.from_numpy(rng.normal(size=(count, 2)).astype(np.float32))
    columns = {"reward": rng.normal(size=(count, 1)), "done": done, "terminated": done & ~limit, "truncated": limit}
    flags = {name: torch.zeros(count, 1, dtype=torch.bool) for name in ("done", "terminated", "truncated")}
    number = torch.arange(count) + 1000 * seed
    return TensorDict(
        {
            "observation": torch.from_numpy(observation[:-1]), "action": action, **flags, "number": number,
            "next": {"observation": torch.from_numpy(following), **{name: torch.from_numpy(x) for name, x in columns.items()}},
        },
        [count],
    )  # fmt: skip


def assert_equal(own: Any, host: Any) -> None:
    keys = set(host.keys(True, True))
    assert set(own.keys(True, True)) == keys
    assert own.batch_size == host.batch_size
    for key in keys:
        assert own[key].dtype == host[key].dtype
        torch.testing.assert_close(own[key], host[key], rtol=0, atol=0, equal_nan=True)


def both(size: int, **options: Any) -> list[TensorDictReplayBuffer]:
    return [TensorDictReplayBuffer(storage=made(size), batch_size=16, **options) for made in (RecordStorage, LazyTensorStorage)]


def test_streams_are_read_as_the_hosts() -> None:
    """Blocks and single elements of changing streams, round the ring, and writes in the middle of it."""
    buffers, rng = both(60), np.random.default_rng(0)
    for step in range(120):
        data = steps(int(rng.integers(1, 50)), step)
        if step % 7 == 0:
            data["observation"][0] = torch.nan
        way, place = int(rng.integers(4)), rng.permutation(len(buffers[0]))[:5] if step else np.array([])
        for buffer in buffers:
            if way == 0:
                for element in data[:5].clone():
                    buffer.add(element)
            elif way == 1 and step:
                buffer._storage.set(
                    torch.from_numpy(place), steps(len(place), step).set("index", torch.from_numpy(place)), set_cursor=False
                )
            else:
                buffer.extend(data.clone())
        own, host = (buffer._storage for buffer in buffers)
        assert len(own) == len(host)
        assert_equal(own[:], host[:])
        index = torch.from_numpy(rng.integers(0, len(own), 20))
        assert_equal(own[index], host[index])
    kept = own._following
    assert len(kept.free) + int((kept.row >= 60).sum()) == len(kept.kept[0])  # nothing is lost
    assert len(set(kept.row[kept.row >= 60].tolist()) | {60 + row for row in kept.free}) == len(kept.kept[0])


@pytest.mark.parametrize(
    "index", [3, -1, slice(2, 9), slice(None, None, -1), [1, 4], range(3), np.array([2, 2]), (5,), torch.tensor([[1, 2], [3, 0]])]
)
def test_any_index(index: Any) -> None:
    data = steps(12, 0)
    own, host = RecordStorage(12), LazyTensorStorage(12)
    for storage in (own, host):
        storage.set(range(10), data[:10])
    if isinstance(index, slice) and index.step == -1:
        with pytest.raises(ValueError, match="step must be greater than zero"):
            own.get(index)
        return
    assert_equal(own.get(index), host.get(index if not isinstance(index, range) else list(index)))
    mask = torch.arange(10) % 3 == 0
    assert_equal(own[mask], host[mask])
    with pytest.raises(IndexError):
        own.get(torch.tensor([10]))
    with pytest.raises(IndexError):
        own.get(10)


def test_each_observation_is_stored_once() -> None:
    own, host = RecordStorage(10_000), LazyTensorStorage(10_000)
    for block in range(15):
        data = steps(1000, block, ends=0.01, size=100)
        for storage in (own, host):
            storage.set((torch.arange(1000) + 1000 * block) % 10_000, data)
    theirs = sum(leaf.nbytes for leaf in host._storage.values(True, True))
    rows = int((own._following.row >= 10_000).sum())
    assert rows < 0.02 * 10_000
    assert own.nbytes < 0.6 * theirs
    assert "next" in own._storage
    assert ("next", "observation") not in own._storage.keys(True, True)


@pytest.mark.parametrize("sampler", ["uniform", "prioritized", "once", "slices"])
def test_samplers_of_both(sampler: str) -> None:
    made = {
        "uniform": RandomSampler,
        "prioritized": lambda: PrioritizedSampler(200, alpha=0.7, beta=0.5),
        "once": SamplerWithoutReplacement,
        "slices": lambda: SliceSampler(slice_len=4, end_key=("next", "done"), strict_length=False),
    }[sampler]
    own = TensorDictReplayBuffer(storage=RecordStorage(200), sampler=made(), batch_size=64, priority_key="td_error")
    whole = torch.cat([steps(100, block) for block in range(3)])
    for block in whole.split(100):
        own.extend(block.clone())
    for _ in range(5):
        batch = own.sample()
        rows = (batch["number"] // 1000) * 100 + batch["number"] % 1000
        for key in ("observation", ("next", "observation"), ("next", "reward"), "action"):
            torch.testing.assert_close(batch[key], whole[key][rows], rtol=0, atol=0)
        if sampler == "prioritized":
            own.update_tensordict_priority(batch.set("td_error", torch.rand(len(batch))))


def test_the_hosts_other_writers() -> None:
    made = [RecordStorage(20), LazyTensorStorage(20)]
    buffers = [TensorDictReplayBuffer(storage=each, writer=TensorDictMaxValueWriter(rank_key="number"), batch_size=4) for each in made]
    for seed in (2, 0, 3, 1):
        data = steps(15, seed).exclude("index")
        for buffer in buffers:
            buffer.extend(data.clone())
    assert_equal(*(each[:].exclude("index") for each in made))


def test_a_time_limit_keeps_its_last_observation() -> None:
    """The value of what came after a time limit is that of the observation that was cut off, not of the next episode's first."""
    storage = RecordStorage(10)
    observation, following = torch.tensor([[0.0], [1.0], [50.0]]), torch.tensor([[1.0], [8.0], [51.0]])
    for terminated, expected in ((False, 1 + 0.5 * 8), (True, 1.0)):
        end = torch.tensor([[False], [True], [False]])
        ends = {"done": end, "terminated": end & terminated, "reward": torch.ones(3, 1)}
        storage.set(range(3), TensorDict({"observation": observation, "next": {"observation": following, **ends}}, [3]))
        read = storage.get(torch.arange(3))
        value, after = read["observation"], read["next", "observation"]  # V(s) = s
        _, target = generalized_advantage_estimate(
            0.5, 0.0, value, after, read["next", "reward"], read["next", "done"], read["next", "terminated"]
        )
        assert target[1].item() == expected


@pytest.mark.parametrize("way", ["state_dict", "files", "pickle", "copy", "buffer"])
@pytest.mark.parametrize("initialized", [False, True])
def test_states(way: str, initialized: bool, tmp_path: Path) -> None:
    own = both(40)[0]
    for block in range(3):
        own.extend(steps(25, block))
    other = both(40)[0]
    if initialized:
        other.extend(steps(30, 9))
    if way == "state_dict":
        state = own._storage.state_dict()
        other._storage.load_state_dict(state)
        before = other._storage[:].clone()
        state["following"]["row"].zero_()
        state["following"]["kept"][0].zero_()
        assert_equal(other._storage[:], before)
    elif way == "files":
        for _ in range(2):
            own._storage.dumps(tmp_path / "storage")
        other._storage.loads(tmp_path / "storage")
    elif way == "buffer":
        own.dumps(tmp_path / "buffer")
        other.loads(tmp_path / "buffer")
    else:
        other._storage = pickle.loads(pickle.dumps(own._storage)) if way == "pickle" else copy.deepcopy(own._storage)
    assert_equal(other._storage[:], own._storage[:])
    more = steps(7, 5).set("index", torch.arange(7))
    for storage in (own._storage, other._storage):
        storage.set(range(3, 10), more)
    assert_equal(other._storage[:], own._storage[:])


def damaged(state: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """A state with one entry lost or another, at a time."""
    for path, value in list(entries(state)):
        others = [None, "x", -7, [], {}, torch.zeros(2), torch.full((40,), -5), torch.full((40,), 10**6)]
        if isinstance(value, torch.Tensor):
            others += [value[:-1], value.to(torch.float16), value[None]]
        for other in [DELETED, *others]:
            made = copy.deepcopy(state)
            inner = made
            for name in path[:-1]:
                inner = inner[name]
            if other is DELETED:
                del inner[path[-1]]
            else:
                inner[path[-1]] = other
            yield f"{path}: {other}", made


DELETED = object()


def entries(state: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, value in state.items():
        if not name.startswith("__"):  # the host's notes of a tensordict
            yield (*path, name), value
        if isinstance(value, dict):
            yield from entries(value, (*path, name))


def test_a_damaged_state_is_refused() -> None:
    """Whatever is lost or another: refused, and nothing has changed; or all of it is taken, and what is read is sound."""
    own = both(40)[0]
    for block in range(3):
        own.extend(steps(25, block))
    before, refused = own._storage[:].clone(), 0
    for name, state in damaged(own._storage.state_dict()):
        other = own._storage.__class__(40)
        other.load_state_dict(own._storage.state_dict())
        try:
            other.load_state_dict(state)
        except (CheckpointError, ShapeError):
            refused += 1
            assert_equal(other[:], before)
            continue
        assert "row" not in name
        assert "kept" not in name
        assert "'observation'" not in name
        other[:]
    assert refused > 100


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    own = both(40)[0]
    own.extend(steps(25, 0))
    own._storage.dumps(tmp_path)
    whole = (tmp_path / "following_0.npy").read_bytes()
    for file, damage in (("following_0.npy", whole[:-9]), ("following_0.npy", b""), ("following.json", b"{"), ("following.json", b"[]")):
        (tmp_path / "following_0.npy").write_bytes(whole)
        kept = (tmp_path / file).read_bytes()
        (tmp_path / file).write_bytes(damage)
        with pytest.raises(CheckpointError, match="damaged"):
            RecordStorage(40).loads(tmp_path)
        (tmp_path / file).write_bytes(kept)
    RecordStorage(40).loads(tmp_path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("alpha", "x"), ("alpha", -1), ("beta", None), ("eps", 0.0), ("largest", "x"), ("tree", None), ("tree", [1.0] * 10),
        ("tree", torch.full((10,), float("nan"))), ("tree", -torch.ones(10)), ("tree", torch.ones(10, dtype=torch.int32)),
    ],
)  # fmt: skip
def test_a_damaged_sampler_state_is_refused(name: str, value: Any) -> None:
    own = PrioritizedSampler(10, alpha=0.7, beta=0.5)
    own.update_priority(torch.arange(10), torch.rand(10))
    before = own.state_dict()
    with pytest.raises(CheckpointError, match=rf"damaged: .*{'weight' if isinstance(value, torch.Tensor) else name}|tree is"):
        own.load_state_dict({**PrioritizedSampler(10, 0.1, 0.2).state_dict(), name: value})
    after = own.state_dict()
    assert torch.equal(before.pop("tree"), after.pop("tree"))
    assert before == after


def test_lists_lazy_stacks_and_emptying() -> None:
    data = steps(6, 0)
    own, host = (ReplayBuffer(storage=made(10), batch_size=2) for made in (RecordStorage, LazyTensorStorage))
    for buffer in (own, host):
        buffer.extend(list(data.clone()))
        buffer.extend(LazyStackedTensorDict(*steps(3, 1), stack_dim=0))
    assert_equal(own[:], host[:])
    own[3:4] = host[3:4] = steps(1, 2)
    assert_equal(own[:], host[:])
    assert (own._storage.contains(8), own._storage.contains(9)) == (True, False)
    for buffer in (own, host):
        buffer.empty()
        assert len(buffer) == 0
        buffer.extend(steps(4, 3))
    assert_equal(own[:], host[:])


def test_what_is_not_shared_is_the_hosts() -> None:
    for data in (
        torch.randn(5, 3),
        TensorDict({"a": torch.randn(5)}, [5]),
        TensorDict({"a": torch.randn(5, 4), "next": {"a": torch.randn(5, 4)}}, [5, 4]),
    ):
        own, host = RecordStorage(8), LazyTensorStorage(8)
        for storage in (own, host):
            storage.set(range(5), data)
        assert (own[1:3] == host[1:3]).all()


def test_what_is_shared_can_be_said() -> None:
    data = TensorDict(
        {"a": torch.randn(5), "b": torch.randn(5), "next": {"a": torch.randn(5), "b": torch.randn(5), "reward": torch.zeros(5)}}, [5]
    )
    storage = RecordStorage(8, shared="a")
    storage.set(range(5), data)
    assert storage._following.keys == [("a",)]
    assert_equal(storage[:], data)


def stored(**changes: Any) -> None:
    """Nothing of data with a mistake is stored."""
    storage = RecordStorage(8)
    storage.set(range(5), steps(5, 0))
    before, data = storage[:], steps(2, 1)
    for name, value in changes.items():
        data = data.exclude(name) if value is None else data.set(name, value)
    try:
        storage.set(range(3, 5), data)
    finally:
        assert_equal(storage[:], before)


SEQUENCE = TensorDict({"a": torch.zeros(1, 4)}, [1, 4])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: RecordStorage(0), ValueError, "RecordStorage: max_size is 0, expected at least 1"),
        (lambda: RecordStorage(2.5), DTypeError, "max_size is 2.5, expected an integer"),
        (lambda: RecordStorage(5, device="cuda"), DeviceError, "device is cuda, expected the CPU"),
        (lambda: RecordStorage(5, shared="pixels").set(range(5), steps(5, 0)), SettingError, "shared has pixels, expected tensors pixels"),
        (lambda: RecordStorage(5, shared="a").set(range(5), torch.zeros(5)), SettingError, "shared has a, expected"),
        (lambda: RecordStorage(5, shared="a").set([0], SEQUENCE), ShapeError, r"elements of data have batch size \[4\]"),
        (lambda: RecordStorage(5, shared="a").set(0, [1.0]), SettingError, "shared has a"),
        (lambda: stored(action=torch.zeros(2, 3)), ShapeError, r"action has shape \[3\] an element, expected \[2\]"),
        (lambda: stored(action=torch.zeros(2, 2, dtype=torch.float64)), DTypeError, "action has dtype float64, expected float32"),
        (lambda: stored(action=None), ShapeError, "data has no key action, expected those of the first data"),
        (lambda: stored(more=torch.zeros(2)), ShapeError, "data has a new key more"),
        (lambda: RecordStorage(5).set(range(4), steps(5, 0)), ShapeError, r"data has batch size \[5\], expected \[4\]"),
        (lambda: RecordStorage(5).set([1, 1], steps(2, 0)), ShapeError, "cursor has a position twice"),
        (lambda: RecordStorage(5).set(torch.arange(6) % 5, steps(6, 0)), ShapeError, "cursor has 6 positions, expected at most"),
        (lambda: RecordStorage(5, device="gpu"), DeviceError, "RecordStorage: device is 'gpu', expected a device of torch"),
        (lambda: RecordStorage(5, shared=3), DTypeError, "shared is 3, expected a list of keys"),
        (lambda: PrioritizedSampler(5, 0.6, 0.4, reduction="sum"), SettingError, "reduction is 'sum', expected one of max"),
        (lambda: PrioritizedSampler(5, 0.6, 0.4).update_priority(torch.tensor([0.5]), 1.0), DTypeError, "index has dtype torch.float32"),
        (lambda: generalized_advantage_estimate(0.9, 0.9, *[torch.ones(2, 0, 1)] * 4), ShapeError, "expected at least one element"),
        (lambda: RecordStorage(5).set([5], steps(1, 0)), IndexError, "cursor has 5, expected positions below 5"),
    ],
)  # fmt: skip
def test_mistakes(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_another_process_is_refused() -> None:
    context = multiprocessing.get_context("spawn")
    with pytest.raises(RuntimeError, match="cannot be shared between processes"):
        context.Process(target=len, args=(RecordStorage(5),)).start()
