"""IMPALA: V-trace by its definition, what it is on-policy, learning from old policies' rollouts, the two flags."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from lagging import (
    ACTION,
    OBSERVATION,
    N,
    T,
    assert_learns_from_an_older_policy,
    assert_tells_truncation_from_termination,
    log_prob,
    rollout,
    vtrace,
)

import pyrl


def make(engine: str = "native", algo: str = "impala", **options: Any) -> Any:
    options = {"n_steps": T, "net_arch": (8,), "engine": engine, **options}
    return pyrl.make_agent(algo, OBSERVATION, ACTION, seed=2, num_envs=N, **options)


@pytest.mark.parametrize("mask", [False, True])
@pytest.mark.parametrize("engine", ["native", "torch"])
@pytest.mark.parametrize("bars", [(1.0, 1.0, 1.0), (0.8, 2.0, 0.5)])
def test_targets_are_those_of_the_paper(engine: str, mask: bool, bars: tuple[float, float, float]) -> None:
    lambda_, rho_bar, c_bar = bars
    agent, data = make(engine, gae_lambda=lambda_, rho_bar=rho_bar, c_bar=c_bar, gamma=0.9), rollout(mask)
    agent.updater.begin(0.0)
    samples, _, _ = agent.samples(data, engine == "native")
    A, v = vtrace(agent, data, 0.9, *bars)
    valid = data.valid.ravel()
    np.testing.assert_allclose(np.asarray(samples.advantage)[valid], A.ravel()[valid], rtol=2e-4, atol=2e-5)
    np.testing.assert_allclose(np.asarray(samples.return_)[valid], v.ravel()[valid], rtol=2e-4, atol=2e-5)


def test_where_the_same_policy_acted_it_is_a2c() -> None:
    data = rollout()
    impala = make(learning_rate=1e-2)
    a2c = make(algo="a2c", learning_rate=1e-2, ent_coef=0.01, max_grad_norm=40.0, gae_lambda=1.0)
    assert torch.equal(impala.arena.values, a2c.arena.values)
    data.extra["log_prob"] = log_prob(impala, data).astype(np.float32)
    impala.learn(copy.deepcopy(data))
    a2c.learn(copy.deepcopy(data))
    torch.testing.assert_close(impala.arena.values, a2c.arena.values, rtol=1e-4, atol=1e-5)
    data.extra["log_prob"] += 1.0  # another policy acted: the targets, and so the step, are others
    other = make(learning_rate=1e-2)
    other.learn(data)
    assert (other.arena.values - impala.arena.values).abs().max() > 1e-4


@pytest.mark.parametrize("use_rms_prop", [True, False])
def test_learns_from_rollouts_of_a_policy_that_lags_behind(use_rms_prop: bool) -> None:
    options = {"net_arch": (8,), "learning_rate": 1e-2, "n_steps": 10, "use_rms_prop": use_rms_prop}
    assert_learns_from_an_older_policy("impala", 8000, options)


def test_tells_truncation_from_termination() -> None:
    options = {"n_steps": 16, "net_arch": (32,), "learning_rate": 5e-3, "gamma": 0.9, "ent_coef": 0.05}
    assert_tells_truncation_from_termination("impala", 60_000, options)
