"""Training is killed and stopped at random moments; the run must load, go on, and have lost next to nothing.

    python -m tests.fuzz.stops --kills 200 --terms 100

Kills are SIGKILL; stops are SIGTERM, SIGHUP and SIGINT, to the process or to its group (as a terminal and a scheduler do). Most runs
are forked from a process that has imported everything, so that the first second of a run is hit as often as the others; every
eighth is a command line of its own, hit from the start of the process on.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyrl
from pyrl import checkpoint
from pyrl.experiment.metrics import read_csv

LOST_SECONDS = 10.0  # of training that a kill may cost
PATIENCE = 300.0  # seconds for a process to end or to go on: two workers may take a minute to start on a loaded machine
SMALL = {"net_arch": (32, 32)}
RUNS: list[tuple[str, str, dict[str, Any]]] = [
    ("ppo", "CartPole-v1", {"num_envs": 4, "n_steps": 64, "batch_size": 64, **SMALL}),
    ("dqn", "CartPole-v1", {"num_envs": 2, "learning_starts": 100, "buffer_size": 20_000, "save_every_episodes": 20, **SMALL}),
    ("a2c", "CartPole-v1", {"num_envs": 4, **SMALL}),
    ("sac", "Pendulum-v1", {"num_envs": 1, "learning_starts": 100, "buffer_size": 20_000, "batch_size": 64, **SMALL}),
    ("ppo", "CartPole-v1", {"num_envs": 2, "n_steps": 64, "batch_size": 64, "eval_every": 500, "eval_episodes": 3, **SMALL}),
    ("ppo", "CartPole-v1", {"num_envs": 2, "n_steps": 64, "batch_size": 64, "backend": "async", **SMALL}),
    ("dqn", "CartPole-v1", {"num_envs": 1, "learning_starts": 100, "prioritized": True, **SMALL}),
    ("a3c", "CartPole-v1", {"num_envs": 2, **SMALL}),
]


@dataclass
class Tally:
    """What came of it."""

    faults: list[str] = field(default_factory=list)
    lost: list[float] = field(default_factory=list)  # seconds of training, one for each kill of a run that had begun
    outcomes: Counter[str] = field(default_factory=Counter)


class Heartbeat:
    """A file in which the training process leaves its environment steps and its seconds."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def beat(self, metrics: pyrl.types.Metrics) -> None:
        with self.path.open("wb", buffering=0) as file:
            file.write(struct.pack("dd", metrics["time/env_steps"], metrics["time/seconds"]))

    def read(self) -> tuple[float, float]:
        data = self.path.read_bytes() if self.path.exists() else b""
        return struct.unpack("dd", data) if len(data) == 16 else (0.0, 0.0)


def forked(work: Callable[[], None]) -> int:
    """The process that does ``work`` in a group of its own; its exit status is what a program would have."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        os.setsid()
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        with open(os.environ["PYRL_STOPS_LOG"], "a") as log:
            os.dup2(log.fileno(), 2)
        work()
        status = 0
    except SystemExit as stop:
        status = int(stop.code or 0)
    except KeyboardInterrupt:
        status = 130
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def waited(process: int, seconds: float) -> int | None:
    """The exit status as `subprocess` gives it; None if it does not end in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        done, status = os.waitpid(process, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    return None


def trial(tally: Tally, chance: random.Random, folder: Path, kill: bool, longest: float, index: int) -> None:
    algo, env, options = RUNS[index % len(RUNS)]
    number = signal.SIGKILL if kill else chance.choice([signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
    to_group, fresh = not kill and chance.random() < 0.5, chance.random() < 1 / 8
    # a3c starts processes of its own first; a command line imports torch
    moment = chance.choice([0.3, 1.5, 1.5, longest / 2, longest]) * chance.random() + (2.0 * fresh * chance.random())
    what = (
        f"trial {index}, {algo} {'command ' if fresh else ''}{options}: {number.name}{' to the group' if to_group else ''} at {moment:.3f}"
    )
    heart = Heartbeat(folder.with_suffix(".beat"))
    if fresh:
        command = [sys.executable, "-m", "pyrl", "train", "random", env, "--total-steps", "1e9", "--run-dir", str(folder), "--quiet"]
        process = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL).pid
    else:
        process = forked(lambda: pyrl.train(algo, env, total_steps=10**9, run_dir=folder, on_metrics=heart.beat, **options) and None)
    time.sleep(moment)
    (os.killpg if to_group else os.kill)(process, number)
    status = waited(process, PATIENCE)
    if status is None:
        os.killpg(process, signal.SIGKILL)
        os.waitpid(process, 0)
        tally.faults.append(f"{what}: did not end in {PATIENCE:.0f} s")
        return
    began = (folder / "config.json").exists()
    expected = {-9} if kill else {128 + number} if began else {128 + number, -number}
    if status not in expected:
        tally.faults.append(f"{what}: exit status {status}, expected one of {sorted(expected)}")
    if not began:
        tally.outcomes["before the run began"] += 1
        return
    if not kill and json.loads((folder / "config.json").read_text()).get("ending") != number.name:
        tally.faults.append(f"{what}: config.json does not say that {number.name} ended it")
    check_run(tally, what, "random" if fresh else algo, env, folder, heart, kill)


def check_run(tally: Tally, what: str, algo: str, env: str, folder: Path, heart: Heartbeat, kill: bool) -> None:
    """Load what is there, go on for two records, and compare."""
    last, (steps, seconds) = folder / "checkpoints" / "last", heart.read()
    saved_steps, saved_seconds = 0, 0.0
    if checkpoint.exists(last):
        tree, _ = checkpoint.load(last)
        saved_steps, saved_seconds = tree["counters"]["env_steps"], tree["loop"]["seconds"]
    for path in (folder / "checkpoints").iterdir():
        if not path.name.startswith("."):
            pyrl.load(path)
    if kill:
        tally.lost.append(max(0.0, seconds - saved_seconds))
        if tally.lost[-1] > LOST_SECONDS:
            tally.faults.append(f"{what}: {tally.lost[-1]:.1f} s of training were lost")
    elif saved_steps < steps:
        tally.faults.append(f"{what}: {steps - saved_steps:.0f} steps were lost")

    def go_on() -> None:
        records = iter(range(2))
        run = pyrl.train(algo, env, resume=folder, on_metrics=lambda _: next(records, None) is None)
        table, episodes = read_csv(folder / "metrics.csv"), read_csv(folder / "episodes.csv")
        assert run.agent.env_steps > saved_steps, (run.agent.env_steps, saved_steps)
        assert (table["time/env_steps"][1:] > table["time/env_steps"][:-1]).all()
        assert (table["time/seconds"][1:] >= table["time/seconds"][:-1]).all()
        count = len(episodes["return"]) if episodes else 0
        assert count == table["time/episodes"][-1], (count, table["time/episodes"][-1])

    process = forked(go_on)
    status = waited(process, PATIENCE)
    if status is None:
        os.killpg(process, signal.SIGKILL)
        os.waitpid(process, 0)
    if status != 0:
        tally.faults.append(f"{what}: going on with {folder} ended with {status}")
    tally.outcomes["gone on with"] += 1


def told(tally: Tally) -> str:
    lost = sorted(tally.lost) or [0.0]
    seconds = f"seconds of training lost by a kill: median {lost[len(lost) // 2]:.2f}, most {lost[-1]:.2f}"
    return f"{dict(tally.outcomes)}, {len(tally.faults)} faults; {seconds}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--terms", type=int, default=10)
    parser.add_argument("--longest", type=float, default=14.0, help="seconds of the longest run")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    import torch

    torch.set_num_threads(1)
    for algo, env, settings in RUNS:  # everything is imported once
        if algo != "a3c":
            pyrl.train(algo, env, total_steps=1, run_dir=False, **settings)
    root, tally, chance = Path(tempfile.mkdtemp(prefix="pyrl-stops-")), Tally(), random.Random(options.seed)
    os.environ["PYRL_STOPS_LOG"] = str(root / "log")
    for index in range(options.kills + options.terms):
        folder, faults = root / f"run{index}", len(tally.faults)
        trial(tally, chance, folder, index < options.kills, options.longest, index)
        for fault in tally.faults[faults:]:
            print(fault, flush=True)
        if index % 20 == 19:
            print(f"after {index + 1} of {options.kills} kills and {options.terms} stops: {told(tally)}", flush=True)
        if len(tally.faults) == faults:
            shutil.rmtree(folder, ignore_errors=True)
    print(told(tally))
    if tally.faults:
        print(f"what the processes said is in {root / 'log'}")
        return 1
    shutil.rmtree(root)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
