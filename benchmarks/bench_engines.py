"""Whole updates and acting on small networks: the native engine beside torch, eager (fused optimiser) and compiled.

Each contender is a real agent that learns one batch again and again; only `engine` differs. The floor runs the update's matrix
products, and nothing else, by `torch.mm` into given memory: operations over the rate that torch reaches at these shapes in this
run. `--threads 2` gives everyone two. "MuJoCo": 17 inputs and 6 outputs; elsewhere CartPole's 4 and 2, or one torque.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import numpy as np
from _timing import Case, contender

FLOOR = "floor: torch.mm"
NEAR_FLOOR = (f"pyrl native 0.91x {FLOOR}",)  # at most 1.1 times its time
MUJOCO = {"inputs": 17, "outputs": 6}
CASES = [
    Case(
        "ppo minibatch 64x64 b64", "engine.ppo", {"batch": 64, "net_arch": [64, 64]}, 64, "samples",
        ("pyrl native <= 75 us", "pyrl native 3x torch eager", "pyrl native 3x torch compile"),
    ),
    Case("ppo minibatch 64x64 b256", "engine.ppo", {"batch": 256, "net_arch": [64, 64]}, 256, "samples", NEAR_FLOOR),
    Case("ppo minibatch 64x64 b256, MuJoCo", "engine.ppo", {"batch": 256, "net_arch": [64, 64], **MUJOCO}, 256, "samples", NEAR_FLOOR),
    Case("dqn update 256x256 b128", "engine.dqn", {"batch": 128, "net_arch": [256, 256]}, 128, "samples", NEAR_FLOOR),
    Case("dqn update 256x256 b128, MuJoCo", "engine.dqn", {"batch": 128, "net_arch": [256, 256], **MUJOCO}, 128, "samples", NEAR_FLOOR),
    Case("ddpg update 400x300", "engine.ddpg", {"batch": 256, "net_arch": [400, 300]}, 256, "samples", NEAR_FLOOR),
    Case("sac update 256x256 b256", "engine.sac", {"batch": 256, "net_arch": [256, 256]}, 256, "samples", NEAR_FLOOR),
    Case("sac update 256x256 b256, MuJoCo", "engine.sac", {"batch": 256, "net_arch": [256, 256], **MUJOCO}, 256, "samples", NEAR_FLOOR),
    Case("act 8 envs 64x64, with value", "engine.act", {"batch": 8, "net_arch": [64, 64]}, 8, "actions", ("pyrl native <= 6 us",)),
]  # fmt: skip
ENGINES = {"pyrl native": "native", "torch eager": "torch", "torch compile": "compile"}
OBSERVATION, ACTIONS, CONTINUOUS = 4, 2, 1  # inputs, and outputs of discrete and continuous actions


def threads() -> None:
    """The driver says how many in the environment."""
    import os

    import torch

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))


def agent(algorithm: str, engine: str, batch: int, net_arch: list[int], inputs: int, outputs: int, **options: Any) -> Any:
    from gymnasium.spaces import Box, Discrete

    import pyrl

    threads()
    action = Discrete(outputs) if algorithm in ("ppo", "dqn") else Box(-1, 1, (outputs,))
    space = Box(-1, 1, (inputs,))
    return pyrl.make_agent(algorithm, space, action, engine=engine, batch_size=batch, net_arch=tuple(net_arch), **options)


def floats(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


# -- the agents' own updates -------------------------------------------------------------------------------------------


def ppo(engine: str, batch: int, net_arch: list[int], inputs: int = OBSERVATION, outputs: int = ACTIONS) -> Callable[[], Any]:
    from pyrl.agents.actor_critic import Samples

    learner = agent("ppo", engine, batch, net_arch, inputs, outputs, n_steps=1024)
    action = np.random.default_rng(0).integers(0, outputs, 1024)
    samples = Samples(floats(1024, inputs), action, floats(1024) * 0.1 - 0.7, floats(1024), floats(1024), floats(1024))
    index = np.random.default_rng(0).permutation(1024)[:batch]
    learner.updater.begin(3e-4)
    data = learner.updater.to_device(samples, index, learner.scalar(0.2), learner.scalar(0.0))
    return lambda: learner.updater(learner.update, *data)


def off_policy(
    algorithm: str, engine: str, batch: int, net_arch: list[int], inputs: int = OBSERVATION, outputs: int | None = None
) -> Callable[[], Any]:
    from pyrl.types import Batch

    outputs = outputs or (ACTIONS if algorithm == "dqn" else CONTINUOUS)
    learner = agent(algorithm, engine, batch, net_arch, inputs, outputs)
    action = np.random.default_rng(0).integers(0, outputs, batch) if algorithm == "dqn" else floats(batch, outputs)
    discount = np.full(batch, 0.99, np.float32)
    rows = floats(batch, inputs), action, floats(batch), floats(batch, inputs), np.zeros(batch, bool), discount
    return partial(learner.learn, Batch(*rows, np.arange(batch)))


def acting(engine: str, batch: int, net_arch: list[int]) -> Callable[[], Any]:
    """Actions, their log-probabilities, and the values of the observations."""
    from pyrl.types import PolicyInput

    learner = agent("ppo", engine, 64, net_arch, OBSERVATION, ACTIONS)
    observation = floats(batch, OBSERVATION)
    given = PolicyInput(observation, np.zeros(batch, bool))
    if engine == "native":
        critic, w = learner.native["network"].networks[1], learner.arena.values
        return lambda: (learner.choose(given), critic.infer(w, observation))
    import torch

    network = learner.network.value if engine == "torch" else torch.compile(learner.network.value)

    def call() -> Any:
        with torch.no_grad():
            return learner.choose(given), network(torch.from_numpy(observation))

    return call


def register(op: str, make: Callable[..., Any]) -> None:
    for name, engine in ENGINES.items():
        contender(f"engine.{op}", name)(partial(make, engine))


register("ppo", ppo)
register("act", acting)
for _algorithm in ("dqn", "ddpg", "sac"):
    register(_algorithm, partial(off_policy, _algorithm))


# -- the floor ---------------------------------------------------------------------------------------------------------


def forward(batch: int, sizes: Iterable[int]) -> list[tuple[int, int, int]]:
    """(M, P, N) of the products of one pass."""
    sizes = list(sizes)
    return [(batch, a, b) for a, b in zip(sizes[:-1], sizes[1:])]


def backward(batch: int, sizes: Iterable[int], *, weights: bool = True, inputs: bool = False) -> list[tuple[int, int, int]]:
    sizes = list(sizes)
    products = [(a, batch, b) for a, b in zip(sizes[:-1], sizes[1:])] if weights else []
    return products + [(batch, b, a) for i, (a, b) in enumerate(zip(sizes[:-1], sizes[1:])) if i > 0 or inputs]


def products(op: str, batch: int, net_arch: list[int], inputs: int = OBSERVATION, outputs: int | None = None) -> list[tuple[int, int, int]]:
    outputs = outputs or (CONTINUOUS if op in ("ddpg", "sac") else ACTIONS)

    def both(*sizes: int) -> list[tuple[int, int, int]]:
        return forward(batch, sizes) + backward(batch, sizes)

    discrete, value = (inputs, *net_arch, outputs), (inputs, *net_arch, 1)
    if op == "ppo":
        return both(*discrete) + both(*value)
    if op == "act":
        return forward(batch, discrete) + forward(batch, value)
    if op == "dqn":
        return forward(batch, discrete) + both(*discrete)
    critic = (inputs + outputs, *net_arch, 1)
    if op == "ddpg":
        actor = (inputs, *net_arch, outputs)
        through = forward(batch, critic) + backward(batch, critic, weights=False, inputs=True)
        return forward(batch, actor) + forward(batch, critic) + both(*critic) + both(*actor) + through
    actor = (inputs, *net_arch, 2 * outputs)
    through = 2 * (forward(batch, critic) + backward(batch, critic, weights=False, inputs=True))
    return forward(batch, actor) + 2 * forward(batch, critic) + 2 * both(*critic) + both(*actor) + through


def register_floor(op: str) -> None:
    @contender(f"engine.{op}", FLOOR)
    def floor(batch: int, net_arch: list[int], **shape: int) -> Callable[[], Any]:
        import torch

        threads()
        shapes = products(op, batch, net_arch, **shape)
        operands = [(torch.randn(m, p), torch.randn(p, n), torch.empty(m, n)) for m, p, n in shapes]

        def call() -> None:
            for a, b, c in operands:
                torch.mm(a, b, out=c)

        return call


for _op in ("ppo", "act", "dqn", "ddpg", "sac"):
    register_floor(_op)
