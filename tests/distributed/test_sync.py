"""The engine `sync`: the same weights, bit for bit, for any number of workers, and after stopping and going on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from agent_envs import TwoStates
from own_networks import batch_norm
from worker_envs import Masked

import pyrl
from pyrl.errors import SettingError

SMALL: dict[str, Any] = {"num_envs": 4, "n_steps": 8, "net_arch": (8,), "seed": 3, "curve": False}
NORMALIZED: dict[str, Any] = {"normalize_observation": True, "normalize_reward": True, "clip_reward": 10.0}
CASES: dict[str, tuple[str, Any, dict[str, Any]]] = {
    "impala": ("impala", "CartPole-v1", {"backend": "native"}),
    "impala, lean, torch": ("impala", TwoStates, {"engine": "torch"}),
    "impala, masks": ("impala", Masked, {}),
    "impala, continuous": ("impala", "Pendulum-v1", {}),
    "appo, masks": ("appo", Masked, {"batch_size": 16, "n_epochs": 2}),
    "ppo": ("ppo", "CartPole-v1", {"batch_size": 16, "n_epochs": 2}),
    "a2c": ("a2c", TwoStates, {}),
    "ppo, normalised": ("ppo", "Pendulum-v1", {**NORMALIZED, "batch_size": 16, "n_epochs": 2}),
    "impala, normalised, batch norm": ("impala", "Pendulum-v1", {**NORMALIZED, "features_extractor": batch_norm}),
}


def trained(case: str, workers: int, **more: Any) -> pyrl.experiment.train.Run:
    algo, env, options = CASES[case]
    return pyrl.train(
        algo, env, workers=workers, worker_engine="sync", **{**SMALL, "total_steps": 640, "run_dir": False, **options, **more}
    )


def weights(run: Any) -> torch.Tensor:
    return run.agent.arena.values.clone()


@pytest.mark.parametrize("case", CASES)
def test_any_number_of_workers_is_the_same_run(case: str) -> None:
    one, *more = (trained(case, workers) for workers in (1, 2, 4))
    assert one.agent.updates >= 20
    for other in more:
        assert torch.equal(weights(one), weights(other))
        np.testing.assert_equal(other.agent.normalizer.state_dict(), one.agent.normalizer.state_dict())
        for ours, theirs in zip(one.agent.network.buffers(), other.agent.network.buffers(), strict=True):
            assert torch.equal(ours, theirs)
        # Times differ.
        assert [{k: v for k, v in m.items() if "time/" not in k} for m in one.metrics] == [
            {k: v for k, v in m.items() if "time/" not in k} for m in other.metrics
        ]
    assert not torch.equal(weights(one), weights(trained(case, 2, seed=4)))


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_a_run_that_was_stopped_goes_on_as_if_it_never_was(workers: int, tmp_path: Path) -> None:
    whole = trained("impala", workers, total_steps=960)
    stops, folder = sorted(np.random.default_rng(workers).choice(np.arange(32, 960, 32), 3, replace=False).tolist()), tmp_path / "run"
    trained("impala", workers, total_steps=960, run_dir=folder, on_metrics=lambda m: m["time/env_steps"] >= stops[0])
    for stop in [*stops[1:], 10**9]:
        part = pyrl.train("impala", "CartPole-v1", resume=folder, curve=False, on_metrics=lambda m, stop=stop: m["time/env_steps"] >= stop)
    assert part.agent.env_steps == whole.agent.env_steps == 960
    assert torch.equal(weights(part), weights(whole))
    assert [e.episode_return for m in whole.metrics for e in m.episodes][-1] == [
        e.episode_return for m in part.metrics for e in m.episodes
    ][-1]


def test_episodes_are_those_of_every_environment() -> None:
    episodes = [e for m in trained("a2c", 2).metrics for e in m.episodes]
    assert sorted(e.env_index for e in episodes) == sorted([0, 1, 2, 3] * 16)  # 640 steps, of 10 each
    assert all(e.length == 10 for e in episodes)
    assert len({e.episode_return for e in episodes}) > 1


@pytest.mark.parametrize(
    ("algo", "options", "words"),
    [
        ("a3c", {}, "and a3c does not"),
        ("impala", {"replay_shards": 2}, "replay_shards is 2, but impala learns from no replay"),
        ("impala", {"samples_per_insert": 2.0}, "samples_per_insert is 2.0, but impala learns from no replay"),
        ("random", {}, "and random does not"),
        ("ppo", {"worker_engine": "local", "max_policy_lag": 3}, "max_policy_lag is 3, but nothing lags behind where ppo waits for every"),
        ("impala", {"workers": 3, "num_envs": 4}, "workers is 3, expected a divisor of num_envs = 4"),
        ("impala", {"max_policy_lag": 0}, "max_policy_lag is 0, expected an integer of at least 1"),
        ("impala", {"max_policy_lag": 3}, "max_policy_lag is 3, but nothing lags behind with worker_engine='sync'"),
        ("impala", {"max_policy_lag": 3, "workers": None, "worker_engine": None}, "max_policy_lag is 3, but there are no workers"),
        ("impala", {"workers": None}, "worker_engine is 'sync', but there are no workers"),
        ("impala", {"workers": 0}, "workers is 0, expected an integer in"),
    ],
)
def test_what_workers_cannot_do_is_refused(algo: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingError, match=words):
        pyrl.train(
            algo, TwoStates, **{"workers": 2, "worker_engine": "sync", "num_envs": 2, "total_steps": 100, "run_dir": False, **options}
        )
