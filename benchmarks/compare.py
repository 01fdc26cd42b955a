"""Two source trees of pyrl on the same work, in turns: is the second one slower?

    git worktree add /tmp/before 8b30366 && (cd /tmp/before && cmake --preset dev && cmake --build build/dev)
    python benchmarks/compare.py /tmp/before .            # each with its extension module built in place

A process for each tree prepares every case; then they work in turns, one at a time, ``--rounds`` times for each case, each time for at
least ``--seconds`` of CPU. A ratio is CPU time of the first by CPU time of the second in one round, so above 1 the second is faster; the
median over the rounds is printed, with its quartiles. The first tree twice (``compare.py A A``) shows what the machine's noise is.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

Work = Callable[[], object]


def replay(num_envs: int, prioritized: bool = False) -> tuple[Any, tuple[Any, ...]]:
    from gymnasium.spaces import Box, Discrete

    from pyrl.buffers import PrioritizedReplayBuffer, ReplayBuffer

    kind = PrioritizedReplayBuffer if prioritized else ReplayBuffer
    buffer = kind(100_000, Box(-1, 1, (17,)), Discrete(4), num_envs=num_envs)
    r = np.random.default_rng(0)
    observation, action, reward = r.random((num_envs, 17), np.float32), r.integers(4, size=num_envs), r.random(num_envs)
    ended = np.zeros(num_envs, bool)
    row = observation, action, reward, observation, ended, ended
    for _ in range(100_000 // num_envs):
        buffer.add(*row)
    return buffer, row


def add(num_envs: int) -> Work:
    buffer, row = replay(num_envs)
    return lambda: buffer.add(*row)


def sample(count: int, out: bool, prioritized: bool = False) -> Work:
    buffer, _ = replay(8, prioritized)
    batch = buffer.sample(count)
    return (lambda: buffer.sample(count, out=batch)) if out else (lambda: buffer.sample(count))


def update_priorities() -> Work:
    buffer, _ = replay(8, True)
    index, priority = buffer.sample(256).index, np.random.default_rng(0).random(256)
    return lambda: buffer.update_priorities(index, priority)


def gae() -> Work:
    from pyrl.ops import gae

    r = np.random.default_rng(0)
    reward, value, next_value = (r.random((128, 8), np.float32) for _ in range(3))
    flags = np.zeros((128, 8), bool)
    return lambda: gae(reward, value, next_value, flags, flags, gamma=0.99, gae_lambda=0.95)


def act(algo: str, num_envs: int) -> Work:
    import pyrl

    env = "CartPole-v1" if algo in ("ppo", "dqn") else "Pendulum-v1"
    options = {"random_steps": 0} if env == "Pendulum-v1" else {}  # else they would be uniform actions
    with pyrl.envs.make(env, num_envs, seed=0) as stepper:
        agent = pyrl.make_agent(algo, stepper.single_observation_space, stepper.single_action_space, num_envs=num_envs, seed=0, **options)
        observation = np.array(stepper.reset() if stepper.observation is None else stepper.observation)
    return lambda: agent.act(observation, deterministic=False)


def learn(algo: str, steps: int, **options: Any) -> Work:
    """One call of ``agent.learn`` with what a loop gave it."""
    import pyrl

    env = "Pendulum-v1" if algo == "sac" else "CartPole-v1"
    with pyrl.envs.make(env, 8, seed=0) as stepper:
        agent = pyrl.make_agent(algo, stepper.single_observation_space, stepper.single_action_space, num_envs=8, seed=0, **options)
        given: list[Any] = []
        learn = agent.learn
        agent.learn = lambda data: given.append(data) or learn(data)
        for _ in pyrl.iterate(agent, stepper, steps):
            pass
    del agent.learn
    return lambda: agent.learn(given[-1])


def train(algo: str, backend: str, **options: Any) -> Work:
    """Environment steps of training, 1024 a call."""
    import pyrl

    env = "CartPole-v1"
    stepper = pyrl.envs.make(env, 8, seed=0, backend=backend)
    agent = pyrl.make_agent(algo, stepper.single_observation_space, stepper.single_action_space, num_envs=8, seed=0, **options)

    records = iter(pyrl.iterate(agent, stepper, 100_000_000))

    def work() -> None:
        goal = agent.env_steps + 1024
        while agent.env_steps < goal:
            next(records)

    return work


CASES: dict[str, Callable[[], Work]] = {
    "add, 1 environment": lambda: add(1),
    "add, 8 environments": lambda: add(8),
    "add, 256 environments": lambda: add(256),
    "sample b32": lambda: sample(32, False),
    "sample b256": lambda: sample(256, False),
    "sample b256 out=": lambda: sample(256, True),
    "sample b256 out= prioritized": lambda: sample(256, True, True),
    "update_priorities b256": update_priorities,
    "gae 128 x 8": gae,
    "act ppo, 8 environments": lambda: act("ppo", 8),
    "act dqn, 1 environment": lambda: act("dqn", 1),
    "act sac, 1 environment": lambda: act("sac", 1),
    "act td3, 1 environment": lambda: act("td3", 1),
    "learn ppo 8 x 128": lambda: learn("ppo", 2048, n_steps=128, batch_size=256, n_epochs=4),
    "learn dqn b128": lambda: learn("dqn", 800, batch_size=128, learning_starts=200, train_freq=4),
    "learn sac b256": lambda: learn("sac", 600, learning_starts=300),
    "train ppo 8 x 128, lean": lambda: train("ppo", "lean", n_steps=128, batch_size=256, n_epochs=4),
    "train ppo 8 x 128, sync": lambda: train("ppo", "sync", n_steps=128, batch_size=256, n_epochs=4),
    "train dqn b32, lean": lambda: train("dqn", "lean", learning_starts=100, buffer_size=10_000),
}


def serve(seconds: float) -> None:
    """Work on request: the name of a case in, CPU seconds a call out; everything is prepared at its first request."""
    warnings.simplefilter("ignore")
    import torch

    torch.set_num_threads(1)
    works: dict[str, tuple[Work, int]] = {}
    for line in sys.stdin:
        name = line.strip()
        if name not in works:
            work, calls = CASES[name](), 1
            work()
            while True:
                began = time.process_time()
                for _ in range(calls):
                    work()
                if (spent := time.process_time() - began) > seconds / 2:
                    break
                calls *= 2
            works[name] = work, max(1, int(calls * seconds / spent))
        work, calls = works[name]
        began = time.process_time()
        for _ in range(calls):
            work()
        print(json.dumps((time.process_time() - began) / calls), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trees", nargs="*", type=Path, help="two source trees")
    parser.add_argument("--only", default="", help="cases whose names contain this")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=0.1)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        return serve(options.seconds)
    if len(options.trees) != 2:
        parser.error("expected two source trees")
    environment = {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    servers = [
        subprocess.Popen(
            [sys.executable, "-P", str(Path(__file__).resolve()), "--serve", "--seconds", str(options.seconds)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **environment, "PYTHONPATH": str(tree.resolve())},
        )
        for tree in options.trees
    ]  # fmt: skip
    processor = next((x.split(":")[1].strip() for x in Path("/proc/cpuinfo").read_text().splitlines() if x.startswith("model name")), "")
    print(f"{processor or platform.processor()}, {date.today()}: CPU time of {options.trees[0]} by that of {options.trees[1]}, in turns")
    print(f"{'case':32} {'first us':>10} {'second us':>10}   ratio (quartiles)")
    for name in CASES:
        if options.only not in name:
            continue
        rounds = []
        for round_ in range(options.rounds + 1):
            times = {}
            for i in (0, 1) if round_ % 2 else (1, 0):
                print(name, file=servers[i].stdin, flush=True)
                times[i] = json.loads(servers[i].stdout.readline())
            if round_:  # the first prepares
                rounds.append((times[0], times[1]))
        low, middle, high = statistics.quantiles([a / b for a, b in rounds], n=4)
        first, second = (statistics.median(times) * 1e6 for times in zip(*rounds))
        print(f"{name:32} {first:10.2f} {second:10.2f}   {middle:.3f} ({low:.3f} to {high:.3f})", flush=True)
    for server in servers:
        server.stdin.close()
        server.wait()


if __name__ == "__main__":
    main()
