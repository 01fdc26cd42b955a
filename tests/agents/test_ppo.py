"""PPO: hand-computed losses, gradient directions, every space, learning, the two flags, determinism."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from agent_envs import ACTION_SPACES, OBSERVATION_SPACES, CutOrEnd, TwoStates, random_env
from gymnasium import spaces

import pyrl
from pyrl.agents.ppo import PPOConfig, approximate_kl, clipped_surrogate, standardized, value_loss

SMALL = {"n_steps": 16, "batch_size": 32, "n_epochs": 2, "net_arch": (8,)}


def test_clipped_surrogate_by_hand() -> None:
    # ratios 1.5, 1.5, 0.5, 0.5 with advantages +1, -1, +1, -1 and epsilon 0.2:
    # min(1.5, 1.2) = 1.2; min(-1.5, -1.2) = -1.5; min(0.5, 0.8) = 0.5; min(-0.5, -0.8) = -0.8; mean = -0.15
    log_prob = torch.log(torch.tensor([1.5, 1.5, 0.5, 0.5]))
    advantage = torch.tensor([1.0, -1.0, 1.0, -1.0])
    assert clipped_surrogate(log_prob, torch.zeros(4), advantage, 0.2).item() == pytest.approx(-0.15, abs=1e-6)


def test_clipped_surrogate_gradient_vanishes_only_where_the_clip_binds() -> None:
    log_prob = torch.log(torch.tensor([1.5, 1.5, 0.5, 0.5])).requires_grad_()
    clipped_surrogate(log_prob, torch.zeros(4), torch.tensor([1.0, -1.0, 1.0, -1.0]), 0.2).backward()
    # d/dlogp of r A / 4 is r A / 4 where the unclipped term is the minimum.
    np.testing.assert_allclose(log_prob.grad.numpy(), [0.0, -1.5 / 4, 0.5 / 4, 0.0], atol=1e-6)


def test_value_loss_by_hand() -> None:
    value, value_old, return_ = torch.tensor([3.0, -1.0]), torch.tensor([1.0, 0.0]), torch.tensor([2.0, 0.0])
    assert value_loss(value, value_old, return_, None).item() == pytest.approx((1.0 + 1.0) / 2)
    # clipped to within 0.5 of the old value: 1.5 and -0.5
    assert value_loss(value, value_old, return_, 0.5).item() == pytest.approx((0.25 + 0.25) / 2)


def test_kl_and_standardize() -> None:
    r = torch.tensor([0.5, 2.0])
    expected = ((0.5 - 1 - math.log(0.5)) + (2 - 1 - math.log(2))) / 2
    assert approximate_kl(torch.log(r), torch.zeros(2)).item() == pytest.approx(expected, rel=1e-6)
    standard = standardized(torch.tensor([1.0, 2.0, 3.0]))
    assert standard.mean().abs() < 1e-6
    assert standard.std().item() == pytest.approx(1.0, rel=1e-5)
    assert standardized(torch.tensor([5.0])).item() == 5.0


def test_an_update_makes_good_actions_likelier() -> None:
    agent = pyrl.make_agent("ppo", spaces.Discrete(2), spaces.Discrete(2), seed=1, num_envs=4, **{**SMALL, "learning_rate": 1e-2})
    before = torch.softmax(agent.network.policy(torch.tensor([0, 1])), 1).detach()
    for _ in pyrl.iterate(agent, TwoStates, total_steps=640):
        pass
    after = torch.softmax(agent.network.policy(torch.tensor([0, 1])), 1).detach()
    assert after[0, 0] > before[0, 0]
    assert after[1, 1] > before[1, 1]


@pytest.mark.parametrize("observation", OBSERVATION_SPACES)
@pytest.mark.parametrize("action", ACTION_SPACES)
def test_every_space(observation: str, action: str) -> None:
    env = random_env(OBSERVATION_SPACES[observation], ACTION_SPACES[action])
    agent = pyrl.make_agent("ppo", OBSERVATION_SPACES[observation], ACTION_SPACES[action], num_envs=2, **SMALL)
    for metrics in pyrl.iterate(agent, env, total_steps=64):
        assert all(math.isfinite(v) for v in metrics.values())
    env_ = env()
    one, _ = env_.reset(seed=0)
    assert ACTION_SPACES[action].shape == np.shape(agent.act(one))
    assert pyrl.evaluate(agent, env, episodes=3).lengths.tolist() == [7, 7, 7]


def test_learns_two_states() -> None:
    agent = pyrl.make_agent("ppo", spaces.Discrete(2), spaces.Discrete(2), num_envs=4, **{**SMALL, "learning_rate": 1e-2, "n_epochs": 4})
    for _ in pyrl.iterate(agent, TwoStates, total_steps=3000):
        pass
    assert pyrl.evaluate(agent, TwoStates, episodes=10).mean == 10.0


def test_tells_truncation_from_termination() -> None:
    options = {"n_steps": 64, "batch_size": 128, "n_epochs": 8, "net_arch": (32,), "learning_rate": 1e-2, "gamma": 0.9, "ent_coef": 0.05}
    agent = pyrl.make_agent("ppo", CutOrEnd.observation_space, CutOrEnd.action_space, num_envs=4, **options)
    for _ in pyrl.iterate(agent, CutOrEnd, total_steps=12_000):
        pass
    assert agent.act(0) == 1
    values = agent.network.value(torch.tensor([0, 1])).detach()
    np.testing.assert_allclose(values, [9.0, 10.0], rtol=0.15)


def run_once(seed: int) -> tuple[dict, torch.Tensor]:
    agent = pyrl.make_agent("ppo", spaces.Discrete(2), spaces.Discrete(2), seed=seed, num_envs=3, **SMALL)
    *_, last = pyrl.iterate(agent, TwoStates, total_steps=200)
    timed = ("time/seconds", "time/env_steps_per_second")
    return {k: v for k, v in last.items() if k not in timed}, torch.cat([p.flatten() for p in agent.network.parameters()])


def test_same_seed_same_run() -> None:
    metrics, weights = run_once(3)
    again, weights_again = run_once(3)
    other, weights_other = run_once(4)
    assert metrics == again
    assert torch.equal(weights, weights_again)
    assert not torch.equal(weights, weights_other)
    assert metrics != other


def test_kl_stop_and_value_clip_and_schedules() -> None:
    options = {**SMALL, "n_epochs": 50, "target_kl": 1e-4, "clip_range_vf": 0.1, "learning_rate": "linear_1e-2", "clip_range": "lin_0.2"}
    agent = pyrl.make_agent("ppo", spaces.Discrete(2), spaces.Discrete(2), num_envs=2, **options)
    records = list(pyrl.iterate(agent, TwoStates, total_steps=320))
    assert min(r["train/epochs"] for r in records) < 50
    rates = [r["train/learning_rate"] for r in records]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] < rates[0] <= 1e-2


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("gamma", 1.5, r"gamma is 1.5, expected a number in \[0, 1\]"),
        ("n_steps", 0, "n_steps is 0"),
        ("learning_rate", "fast", "learning_rate|schedule is 'fast'"),
        ("learning_rate", -1.0, "learning_rate is -1.0, expected a positive number"),
        ("learning_rate", None, "learning_rate is None, expected a positive number"),
        ("net_arch", (64, 0), r"net_arch is \(64, 0\), expected a tuple of at most 100, each entry an integer in \[1, 65536\]"),
        ("net_arch", 64, "net_arch is 64, expected a tuple of at most 100"),
        ("net_arch", {"pi": [64]}, r"net_arch is \{'pi': \[64\]\}, expected a tuple of at most 100"),
        ("num_envs", 0, r"num_envs is 0, expected an integer in \[1, 65536\]"),
        ("num_envs", "4", "num_envs is '4', expected an integer in"),
        ("activation", "step", "activation is 'step', expected one of"),
    ],
)
def test_bad_options(option: str, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pyrl.make_agent("ppo", spaces.Discrete(2), spaces.Discrete(2), **{option: value})


def test_config_is_frozen_and_unknown_options_are_named() -> None:
    with pytest.raises(AttributeError):
        PPOConfig().gamma = 0.5  # type: ignore[misc]
    with pytest.raises(pyrl.errors.UnknownNameError, match="ppo has no option 'lerning_rate'; did you mean learning_rate"):
        pyrl.make_agent("ppo", spaces.Discrete(2), spaces.Discrete(2), lerning_rate=1)
