"""Adding to a full replay buffer and drawing from it, against arrays filled and indexed by hand.

Samples end as torch tensors, fresh at each draw, for the references too (`torch.from_numpy`). `pyrl out=` fills the tensors of the
last draw, `pyrl numpy` gives fresh NumPy arrays. The references keep five arrays (observation, action, reward, next observation,
terminated) and draw fresh indices at each call. The floor copies as many bytes as the call must read and write, without the random
access.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from itertools import cycle
from typing import Any, NamedTuple

import _data
import numpy as np
from _timing import Case, contender, keep_one

from pyrl.buffers import PrioritizedReplayBuffer, ReplayBuffer

GAMMA = 0.99
GOALS = {
    "add b1 obs17": ("pyrl <= 2 us",),
    "sample b256 obs17": (
        "pyrl 5x sb3",
        "pyrl 3x peers",
        "pyrl 1.5x references",
        "pyrl numpy 1.5x references",
        "pyrl out= 2.5x references",
    ),
    "prioritized sample + update b256 obs17": ("pyrl 3x peers", "pyrl out= 4x peers"),
}


def case(name: str, op: str, batch: int, **params: Any) -> Case:
    return Case(name, f"replay.{op}", {"batch": batch, **params}, batch, "transitions", GOALS.get(name, ()))


CASES = [  # grouped by what they share, so that a buffer is filled once
    *(
        case(f"{op} b{batch} {kind}", op, batch, kind=kind)
        for kind in ("obs17", "obs4", "obs376", "img4x84x84")
        for op, batch in (("add", 1), ("sample", 32), ("sample", 256), ("sample", 4096), ("add", 8), ("add", 256))
    ),
    case("prioritized sample + update b256 obs17", "prioritized_pair", 256, kind="obs17"),
    case("nstep3 sample b256 obs17", "nstep_sample", 256, kind="obs17", n_step=3),
    *(case(f"framestack4 sample b{batch} 84x84", "stack_sample", batch, kind="img84x84", stack=4) for batch in (32, 256)),
]


def row_bytes(kind: str) -> int:
    shape, dtype, actions, _ = _data.KINDS[kind]
    return 2 * int(np.prod(shape)) * np.dtype(dtype).itemsize + (4 * actions or 8) + 4 + 1


# -- pyrl --------------------------------------------------------------------------------------------------------------


def full_buffer(output: Any, kind: str, num_envs: int, n_step: int = 1, stack: int = 1, made: Any = ReplayBuffer) -> Any:
    capacity = _data.KINDS[kind].capacity
    buffer = made(capacity, *_data.spaces(kind), num_envs=num_envs, n_step=n_step, gamma=GAMMA, frame_stack=stack, kind=output)
    steps = cycle(_data.stream(kind, num_envs))
    for _ in range(capacity // num_envs + _data.EPISODE):
        buffer.add(*next(steps))
    return buffer


torch_buffer, numpy_buffer = keep_one(partial(full_buffer, "torch")), keep_one(partial(full_buffer, "numpy"))


@contender("replay.add", "pyrl")
def add(kind: str, batch: int) -> Callable[[], object]:
    buffer, stream = torch_buffer(kind, batch), cycle(_data.stream(kind, batch))
    return lambda: buffer.add(*next(stream))


def register_samples(op: str, options: Callable[..., tuple[int, ...]]) -> None:
    @contender(f"replay.{op}", "pyrl")
    def sample(kind: str, batch: int, **params: int) -> Callable[[], object]:
        return partial(torch_buffer(kind, 1, *options(**params)).sample, batch)

    @contender(f"replay.{op}", "pyrl out=")
    def sample_in_place(kind: str, batch: int, **params: int) -> Callable[[], object]:
        buffer = torch_buffer(kind, 1, *options(**params))
        return partial(buffer.sample, batch, buffer.sample(batch))

    @contender(f"replay.{op}", "pyrl numpy")
    def sample_numpy(kind: str, batch: int, **params: int) -> Callable[[], object]:
        return partial(numpy_buffer(kind, 1, *options(**params)).sample, batch)

    @contender(f"replay.{op}", "floor: a copy")
    def floor(kind: str, batch: int, stack: int = 1, **_: int) -> Callable[[], object]:
        return _data.copying(2 * batch * stack * row_bytes(kind))


register_samples("sample", lambda: ())
register_samples("nstep_sample", lambda n_step: (n_step,))
register_samples("stack_sample", lambda stack: (1, stack))


@contender("replay.add", "floor: a copy")
def add_floor(kind: str, batch: int) -> Callable[[], object]:
    return _data.copying(2 * batch * row_bytes(kind))


@keep_one
def prioritized_buffer(kind: str) -> PrioritizedReplayBuffer:
    buffer = full_buffer("torch", kind, 1, made=PrioritizedReplayBuffer)
    index = np.arange(_data.KINDS[kind].capacity + _data.EPISODE)
    buffer.update_priorities(index, np.random.default_rng(0).exponential(size=len(index)))
    return buffer


@contender("replay.prioritized_pair", "pyrl")
def prioritized_pair(kind: str, batch: int) -> Callable[[], object]:
    buffer, priorities = prioritized_buffer(kind), cycle(_data.priorities(batch))

    def call() -> None:
        buffer.update_priorities(buffer.sample(batch).index, next(priorities))

    return call


@contender("replay.prioritized_pair", "pyrl out=")
def prioritized_pair_in_place(kind: str, batch: int) -> Callable[[], object]:
    buffer, priorities = prioritized_buffer(kind), cycle(_data.priorities(batch))
    out = buffer.sample(batch)

    def call() -> None:
        buffer.update_priorities(buffer.sample(batch, out).index, next(priorities))

    return call


@contender("replay.prioritized_pair", "floor: a copy")
def prioritized_floor(kind: str, batch: int) -> Callable[[], object]:
    # The rows, read and written, and a path of five nodes of two lines each, read for the draw, read and written for the update.
    return _data.copying(2 * batch * row_bytes(kind) + 3 * batch * 5 * 128)


# -- references --------------------------------------------------------------------------------------------------------


class Columns(NamedTuple):
    """Five arrays [capacity, ...], full; episodes of 200 steps."""

    observation: Any
    action: Any
    reward: Any
    next_observation: Any
    terminated: Any


@keep_one
def columns(kind: str) -> Columns:
    capacity = _data.KINDS[kind].capacity
    ends = np.arange(capacity) % _data.EPISODE == _data.EPISODE - 1
    observation = _data.observations(kind, capacity).copy()
    return Columns(observation, _data.actions(kind, capacity), _data.rewards(capacity), np.roll(observation, -1, axis=0), ends)


def torch_columns(kind: str) -> Columns:
    import torch

    return Columns(*map(torch.from_numpy, columns(kind)))


def adding(store: Columns, steps: list[Any], batch: int) -> Callable[[], None]:
    """Write one step of each environment at the head of the ring."""
    stream, position, end = cycle(steps), 0, len(store.reward) // batch * batch
    observations, actions, rewards, next_observations, terminateds = store

    def call() -> None:
        nonlocal position
        observation, action, reward, next_observation, terminated, _ = next(stream)
        rows = slice(position, position + batch)
        observations[rows] = observation
        actions[rows] = action
        rewards[rows] = reward
        next_observations[rows] = next_observation
        terminateds[rows] = terminated
        position = (position + batch) % end

    return call


@contender("replay.add", "ref numpy")
def numpy_add(kind: str, batch: int) -> Callable[[], object]:
    return adding(columns(kind), _data.stream(kind, batch), batch)


@contender("replay.add", "ref torch")
def torch_add(kind: str, batch: int) -> Callable[[], object]:
    import torch

    steps = [tuple(torch.from_numpy(np.array(column)) for column in step) for step in _data.stream(kind, batch)[:4]]
    return adding(torch_columns(kind), steps, batch)


@contender("replay.sample", "ref numpy")
def numpy_sample(kind: str, batch: int) -> Callable[[], object]:
    from torch import from_numpy

    store, rng = columns(kind), np.random.default_rng(0)

    def call() -> list[Any]:
        index = rng.integers(0, len(store.reward), batch)
        return [from_numpy(column.take(index, axis=0)) for column in store]

    return call


@contender("replay.sample", "ref torch")
def torch_sample(kind: str, batch: int) -> Callable[[], object]:
    import torch

    store = torch_columns(kind)

    def call() -> list[Any]:
        index = torch.randint(len(store.reward), (batch,))
        return [column.index_select(0, index) for column in store]

    return call


@contender("replay.sample", "ref numba")
def numba_sample(kind: str, batch: int) -> Callable[[], object]:
    from torch import from_numpy

    store, gather = columns(kind), numba_gather()
    flat = [column.reshape(len(column), -1) for column in store]

    def call() -> list[Any]:
        index = np.random.randint(0, len(store.reward), batch)  # noqa: NPY002 (faster than the Generator for small batches)
        return [from_numpy(gather(column, index)) for column in flat]

    return call


@cache
def numba_gather() -> Callable[..., Any]:
    from numba import njit

    @njit
    def gather(column, index):
        rows = np.empty((len(index), column.shape[1]), column.dtype)
        for i in range(len(index)):
            rows[i] = column[index[i]]
        return rows

    return gather


@contender("replay.nstep_sample", "ref numpy")
def numpy_nstep_sample(kind: str, batch: int, n_step: int) -> Callable[[], object]:
    from torch import from_numpy

    store, rng, ahead = columns(kind), np.random.default_rng(0), np.arange(n_step)
    factors = (GAMMA**ahead).astype(np.float32)

    def call() -> list[Any]:
        index = rng.integers(0, len(store.reward) - n_step, batch)
        window = index[:, None] + ahead
        ends = store.terminated[window]
        length = np.where(ends.any(axis=1), ends.argmax(axis=1) + 1, n_step)
        return_ = (store.reward[window] * factors * (ahead < length[:, None])).sum(axis=1)
        last = index + length - 1
        discount = np.float32(GAMMA) ** length * ~store.terminated[last]
        observation, next_observation = store.observation.take(index, axis=0), store.next_observation.take(last, axis=0)
        return [from_numpy(column) for column in (observation, store.action[index], return_, next_observation, discount)]

    return call


@contender("replay.stack_sample", "ref numpy")
def numpy_stack_sample(kind: str, batch: int, stack: int) -> Callable[[], object]:
    from torch import from_numpy

    frames, action, reward, _, terminated = columns(kind)
    rng, back = np.random.default_rng(0), np.arange(1 - stack, 1)

    def call() -> list[Any]:
        index = rng.integers(0, len(reward) - 1, batch)
        start = index[:, None] // _data.EPISODE * _data.EPISODE
        before, after = np.maximum(index[:, None] + back, start), np.maximum(index[:, None] + back + 1, start)
        rows = frames.take(before, axis=0), action[index], reward[index], frames.take(after, axis=0), terminated[index]
        return [from_numpy(column) for column in rows]

    return call
