"""Signals end a run that is then saved; `tests/fuzz/stops.py` sends them, and SIGKILL, at random moments."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

import pyrl
from pyrl.experiment import signals
from pyrl.experiment.runs import RunFolder
from pyrl.experiment.signals import STOPPING, Interrupted, Stopped

ROOT = Path(__file__).parents[2]
ALGOS: dict[str, dict[str, Any]] = {
    "random": {"n_steps": 64},
    "ppo": {"n_steps": 64, "batch_size": 32, "net_arch": (8,)},
    "dqn": {"train_freq": 64, "gradient_steps": 64, "learning_starts": 10, "batch_size": 8, "net_arch": (8,)},
}


class Raising(gym.Env):
    """Sends a signal to its own process at a step, or later ones too."""

    observation_space = spaces.Box(-1, 1, (2,), np.float32)
    action_space = spaces.Discrete(2)
    number: signal.Signals
    at: tuple[int, ...] = ()
    steps = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.t = 0
        return np.zeros(2, np.float32), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.t += 1
        Raising.steps += 1
        if Raising.steps in self.at:
            signal.raise_signal(self.number)
        return np.zeros(2, np.float32), 1.0, self.t == 10, False, {}


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in STOPPING}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    Raising.steps, Raising.at = 0, ()
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def send(number: signal.Signals, *at: int) -> None:
    Raising.number, Raising.at = number, at


@pytest.mark.parametrize("number", STOPPING)
@pytest.mark.parametrize("algo", ALGOS)
def test_a_run_ends_at_the_next_step_and_is_saved(algo: str, number: signal.Signals, tmp_path: Path) -> None:
    before = {n: signal.getsignal(n) for n in STOPPING}
    send(number, 100)
    kind = Interrupted if number == signal.SIGINT else Stopped
    with pytest.raises(kind) as raised:
        pyrl.train(algo, Raising, total_steps=10**6, run_dir=tmp_path / "run", num_envs=1, **ALGOS[algo])
    assert {n: signal.getsignal(n) for n in STOPPING} == before
    assert (raised.value.signal, raised.value.folder) == (number, tmp_path / "run")
    assert kind is Interrupted or raised.value.code == 128 + number
    run = raised.value.run
    assert run.ending == RunFolder.open(tmp_path / "run").config["ending"] == number.name
    assert run.agent.env_steps == Raising.steps == 100
    assert pyrl.load(tmp_path / "run" / "checkpoints" / "last").env_steps == 100
    assert run.agent.updates == {"random": 0, "ppo": 8, "dqn": 64}[algo] * (algo != "ppo") + 20 * (algo == "ppo")
    assert pyrl.train(algo, Raising, resume=tmp_path / "run", total_steps=300).ending == "total_steps: 300 reached"


@pytest.mark.parametrize("number", STOPPING)
def test_a_handler_of_ones_own_is_called_when_all_is_saved(number: signal.Signals, tmp_path: Path) -> None:
    seen = []
    signal.signal(number, lambda n, _: seen.append((n, RunFolder.open(tmp_path / "run").config["ending"])))
    send(number, 100)
    run = pyrl.train("random", Raising, total_steps=10**6, run_dir=tmp_path / "run")
    assert seen == [(number, number.name)]
    assert run.ending == number.name


@pytest.mark.parametrize("number", STOPPING)
def test_an_ignored_signal_stays_ignored(number: signal.Signals, tmp_path: Path) -> None:
    signal.signal(number, signal.SIG_IGN)
    send(number, 100, 200)
    assert pyrl.train("random", Raising, total_steps=500, run_dir=tmp_path / "run").ending == "total_steps: 500 reached"


def test_only_what_is_saved_and_in_the_main_thread_takes_signals(tmp_path: Path) -> None:
    before = {n: signal.getsignal(n) for n in STOPPING}
    seen: list[Any] = []

    def train(run_dir: Path | bool) -> None:
        look: Callable[..., Any] = lambda _: seen.append({n: signal.getsignal(n) for n in STOPPING})  # noqa: E731
        pyrl.train("random", Raising, total_steps=10, run_dir=run_dir, on_metrics=look)

    train(False)
    thread = threading.Thread(target=train, args=(tmp_path / "run",))
    thread.start()
    thread.join(60)
    assert seen
    assert all(handlers == before for handlers in seen)


def test_a_second_signal_does_not_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals, "REPEAT_SECONDS", 0.0)

    def twice(_: Any) -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt) as raised:
        pyrl.train("random", Raising, total_steps=10**6, run_dir=tmp_path / "run", on_metrics=twice)
    assert not isinstance(raised.value, Interrupted)
    assert "ending" not in RunFolder.open(tmp_path / "run").config
    assert pyrl.load(tmp_path / "run" / "checkpoints" / "last").env_steps == 0  # what was saved at the start


def test_a_signal_that_is_sent_twice_at_once_is_one(tmp_path: Path) -> None:
    """As timeout(1) does."""

    def twice(_: Any) -> None:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)

    with pytest.raises(Stopped):
        pyrl.train("random", Raising, total_steps=10**6, run_dir=tmp_path / "run", on_metrics=twice)
    assert RunFolder.open(tmp_path / "run").config["ending"] == "SIGTERM"


def test_an_evaluation_is_cut_short(tmp_path: Path) -> None:
    send(signal.SIGTERM, 130)  # steps 65 to 164 are an evaluation's
    options = {"n_steps": 64, "eval_every": 64, "eval_episodes": 10, "num_envs": 1}
    with pytest.raises(Stopped) as raised:
        pyrl.train("random", Raising, total_steps=10**6, run_dir=tmp_path / "run", **options)
    assert raised.value.run.agent.env_steps == 64
    assert raised.value.run.evaluations == []
    assert Raising.steps <= 140  # ten environments side by side


def test_an_environment_that_the_signal_broke_does_not_hide_it(tmp_path: Path) -> None:
    def broken(_: Any) -> None:
        signal.raise_signal(signal.SIGTERM)
        raise pyrl.errors.EnvError("a worker is gone")

    with pytest.raises(Stopped):
        pyrl.train("random", Raising, total_steps=10**6, run_dir=tmp_path / "run", on_metrics=broken)
    config = RunFolder.open(tmp_path / "run").config
    assert (config["ending"], config["error"]["message"]) == ("SIGTERM", "a worker is gone")


def test_a_terminal_that_is_closed(tmp_path: Path) -> None:
    """SIGHUP comes, and every print fails; the run is saved, and its exit status is the signal's."""
    main, terminal = pty.openpty()
    code = f"""
import fcntl, os, sys, termios
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
command = ["-m", "pyrl", "train", "random", "CartPole-v1", "--total-steps", "1e9", "--run-dir", {str(tmp_path / "run")!r}]
os.execv(sys.executable, [sys.executable, *command])
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdin=terminal, stdout=terminal, stderr=terminal, cwd=tmp_path)
    os.close(terminal)
    try:
        deadline = time.monotonic() + 60
        while not (tmp_path / "run" / "metrics.csv").exists():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        time.sleep(0.3)
        os.close(main)
        assert process.wait(60) == 129
    finally:
        process.kill()
        process.wait(60)
    assert RunFolder.open(tmp_path / "run").config["ending"] == "SIGHUP"
    steps = pyrl.load(tmp_path / "run" / "checkpoints" / "last").env_steps
    assert pyrl.train("random", "CartPole-v1", resume=tmp_path / "run", total_steps=steps + 10).agent.env_steps >= steps + 10


def test_a_sample_of_random_moments(tmp_path: Path) -> None:
    # As `python -m tests.fuzz.stops`, from another folder: in this one the source tree would hide the installed package.
    code = f"import runpy, sys; sys.path.append({str(ROOT)!r}); runpy.run_module('tests.fuzz.stops', run_name='__main__', alter_sys=True)"
    command = [sys.executable, "-c", code, "--kills", "4", "--terms", "6", "--longest", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 faults" in done.stdout
