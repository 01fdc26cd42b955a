"""What stepping environments costs, for every backend, against the bare environments.

    python benchmarks/bench_envs.py [--envs CartPole-v1 Pendulum-v1 ...] [--num-envs 1 8 64] [--seconds 0.3] [--rounds 5]

`bare` is the floor: a loop that calls ``step`` of the unwrapped environments with ready actions and resets what ended, and keeps
nothing. `gymnasium sync` is its SyncVectorEnv as made by ``gymnasium.make_vec``, `envpool` EnvPool as it comes. All rows of a block
alternate in one process; each figure is the median of the rounds. `over bare` is what a vector step costs beyond the floor. Dead
steps of NEXT_STEP autoreset are no transitions and do not count in transitions/s.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np

from pyrl.envs import make
from pyrl.errors import EnvError, UnknownNameError

POOL = 257  # ready action batches
ENVS = ["CartPole-v1", "Pendulum-v1", "FrozenLake-v1", "Acrobot-v1", "LunarLander-v3"]


def actions_for(space: Any, num_envs: int) -> list[np.ndarray]:
    space.seed(0)
    return [np.stack([np.asarray(space.sample()) for _ in range(num_envs)]) for _ in range(POOL)]


class Run:
    """``loop(count)`` makes so many vector steps; ``valid`` is the share of their rows that are transitions."""

    def __init__(self, loop: Callable[[int], None], valid: float = 1.0, close: Callable[[], Any] = lambda: None) -> None:
        self.loop, self.valid, self.close = loop, valid, close

    def microseconds(self, count: int) -> float:
        start = time.perf_counter()
        self.loop(count)
        return (time.perf_counter() - start) / count * 1e6


def bare(env_id: str, num_envs: int) -> Run:
    """The loop that no stepper can beat; a time limit costs it one comparison."""
    envs = [gymnasium.make(env_id) for _ in range(num_envs)]
    limit = envs[0].spec.max_episode_steps or 1 << 60
    inner = [env.unwrapped for env in envs]
    for i, env in enumerate(inner):
        env.reset(seed=i)
    batches = actions_for(envs[0].action_space, num_envs)
    ready = [batch.tolist() if batch.dtype.kind == "i" else list(batch) for batch in batches]
    steps = [env.step for env in inner]
    age = 0

    def run(count: int) -> None:
        nonlocal age
        for k in range(count):
            age += 1
            for i, (step, action) in enumerate(zip(steps, ready[k % POOL])):
                _, _, terminated, truncated, _ = step(action)
                if terminated or truncated:
                    inner[i].reset()
            if age >= limit:
                age = 0
                for env in inner:
                    env.reset()

    return Run(run)


def peer(env: Any) -> Run:
    """A NEXT_STEP vector environment in a loop that keeps nothing."""
    env.reset()
    batches = actions_for(env.single_action_space, env.num_envs)

    def run(count: int) -> None:
        for k in range(count):
            env.step(batches[k % POOL])

    ends = sum(int((result[2] | result[3]).sum()) for result in (env.step(batches[k % POOL]) for k in range(500)))
    return Run(run, 1 - ends / (500 * env.num_envs), env.close)


def sync(env_id: str, num_envs: int) -> Run:
    return peer(gymnasium.make_vec(env_id, num_envs, vectorization_mode="sync"))


def envpool(env_id: str, num_envs: int) -> Run:
    try:
        import envpool
    except ImportError as error:
        raise EnvError("envpool is not installed") from error
    return peer(envpool.make_gymnasium(env_id, num_envs=num_envs, seed=0))


def ours(backend: str) -> Callable[[str, int], Run]:
    def build(env_id: str, num_envs: int) -> Run:
        stepper = make(env_id, num_envs, backend=backend)  # type: ignore[arg-type]
        stepper.reset()
        batches = actions_for(stepper.single_action_space, num_envs)
        if stepper.single_action_space.dtype.kind == "i":
            batches = [batch - stepper.single_action_space.start for batch in batches]

        def run(count: int) -> None:
            for k in range(count):
                stepper.step(batches[k % POOL])

        valid = float(np.mean([stepper.step(batches[k % POOL]).valid.mean() for k in range(500)]))
        return Run(run, valid, stepper.close)

    return build


ROWS: dict[str, Callable[[str, int], Run]] = {
    "bare": bare,
    "gymnasium sync": sync,
    "pyrl lean": ours("lean"),
    "pyrl sync": ours("sync"),
    "pyrl async": ours("async"),
    "pyrl vector": ours("vector"),
    "envpool": envpool,
    "pyrl envpool": ours("envpool"),
}


def block(env_id: str, num_envs: int, rows: list[str], seconds: float, rounds: int) -> None:
    runs, missing = {}, {}
    for name in rows:
        try:
            runs[name] = ROWS[name](env_id, num_envs)
        except (EnvError, UnknownNameError, ValueError) as error:
            missing[name] = str(error)
    counts = {name: max(1, int(seconds * 1e6 / run.microseconds(20))) for name, run in runs.items()}
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            times[name].append(run.microseconds(counts[name]))
    floor = statistics.median(times["bare"])
    print(f"\n{env_id}, {num_envs} environments   {'us/vector step':>16} {'transitions/s':>14} {'x bare':>7} {'over bare us':>13}")
    for name, values in times.items():
        us = statistics.median(values)
        print(f"  {name:<16} {us:>29.1f} {num_envs * runs[name].valid / us * 1e6:>14,.0f} {us / floor:>7.2f} {us - floor:>13.1f}")
    for name, reason in missing.items():
        print(f"  {name:<16} not measured: {reason}")
    for run in runs.values():
        run.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--envs", nargs="+", default=ENVS)
    parser.add_argument("--num-envs", nargs="+", type=int, default=[1, 8, 64])
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--seconds", type=float, default=0.3, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    rows = ["bare", *(r for r in options.rows if r != "bare")]
    for env_id in options.envs:
        for num_envs in options.num_envs:
            block(env_id, num_envs, rows, options.seconds, options.rounds)


if __name__ == "__main__":
    main()
