"""`kill -9` at random moments, and what it costs: collectors, learners of a group, the program itself, which is resumed, and shards on Ray.

python tests/distributed/kills.py [--collectors 60] [--learners 20] [--programs 20] [--shards 0] [--seed 0]

Prints the longest gap between two updates, how long it took until a killed collector's place made chunks again, until a killed
program's run went on, and until a killed shard stored again. Every run asserts that no step was lost, and that no process, file or shared
memory is left.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import pyrl
from pyrl.distributed.learner import RolloutQueue
from pyrl.distributed.loop import DistributedLoop
from pyrl.distributed.replay import ReplayLoop
from pyrl.loops.supervision import ENOUGH

SMALL: dict[str, Any] = {
    "num_envs": 4,
    "n_steps": 16,
    "net_arch": (32,),
    "backend": "native",
    "workers": 2,
    "curve": False,
    "run_dir": False,
}


def left_over() -> set[str]:
    """Names in shared memory and of temporary files that pyrl's processes could leave."""
    return {
        f"{folder}/{name}"
        for folder in ("/dev/shm", tempfile.gettempdir())
        for name in os.listdir(folder)
        if name.startswith(("torch", "pymp", "pyrl", "psm", "tmp"))
    }


def processes(loop: Any, role: str) -> dict[str, Any]:
    """Those of a run, by name."""
    if role == "collector":
        return {f"collector-{index}": member.process for index, member in enumerate(loop.engine.members)}
    return {f"learner-{rank}": follower.process for rank, follower in enumerate(loop.learner.group.followers, 1)}


def of_collectors(kills: int, random: np.random.Generator) -> dict[str, Any]:
    return _killed_in_a_run(kills, random, "collector", {}, lambda metrics: metrics["time/restarts"])


def of_learners(kills: int, random: np.random.Generator) -> dict[str, Any]:
    return _killed_in_a_run(kills, random, "learner", {"learners": 2}, lambda metrics: metrics["time/learner_restarts"])


def _killed_in_a_run(
    kills: int, random: np.random.Generator, role: str, more: dict[str, Any], restarts: Callable[[Any], float]
) -> dict[str, Any]:
    """One run, in which a random process of ``role`` is killed again and again."""
    gaps, back, books = list[float](), list[float](), list[Any]()
    killed: dict[str, float] = {}  # name of a process: when
    made: dict[int, int] = {}  # environment steps of each collector that is alive
    state = {"due": 0.0, "last": 0.0, "kills": 0, "updates": 0.0}
    put, close, begin = RolloutQueue.put, DistributedLoop.close, DistributedLoop.reset
    loops = list[DistributedLoop]()

    def arrived(queue: RolloutQueue, chunk: Any, release: Any) -> None:
        put(queue, chunk, release)
        when = killed.get(f"collector-{chunk.collector}")
        made[chunk.collector] = chunk.steps + (made.get(chunk.collector, 0) if chunk.sequence else 0)
        if chunk.sequence == 0 and when is not None:
            back.append(time.monotonic() - when)
            del killed[f"collector-{chunk.collector}"]

    def beginning(loop: DistributedLoop) -> None:
        loops.append(loop)
        begin(loop)

    def closing(loop: DistributedLoop) -> None:
        close(loop)
        loop.engine.accounts.check()
        books.append(loop.engine.accounts)

    def watch(metrics: Any) -> bool:
        now = time.monotonic()
        if state["last"]:
            gaps.append(now - state["last"])
        state["last"] = now
        if role == "learner" and killed and restarts(metrics) >= state["kills"]:
            back.append(now - killed.popitem()[1])
            state["updates"] = metrics["time/updates"]
        # Three deaths in a row, each within ENOUGH steps or updates, end a run: random moments, but for those.
        enough = metrics["time/updates"] - state["updates"] >= ENOUGH
        ready = {
            name: process
            for name, process in processes(loops[-1], role).items()
            if name not in killed and process.is_alive() and (made.get(int(name[-1]), 0) >= ENOUGH if role == "collector" else enough)
        }
        if now > state["due"] and state["kills"] < kills and ready:
            victim = list(ready)[random.integers(len(ready))]
            os.kill(ready[victim].pid, signal.SIGKILL)
            killed[victim] = now
            made.pop(int(victim[-1]), None)
            state["kills"] += 1
            state["due"] = now + random.random()
        return bool(state["kills"] >= kills and not killed and now > state["due"])

    RolloutQueue.put, DistributedLoop.close, DistributedLoop.reset = arrived, closing, beginning  # type: ignore[method-assign]
    try:
        run = pyrl.train("impala", "CartPole-v1", total_steps=10**9, on_metrics=watch, **{**SMALL, **more})
    finally:
        RolloutQueue.put, DistributedLoop.close, DistributedLoop.reset = put, close, begin  # type: ignore[method-assign]
    assert not multiprocessing.active_children()
    assert restarts(run.metrics[-1]) >= kills
    (book,) = books
    return {
        "kills": kills, "longest gap between two updates, s": max(gaps), "back, s": _spread(back), "collected": book.collected,
        "consumed": book.consumed, "discarded": dict(book.discarded),
    }  # fmt: skip


def pid_of_shard(shard: Any) -> int:
    """0: its actor has not begun."""
    import ray

    actor = ray._private.state.actors(shard.actor._actor_id.hex())
    return int(actor["Pid"]) if actor.get("State") == "ALIVE" else 0


def check_shards(loop: ReplayLoop) -> dict[str, Any]:
    """AccountingError unless all that was collected is stored or discarded, and all that was stored is in shards or lost."""
    loop.check_books()
    books, held = loop.engine.accounts, sum(shard.stored() for shard in loop.shards)
    assert loop.stored == held + loop.lost, (loop.stored, held, loop.lost)
    return {
        "collected": books.collected, "stored": loop.stored - loop.begun, "in shards": held, "lost": loop.lost,
        "discarded": dict(books.discarded),
    }  # fmt: skip


def of_shards(kills: int, random: np.random.Generator) -> dict[str, Any]:
    """One run of distributed replay on Ray, in which a random shard is killed again and again."""
    gaps, back, books, loops = list[float](), list[float](), dict[str, Any](), list[ReplayLoop]()
    killed: dict[int, tuple[float, Any]] = {}  # shard: when, and which one it was
    state = {"due": 0.0, "last": 0.0, "kills": 0, "updates": 0.0}
    begin, close = ReplayLoop.reset, ReplayLoop.close

    def beginning(loop: ReplayLoop) -> None:
        loops.append(loop)
        begin(loop)

    def closing(loop: ReplayLoop) -> None:
        books.update(check_shards(loop))
        close(loop)

    def watch(metrics: Any) -> bool:
        now, shards = time.monotonic(), loops[-1].shards
        if metrics["time/updates"] > state["updates"]:
            if state["last"]:
                gaps.append(now - state["last"])
            state["last"], state["updates"] = now, metrics["time/updates"]
        for k, (when, dead) in list(killed.items()):
            if shards[k] is not dead and shards[k].confirmed:
                back.append(now - when)
                del killed[k]
        # Three deaths in a row, each before ENOUGH transitions, end a run: random moments, but for those.
        ready = [k for k, shard in enumerate(shards) if shard.confirmed >= ENOUGH]
        if now > state["due"] and state["kills"] < kills and ready and not killed:  # one at a time
            k = ready[random.integers(len(ready))]
            os.kill(pid_of_shard(shards[k]), signal.SIGKILL)
            killed[k] = now, shards[k]
            state["kills"] += 1
            state["due"] = now + random.random()
        return bool(state["kills"] >= kills and not killed and now > state["due"])

    options = {
        "num_envs": 4, "net_arch": (32,), "backend": "native", "workers": 2, "curve": False, "run_dir": False, "worker_engine": "ray",
        "replay_shards": 2, "remote_shards": True, "prioritized": True, "batch_size": 32, "learning_starts": 200, "buffer_size": 20_000,
    }  # fmt: skip
    ReplayLoop.reset, ReplayLoop.close = beginning, closing  # type: ignore[method-assign]
    try:
        pyrl.train("dqn", "CartPole-v1", total_steps=10**9, on_metrics=watch, **options)
    finally:
        ReplayLoop.reset, ReplayLoop.close = begin, close  # type: ignore[method-assign]
    return {"kills": kills, "longest gap between two updates, s": round(max(gaps), 2), "back, s": _spread(back), **books}


def of_programs(kills: int, random: np.random.Generator, folder: Path) -> dict[str, Any]:
    """One run, whose program is killed again and again, and resumed from the last checkpoint."""
    command = [sys.executable, "-m", "pyrl", "train"]
    begin = [
        "impala",
        "CartPole-v1",
        "--workers",
        "2",
        "--env-backend",
        "native",
        "--total-steps",
        str(10**9),
        "--no-curve",
        "--run-dir",
        "run",
    ]
    back, lost, orphans = list[float](), list[int](), list[float]()
    for kill in range(kills + 1):
        saved = pyrl.load(folder / "run/checkpoints/last").env_steps if kill else 0
        started = time.monotonic()
        with (folder / "log").open("w") as log:
            program = subprocess.Popen(
                [*command, *(["--resume", "run"] if kill else begin)],
                cwd=folder,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
        while _checkpoint_steps(folder) <= saved:
            assert program.poll() is None, (folder / "log").read_text()
            assert time.monotonic() - started < 120
            time.sleep(0.1)  # each look loads a checkpoint
        back.append(time.monotonic() - started)
        if kill == kills:
            program.send_signal(signal.SIGTERM)
            assert program.wait(60) == 128 + signal.SIGTERM, (folder / "log").read_text()
            break
        time.sleep(3 * random.random())
        children = _children(program.pid)
        steps = _checkpoint_steps(folder)
        program.kill()
        program.wait()
        killed = time.monotonic()
        while any(Path(f"/proc/{child}").exists() for child in children):
            assert time.monotonic() - killed < 10, "processes outlive the program"
            time.sleep(0.01)
        orphans.append(time.monotonic() - killed)
        lost.append(steps)
    return {
        "kills": kills,
        "from start to the first new checkpoint, s": _spread(back),
        "collectors gone after, s": _spread(orphans),
        "steps": lost[-1] if lost else 0,
    }


def _checkpoint_steps(folder: Path) -> int:
    try:
        return int(pyrl.load(folder / "run/checkpoints/last").env_steps)
    except Exception:  # none yet, or being replaced
        return -1


def _children(pid: int) -> list[int]:
    """And theirs: collectors are forked by a server."""
    children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return children + [grandchild for child in children for grandchild in _children(child)]


def _spread(seconds: list[float]) -> dict[str, float]:
    median, most, worst = np.quantile(seconds, [0.5, 0.95, 1.0]).round(2).tolist() if seconds else [0.0] * 3
    return {"median": median, "95 %": most, "worst": worst}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for role, count in (("collectors", 60), ("learners", 20), ("programs", 20), ("shards", 0)):
        parser.add_argument(f"--{role}", type=int, default=count, help="kills")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    random, before = np.random.default_rng(options.seed), left_over()
    if options.collectors:
        print("collectors", json.dumps(of_collectors(options.collectors, random)), flush=True)
    if options.learners:
        print("learners", json.dumps(of_learners(options.learners, random)), flush=True)
    if options.programs:
        with tempfile.TemporaryDirectory(prefix="kills") as folder:
            print("programs", json.dumps(of_programs(options.programs, random, Path(folder))), flush=True)
    if options.shards:
        print("shards", json.dumps(of_shards(options.shards, random)), flush=True)
    assert left_over() <= before, f"left behind: {sorted(left_over() - before)}"


if __name__ == "__main__":
    main()
