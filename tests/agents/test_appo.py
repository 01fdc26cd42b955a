"""APPO: V-trace-GAE by its definition, PPO where nothing lags, the ratio, learning from old policies' rollouts, the two flags."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from agent_envs import TwoStates
from gymnasium import spaces
from lagging import (
    ACTION,
    OBSERVATION,
    N,
    T,
    assert_learns_from_an_older_policy,
    assert_tells_truncation_from_termination,
    log_prob,
    rollout,
    values,
    vtrace,
)

import pyrl
from pyrl.types import Rollout


def make(engine: str = "native", algo: str = "appo", action: spaces.Space = ACTION, **options: Any) -> Any:
    options = {"n_steps": T, "net_arch": (8,), "engine": engine, "batch_size": 5, "n_epochs": 3, "learning_rate": 1e-2, **options}
    return pyrl.make_agent(algo, OBSERVATION, action, seed=2, num_envs=N, **options)


@pytest.mark.parametrize("mask", [False, True])
@pytest.mark.parametrize("engine", ["native", "torch"])
@pytest.mark.parametrize("bars", [(1.0, 1.0, 1.0), (0.8, 2.0, 0.5)])
def test_targets_are_those_of_the_paper(engine: str, mask: bool, bars: tuple[float, float, float]) -> None:
    lambda_, rho_bar, c_bar = bars
    agent, data = make(engine, gae_lambda=lambda_, rho_bar=rho_bar, c_bar=c_bar, gamma=0.9), rollout(mask)
    given = data.extra["log_prob"].copy()
    agent.updater.begin(0.0)
    samples, _, _ = agent.samples(data, engine == "native")
    valid, (_, v) = data.valid.ravel(), vtrace(agent, data, 0.9, *bars)
    A = v - values(agent, data.observation[:T].reshape(-1, 3)).reshape(T, N)
    np.testing.assert_allclose(np.asarray(samples.return_)[valid], v.ravel()[valid], rtol=2e-4, atol=2e-5)
    np.testing.assert_allclose(np.asarray(samples.advantage)[valid], A.ravel()[valid], rtol=2e-4, atol=2e-5)
    np.testing.assert_allclose(np.asarray(samples.log_prob), log_prob(agent, data).ravel(), rtol=2e-4, atol=2e-5)
    np.testing.assert_array_equal(data.extra["log_prob"], given)  # the rollout is its loop's


@pytest.mark.parametrize("engine", ["native", "torch"])
def test_an_update_starts_where_the_policy_is_however_old_the_rollout(engine: str) -> None:
    """A ratio to the policy that acted would be clipped from the beginning: nothing of these advantages would be learned."""
    data = rollout()
    data.valid[:] = True
    lags = make(engine, batch_size=T * N, n_epochs=1, normalize_advantage=False, vf_coef=0.0)
    data.extra["log_prob"] = log_prob(lags, data).astype(np.float32) - 2.0  # pi / mu is e^2, rho and c are 1
    fresh, before = copy.deepcopy(data), lags.arena.values.clone()
    fresh.extra["log_prob"] += 2.0
    ppo = make(engine, "ppo", batch_size=T * N, n_epochs=1, normalize_advantage=False, vf_coef=0.0)
    metrics = lags.learn(data).metrics
    ppo.learn(fresh)
    assert metrics["train/kl"] == pytest.approx(0.0, abs=1e-6)
    assert (lags.arena.values - before).abs().max() > 1e-3
    torch.testing.assert_close(lags.arena.values, ppo.arena.values, rtol=1e-4, atol=1e-5)


def behaved(agent: Any, random: np.random.Generator, data: Rollout) -> Rollout:
    """``data`` as if ``agent`` had acted."""
    agent.updater.begin(0.0)
    if isinstance(agent.action_space, spaces.Box):
        data.action = random.normal(size=(T, N, 2)).astype(np.float32)
    data.extra["log_prob"] = np.zeros((T, N), np.float32)
    samples, _, _ = agent.samples(data, True)
    data.extra["log_prob"] = samples.log_prob.reshape(T, N).copy()
    return data


@pytest.mark.parametrize("action", [ACTION, spaces.Box(-1, 1, (2,), np.float32)], ids=["discrete", "continuous"])
def test_where_the_same_policy_acted_it_is_ppo(action: spaces.Space) -> None:
    """Three passes in minibatches: the advantages, the targets and the ratios are PPO's."""
    appo, ppo = make(action=action, ent_coef=0.01), make(algo="ppo", action=action, ent_coef=0.01)
    assert torch.equal(appo.arena.values, ppo.arena.values)
    data = behaved(appo, np.random.default_rng(4), rollout())
    appo.learn(copy.deepcopy(data))
    ppo.learn(copy.deepcopy(data))
    torch.testing.assert_close(appo.arena.values, ppo.arena.values, rtol=1e-4, atol=1e-5)
    data.extra["log_prob"] += 1.0  # another policy acted: the weights of its steps are others
    other = make(action=action, ent_coef=0.01)
    other.learn(data)
    assert (other.arena.values - appo.arena.values).abs().max() > 1e-3


def test_learns_from_rollouts_of_a_policy_that_lags_behind() -> None:
    options = {"net_arch": (8,), "learning_rate": 3e-3, "n_steps": 10, "batch_size": 20, "n_epochs": 4}
    assert_learns_from_an_older_policy("appo", 6000, options)


def test_tells_truncation_from_termination() -> None:
    options = {"n_steps": 16, "net_arch": (32,), "learning_rate": 3e-3, "gamma": 0.9, "ent_coef": 0.01, "batch_size": 32, "n_epochs": 4}
    assert_tells_truncation_from_termination("appo", 20_000, options)


def test_a_minibatch_larger_than_the_rollout_is_refused_by_its_name() -> None:
    with pytest.raises(ValueError, match="appo: batch_size is 64, but a rollout holds only n_steps \\* num_envs = 21 transitions"):
        make(batch_size=64)


def test_workers_do_not_wait_for_each_other() -> None:
    """A cap on the lag is refused where there is none (`ppo`)."""
    options = {"num_envs": 2, "n_steps": 16, "batch_size": 16, "n_epochs": 2, "net_arch": (8,), "run_dir": False, "curve": False}
    run = pyrl.train("appo", TwoStates, total_steps=320, workers=2, max_policy_lag=3, **options)
    assert run.agent.env_steps >= 320
    assert all(metrics["train/policy_lag"] <= 3 for metrics in run.metrics)
