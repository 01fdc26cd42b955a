"""The engine `local`: real processes, which are killed, hang, raise and are interrupted. Every run asserts that no step was lost."""

from __future__ import annotations

import functools
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from worker_envs import Faulty, Masked

import pyrl
from pyrl.distributed.loop import DistributedLoop
from pyrl.errors import EnvError

SMALL: dict[str, Any] = {"num_envs": 4, "n_steps": 8, "net_arch": (8,), "curve": False, "run_dir": False}
pytestmark = pytest.mark.timeout(240)


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    before = shared_memory()
    yield
    assert not multiprocessing.active_children()
    assert shared_memory() <= before


def test_a_program_without_a_main_guard_is_told_of_it(tmp_path: Path) -> None:
    """Processes import the program that starts them; this one would start workers in each."""
    program = tmp_path / "unguarded.py"
    program.write_text("import pyrl\npyrl.train('impala', 'CartPole-v1', total_steps=400, workers=2, num_envs=2, run_dir=False)\n")
    ended = subprocess.run([sys.executable, program], capture_output=True, text=True, cwd=tmp_path, timeout=120, check=False)
    assert ended.returncode == 1
    assert "before its first step; workers import the program, which must start them under if __name__ == '__main__'" in ended.stderr


def shared_memory() -> set[str]:
    """Without semaphores of multiprocessing, which workers have none of and other tests beside this one have."""
    return {name for name in os.listdir("/dev/shm") if not name.startswith("sem.mp-")}


@pytest.fixture
def accounts(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The books of every run, once it has ended."""
    seen, close = [], DistributedLoop.close

    def closing(loop: DistributedLoop) -> None:
        close(loop)
        seen.append(loop.engine.accounts)
        loop.engine.accounts.check()

    monkeypatch.setattr(DistributedLoop, "close", closing)
    return seen


def children_of(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in children if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]


def test_collectors_are_killed_again_and_again(accounts: list[Any]) -> None:
    """At random moments, at the start too: the run goes on, and ends with as many collectors as it had."""
    random, rows = np.random.default_rng(0), list[Any]()
    due, killed_at, killed = [0.0], [0], [""]

    def watch(metrics: Any) -> None:
        rows.append(dict(metrics))
        children = multiprocessing.active_children()
        if time.monotonic() > due[0] and len(children) == 2 and metrics["time/restarts"] < 4:
            victim = min(children, key=lambda child: (child.name[-1] == killed[-1], child.name))  # in turn: three in a row end the run
            os.kill(victim.pid, signal.SIGKILL)
            killed.append(victim.name[-1])
            killed_at[0] = metrics["time/env_steps"]
            due[0] = time.monotonic() + random.random() * 2
        if metrics["time/restarts"] >= 4 and metrics["time/env_steps"] > killed_at[0] + 5000:  # both collectors are at work again
            raise StopIteration

    with pytest.raises(StopIteration):
        pyrl.train("impala", "CartPole-v1", total_steps=10**8, workers=2, backend="native", on_metrics=watch, **SMALL)
    (books,) = accounts
    assert books.consumed == rows[-1]["time/env_steps"] > 5000
    assert rows[-1]["time/restarts"] >= 4
    assert all(np.isfinite(list(row.values())).all() for row in rows)
    assert max(row["train/policy_lag"] for row in rows) <= 20
    assert max(row["time/queue_depth"] for row in rows) <= 4  # two chunks of a collector
    assert len({row["train/policy_lag"] for row in rows}) > 1


def test_masks_episodes_and_the_end(accounts: list[Any]) -> None:
    run = pyrl.train("impala", Masked, total_steps=2000, workers=2, **SMALL)
    episodes = [e for m in run.metrics for e in m.episodes]
    assert {e.env_index for e in episodes} == {0, 1, 2, 3}
    assert all(e.length == 7 for e in episodes)
    assert 2000 <= run.agent.env_steps == accounts[0].consumed <= 2000 + 32
    assert accounts[0].collected >= run.agent.env_steps
    assert run.agent.updates == run.agent.env_steps // 32


@pytest.mark.parametrize(
    ("algo", "env", "options"),
    [
        ("ppo", "CartPole-v1", {"batch_size": 16, "n_epochs": 2}),
        ("ppo", Masked, {"batch_size": 16, "backend": "sync"}),
        ("a2c", "CartPole-v1", {"backend": "native"}),
    ],
)
def test_agents_that_wait_for_every_collector_make_the_run_of_sync(
    algo: str, env: Any, options: dict[str, Any], accounts: list[Any]
) -> None:
    runs = [
        pyrl.train(algo, env, total_steps=640, workers=workers, worker_engine=engine, seed=3, **SMALL, **options)  # type: ignore[arg-type]
        for engine, workers in (("sync", 1), ("local", 2), ("local", 4))
    ]
    one, *more = runs
    for other in more:
        assert torch.equal(other.agent.arena.values, one.agent.arena.values)
        assert [e for m in other.metrics for e in m.episodes] == [e for m in one.metrics for e in m.episodes]
        assert all(m["train/policy_lag"] == 0 for m in other.metrics)
    assert one.agent.updates >= 20


def test_a_collector_is_killed_where_all_wait_for_it(accounts: list[Any]) -> None:
    rows, killed = list[Any](), list[int]()

    def watch(metrics: Any) -> bool:
        rows.append(metrics)
        if len(rows) in (3, 10, 12):
            os.kill(multiprocessing.active_children()[len(rows) % 2].pid, signal.SIGKILL)
            killed.append(len(rows))
        return len(rows) == 20

    run = pyrl.train("a2c", "CartPole-v1", total_steps=10**6, workers=2, backend="native", on_metrics=watch, **SMALL)
    assert rows[-1]["time/restarts"] == len(killed) == 3
    assert run.agent.updates == 20
    assert all(row["train/policy_lag"] == 0 for row in rows)
    assert accounts[0].consumed == 20 * 4 * 8


@pytest.mark.parametrize("fault", ["raises", "leaves", "hangs"])
def test_a_crash_loop_ends_with_the_first_failure(fault: str, accounts: list[Any]) -> None:
    words = {
        "raises": r"(?s)environment \d \(seed \d+, step \d+\): step raised ZeroDivisionError: out of cheese.*worker_envs.py.*in step",
        "leaves": r"collector 0 \(environments 0 to 3, seed \d+\): its process left with exit code 3",
        "hangs": r"collector 0 \(environments 0 to 3, seed \d+\): step did not return within 1 s",
    }
    with pytest.raises(EnvError, match=words[fault] + r"[\s\S]*so did 2 that replaced it, each within 1,000 steps") as caught:
        pyrl.train("impala", functools.partial(Faulty, fault), total_steps=10**6, workers=1, env_timeout=1.0, **SMALL)
    assert (caught.value.index is not None) == (caught.value.seed is not None) == (fault == "raises")
    assert accounts[0].collected > 0


def test_what_cannot_be_sent_is_named() -> None:
    with pytest.raises(ValueError, match="impala: the environment cannot be sent to another process"):
        pyrl.train("impala", lambda: Masked(), total_steps=100, workers=1, **SMALL)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_a_saved_run_and_no_orphan(number: signal.Signals, tmp_path: Path) -> None:
    command = ["impala", "CartPole-v1", "--workers", "2", "--total-steps", "100000000", "--no-curve", "--run-dir", "run"]
    program = subprocess.Popen(
        [sys.executable, "-m", "pyrl", "train", *command], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    deadline, metrics = time.monotonic() + 120, tmp_path / "run/metrics.csv"
    while time.monotonic() < deadline and (not metrics.exists() or metrics.read_text().count("\n") < 3):
        time.sleep(0.1)
    children = children_of(program.pid)
    program.send_signal(number)
    output = program.communicate(timeout=60)[0].decode()
    assert program.returncode == 128 + number, output
    assert len(children) == 2
    assert not [pid for pid in children if Path(f"/proc/{pid}").exists()]
    stopped = pyrl.load(tmp_path / "run/checkpoints/last").env_steps
    if number == signal.SIGTERM:
        run = pyrl.train("impala", "CartPole-v1", resume=tmp_path / "run", total_steps=stopped + 500)
        assert run.agent.env_steps >= stopped + 500
        assert run.new_steps < 1000
