"""The engines `sync`, `local` and `ray` keep the same promises: interface, books, deaths, ends, resuming, learning.

Processes are killed, hang, raise and are interrupted for real, and every run asserts that no step was lost. Ray pins packages that others
want newer, so it has an environment of its own; without it its cases skip:

    python3 -m venv /opt/ray
    /opt/ray/bin/pip install torch==2.13.0 'ray==2.60.*' gymnasium safetensors tyro rich matplotlib pytest pytest-timeout hypothesis
    PYTHONPATH=$PWD /opt/ray/bin/python -m pytest tests/distributed/test_contract.py tests/distributed/test_ray.py
"""

from __future__ import annotations

import functools
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from agent_envs import TwoStates
from own_networks import batch_norm
from worker_envs import Faulty, Global, Masked, Unpicklable

import pyrl
from pyrl.distributed.engine_loop import EngineLoop
from pyrl.distributed.pool import Pool
from pyrl.errors import EnvError

SMALL: dict[str, Any] = {"num_envs": 4, "n_steps": 8, "net_arch": (8,), "curve": False, "run_dir": False}
OWN = pytest.mark.skipif(find_spec("ray") is None, reason="ray has an environment of its own: the docstring of test_contract says how")
RAY = pytest.param("ray", marks=[OWN, pytest.mark.filterwarnings("ignore")])
everywhere = pytest.mark.parametrize("engine", ["sync", "local", RAY])
elsewhere = pytest.mark.parametrize("engine", ["local", RAY])  # collectors are processes
pytestmark = pytest.mark.timeout(240)


def shared_memory() -> set[str]:
    """Without semaphores of multiprocessing, which workers have none of and other tests beside this one have."""
    return {name for name in os.listdir("/dev/shm") if not name.startswith("sem.mp-")}


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A Ray that the program has initialised: used by every run, and left as it is."""
    import ray

    ray.init("local", num_cpus=4, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(autouse=True)
def nothing_is_left(request: pytest.FixtureRequest) -> Iterator[None]:
    if "engine" in request.fixturenames and request.getfixturevalue("engine") == "ray":
        request.getfixturevalue("cluster")
    before = shared_memory()
    yield
    assert not multiprocessing.active_children()
    assert shared_memory() <= before
    if "cluster" in request.fixturenames:
        assert ray_actors() == {}


def ray_actors() -> dict[str, Any]:
    """Of this program, those that are not dead."""
    import ray

    assert ray.is_initialized()
    job = ray.get_runtime_context().get_job_id()
    actors = ray._private.state.actors()
    return {name: actor for name, actor in actors.items() if actor["State"] != "DEAD" and actor["JobID"] == job}


@pytest.fixture
def loops(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Of every run; its books are checked once it has ended."""
    seen, iterate, close = list[Any](), EngineLoop.__iter__, EngineLoop.close

    def beginning(loop: EngineLoop) -> Any:  # `reset` is not of every run: one that is resumed exactly needs none
        seen.append(loop)
        return iterate(loop)

    def closing(loop: EngineLoop) -> None:
        loop.check_books()
        close(loop)

    monkeypatch.setattr(EngineLoop, "__iter__", beginning)
    monkeypatch.setattr(EngineLoop, "close", closing)
    return seen


def pid_of(member: Any) -> int | None:
    """Of a collector that runs."""
    if hasattr(member, "process"):
        return member.process.pid if member.process.is_alive() else None  # a pid of None: it is about to begin
    import ray

    actor = ray._private.state.actors(member.actor._actor_id.hex())
    return int(actor["Pid"]) if actor.get("State") == "ALIVE" and actor["Pid"] else None


@elsewhere
def test_collectors_are_killed_again_and_again(engine: str, loops: list[Any]) -> None:
    """At random moments, at the start too: the run goes on, and ends with as many collectors as it had."""
    random, rows = np.random.default_rng(0), list[Any]()
    due, at_work, killed = [0.0], set[int](), [-1]  # environments whose episodes ended since all that were killed were replaced

    def watch(metrics: Any) -> None:
        rows.append(dict(metrics))
        pool: Pool[Any] = loops[0].engine
        if time.monotonic() > due[0] and metrics["time/restarts"] < 4:
            victims = {index: pid for index, member in enumerate(pool.members) if (pid := pid_of(member)) is not None}
            victim = next((index for index in victims if index != killed[-1]), None)  # in turn: three in a row end the run
            if victim is not None:
                os.kill(victims[victim], signal.SIGKILL)
                killed.append(victim)
                at_work.clear()
            due[0] = time.monotonic() + random.random() * 2
        if metrics["time/restarts"] >= 4:
            at_work.update(e.env_index for e in metrics.episodes)
        if len(at_work) == 4 and metrics["time/env_steps"] > 5000:  # both collectors are at work again
            raise StopIteration

    with pytest.raises(StopIteration):
        pyrl.train("impala", "CartPole-v1", total_steps=10**8, workers=2, worker_engine=engine, backend="native", on_metrics=watch, **SMALL)
    books = loops[0].engine.accounts
    assert books.consumed == rows[-1]["time/env_steps"] > 5000
    assert rows[-1]["time/restarts"] >= 4
    assert all(np.isfinite(list(row.values())).all() for row in rows)
    assert max(row["train/policy_lag"] for row in rows) <= 20
    assert max(row["time/queue_depth"] for row in rows) <= 4  # two chunks of a collector
    assert len({row["train/policy_lag"] for row in rows}) > 1


@everywhere
def test_masks_episodes_and_the_end(engine: str, loops: list[Any]) -> None:
    episodes = list[Any]()

    def all_are_at_work(metrics: Any) -> bool:
        episodes.extend(metrics.episodes)
        return metrics["time/env_steps"] >= 2000 and {e.env_index for e in episodes} == {0, 1, 2, 3}

    run = pyrl.train("impala", Masked, total_steps=10**6, workers=2, worker_engine=engine, on_metrics=all_are_at_work, **SMALL)
    assert {e.env_index for e in episodes} == {0, 1, 2, 3}
    assert all(e.length == 7 for e in episodes)
    assert all(e.episode_return == int(e.episode_return) for e in episodes)
    books = loops[0].engine.accounts
    assert 2000 <= run.agent.env_steps == books.consumed
    assert books.collected >= run.agent.env_steps
    assert run.agent.updates == run.agent.env_steps // 32


@everywhere
def test_what_an_environment_raises(engine: str, loops: list[Any]) -> None:
    with pytest.raises(EnvError) as caught:
        pyrl.train(
            "impala", functools.partial(Faulty, "raises"), total_steps=10**6, workers=2, worker_engine=engine, env_timeout=9.0, **SMALL
        )
    assert caught.value.index in range(4)
    assert f"environment {caught.value.index} (seed {caught.value.seed}, step " in str(caught.value)
    assert "step raised ZeroDivisionError: out of cheese" in str(caught.value)
    if engine != "sync":  # where the error itself did not come
        assert "worker_envs.py" in str(caught.value)
        assert "so did 2 that replaced it, each within 1,000 steps" in str(caught.value)
    assert loops[0].engine.accounts.collected > 0


@elsewhere
@pytest.mark.parametrize(
    ("algo", "env", "options"),
    [
        ("ppo", "CartPole-v1", {"batch_size": 16, "n_epochs": 2}),
        ("ppo", Masked, {"batch_size": 16, "backend": "sync"}),
        ("a2c", "CartPole-v1", {"backend": "native"}),
        (
            "ppo",
            "Pendulum-v1",
            {"batch_size": 16, "normalize_observation": True, "normalize_reward": True, "features_extractor": batch_norm},
        ),
    ],
)
def test_agents_that_wait_for_every_collector_make_the_run_of_sync(
    engine: str, algo: str, env: Any, options: dict[str, Any], loops: list[Any]
) -> None:
    runs = [
        pyrl.train(algo, env, total_steps=640, workers=workers, worker_engine=name, seed=3, **SMALL, **options)  # type: ignore[arg-type]
        for name, workers in (("sync", 1), (engine, 2), (engine, 4))
    ]
    one, *more = runs
    for other in more:
        assert torch.equal(other.agent.arena.values, one.agent.arena.values)
        np.testing.assert_equal(other.agent.normalizer.state_dict(), one.agent.normalizer.state_dict())
        assert [e for m in other.metrics for e in m.episodes] == [e for m in one.metrics for e in m.episodes]
        assert all(m["train/policy_lag"] == 0 for m in other.metrics)
    assert one.agent.updates >= 20


@everywhere
@pytest.mark.parametrize(("algo", "options"), [("impala", {"n_steps": 8}), ("sac", {"learning_starts": 200, "batch_size": 16})])
def test_what_is_learned_from_is_counted_by_the_normaliser(engine: str, algo: str, options: dict[str, Any], loops: list[Any]) -> None:
    run = pyrl.train(
        algo, "Pendulum-v1", total_steps=640, workers=2, worker_engine=engine, num_envs=4, net_arch=(8,), curve=False, run_dir=False,
        normalize_observation=True, normalize_reward=True, **options,
    )  # fmt: skip
    state = run.agent.normalizer.state_dict()
    consumed = loops[0].engine.accounts.consumed
    assert consumed >= 640
    assert state["observation"]["count"] == state["reward"]["count"] == consumed
    assert 0.0 < state["observation"]["m2"][2] / consumed < 64.0  # the angular velocity, which is at most 8
    assert run.agent.updates > 10


@elsewhere
def test_a_collector_is_killed_where_all_wait_for_it(engine: str, loops: list[Any]) -> None:
    rows, killed = list[Any](), list[int]()

    def watch(metrics: Any) -> bool:
        rows.append(metrics)
        if len(rows) in (3, 10, 12):
            pid = pid_of(loops[0].engine.members[len(rows) % 2])
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            killed.append(len(rows))
        return len(rows) == 20

    run = pyrl.train("a2c", "CartPole-v1", total_steps=10**6, workers=2, worker_engine=engine, backend="native", on_metrics=watch, **SMALL)
    assert rows[-1]["time/restarts"] == len(killed) == 3
    assert run.agent.updates == 20
    assert all(row["train/policy_lag"] == 0 for row in rows)
    assert loops[0].engine.accounts.consumed == 20 * 4 * 8


@everywhere
def test_shards_are_filled_and_drawn_from(engine: str, loops: list[Any]) -> None:
    """Distributed replay: every transition is stored, and priorities of a prioritized replay come from the collectors."""
    run = pyrl.train(
        "dqn", Masked, total_steps=1500, workers=2, worker_engine=engine, replay_shards=2, num_envs=4, net_arch=(8,), learning_starts=200,
        buffer_size=1000, batch_size=8, prioritized=True, seed=2, curve=False, run_dir=False,
    )  # fmt: skip
    loop = loops[0]
    assert loop.engine.accounts.consumed == run.agent.env_steps >= 1500
    assert loop.stored == loop.engine.accounts.consumed
    assert run.agent.updates > 100
    assert {e.env_index for m in run.metrics for e in m.episodes} <= {0, 1, 2, 3}


@elsewhere
def test_collectors_do_not_share_the_global_stream(engine: str) -> None:
    run = pyrl.train("impala", Global, total_steps=640, workers=2, worker_engine=engine, **SMALL)
    returns = [e.episode_return for m in run.metrics for e in m.episodes]
    assert len(returns) > 50
    assert len(set(returns)) == len(returns)


@elsewhere
def test_an_error_that_cannot_be_pickled(engine: str, loops: list[Any]) -> None:
    with pytest.raises(EnvError, match=r"(?s)step raised LockedError: locked <unlocked _thread.lock.*worker_envs.py.*in step"):
        pyrl.train("impala", Unpicklable, total_steps=10**6, workers=1, worker_engine=engine, **SMALL)


@elsewhere
@pytest.mark.parametrize("fault", ["leaves", "hangs"])
def test_a_crash_loop_ends_with_the_first_failure(engine: str, fault: str, loops: list[Any]) -> None:
    words = {
        "leaves": {"local": "its process left with exit code 3", "ray": r"its actor died \(ActorDiedError: [^\n]*exit"}[engine],
        "hangs": "step did not return within 4 s",
    }
    where = r"collector 0 \(environments 0 to 3, seed \d+\): "
    with pytest.raises(EnvError, match=where + words[fault] + r"[\s\S]*so did 2 that replaced it, each within 1,000 steps"):
        pyrl.train("impala", functools.partial(Faulty, fault), total_steps=10**6, workers=1, worker_engine=engine, env_timeout=4.0, **SMALL)


@elsewhere
def test_what_cannot_be_sent_is_named(engine: str) -> None:
    lock = threading.Lock()

    def environment() -> Any:
        return lock and Masked()

    with pytest.raises(ValueError, match="impala: the environment cannot be sent to another process"):
        pyrl.train("impala", environment, total_steps=100, workers=1, worker_engine=engine, **SMALL)


@everywhere
def test_a_run_that_was_stopped_goes_on(engine: str, tmp_path: Path, loops: list[Any]) -> None:
    options = {**SMALL, "run_dir": tmp_path / "run", "workers": 2, "worker_engine": engine}
    stopped = pyrl.train("impala", "CartPole-v1", total_steps=640, on_metrics=lambda m: m["time/env_steps"] >= 320, **options)
    assert stopped.agent.env_steps == 320
    run = pyrl.train("impala", "CartPole-v1", resume=tmp_path / "run", total_steps=960)
    assert run.agent.env_steps == 960
    assert run.new_steps == 640
    assert [type(loop.engine) for loop in loops] == [type(loops[0].engine)] * 2


@everywhere
@pytest.mark.parametrize(
    ("algo", "options"), [("impala", {"learning_rate": 0.01}), ("appo", {"learning_rate": 3e-3, "n_epochs": 4, "batch_size": 40})]
)
def test_what_is_collected_is_learned_from(algo: str, options: dict[str, Any], engine: str, loops: list[Any]) -> None:
    """Half of ten rewards by chance, all of them by the best policy."""
    run = pyrl.train(
        algo, TwoStates, total_steps=40_000, stop_at_return=9.5, stop_window=100, workers=2, worker_engine=engine, seed=1,
        **SMALL | {"n_steps": 20, **options},
    )  # fmt: skip
    assert run.ending.startswith("stop_at_return"), run
    books = loops[0].engine.accounts
    assert books.consumed == run.agent.env_steps


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@elsewhere
def test_a_signal_leaves_a_saved_run_and_no_orphan(engine: str, number: signal.Signals, tmp_path: Path) -> None:
    command = ["impala", "CartPole-v1", "--workers", "2", "--worker-engine", engine, "--total-steps", "100000000", "--no-curve"]
    program = subprocess.Popen(
        [sys.executable, "-m", "pyrl", "train", *command, "--run-dir", "run"], cwd=tmp_path, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    deadline, metrics = time.monotonic() + 120, tmp_path / "run/metrics.csv"
    while time.monotonic() < deadline and (not metrics.exists() or metrics.read_text().count("\n") < 3):
        time.sleep(0.1)
    children = offspring(program.pid)
    if number == signal.SIGINT:
        os.killpg(program.pid, number)  # as a terminal does it
    else:
        program.send_signal(number)
    output = program.communicate(timeout=60)[0].decode()
    assert program.returncode == 128 + number, output
    assert len(children) >= 2
    gone = time.monotonic() + 5
    while left := [pid for pid in children if Path(f"/proc/{pid}").exists()]:
        assert time.monotonic() < gone, [Path(f"/proc/{pid}/cmdline").read_text() for pid in left]
        time.sleep(0.1)
    stopped = pyrl.load(tmp_path / "run/checkpoints/last").env_steps
    if number == signal.SIGTERM:
        run = pyrl.train("impala", "CartPole-v1", resume=tmp_path / "run", total_steps=stopped + 500)
        assert run.agent.env_steps >= stopped + 500
        assert run.new_steps < 1000


def offspring(pid: int) -> list[int]:
    """Its children, and theirs."""
    children = [int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()]
    return children + [grandchild for child in children for grandchild in offspring(child)]


def test_a_program_without_a_main_guard_is_told_of_it(tmp_path: Path) -> None:
    """Processes import the program that starts them; this one would start workers in each."""
    program = tmp_path / "unguarded.py"
    program.write_text("import pyrl\npyrl.train('impala', 'CartPole-v1', total_steps=400, workers=2, num_envs=2, run_dir=False)\n")
    ended = subprocess.run([sys.executable, program], capture_output=True, text=True, cwd=tmp_path, timeout=120, check=False)
    assert ended.returncode == 1
    assert "before its first step; workers import the program, which must start them under if __name__ == '__main__'" in ended.stderr
