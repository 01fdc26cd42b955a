"""A3C: real processes. Learning, determinism with one worker, deaths, failures, and nobody left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from agent_envs import TwoStates
from gymnasium import spaces

import pyrl
from pyrl.errors import EnvError

SMALL: dict[str, Any] = {"net_arch": (8,), "learning_rate": 1e-2, "n_steps": 5}
PATIENCE = 60.0  # seconds, on a loaded machine


class Broken(TwoStates):
    """Raises in its third episode."""

    episodes = 0

    def reset(self, **options: Any) -> tuple[int, dict]:
        self.episodes += 1
        if self.episodes == 3:
            raise RuntimeError("the third episode is broken")
        return super().reset(**options)


def agent_with(workers: int, seed: int = 0) -> Any:
    return pyrl.make_agent("a3c", spaces.Discrete(2), spaces.Discrete(2), num_envs=workers, seed=seed, **SMALL)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def wait_until(condition: Any) -> bool:
    deadline = time.monotonic() + PATIENCE
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()


def test_two_workers_learn_on_shared_parameters() -> None:
    agent = agent_with(2)
    loop = pyrl.iterate(agent, TwoStates, total_steps=20_000)
    envs = set()
    for metrics in loop:
        envs |= {episode.env_index for episode in metrics.episodes}
        pids = [process.pid for process, _ in loop._workers]
    assert envs == {0, 1}
    assert agent.env_steps >= 20_000
    assert agent.updates >= 4_000
    assert pyrl.evaluate(agent, TwoStates, episodes=10).mean == 10.0
    assert not any(alive(pid) for pid in pids)


def test_the_stop_rule_ends_the_workers() -> None:
    agent = agent_with(2)
    loop = pyrl.iterate(agent, TwoStates, total_steps=10**9, stop_at_return=8.0, stop_window=5)
    episodes, pids = [], []
    for metrics in loop:
        episodes += metrics.episodes
        pids = [process.pid for process, _ in loop._workers] or pids
    assert loop.ending.startswith("stop_at_return")
    assert sum(episode.episode_return for episode in episodes[-5:]) >= 40
    assert agent.env_steps >= sum(episode.length for episode in episodes)
    assert not any(alive(pid) for pid in pids)
    values = agent.arena.values.clone()
    time.sleep(0.2)
    assert torch.equal(values, agent.arena.values)


def test_one_worker_same_seed_same_run() -> None:
    def run(seed: int) -> torch.Tensor:
        agent = agent_with(1, seed)
        for _ in pyrl.iterate(agent, TwoStates, total_steps=500):
            pass
        return agent.arena.values.clone()

    assert torch.equal(run(3), run(3))


def test_a_killed_worker_is_replaced() -> None:
    agent = agent_with(1)
    loop = pyrl.iterate(agent, TwoStates, total_steps=10**9)
    killed, steps = None, 0
    for metrics in loop:
        if killed is None and metrics["time/updates"] > 0:
            killed = loop._workers[0][0].pid
            os.kill(killed, signal.SIGKILL)
            steps = agent.env_steps
        if killed is not None and metrics["time/restarts"] == 1 and agent.env_steps > steps + 1000:
            break
    assert not alive(killed)
    assert loop.restarts == 1


def test_an_environment_that_raises_ends_the_run_with_its_traceback() -> None:
    loop = pyrl.iterate(agent_with(2), Broken, total_steps=10**9)
    with pytest.raises(EnvError, match=r"a worker failed:\n(?s:.*)the third episode is broken"):
        list(loop)
    assert not loop._workers


SCRIPT = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts what runs in the background without it
sys.path.insert(0, {tests!r})
from agent_envs import TwoStates
import pyrl

if __name__ == "__main__":
    agent = pyrl.make_agent("a3c", TwoStates.observation_space, TwoStates.action_space, num_envs=2, net_arch=(8,))
    loop = pyrl.iterate(agent, TwoStates, total_steps=10**12)
    for metrics in loop:
        if metrics["time/updates"] > 0:
            print(*[process.pid for process, _ in loop._workers], flush=True)
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_no_orphans(how: signal.Signals, tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(textwrap.dedent(SCRIPT).format(tests=str(Path(__file__).parent)))
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pids = [int(pid) for pid in process.stdout.readline().split()]
        assert len(pids) == 2
        assert all(alive(pid) for pid in pids)
        process.send_signal(how)
        assert wait_until(lambda: process.poll() is not None)
        assert wait_until(lambda: not any(alive(pid) for pid in pids))


def test_bad_uses() -> None:
    with pytest.raises(ValueError, match="normalize_observation is True, expected False"):
        pyrl.make_agent("a3c", spaces.Discrete(2), spaces.Discrete(2), normalize_observation=True)
    with pytest.raises(ValueError, match="cannot be sent to another process"):
        next(iter(pyrl.iterate(agent_with(1), lambda: TwoStates(), total_steps=10)))
