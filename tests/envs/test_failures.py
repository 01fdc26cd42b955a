"""Environments that fail: every way x every phase x every backend ends in an EnvError that names environment, index, seed and step.

PYRL_EXAMPLES=2 (or more) tries the whole product of the ways in processes; by default each way meets each phase on one backend at least.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import time
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from pyrl.envs import Stepper, make
from pyrl.errors import EnvError
from pyrl.seeding import stream_seed

ALL = int(os.environ.get("PYRL_EXAMPLES", "1")) > 1
SEED = 7
LIMIT = 60.0  # seconds, of a test


class Unpicklable(Exception):
    def __init__(self, one: int, two: int) -> None:
        super().__init__("cannot leave")
        self.lock = lambda: (one, two)


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise ValueError("no words")


RAISE: dict[str, Any] = {
    "raises": ZeroDivisionError("wheels came off"), "unpicklable": Unpicklable(1, 2), "unspeakable": Unspeakable(), "exits": SystemExit(3),
    "memory": MemoryError("too large"), "assertion": AssertionError(),
}  # fmt: skip
ONLY_IN_PROCESSES = ["interrupt", "killed", "leaves", "leaves well", "hangs"]  # here they would end or stop the test itself
PHASES = ["make", "reset", "step 1", "step 3", "autoreset", "close"]


class Failing(gym.Env):
    """Environment ``bad``, told by its seed, fails in a way and a phase; another process's when it is made. Episodes have four steps."""

    observation_space = spaces.Box(-1, 1, (2,))
    action_space = spaces.Discrete(2)

    def __init__(self, way: str, phase: str, parent: int) -> None:
        self.way, self.phase, self.bad, self.t = way, phase, False, 0
        if phase == "make" and (way not in ONLY_IN_PROCESSES or os.getpid() != parent):
            self.fail()

    def fail(self) -> None:
        if self.way in RAISE:
            raise RAISE[self.way]
        if self.way == "interrupt":
            raise KeyboardInterrupt
        if self.way == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.way.startswith("leaves"):
            os._exit(0 if self.way == "leaves well" else 5)
        time.sleep(1000)

    def at(self, phase: str) -> None:
        if self.bad and self.phase == phase:
            self.fail()

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self.bad |= seed == stream_seed(SEED, "env", 1)
        self.at("autoreset" if self.t else "reset")
        self.t = 0
        return np.zeros(2, np.float32), {}

    def step(self, action: Any) -> Any:
        self.t += 1
        self.at(f"step {self.t}")
        return np.zeros(2, np.float32), 1.0, self.t == 4, False, {}

    def close(self) -> None:
        self.at("close")


def drive(backend: Any, way: str, phase: str, steps: int = 6, timeout: float = 60.0) -> None:
    about = {"way": way, "phase": phase, "parent": os.getpid()}
    stepper = make(Failing, 3, backend=backend, seed=SEED, env_kwargs=about, env_timeout=timeout)
    try:
        stepper.reset()
        for _ in range(steps):
            stepper.step(np.zeros(3, np.int64))
    finally:
        stepper.close()


def words(way: str, phase: str, timeout: float) -> str:
    """What the message says happened."""
    called = phase.split()[0]
    if way in RAISE:
        return f"({'reset' if called == 'autoreset' else called}) raised {type(RAISE[way]).__name__}"
    called = "step" if called == "autoreset" else called  # the worker resets in the same message
    if way == "interrupt":
        return "raised KeyboardInterrupt"
    if way == "hangs":
        return f"{called} did not return within {timeout:g} s"
    return f"{called}: its process " + {"killed": "was killed by SIGKILL", "leaves": "left with exit code 5"}.get(
        way, "left with exit code 0"
    )


def check(backend: Any, way: str, phase: str) -> None:
    timeout = 8.0 if way == "hangs" else 60.0  # a busy machine takes seconds to make three processes
    age = {"step 3": 2, "autoreset": r"\d", "close": r"\d"}.get(phase, 0)
    many = phase == "make" and backend in ("async", "processes")  # of three that die, any may be first
    blamed = range(3) if many else [0 if phase == "make" else 1]
    which = "|".join(rf"{index} \(seed {stream_seed(SEED, 'env', index)}" for index in blamed)
    place = rf"Failing: environment ({which})(, step {age})?\): "
    with pytest.raises(EnvError, match=f"{place}.*{words(way, phase, timeout)}"):
        drive(backend, way, phase, timeout=timeout)
    assert not [p for p in multiprocessing.active_children() if "Worker<" in p.name or "environments" in p.name]


@pytest.mark.timeout(LIMIT)
@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("way", RAISE)
@pytest.mark.parametrize("backend", ["lean", "sync"])
def test_in_this_process(backend: Any, way: str, phase: str) -> None:
    check(backend, way, phase)


WAYS = [(i + j, way, phase) for i, way in enumerate([*RAISE, *ONLY_IN_PROCESSES]) for j, phase in enumerate(PHASES)]
SOME = [(way, phase) for number, way, phase in WAYS if ALL or way in ("raises", "killed") or number % 2]


@pytest.mark.timeout(LIMIT)
@pytest.mark.parametrize(("way", "phase"), SOME)
def test_in_processes(way: str, phase: str) -> None:
    check("async", way, phase)


@pytest.mark.timeout(LIMIT)
@pytest.mark.parametrize(("way", "phase"), SOME)
def test_in_shared_processes(way: str, phase: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each environment has a process here, so that a death blames it; with fewer, it blames the share."""
    monkeypatch.setattr("pyrl.envs.process_stepper.cores", lambda: 3)
    check("processes", way, phase)


@pytest.mark.timeout(LIMIT)
@pytest.mark.parametrize("backend", ["lean", "sync"])
@pytest.mark.parametrize("phase", ["make", "reset", "step 1", "step 3", "close"])
def test_an_interrupt_is_the_users(backend: Any, phase: str) -> None:
    def run() -> None:
        with make(lambda: Interrupting(phase), 1, backend=backend) as stepper:
            stepper.reset()
            for _ in range(3):
                stepper.step(np.zeros(1, np.int64))

    with pytest.raises(KeyboardInterrupt):
        run()


class Interrupting(Failing):
    def __init__(self, phase: str) -> None:
        super().__init__("interrupt", phase, -1)
        self.bad = True


def killed() -> Stepper:
    stepper = make(Failing, 3, backend="async", seed=SEED, env_kwargs={"way": "raises", "phase": "never", "parent": 0})
    stepper.reset()
    stepper.step(np.zeros(3, np.int64))
    os.kill(stepper.env.processes[2].pid, signal.SIGKILL)  # type: ignore[attr-defined]
    return stepper


@pytest.mark.timeout(LIMIT)
def test_a_process_that_is_gone_is_named_by_every_call() -> None:
    place = rf"environment 2 \(seed {stream_seed(SEED, 'env', 2)}, step \d\): "
    stepper = killed()
    for _ in range(2):
        with pytest.raises(EnvError, match=f"{place}step: its process was killed by SIGKILL"):
            stepper.step(np.zeros(3, np.int64))
        with pytest.raises(EnvError, match=r"environment 2 .*its process was killed by SIGKILL"):
            stepper.reset()
        stepper.observation = np.zeros((3, 2), np.float32)
    stepper.close()  # said already
    stepper = killed()
    with pytest.raises(EnvError, match=r"environment 2 .*reset: its process was killed by SIGKILL"):
        stepper.reset()
    stepper.close()
    with pytest.raises(EnvError, match=f"{place}close: its process was killed by SIGKILL"):
        killed().close()


@pytest.mark.timeout(LIMIT)
@pytest.mark.parametrize("how", ["step", "close"])
def test_a_users_own_processes(how: str) -> None:
    """Without our guard a dead process is still named."""
    env = gym.vector.AsyncVectorEnv([lambda: Failing("raises", "never", 0)] * 2)
    stepper = make(env, seed=SEED)
    stepper.reset()
    os.kill(env.processes[1].pid, signal.SIGKILL)
    call = stepper.close if how == "close" else lambda: stepper.step(np.zeros(2, np.int64))
    with pytest.raises(EnvError, match=rf"environment 1 .*{how}: its process was killed by SIGKILL"):
        call()
    stepper.close()
    assert not any(process.is_alive() for process in env.processes)


@pytest.mark.timeout(LIMIT)
def test_the_cause_tells_where_in_its_process() -> None:
    with pytest.raises(EnvError) as caught:
        drive("async", "raises", "step 3")
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert re.search(r"in the environment's process:\n(?s:.*)self.fail\(\)", str(caught.value.__cause__.__cause__))


@pytest.mark.timeout(LIMIT)
def test_others_are_closed_when_one_hangs(tmp_path: Any) -> None:
    class Leaves(Failing):
        def close(self) -> None:
            (tmp_path / str(os.getpid())).touch()

    stepper = make(Leaves, 3, backend="async", seed=SEED, env_kwargs={"way": "hangs", "phase": "step 1", "parent": 0}, env_timeout=4)
    stepper.reset()
    with pytest.raises(EnvError, match=r"environment 1 .*step did not return within 4 s"):
        stepper.step(np.zeros(3, np.int64))
    pids = [process.pid for process in stepper.env.processes]  # type: ignore[attr-defined]
    stepper.close()
    assert {int(file.name) for file in tmp_path.iterdir()} - {os.getpid()} == {pids[0], pids[2]}


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf"), "5"])
def test_a_wrong_time_out(timeout: Any) -> None:
    with pytest.raises(ValueError, match=r"env_timeout is .*, expected a number of seconds above 0, or None"):
        make("CartPole-v1", env_timeout=timeout)
