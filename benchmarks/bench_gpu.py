"""On a GPU: kernels against the copy bandwidth measured beside them, the replay there, and whole updates as CUDA graphs.

Without a GPU, or a build with CUDA, every row says so. A call of the first two kinds is `REPEATS` pieces of work and one wait for
them. The floor is a copy on the device of as many bytes as the work must read and write. `python benchmarks/bench_gpu.py` prints the
number of nodes (kernels and copies) of each algorithm's graph.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from _timing import Case, Unsupported, contender

REPEATS = 20
FLOOR = "floor copy"
EAGER = "torch eager"
FRAME, STACK = 84 * 84, 4
CASES = [
    Case("gae 1024x16384", "gpu.gae", {"T": 1024, "N": 16384}, REPEATS * 1024 * 16384, "steps", (f"pyrl 0.6x {FLOOR}",)),
    Case("windows b4096, 4 frames 84x84", "gpu.windows", {"batch": 4096}, REPEATS * 4096, "windows", (f"pyrl 0.6x {FLOOR}",)),
    Case("prioritized sample + update b4096 of 10^6", "gpu.prioritized", {"batch": 4096}, 4096, "transitions", ("pyrl <= 100 us",)),
    Case(
        "sac update 256x256 b256", "gpu.learn", {"algorithm": "sac", "batch": 256, "net_arch": [256, 256]}, 256, "samples",
        (f"pyrl captured 8x {EAGER}", "pyrl captured <= 150 us"),
    ),
    Case("dqn update 256x256 b128", "gpu.learn", {"algorithm": "dqn", "batch": 128, "net_arch": [256, 256]}, 128, "samples"),
    Case("td3 update 256x256 b256", "gpu.learn", {"algorithm": "td3", "batch": 256, "net_arch": [256, 256]}, 256, "samples"),
]  # fmt: skip


def gpu() -> Any:
    """torch, if there is a GPU that pyrl and torch can use."""
    import torch

    from pyrl import ops

    if not torch.cuda.is_available():
        raise Unsupported("no GPU")
    if not ops.cuda_built():
        raise Unsupported("this build of pyrl has no CUDA")
    return torch


def repeated(work: Callable[[], object], times: int = REPEATS) -> Callable[[], None]:
    torch = gpu()

    def call() -> None:
        for _ in range(times):
            work()
        torch.cuda.synchronize()

    return call


def copying(total: int) -> Callable[[], None]:
    """Copies that read and write ``total`` bytes together."""
    torch = gpu()
    source, target = (torch.zeros(total // 2, dtype=torch.uint8, device="cuda") for _ in range(2))
    return repeated(lambda: target.copy_(source))


# -- returns -----------------------------------------------------------------------------------------------------------


@contender("gpu.gae", "pyrl")
def gae(T: int, N: int) -> Callable[[], None]:
    torch = gpu()
    from pyrl.ops import gae as compute

    reward, value = torch.randn(T, N, device="cuda"), torch.randn(T + 1, N, device="cuda")
    terminated, truncated = torch.rand(T, N, device="cuda") < 0.01, torch.zeros(T, N, dtype=torch.bool, device="cuda")
    out = torch.empty_like(reward), torch.empty_like(reward)
    return repeated(lambda: compute(reward, value, None, terminated, truncated, gamma=0.99, gae_lambda=0.95, out=out))


@contender("gpu.gae", FLOOR)
def gae_floor(T: int, N: int) -> Callable[[], None]:
    return copying(18 * T * N)  # two floats and two flags read, two floats written


# -- the replay --------------------------------------------------------------------------------------------------------


def device_buffer(kind: type, capacity: int, space: Any, **options: Any) -> Any:
    """Full of random records, 1000 environments at a time."""
    torch = gpu()
    from gymnasium.spaces import Discrete

    envs, steps = 1000, capacity // 1000
    buffer = kind(capacity, space, Discrete(6), num_envs=envs, device="cuda", **options)
    high = {"high": 256} if space.dtype == np.uint8 else {"high": 2}
    observation = torch.randint(0, size=(2, envs, *space.shape), device="cuda", **high).to(getattr(torch, str(space.dtype)))
    action, zeros = torch.zeros(envs, dtype=torch.int64, device="cuda"), torch.zeros(envs, dtype=torch.bool, device="cuda")
    for t in range(steps):
        reward = torch.randn(envs, device="cuda")
        buffer.add(observation[t % 2], action, reward, observation[(t + 1) % 2], zeros, zeros)
    return buffer


@contender("gpu.windows", "pyrl")
def windows(batch: int) -> Callable[[], None]:
    gpu()
    from gymnasium.spaces import Box

    from pyrl.buffers import ReplayBuffer

    buffer = device_buffer(ReplayBuffer, 100_000, Box(0, 255, (84, 84), np.uint8), frame_stack=STACK)
    out = buffer.sample(batch)
    return repeated(lambda: buffer.sample(batch, out=out))


@contender("gpu.windows", FLOOR)
def windows_floor(batch: int) -> Callable[[], None]:
    return copying(batch * FRAME * (STACK + 1 + 2 * STACK))  # the frames of observation and next observation overlap


@contender("gpu.prioritized", "pyrl")
def prioritized(batch: int) -> Callable[[], None]:
    torch = gpu()
    from gymnasium.spaces import Box

    from pyrl.buffers import PrioritizedReplayBuffer

    buffer = device_buffer(PrioritizedReplayBuffer, 1_000_000, Box(-np.inf, np.inf, (17,), np.float32))
    out, priority = buffer.sample(batch), torch.rand(batch, device="cuda")

    def draw_and_update() -> None:
        buffer.sample(batch, out=out)
        buffer.update_priorities(out.index, priority)

    return repeated(draw_and_update, 1)


# -- whole updates -----------------------------------------------------------------------------------------------------


def learner(engine: str, algorithm: str, batch: int, net_arch: list[int]) -> tuple[Any, Any]:
    """(agent, batch): HalfCheetah's sizes, or six discrete actions, in the memory of the GPU."""
    torch = gpu()
    from gymnasium.spaces import Box, Discrete

    import pyrl
    from pyrl.types import Batch

    action_space = Discrete(6) if algorithm == "dqn" else Box(-1, 1, (6,))
    options = {"engine": engine, "device": "cuda", "batch_size": batch, "net_arch": tuple(net_arch)}
    agent = pyrl.make_agent(algorithm, Box(-np.inf, np.inf, (17,)), action_space, **options)
    observation, next_observation = torch.randn(2, batch, 17, device="cuda")
    action = torch.randint(0, 6, (batch,), device="cuda") if algorithm == "dqn" else torch.rand(batch, 6, device="cuda") * 2 - 1
    reward, discount = torch.randn(batch, device="cuda"), torch.full((batch,), 0.99, device="cuda")
    flags, index = torch.zeros(batch, dtype=torch.bool, device="cuda"), torch.arange(batch, device="cuda")
    return agent, Batch(observation, action, reward, next_observation, flags, discount, index)


def learning(engine: str, **params: Any) -> Callable[[], Any]:
    from pyrl.engine.cuda_graph import WARM_UP

    agent, batch = learner(engine, **params)
    for _ in range(3 * WARM_UP):  # TD3 has two graphs; arguments that move are placed anew at first
        agent.learn(batch)
    return lambda: agent.learn(batch)


@contender("gpu.learn", "pyrl captured")
def captured(**params: Any) -> Callable[[], Any]:
    return learning("graph", **params)


@contender("gpu.learn", "pyrl captured, compiled")
def compiled(**params: Any) -> Callable[[], Any]:
    return learning("compile", **params)


@contender("gpu.learn", EAGER)
def eager(**params: Any) -> Callable[[], Any]:
    return learning("torch", **params)


def print_nodes() -> None:
    from pyrl.engine.cuda_graph import WARM_UP

    for algorithm in ("sac", "td3", "ddpg", "svg", "dqn"):
        for engine in ("graph", "compile"):
            agent, batch = learner(engine, algorithm, 256, [256, 256])
            for _ in range(3 * WARM_UP):
                agent.learn(batch)
            nodes = [graph.node_count for graph in agent.updater.graphs.graphs]
            print(f"{algorithm:5} {engine:8} nodes: {', '.join(map(str, nodes))}  (None: package cuda-bindings or torch 2.8 is missing)")


if __name__ == "__main__":
    try:
        print_nodes()
    except Unsupported as reason:
        print(reason)
