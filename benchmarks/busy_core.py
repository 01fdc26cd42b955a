"""Two threads by one where another process burns a core: wall time of whole updates, in turns.

    python benchmarks/busy_core.py [--turns 60] [--burners 1]

A helper of the pool that has no processor is overtaken, so two threads should never be much slower than one (goal: 1.1).
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from _report import machine_facts
from bench_engines import MUJOCO, off_policy, ppo

from pyrl import ops

UPDATES: dict[str, Callable[[], Callable[[], Any]]] = {
    "PPO 64x64 b256": lambda: ppo("native", 256, [64, 64]),
    "DQN 256x256 b128": lambda: off_policy("dqn", "native", 128, [256, 256]),
    "DDPG 400x300 b256": lambda: off_policy("ddpg", "native", 256, [400, 300]),
    "SAC 256x256 b256": lambda: off_policy("sac", "native", 256, [256, 256]),
    "SAC, 17 inputs and 6 outputs": lambda: off_policy("sac", "native", 256, [256, 256], **MUJOCO),
}
TURN_SECONDS = 0.1


def seconds(call: Callable[[], Any], threads: int, loops: int) -> float:
    """Wall time of a call by so many threads."""
    ops.set_num_threads(threads)
    began = time.perf_counter()
    for _ in range(loops):
        call()
    return (time.perf_counter() - began) / loops


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=60)
    parser.add_argument("--burners", type=int, default=1)
    options = parser.parse_args()
    if options.turns < 1 or options.burners < 0:
        parser.error("turns are at least 1, burners at least 0")
    print(", ".join(f"{name} {value}" for name, value in machine_facts().items()))
    burners = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(options.burners)]
    try:
        for name, make in UPDATES.items():
            call = make()
            loops = max(1, round(TURN_SECONDS / seconds(call, 1, 3)))
            turns = [(seconds(call, 1, loops), seconds(call, 2, loops)) for _ in range(options.turns)]
            one, two = (statistics.median(column) for column in zip(*turns, strict=True))
            ratio = statistics.median(b / a for a, b in turns)
            print(f"{name}: one thread {1e3 * one:.3f} ms, two {1e3 * two:.3f} ms, median of the ratios {ratio:.2f}", flush=True)
    finally:
        for burner in burners:
            burner.kill()


if __name__ == "__main__":
    main()
