"""The replay: adding and drawing, against twenty lines of NumPy and of torch over five preallocated arrays.

Drawn batches of pyrl are NumPy arrays; ``pyrl torch`` gives tensors, ``pyrl out=`` fills the last batch again. The floor copies
the bytes of a batch once, from and to contiguous memory: it pays no cache misses.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import cycle
from math import prod
from typing import Any

import _data
import numpy as np
from _timing import Case, contender, keep_one

from pyrl.buffers import ReplayBuffer

GAMMA = 0.99
KINDS, BATCHES = ("obs4", "obs17", "obs376", "img4x84x84"), (32, 256, 4096)
SAMPLE_GOALS = {
    ("obs17", 256): ("pyrl 5x sb3", "pyrl 3x peers", "pyrl 1.5x references", "pyrl out= 2.5x references"),
}
CASES = [
    *(
        Case(
            f"add b{batch} {kind}", "replay.add", {"kind": kind, "batch": batch}, batch, "transitions",
            goals=("pyrl <= 2 us",) if (kind, batch) == ("obs17", 1) else (),
        )
        for kind in KINDS
        for batch in (1, 8, 256)
    ),
    *(
        Case(
            f"sample b{batch} {kind}", "replay.sample", {"kind": kind, "batch": batch}, batch, "transitions",
            goals=SAMPLE_GOALS.get((kind, batch), ()),
        )
        for kind in KINDS
        for batch in BATCHES
    ),
    Case("nstep3 sample b256 obs17", "replay.nstep_sample", {"kind": "obs17", "batch": 256, "n_step": 3}, 256, "transitions"),
    *(
        Case(
            f"framestack4 sample b{batch} 84x84", "replay.stack_sample", {"kind": "img84x84", "batch": batch, "stack": 4}, batch,
            "transitions",
        )
        for batch in (32, 256)
    ),
]  # fmt: skip


def row_bytes(kind: str, stack: int = 1) -> int:
    """Of a drawn transition: two observations, action, reward, flag, discount, index."""
    shape, dtype, actions, _ = _data.KINDS[kind]
    return 2 * stack * prod(shape) * np.dtype(dtype).itemsize + 4 * max(actions, 2) + 4 + 1 + 4 + 8


@keep_one
def full_buffer(kind: str, num_envs: int, n_step: int, stack: int) -> ReplayBuffer:
    """As many drawable transitions as the peers hold, every page written."""
    capacity = _data.KINDS[kind].capacity // num_envs * num_envs
    slots = capacity + capacity // _data.EPISODE + 2 * num_envs  # the tails of the episodes
    buffer = ReplayBuffer(slots, *_data.spaces(kind), num_envs=num_envs, n_step=n_step, gamma=GAMMA, frame_stack=stack)
    steps = cycle(_data.stream(kind, num_envs))
    for _ in range(slots // num_envs + 1):
        buffer.add(*next(steps))
    return buffer


@contender("replay.add", "pyrl")
def pyrl_add(kind: str, batch: int) -> Callable[[], Any]:
    buffer, steps = full_buffer(kind, batch, 1, 1), cycle(_data.stream(kind, batch))

    def call() -> None:
        step = next(steps)
        buffer.add(step.observation, step.action, step.reward, step.next_observation, step.terminated, step.truncated)

    return call


def register_draws(op: str) -> None:
    """pyrl's three ways to draw; an op's further parameters are those of `full_buffer`."""

    def buffer_of(kind: str, batch: int, n_step: int = 1, stack: int = 1) -> ReplayBuffer:
        return full_buffer(kind, 1, n_step, stack)

    @contender(op, "pyrl")
    def fresh(kind: str, batch: int, **options: int) -> Callable[[], Any]:
        return partial(buffer_of(kind, batch, **options).sample, batch)

    @contender(op, "pyrl torch")
    def tensors(kind: str, batch: int, **options: int) -> Callable[[], Any]:
        import torch  # noqa: F401

        return partial(buffer_of(kind, batch, **options)._core.sample, batch, True, True, None)

    @contender(op, "pyrl out=")
    def reused(kind: str, batch: int, **options: int) -> Callable[[], Any]:
        buffer = buffer_of(kind, batch, **options)
        return partial(buffer.sample, batch, buffer.sample(batch))

    @contender(op, "floor")
    def copy(kind: str, batch: int, stack: int = 1, **options: int) -> Callable[[], Any]:
        return _data.copying(2 * batch * row_bytes(kind, stack))


register_draws("replay.sample")
register_draws("replay.nstep_sample")
register_draws("replay.stack_sample")


# -- the references: five arrays, both observations stored --------------------------------------------------------------------


@keep_one
def five_arrays(kind: str) -> list[np.ndarray]:
    capacity = _data.KINDS[kind].capacity
    observation, action = _data.observations(kind, capacity), _data.actions(kind, capacity)
    return [observation.copy(), np.roll(observation, -1, axis=0), action, _data.rewards(capacity), np.zeros(capacity, bool)]


@contender("replay.add", "ref numpy")
def numpy_add(kind: str, batch: int) -> Callable[[], Any]:
    arrays, steps, position = five_arrays(kind), cycle(_data.stream(kind, batch)), 0
    observation, next_observation, action, reward, terminated = arrays
    limit = len(reward) // batch * batch

    def call() -> None:
        nonlocal position
        step, rows = next(steps), slice(position, position + batch)
        observation[rows] = step.observation
        next_observation[rows] = step.next_observation
        action[rows] = step.action
        reward[rows] = step.reward
        terminated[rows] = step.terminated
        position = (position + batch) % limit

    return call


@contender("replay.sample", "ref numpy")
def numpy_sample(kind: str, batch: int) -> Callable[[], Any]:
    arrays, rng = five_arrays(kind), np.random.default_rng(0)

    def call() -> list[np.ndarray]:
        index = rng.integers(0, len(arrays[3]), batch)
        return [array.take(index, axis=0) for array in arrays]

    return call


@contender("replay.sample", "ref torch")
def torch_sample(kind: str, batch: int) -> Callable[[], Any]:
    import torch

    tensors = [torch.from_numpy(array) for array in five_arrays(kind)]
    count = len(tensors[3])

    def call() -> list[Any]:
        index = torch.randint(count, (batch,))
        return [tensor.index_select(0, index) for tensor in tensors]

    return call
