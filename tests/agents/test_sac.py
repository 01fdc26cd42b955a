"""SAC: log-probabilities, losses and the temperature, by hand. What it shares with the others is in test_continuous_agents.py."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from agent_envs import prepared
from gymnasium import spaces
from test_ddpg import set_linear
from torch.distributions import Normal, TanhTransform, TransformedDistribution

import pyrl
from pyrl.agents.entropy import squashed_sample, temperature_at, temperature_loss
from pyrl.agents.sac import soft_value

OBSERVATION, ACTION = spaces.Box(-5, 5, (1,)), spaces.Box(-1, 1, (1,))


def log_prob_by_hand(mean: float, std: float, xi: float) -> float:
    """log N(u; mean, std) - log(1 - tanh(u)^2), in float64."""
    u = mean + std * xi
    return -0.5 * xi**2 - math.log(std) - 0.5 * math.log(2 * math.pi) - math.log(1 - math.tanh(u) ** 2)


def test_log_prob_by_hand() -> None:
    mean, log_std, xi = torch.tensor([[0.3, -1.0]]), torch.tensor([[-1.0, 0.2]]), torch.tensor([[0.5, -1.5]])
    action, log_prob = squashed_sample(mean, log_std, xi)
    expected = log_prob_by_hand(0.3, math.exp(-1.0), 0.5) + log_prob_by_hand(-1.0, math.exp(0.2), -1.5)
    assert log_prob.item() == pytest.approx(expected, rel=1e-5)
    np.testing.assert_allclose(action, np.tanh([[0.3 + math.exp(-1.0) * 0.5, -1.0 - math.exp(0.2) * 1.5]]), rtol=1e-5)


def test_log_prob_is_that_of_the_squashed_distribution() -> None:
    mean, log_std, xi = (0.5 * torch.randn(100, 3, dtype=torch.float64) for _ in range(3))
    action, log_prob = squashed_sample(mean, log_std, xi)
    distribution = TransformedDistribution(Normal(mean, log_std.exp()), TanhTransform(cache_size=1))
    torch.testing.assert_close(log_prob, distribution.log_prob(action).sum(1), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("mean", [30.0, -30.0, 300.0])
def test_log_prob_stays_finite_and_exact_at_the_bounds(mean: float) -> None:
    """Where tanh(u) rounds to 1, log(1 - tanh(u)^2) = log 4 - 2 |u| still has all its digits, and so has its gradient."""
    parameter = torch.tensor([[mean]], requires_grad=True)
    action, log_prob = squashed_sample(parameter, torch.zeros(1, 1), torch.zeros(1, 1))
    assert action.abs().item() == 1.0
    assert log_prob.item() == pytest.approx(-0.5 * math.log(2 * math.pi) - math.log(4) + 2 * abs(mean), rel=1e-6)
    log_prob.sum().backward()
    assert parameter.grad.item() == pytest.approx(math.copysign(2.0, mean))


def linear_agent(**options: float) -> pyrl.Agent:
    """mean = o, log_std = log(1/2); Q_1 = a, Q_2 = 2 a; Q_1' = 3 a, Q_2' = 1."""
    agent = pyrl.make_agent("sac", OBSERVATION, ACTION, net_arch=(), **options)
    with torch.no_grad():
        agent.actor.network[0].weight.copy_(torch.tensor([[1.0], [0.0]]))
        agent.actor.network[0].bias.copy_(torch.tensor([0.0, math.log(0.5)]))
    for network, weight, bias in zip([*agent.critic.networks, *agent.target_critic.networks], (1.0, 2.0, 3.0, 0.0), (0.0, 0.0, 0.0, 1.0)):
        set_linear(network[0], [0.0, weight], bias)
    return agent


def test_critic_loss_by_hand() -> None:
    agent = linear_agent()
    o, a, r, discount = torch.zeros(2, 1), torch.tensor([[0.5], [-0.5]]), torch.tensor([1.0, 2.0]), torch.tensor([0.9, 0.0])
    o_next, xi, alpha = torch.tensor([[0.2], [0.0]]), torch.tensor([[1.0], [0.0]]), torch.tensor([0.1])
    loss, _ = agent.critic_loss(prepared(o, a, r, discount, o_next), xi, alpha)
    value = min(3 * math.tanh(0.7), 1.0) - 0.1 * log_prob_by_hand(0.2, 0.5, 1.0)
    y = np.array([1.0 + 0.9 * value, 2.0])
    expected = 0.5 * np.mean((np.array([0.5, -0.5]) - y) ** 2) + 0.5 * np.mean((np.array([1.0, -1.0]) - y) ** 2)
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_actor_loss_by_hand() -> None:
    agent = linear_agent()
    loss, report = agent.actor_loss(prepared(torch.tensor([[0.2], [-0.3]])), torch.tensor([[1.0], [-1.0]]), torch.tensor([0.1]))
    actions = math.tanh(0.7), math.tanh(-0.8)
    log_probs = [log_prob_by_hand(0.2, 0.5, 1.0), log_prob_by_hand(-0.3, 0.5, -1.0)]
    expected = np.mean([0.1 * log_probs[0] - actions[0], 0.1 * log_probs[1] - 2 * actions[1]])  # min(a, 2 a)
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    assert report["train/entropy"].item() == pytest.approx(-np.mean(log_probs), rel=1e-5)


def test_entropy_widens_the_policy_and_value_moves_it() -> None:
    o, xi = torch.zeros(64, 1), torch.randn(64, 1, generator=torch.Generator().manual_seed(0))
    agent = linear_agent()
    agent.actor_step(prepared(o), xi, torch.tensor([0.0]))
    assert agent.actor.network[0].bias.grad[0] < 0  # descending raises the mean: Q grows with the action
    agent = linear_agent()
    agent.actor_step(prepared(o), xi, torch.tensor([100.0]))
    assert agent.actor.network[0].bias.grad[1] < 0  # descending raises log_std


def test_soft_value_by_hand() -> None:
    q, log_prob = torch.tensor([[1.0, 5.0], [2.0, 3.0]]), torch.tensor([0.5, -1.0])
    assert soft_value(q, log_prob, torch.tensor([0.2])).tolist() == pytest.approx([1.0 - 0.1, 3.0 + 0.2])


def test_the_temperature_holds_the_entropy() -> None:
    log_alpha = torch.tensor([0.7], requires_grad=True)
    loss = temperature_loss(log_alpha, torch.tensor(-3.0), -1.0)
    assert loss.item() == pytest.approx(-0.7 * (3.0 - 1.0), rel=1e-6)
    for log_prob, direction in ((5.0, 1.0), (-5.0, -1.0)):  # too little entropy: alpha rises; too much: it falls
        agent = linear_agent()
        agent.temperature_step(torch.tensor(-log_prob))
        assert math.copysign(1.0, agent.temperature.log_alpha.item()) == direction


def test_the_temperature_of_a_run() -> None:
    def temperature(**options: object) -> float:
        agent = pyrl.make_agent("sac", OBSERVATION, ACTION, net_arch=(4,), **options)
        assert agent.target_entropy == options.get("target_entropy", -1.0)
        before = agent.temperature.alpha.item()
        agent.learn(
            pyrl.types.Batch(
                observation=np.ones((4, 1), np.float32), action=np.zeros((4, 1), np.float32), reward=np.ones(4, np.float32),
                next_observation=np.ones((4, 1), np.float32), terminated=np.zeros(4, bool), discount=np.zeros(4, np.float32),
                index=np.arange(4),
            )
        )  # fmt: skip
        return agent.temperature.alpha.item() / before

    assert temperature() < 1.0  # a new policy has more entropy than -1
    assert temperature(ent_coef="auto_0.5", target_entropy=50.0) > 1.0
    assert temperature(ent_coef=0.2) == 1.0
    assert temperature_at("auto", 0.7) == 1.0
    assert temperature_at("auto_0.5", 0.7) == 0.5


def test_target_entropy_counts_action_dimensions() -> None:
    assert pyrl.make_agent("sac", OBSERVATION, spaces.Box(-1, 1, (2, 3))).target_entropy == -6.0


@pytest.mark.parametrize("ent_coef", [0.1, "auto"])
def test_checkpoints_before_and_after_an_update(ent_coef: object, tmp_path: Path) -> None:
    agent = pyrl.make_agent("sac", OBSERVATION, ACTION, net_arch=(4,), ent_coef=ent_coef)
    loaded = pyrl.load(agent.save(tmp_path / "a"))
    assert torch.equal(loaded.trainables["actor"].arena.values, agent.trainables["actor"].arena.values)
    assert loaded.temperature.alpha == agent.temperature.alpha


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        (
            "ent_coef",
            "automatic",
            "ent_coef is 'automatic', expected 'auto' or 'auto_<positive number>' or a positive number or 'linear_<number>'",
        ),
        ("ent_coef", -0.1, "ent_coef is -0.1"),
        ("ent_coef", "auto_0", "ent_coef is 'auto_0'"),
        ("target_entropy", "max", "target_entropy is 'max', expected a number or 'auto'"),
        ("noise_std", -0.1, "noise_std is -0.1"),
    ],
)
def test_bad_options(option: str, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pyrl.make_agent("sac", OBSERVATION, ACTION, **{option: value})
