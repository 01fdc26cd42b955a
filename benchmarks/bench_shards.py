"""What distributed replay moves (docs/scale.md): chunks of a collector's process into a shard, and draws out of it.

- inserts: one process fills slots of shared memory with chunks of 8,192 transitions (17 numbers an observation) and says so over a pipe,
  as the collectors of the engine ``local`` do, but without environments; the learner's process reads each where it is and stores it, with
  its initial priorities. "bare" has the same processes, copies each slot once and stores nothing.
- draws: 16 batches of 256 and their priorities written back, by one shard of a million slots; "buffer" is the same without shard and
  limiter.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from _timing import Case, contender
from bench_scale import Processes, until

STEPS, ENVS, SLOTS = 128, 64, 2  # of a chunk: 8,192 transitions
CHUNK = STEPS * ENVS

CASES = [
    Case(
        "insert chunks of 8,192 from another process, by priority", "shards.insert", {"prioritized": True}, 100 * CHUNK, "transitions",
        ("pyrl local <= 409600 us",), once=True,  # 2,000,000 transitions/s
    ),
    Case(
        "insert chunks of 8,192 from another process, uniform", "shards.insert", {"prioritized": False}, 100 * CHUNK, "transitions",
        ("pyrl local <= 409600 us",), once=True,
    ),
    Case("16 batches of 256, and their priorities", "shards.draw", {}, 16 * 256, "transitions"),
]  # fmt: skip


def spec_and_chunk() -> tuple[Any, Any]:
    from gymnasium import spaces

    from pyrl.distributed.chunks import Chunk
    from pyrl.distributed.transitions import Transitions, TransitionSpec

    space, random = spaces.Box(-np.inf, np.inf, (17,), np.float32), np.random.default_rng(0)
    seen = random.normal(size=(STEPS + 1, ENVS, 17)).astype(np.float32)
    ended = random.random((STEPS, ENVS)) < 0.005
    following = seen[1:].copy()
    following[ended] = 0.0
    flags = ended, np.zeros_like(ended), np.ones_like(ended)
    reward, priority = (random.random((STEPS, ENVS)).astype(np.float32) for _ in range(2))
    steps = Transitions(seen[:-1], random.integers(0, 4, (STEPS, ENVS)), reward, following, *flags, priority=priority)
    spec = TransitionSpec(
        n_steps=STEPS, observation_space=space, action_space=spaces.Discrete(4), stacked=False, masks=False,
        window={"n_step": 3, "gamma": 0.99}, prioritized=True, rungs=(0.0,) * ENVS,
    )  # fmt: skip
    return spec, Chunk(steps, [], 0, 0, 0, 0)


def shard_spec(spec: Any, prioritized: bool, index: int = 0, shards: int = 1) -> Any:
    from pyrl.agents.storage import PrioritySpec, ReplaySpec
    from pyrl.distributed.shard import ShardSpec

    replay = ReplaySpec(capacity=shards * 2**20, batch_size=256, prioritized=PrioritySpec() if prioritized else None)
    return ShardSpec(
        replay=replay, index=index, shards=shards, envs=ENVS, space=spec.observation_space, action_space=spec.action_space,
        window=spec.window, seed=0, samples_per_insert=1e-9, insert_size=CHUNK, batches=16,
    )  # fmt: skip


def shard(spec: Any, prioritized: bool) -> Any:
    from pyrl.distributed.shard import ReplayShard

    return ReplayShard(shard_spec(spec, prioritized))


def fill(memory: Any, free: Connection, filled: Connection) -> None:
    """A collector without environments."""
    spec, chunk = spec_and_chunk()
    layout = spec.layout(ENVS)
    slots = np.frombuffer(memory, np.uint8).reshape(SLOTS, layout.size)
    while True:
        slot = free.recv()
        layout.write(slots[slot], chunk)
        filled.send(slot)


def inserting(use: Callable[[np.ndarray], object]) -> Callable[[], None]:
    """100 chunks of another process, each given to ``use`` where it is."""
    processes, context = Processes(), multiprocessing.get_context("spawn")
    size = spec_and_chunk()[0].layout(ENVS).size
    memory = context.RawArray("B", SLOTS * size)
    (slots_there, free), (filled, slots_back) = context.Pipe(duplex=False), context.Pipe(duplex=False)
    context.Process(target=fill, args=(memory, slots_there, slots_back), daemon=True).start()
    slots, done = np.frombuffer(memory, np.uint8).reshape(SLOTS, size), [0]
    for slot in range(SLOTS):
        free.send(slot)

    def step() -> None:
        slot = filled.recv()
        use(slots[slot])
        free.send(slot)
        done[0] += 1

    step()
    processes.started()
    return processes.during(until(lambda: done[0], step, 100))


@contender("shards.insert", "pyrl local")
def insert(prioritized: bool) -> Callable[[], None]:
    spec = spec_and_chunk()[0]
    layout, target = spec.layout(ENVS), shard(spec, prioritized)

    def use(slot: np.ndarray) -> None:
        assert target.insert(layout.read(slot, 0).rollout)

    return inserting(use)


@contender("shards.insert", "bare processes")
def bare(prioritized: bool) -> Callable[[], None]:
    there = np.empty(spec_and_chunk()[0].layout(ENVS).size, np.uint8)
    return inserting(lambda slot: np.copyto(there, slot))


def full_shard() -> Any:
    spec, chunk = spec_and_chunk()
    target = shard(spec, True)
    for _ in range(140):
        assert target.insert(chunk.rollout)
    return target


@contender("shards.draw", "pyrl shard")
def draw() -> Callable[[], None]:
    target, priority = full_shard(), [np.random.default_rng(0).random(256).astype(np.float32)] * 16
    # As many draws as one likes: a limiter that has counted a great many inserts.
    target.limiter = replace(target.spec, samples_per_insert=1.0).limiter()
    target.limiter.load_state_dict({"inserts": 2**52, "samples": 0})

    def call() -> None:
        batches = target.sample(0.4)
        target.update_priorities([batch.index for batch in batches], priority)

    return call


@contender("shards.draw", "buffer")
def buffer() -> Callable[[], None]:
    target, priority = full_shard().buffer, np.random.default_rng(0).random(256).astype(np.float32)

    def call() -> None:
        for _ in range(16):
            target.update_priorities(target.sample(256).index, priority)

    return call
