"""A3C's workers that hang and die. The watch itself is tried on every phase; real processes on a few (PYRL_EXAMPLES=2: on the product)."""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import Any

import gymnasium as gym
import pytest
from gymnasium import spaces

import pyrl
from pyrl.envs import make
from pyrl.errors import EnvError
from pyrl.loops import supervision
from pyrl.loops.supervision import DEATHS, ENOUGH, Pulse, Pulses, Pulsing, Watch, env_seed

ALL = int(os.environ.get("PYRL_EXAMPLES", "1")) > 1
PHASES = ["make", "reset", "step", "close"]


def watch_of(workers: int, timeout: float | None) -> tuple[Watch, list[Pulse]]:
    pulses = Pulses.shared(workers)
    return Watch(pulses, "Toy", 3, timeout), [Pulse(pulses, i) for i in range(workers)]


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("index", [0, 2])
def test_a_hang_is_named(monkeypatch: pytest.MonkeyPatch, phase: str, index: int) -> None:
    now = [100.0]
    monkeypatch.setattr(supervision.time, "monotonic", lambda: now[0])
    watch, pulses = watch_of(3, 5.0)
    for i in range(3):
        watch.begin(i, 4, 0)
    now[0] += supervision.START_SECONDS
    for i in range(3):
        watch.check(i)  # a process that starts has its own time
    pulses[index].begin_episode()
    pulses[index].begin_step()
    pulses[index].at(phase)
    watch.check(index)
    now[0] += 4.9
    watch.check(index)
    now[0] += 0.2
    words = rf"Toy: environment {index} \(seed {env_seed(3, index, 4)}, step 1\): {phase} did not return within 5 s"
    with pytest.raises(EnvError, match=words):
        watch.check(index)
    pulses[index].at("agent")  # learning takes what it takes
    watch.check(index)
    now[0] += 1000
    watch.check(index)


def test_a_start_has_an_end_and_none_means_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(supervision.time, "monotonic", lambda: now[0])
    bounded, unbounded = watch_of(1, 5.0)[0], watch_of(1, None)[0]
    for watch in (bounded, unbounded):
        watch.begin(0, 0, 0)
        watch.check(0)
    now[0] = 1e6
    unbounded.check(0)
    with pytest.raises(EnvError, match="start did not return"):
        bounded.check(0)


@pytest.mark.parametrize("phase", ["start", "agent", *PHASES])
@pytest.mark.parametrize("made", [0, ENOUGH - 1, ENOUGH, 10 * ENOUGH])
def test_replacements_are_bounded(phase: str, made: int) -> None:
    """What dies again and again with little done ends the run, with the first death's words; what gets on is replaced for ever."""
    watch, (pulse,) = watch_of(1, None)
    steps = 0
    for death in range(1, 20):
        watch.begin(0, death, steps)
        pulse.at(phase)
        steps += made
        if death == DEATHS and made < ENOUGH:
            first = rf"environment 0 \(seed {env_seed(3, 0, 1)}, step 0\): {phase}: its process was killed by SIGKILL; so did {DEATHS - 1}"
            with pytest.raises(EnvError, match=first):
                watch.died(0, -signal.SIGKILL, steps, done=False)
            return
        watch.died(0, -signal.SIGKILL if death == 1 else 5, steps, done=False)
    assert made >= ENOUGH


@pytest.mark.parametrize("phase", ["start", "agent", *PHASES])
def test_a_death_when_all_is_done(phase: str) -> None:
    watch, (pulse,) = watch_of(1, None)
    watch.begin(0, 0, 0)
    pulse.at(phase)
    if phase in ("start", "agent"):
        watch.died(0, -9, 10, done=True)
    else:
        with pytest.raises(EnvError, match=f"{phase}: its process was killed by SIGKILL"):
            watch.died(0, -9, 10, done=True)


class Failing(gym.Env):
    """Fails in a worker, in a way and a phase; in the parent only ever made."""

    observation_space, action_space = spaces.Discrete(2), spaces.Discrete(2)

    def __init__(self, way: str, phase: str, parent: int) -> None:
        self.way, self.phase, self.parent, self.t = way, phase, parent, 0
        self.at("make")

    def at(self, phase: str) -> None:
        if phase != self.phase or os.getpid() == self.parent:
            return
        if self.way == "raises":
            raise ZeroDivisionError("wheels came off")
        if self.way == "exits":
            sys.exit(3)
        if self.way == "interrupt":
            raise KeyboardInterrupt
        if self.way == "leaves":
            os._exit(5)
        if self.way == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(1000)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.at("reset")
        return 0, {}

    def step(self, action: Any) -> Any:
        self.t += 1
        self.at("step")
        return 0, 1.0, False, self.t % 10 == 0, {}

    def close(self) -> None:
        self.at("close")


WAYS = {
    "raises": "raised ZeroDivisionError: wheels came off", "exits": "raised SystemExit: 3", "interrupt": "KeyboardInterrupt",
    "leaves": "its process left with exit code 5", "killed": "its process was killed by SIGKILL", "hangs": "did not return within 8 s",
}  # fmt: skip
SOME = [("killed", "step"), ("hangs", "reset")]


@pytest.mark.timeout(240)
@pytest.mark.parametrize(("way", "phase"), [(way, phase) for way in WAYS for phase in PHASES] if ALL else SOME)
def test_real_workers(way: str, phase: str) -> None:
    options = {"env_kwargs": {"way": way, "phase": phase, "parent": os.getpid()}, "env_timeout": 8.0 if way == "hangs" else 200.0}
    agent = pyrl.make_agent("a3c", spaces.Discrete(2), spaces.Discrete(2), num_envs=1, net_arch=(8,))
    loop: Any = pyrl.iterate(agent, make(Failing, 1, **options), total_steps=30)
    place = rf"environment 0 \(seed \d+(, step \d+)?\): .*{phase}"
    with pytest.raises(EnvError, match=f"{place}.*{WAYS[way]}"):
        list(loop)
    assert not loop._workers
    assert loop.restarts <= DEATHS


def test_pulses_are_seen_in_every_call() -> None:
    pulses = Pulses.shared(1)
    seen = []

    class Looks(Failing):
        def at(self, phase: str) -> None:
            seen.append((phase, int(pulses.phase[0]), int(pulses.age[0])))

    env = Pulsing(Looks("", "", 0), Pulse(pulses, 0))
    env.reset(seed=1)
    env.step(0)
    env.step(1)
    env.reset()
    env.close()
    number = supervision._PHASES.index
    assert seen == [
        ("make", 0, 0), ("reset", number("reset"), 0), ("step", number("step"), 1), ("step", number("step"), 2),
        ("reset", number("reset"), 0), ("close", number("close"), 0),
    ]  # fmt: skip
    assert int(pulses.phase[0]) == number("agent")
    assert int(pulses.beats[0]) == 10
