"""IMPALA and DQN on CartPole-v1 beside RLlib's: steps a second, and seconds until the mean return of 100 episodes is 475.

python benchmarks/bench_rllib.py [NAME ...] [--rounds 3] [--seconds 120]      in an environment with 'ray[rllib]==2.60.*' and pyrl

The contenders run in turns, each in a process of its own, so that what else the machine does hits all alike. Each has two collectors, but
for pyrl's dqn, and settings that are known to solve the task: pyrl its presets, RLlib those of its own examples for CartPole. Steps a
second count from the first report to the last, so without the start; per CPU second: of all processes, the start included. Seconds to
475 include it too.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

SCORE = 475.0


Told = Callable[[int, float], bool]  # (environment steps, mean return of 100 episodes) -> whether to end


def pyrl_run(told: Told, algo: str, **options: Any) -> None:
    import pyrl

    def watch(metrics: Any) -> bool:
        return told(metrics["time/env_steps"], metrics["episode/return_mean"] if metrics["time/episodes"] >= 100 else 0.0)

    pyrl.train(algo, "CartPole-v1", run_dir=False, curve=False, total_steps=10**7, on_metrics=watch, **options)


def rllib_run(told: Told, config: Any) -> None:
    import logging

    import ray

    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    algorithm = config.environment("CartPole-v1").build_algo()
    try:
        ended = False
        while not ended:
            runners = algorithm.train().get("env_runners", {})
            mean = runners.get("episode_return_mean")
            ended = told(int(runners.get("num_env_steps_sampled_lifetime", 0)), 0.0 if mean is None or np.isnan(mean) else mean)
    finally:
        algorithm.stop()
        ray.shutdown()


def rllib_impala(kind: str) -> Any:
    from ray.rllib.algorithms.appo import APPOConfig
    from ray.rllib.algorithms.impala import IMPALAConfig
    from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig

    config = {"impala": IMPALAConfig, "appo": APPOConfig}[kind]()
    return (
        config.env_runners(num_env_runners=2)
        .training(
            train_batch_size_per_learner=500, lr=0.0005, grad_clip=40.0, grad_clip_by="global_norm", vf_loss_coeff=0.05, entropy_coeff=0.0,
        )
        .rl_module(model_config=DefaultModelConfig(vf_share_layers=True))
    )  # fmt: skip


def rllib_dqn() -> Any:
    from ray.rllib.algorithms.dqn import DQNConfig
    from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig

    replay = {"type": "PrioritizedEpisodeReplayBuffer", "capacity": 50_000, "alpha": 0.6, "beta": 0.4}
    model = DefaultModelConfig(fcnet_hiddens=[256], fcnet_activation="tanh", head_fcnet_hiddens=[256], head_fcnet_activation="tanh")
    return (
        DQNConfig()
        .env_runners(num_env_runners=2)
        .training(
            lr=0.0005, train_batch_size_per_learner=32, replay_buffer_config=replay, n_step=(2, 5), double_q=True, dueling=True,
            epsilon=[(0, 1.0), (10_000, 0.02)],
        )
        .rl_module(model_config=model)
    )  # fmt: skip


CONTENDERS: dict[str, dict[str, Callable[[Told], None]]] = {
    "impala": {
        "pyrl impala, ray": lambda told: pyrl_run(told, "impala", workers=2, worker_engine="ray"),
        "pyrl impala, local": lambda told: pyrl_run(told, "impala", workers=2, worker_engine="local"),
        "rllib impala": lambda told: rllib_run(told, rllib_impala("impala")),
        "rllib appo": lambda told: rllib_run(told, rllib_impala("appo")),
    },
    "dqn": {
        "pyrl dqn, one process": lambda told: pyrl_run(told, "dqn"),
        "rllib dqn": lambda told: rllib_run(told, rllib_dqn()),
    },
}


def one(name: str, seconds: float) -> dict[str, float]:
    """One contender, until the score or for so many seconds after its first report."""
    began, reports, result = time.perf_counter(), list[tuple[int, float]](), {"reached": float("nan")}

    def told(steps: int, mean: float) -> bool:
        now = time.perf_counter()
        reports.append((steps, now))
        if mean >= SCORE:
            result["reached"] = now - began
        ended = mean >= SCORE or now - reports[0][1] > seconds
        if ended:
            result["steps"], result["per_cpu"] = steps, steps / cpu_seconds(os.getpid())
        return ended

    next(group[name] for group in CONTENDERS.values() if name in group)(told)
    (first, at), (last, end) = reports[0], reports[-1]
    return {"speed": (last - first) / max(end - at, 1e-9), **result}


def cpu_seconds(pid: int) -> float:
    """Of a process and all below it."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        children = [int(c) for task in Path(f"/proc/{pid}/task").iterdir() for c in (task / "children").read_text().split()]
    except OSError:  # it has ended meanwhile
        return 0.0
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK") + sum(map(cpu_seconds, children))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=list(CONTENDERS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--one")
    options = parser.parse_args()
    if options.one:
        print("RESULT", json.dumps(one(options.one, options.seconds)))
        return
    for group in options.names:
        results: dict[str, list[dict[str, float]]] = {name: [] for name in CONTENDERS[group]}
        for turn in range(options.rounds):
            for name in results:
                command = [sys.executable, __file__, "--one", name, "--seconds", str(options.seconds)]
                ended = subprocess.run(command, capture_output=True, text=True, check=False)
                found = [line for line in ended.stdout.splitlines() if line.startswith("RESULT")]
                if not found:
                    print(f"{name}: failed ({ended.returncode}): {ended.stderr.strip().splitlines()[-1:]}", flush=True)
                    continue
                results[name].append(json.loads(found[0].removeprefix("RESULT")))
                print(f"   round {turn}, {name}: {results[name][-1]}", flush=True)
        for name, rows in results.items():
            if rows:
                speed, per_cpu = (np.median([row[key] for row in rows]) for key in ("speed", "per_cpu"))
                times = ", ".join("not reached" if np.isnan(row["reached"]) else f"{row['reached']:.0f} s" for row in rows)
                print(f"{name:24} {speed:10,.0f} steps/s {per_cpu:10,.0f} steps per CPU second; to {SCORE:g}: {times}", flush=True)


if __name__ == "__main__":
    main()
