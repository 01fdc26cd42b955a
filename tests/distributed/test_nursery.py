"""Processes that are forked by one that has imported the program: what they get, how they end, and who takes the nursery's own place."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

import pyrl
from pyrl.distributed import nursery
from pyrl.distributed.nursery import Nursery
from pyrl.loops.base import Loop

pytestmark = [pytest.mark.timeout(120), pytest.mark.skipif(not nursery.possible(), reason="forks where multiprocessing spawns")]
SMALL: dict[str, Any] = {"num_envs": 4, "n_steps": 8, "net_arch": (8,), "curve": False, "run_dir": False, "backend": "native"}


def life(order: bytes, shared: str, questions: Connection, answers: Connection) -> None:
    """Answers questions by what they say to do."""
    tasks = len(os.listdir("/proc/self/task"))
    while (question := questions.recv_bytes()) != b"leave":
        if question == b"exit":
            sys.exit(7)
        answers.send((order, shared, os.getppid(), multiprocessing.current_process().name, tasks))


@pytest.fixture
def made() -> Iterator[Nursery]:
    made = Nursery(life, ["zero", "one"], "little")
    yield made
    made.end()
    assert not multiprocessing.active_children()


def begun(made: Nursery, index: int, order: bytes) -> tuple[Any, Connection, Connection]:
    (there, questions), (answers, back) = multiprocessing.Pipe(duplex=False), multiprocessing.Pipe(duplex=False)
    child = made.begin(index, order, there, back)
    there.close()
    back.close()
    return child, questions, answers


def test_children_get_their_orders_and_end_in_every_way(made: Nursery) -> None:
    assert made.ready()
    large = bytes(range(256)) * 40_000
    one, two, three = begun(made, 1, large), begun(made, 0, b"small"), begun(made, 0, b"")
    for (child, questions, answers), (order, shared, index) in zip((one, two), ((large, "one", 1), (b"small", "zero", 0))):
        questions.send_bytes(b"who")
        assert answers.recv() == (order, shared, made._process.pid, f"little-{index}", 1)
        assert child.is_alive()
        assert child.exitcode is None
    two[1].send_bytes(b"leave")
    two[0].join()
    assert two[0].exitcode == 0
    assert not Path(f"/proc/{two[0].pid}").exists()
    three[1].send_bytes(b"exit")
    three[0].join()
    assert three[0].exitcode == 7
    one[0].kill()
    assert one[0].exitcode == -signal.SIGKILL
    assert not Path(f"/proc/{one[0].pid}").exists()
    with pytest.raises(EOFError):  # no other process has its end of the pipe
        one[2].recv()
    last = begun(made, 0, b"")  # killed before it is known to have begun
    last[0].kill()
    assert last[0].exitcode == -signal.SIGKILL


def test_children_do_not_outlive_the_nursery(made: Nursery) -> None:
    assert made.ready()
    children = [begun(made, 0, b"") for _ in range(2)]
    for _, questions, answers in children:
        questions.send_bytes(b"who")
        answers.recv()
    pids = [child.pid for child, _, _ in children if child.is_alive()]
    os.kill(made._process.pid or 0, signal.SIGKILL)
    made._process.join()
    assert [child.is_alive() for child, _, _ in children] == [False, False]
    assert not made.ready()
    assert [pid for pid in pids if Path(f"/proc/{pid}/stat").exists() and ") Z" not in Path(f"/proc/{pid}/stat").read_text()] == []
    lost = begun(made, 0, b"")[0]
    assert not lost.is_alive()


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_a_run_whose_nursery_is_killed_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """With collectors that are spawned."""
    loops, iterate, parents = list[Any](), Loop.__iter__, list[bool]()
    monkeypatch.setattr(Loop, "__iter__", lambda loop: loops.append(loop) or iterate(loop))

    def watch(metrics: Any) -> bool:
        engine = loops[0].engine
        if not parents and all(member.process.is_alive() and member.process.pid for member in engine.members):
            parents.extend(parent_of(member.process.pid) == engine.nursery._process.pid for member in engine.members)
            os.kill(engine.nursery._process.pid, signal.SIGKILL)
        return bool(metrics["time/restarts"] >= 2 and all(member.received > 500 for member in engine.members))

    pyrl.train("impala", "CartPole-v1", total_steps=10**8, workers=2, on_metrics=watch, **SMALL)
    assert parents == [True, True]
    loops[0].check_books()


def run(program: Path, text: str, folder: Path) -> subprocess.CompletedProcess[str]:
    program.write_text(text)
    environment = {**os.environ, "PYTHONPATH": str(Path(pyrl.__file__).parent.parent)}
    return subprocess.run([sys.executable, program], capture_output=True, text=True, cwd=folder, timeout=100, check=False, env=environment)


PROGRAM = """
import threading, time
import pyrl
{more}
if __name__ == "__main__":
    run = pyrl.train("impala", "CartPole-v1", total_steps=400, workers=2, num_envs=2, run_dir=False, curve=False)
    print(run.agent.env_steps >= 400, run.metrics[-1]["time/restarts"])
"""


def test_a_program_that_starts_threads_has_spawned_collectors(tmp_path: Path) -> None:
    thread = "threading.Thread(target=time.sleep, args=(5,), daemon=True).start()"
    ended = run(tmp_path / "threads.py", PROGRAM.format(more=thread), tmp_path)
    assert ended.stdout.split() == ["True", "0"], ended.stderr


def test_a_pyrl_in_the_current_folder_is_not_taken(tmp_path: Path) -> None:
    """A source tree without its extension beside an installed copy: the program's path counts."""
    (tmp_path / "tree/pyrl").mkdir(parents=True)
    (tmp_path / "tree/pyrl/__init__.py").write_text("raise ImportError('a source tree')\n")
    ended = run(tmp_path / "program.py", PROGRAM.format(more=""), tmp_path / "tree")
    assert ended.stdout.split() == ["True", "0"], ended.stderr
