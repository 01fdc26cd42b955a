"""Process start to a solved CartPole-v1: importing, compiling, collecting, learning and evaluating, as a user waits for it.

python benchmarks/start.py [--seeds 5] [--python PYTHON_OF_SB3] [--before TREE]

Both libraries learn by PPO with the zoo's settings for CartPole-v1 (8 environments x 32 steps, one minibatch of 256, 20 epochs) and
evaluate ten deterministic episodes by their own means after every 4,096 steps; the clock stops at the first mean of 475. One process a
run, one thread each, in turns. The control is random search over linear policies, in a process of its own too. With ``--before TREE``,
another source tree of pyrl, built in place, takes part.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
CONFIG = dict(n_steps=32, batch_size=256, n_epochs=20, gae_lambda=0.8, gamma=0.98, ent_coef=0.0)
TOTAL_STEPS, BETWEEN, EPISODES, SOLVED = 100_000, 4_096, 10, 475


def pyrl(seed: int) -> int:
    import pyrl

    stepper = pyrl.envs.make("CartPole-v1", 8, seed=seed)
    spaces = stepper.single_observation_space, stepper.single_action_space
    agent = pyrl.make_agent("ppo", *spaces, seed=seed, num_envs=8, learning_rate="linear_1e-3", clip_range="linear_0.2", **CONFIG)
    for _ in pyrl.iterate(agent, stepper, total_steps=TOTAL_STEPS):
        if agent.env_steps % BETWEEN == 0 and pyrl.evaluate(agent, "CartPole-v1", EPISODES).mean >= SOLVED:
            return agent.env_steps
    return -1


def sb3(seed: int) -> int:
    from stable_baselines3 import PPO
    from stable_baselines3.common.callbacks import EvalCallback, StopTrainingOnRewardThreshold
    from stable_baselines3.common.env_util import make_vec_env

    model = PPO(
        "MlpPolicy", make_vec_env("CartPole-v1", 8, seed=seed), seed=seed, device="cpu",
        learning_rate=lambda left: 1e-3 * left, clip_range=lambda left: 0.2 * left, **CONFIG,
    )  # fmt: skip
    solved = StopTrainingOnRewardThreshold(SOLVED, verbose=0)
    evaluation = EvalCallback(
        make_vec_env("CartPole-v1", 8, seed=seed + 1000), callback_on_new_best=solved, eval_freq=BETWEEN // 8,
        n_eval_episodes=EPISODES, verbose=0,
    )  # fmt: skip
    model.learn(TOTAL_STEPS, callback=evaluation)
    return model.num_timesteps if evaluation.best_mean_reward >= SOLVED else -1


def control(seed: int) -> int:
    from reproduce import linear_search

    return linear_search(seed)[0]


RUNS: dict[str, Callable[[int], int]] = {"pyrl": pyrl, "sb3": sb3, "control": control}


def measure(name: str, seed: int, python: str | Path, tree: Path | None = None) -> tuple[float, float, int]:
    """(seconds from the start of the process, its CPU seconds, environment steps)"""
    environment = dict(os.environ, OMP_NUM_THREADS="1", PYRL_NUM_THREADS="1")
    if tree is not None:
        environment["PYTHONPATH"] = str(tree.resolve())
    start, before = time.time(), resource.getrusage(resource.RUSAGE_CHILDREN)
    run = subprocess.run([python, __file__, "--one", name, str(seed)], env=environment, capture_output=True, text=True, check=False)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime
    if run.returncode != 0:
        raise SystemExit(f"{name}: {run.stderr.strip().splitlines()[-1]}")
    end, steps = run.stdout.split()[-2:]
    if int(steps) < 0:
        raise SystemExit(f"{name}, seed {seed}: not solved within {TOTAL_STEPS} steps")
    return float(end) - start, cpu, int(steps)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--python", type=Path, default=HERE / ".venvs" / "sb3" / "bin" / "python", help="where Stable-Baselines3 lives")
    parser.add_argument("--before", type=Path, metavar="TREE", help="another source tree of pyrl")
    parser.add_argument("--one", nargs=2, metavar=("NAME", "SEED"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        steps = RUNS[args.one[0]](int(args.one[1]))
        print(time.time(), steps)
        return
    runs: dict[str, tuple[Any, ...]] = {
        "pyrl": ("pyrl", sys.executable),
        "sb3": ("sb3", args.python),
        "control": ("control", sys.executable),
    }
    if args.before is not None:
        runs["before"] = ("pyrl", sys.executable, args.before)
    results: dict[str, list[tuple[float, float, int]]] = {name: [] for name in runs}
    for seed in (-1, *range(args.seeds)):  # the first one puts files into the system's cache, bytecode onto the disk
        for name, (which, python, *tree) in runs.items():
            row = measure(which, max(seed, 0), python, *tree)
            if seed >= 0:
                results[name].append(row)
    wall, cpu = ({name: statistics.median(row[kind] for row in rows) for name, rows in results.items()} for kind in (0, 1))
    for name, rows in results.items():
        ratios = f"({cpu[name] / cpu['sb3']:.2f} of sb3), {wall[name]:.2f} s by the clock ({wall[name] / wall['sb3']:.2f})"
        steps = statistics.median(row[2] for row in rows)
        print(f"{name:8} {cpu[name]:6.2f} CPU s {ratios}, {steps:,.0f} steps; CPU by seed: {', '.join(f'{row[1]:.2f}' for row in rows)}")


if __name__ == "__main__":
    main()
