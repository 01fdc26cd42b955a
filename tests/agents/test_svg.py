"""SVG(0): hand-computed losses, the gradient through the reparameterised action. The rest is in test_continuous_agents.py."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from agent_envs import given, prepared
from gymnasium import spaces
from test_ddpg import set_linear

import pyrl
from pyrl.agents.svg import critic_loss, reparameterized

OBSERVATION, ACTION = spaces.Box(-5, 5, (1,)), spaces.Box(-1, 1, (1,))


def linear_agent() -> pyrl.Agent:
    """mean = o, std = 1/2, Q = 2 a; targets: mean = -o, std = 1/4, Q' = 3 a."""
    agent = pyrl.make_agent("svg", OBSERVATION, ACTION, net_arch=())
    for actor, slope, std in ((agent.actor, 1.0, 0.5), (agent.target_actor, -1.0, 0.25)):
        with torch.no_grad():
            actor.network[0].weight.copy_(torch.tensor([[slope], [0.0]]))
            actor.network[0].bias.copy_(torch.tensor([0.0, math.log(std)]))
    set_linear(agent.critic.networks[0][0], [0.0, 2.0], 0.0)
    set_linear(agent.target_critic.networks[0][0], [0.0, 3.0], 0.0)
    return agent


def test_equations_by_hand() -> None:
    action = reparameterized(torch.tensor([[0.5]]), torch.tensor([[math.log(2.0)]]), torch.tensor([[-1.0]]))
    assert action.item() == pytest.approx(math.tanh(0.5 - 2.0))
    assert critic_loss(torch.tensor([0.5, 4.0]), torch.tensor([0.0, 1.0])).item() == pytest.approx((0.125 + 2.5) / 2)


def test_losses_of_a_batch_by_hand() -> None:
    agent = linear_agent()
    o, a, r, discount = torch.tensor([[1.0], [1.0]]), torch.tensor([[0.5], [-0.5]]), torch.tensor([1.0, 2.0]), torch.tensor([0.9, 0.0])
    loss, _ = agent.critic_loss(prepared(o, a, r, discount, torch.tensor([[0.4], [1.0]])), torch.tensor([[2.0], [1.0]]))
    error = [1.0 - (1.0 + 0.9 * 3.0 * math.tanh(-0.4 + 0.25 * 2.0)), -1.0 - 2.0]
    assert loss.item() == pytest.approx((0.5 * error[0] ** 2 + abs(error[1]) - 0.5) / 2, rel=1e-5)
    loss, report = agent.actor_loss(prepared(torch.tensor([[0.3], [-0.2]])), torch.tensor([[1.0], [-1.0]]))
    assert loss.item() == pytest.approx(-(2 * math.tanh(0.8) + 2 * math.tanh(-0.7)) / 2, rel=1e-5)
    assert report["train/std"].item() == pytest.approx(0.5)


def test_the_gradient_runs_through_mean_and_std() -> None:
    """-d/dmean E[2 tanh(u)] = -E[2 (1 - a^2)], and for log_std the same times std eta."""
    agent = linear_agent()
    agent.actor_step(prepared(torch.tensor([[0.3], [-0.2]])), torch.tensor([[1.0], [-2.0]]))
    slope = 2 * (1 - np.tanh([0.3 + 0.5, -0.2 - 1.0]) ** 2)
    expected = [-np.mean(slope), -np.mean(slope * 0.5 * np.array([1.0, -2.0]))]
    np.testing.assert_allclose(agent.actor.network[0].bias.grad, expected, rtol=1e-5)


def test_the_standard_deviation_has_a_floor() -> None:
    agent = pyrl.make_agent("svg", OBSERVATION, ACTION, num_envs=5000, random_steps=0, std_min=0.2, net_arch=())
    with torch.no_grad():
        agent.actor.network[0].weight.zero_()
        agent.actor.network[0].bias.copy_(torch.tensor([0.0, -50.0]))
    observation = np.zeros((5000, 1), np.float32)
    assert np.arctanh(agent.choose(given(observation)).action).std() == pytest.approx(0.2, rel=0.05)
    assert np.ptp(agent.choose(given(observation), deterministic=True).action) == 0.0


@pytest.mark.parametrize("std_min", [0.0, 2.0])
def test_bad_options(std_min: float) -> None:
    with pytest.raises(ValueError, match=r"std_min is .*, expected a number in \(0, 1\]"):
        pyrl.make_agent("svg", OBSERVATION, ACTION, std_min=std_min)
