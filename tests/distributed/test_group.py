"""Learners that share the updates: the gradient of the whole, the same weights everywhere, ranks that die, and torchrun."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from own_networks import batch_norm
from test_roles import chunk, same_rollouts

import pyrl
from pyrl.distributed.chunks import joined, split
from pyrl.distributed.group import LearnerGroup, OwnGroup
from pyrl.errors import LearnerError, SettingError

SMALL: dict[str, Any] = {"num_envs": 4, "n_steps": 8, "net_arch": (8,), "backend": "native", "curve": False, "run_dir": False, "seed": 3}
SYNC: dict[str, Any] = {"workers": 1, "worker_engine": "sync", "total_steps": 32 * 120, **SMALL}
pytestmark = pytest.mark.timeout(240)


def test_shares_of_a_rollout_are_what_joined_makes_one_of() -> None:
    chunks = [chunk(2, seed) for seed in range(3)]
    for share, part in zip(split(joined(chunks), 3), chunks):
        same_rollouts(share, part.rollout)


@pytest.mark.parametrize("algo", ["impala", "a2c"])
@pytest.mark.parametrize("engine", ["native", "torch"])
def test_two_learners_make_the_run_of_one(algo: str, engine: str) -> None:
    """The sum of their gradients is that of the whole rollout, but for the order of additions."""
    one, two = (pyrl.train(algo, "CartPole-v1", learners=learners, engine=engine, **{**SYNC, "total_steps": 32 * 5}) for learners in (1, 2))
    assert one.agent.updates == two.agent.updates == 5
    assert not multiprocessing.active_children()
    moved = one.agent.arena.values - pyrl.train(algo, "CartPole-v1", engine=engine, **{**SYNC, "total_steps": 1}).agent.arena.values
    torch.testing.assert_close(two.agent.arena.values, one.agent.arena.values, rtol=0, atol=1e-3 * float(moved.abs().max()))


@pytest.fixture
def groups(monkeypatch: pytest.MonkeyPatch) -> list[OwnGroup]:
    """Of every run."""
    seen, meet = list[OwnGroup](), OwnGroup._meet
    monkeypatch.setattr(OwnGroup, "_meet", lambda group: seen.append(group) or meet(group))
    return seen


def test_a_learner_that_dies_is_replaced(groups: list[OwnGroup]) -> None:
    whole, killed = pyrl.train("impala", "CartPole-v1", learners=2, **SYNC), list[float]()

    def watch(metrics: Any) -> None:
        if metrics["time/updates"] in (20, 60):
            (follower,) = groups[-1].followers
            assert follower.process.is_alive()
            os.kill(follower.process.pid, signal.SIGKILL)
            killed.append(metrics["time/updates"])

    run = pyrl.train("impala", "CartPole-v1", learners=2, on_metrics=watch, **SYNC)
    assert run.metrics[-1]["time/learner_restarts"] == len(killed) == 2
    assert torch.equal(run.agent.arena.values, whole.agent.arena.values)  # nothing was lost, and nothing learned twice


def test_learners_that_die_again_and_again_end_the_run(groups: list[OwnGroup]) -> None:
    def watch(metrics: Any) -> None:
        for follower in groups[-1].followers:
            if follower.process.is_alive():
                os.kill(follower.process.pid, signal.SIGKILL)

    with pytest.raises(LearnerError, match=r"impala: learner 1: its process was killed by SIGKILL\nso did 2 groups after it"):
        pyrl.train("impala", "CartPole-v1", learners=2, on_metrics=watch, **SYNC)
    assert not multiprocessing.active_children()


def test_weights_that_differ_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    learn = LearnerGroup._learn

    def spoiled(group: LearnerGroup, exchange: Any, rollout: Any) -> Any:
        if group.agent.updates == 50:
            group.agent.arena.values[0] += 1e-6
        return learn(group, exchange, rollout)

    monkeypatch.setattr(LearnerGroup, "_learn", spoiled)
    with pytest.raises(LearnerError, match=r"after 101 updates the weights of \[1\] are not those of learner 0"):
        pyrl.train("impala", "CartPole-v1", learners=2, **SYNC)
    assert not multiprocessing.active_children()


@pytest.mark.parametrize(
    ("algo", "options", "words"),
    [
        ("ppo", {"batch_size": 16}, "learners is 2, but they sum one gradient of a whole rollout, as of impala and a2c, not of ppo"),
        ("impala", {"normalize_reward": True}, "learners is 2, but normalize_reward counts in one of them only"),
        ("impala", {"features_extractor": batch_norm}, "learners is 2, but the network has buffers"),
        ("impala", {"normalize_advantage": True}, "learners is 2, but normalize_advantage needs the whole rollout"),
        ("impala", {"learners": 3}, "learners is 3, expected a divisor of num_envs = 4"),
        ("impala", {"optimizer": "sgd"}, "learners is 2, but their optimiser is Adam or RMSprop, not"),
        ("impala", {"workers": None, "worker_engine": None}, "learners is 2, but there are no workers"),
        ("impala", {"learners": 0}, "learners is 0, expected an integer"),
    ],
)
def test_what_learners_cannot_do_is_refused(algo: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingError, match=words):
        pyrl.train(algo, "CartPole-v1", **{"learners": 2, **SYNC, **options})


def test_torchrun_starts_the_ranks(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "pyrl", "train", "impala"]
    flags = ["CartPole-v1", "--workers", "1", "--worker-engine", "sync", "--env-backend", "native", "--num-envs", "4", "--n-steps", "8"]
    more = ["--net-arch", "8", "--total-steps", "3840", "--seed", "3", "--no-curve", "--run-dir", "run", "--learners", "2"]
    ended = subprocess.run([*command, *flags, *more], cwd=tmp_path, capture_output=True, text=True, timeout=200, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["run"]  # one rank writes
    assert ended.stdout.count("return") <= 30
    assert ended.stdout.count("preset for CartPole-v1") == 1
    own = pyrl.train("impala", "CartPole-v1", learners=2, **SYNC)
    assert pyrl.load(tmp_path / "run/checkpoints/last").env_steps == own.agent.env_steps == 3840


def test_as_many_learners_as_torchrun_has_started(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("TORCHELASTIC_RUN_ID", "none"), ("WORLD_SIZE", "2"), ("RANK", "0")):
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingError, match="learners is 4, but torchrun has started 2, expected as many"):
        pyrl.train("impala", "CartPole-v1", learners=4, **SYNC)
