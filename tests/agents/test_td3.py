"""TD3: the three changes to DDPG, each by hand. What it shares with the others is in test_continuous_agents.py."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from agent_envs import prepared
from gymnasium import spaces
from test_ddpg import set_linear

import pyrl
from pyrl.agents.td3 import smoothed

OBSERVATION, ACTION = spaces.Box(-5, 5, (1,)), spaces.Box(-1, 1, (1,))


def linear_agent(**options: float) -> pyrl.Agent:
    """Q_1 = a, Q_2 = 2 a; targets mu' = tanh(o), Q_1' = 3 a, Q_2' = 4 - a."""
    agent = pyrl.make_agent("td3", OBSERVATION, ACTION, net_arch=(), **options)
    set_linear(agent.target_actor.network[0], [1.0], 0.0)
    for network, weight, bias in zip([*agent.critic.networks, *agent.target_critic.networks], (1.0, 2.0, 3.0, -1.0), (0.0, 0.0, 0.0, 4.0)):
        set_linear(network[0], [0.0, weight], bias)
    return agent


def test_smoothing_by_hand() -> None:
    action, noise = torch.tensor([[0.0, 0.9, -0.9]]), torch.tensor([[0.7, 0.3, -2.0]])
    np.testing.assert_allclose(smoothed(action, noise, 0.5), [[0.5, 1.0, -1.0]])


def test_critic_loss_by_hand() -> None:
    """The target takes the smaller critic of each row, at the smoothed action."""
    agent = linear_agent(target_noise_clip=0.5)
    o, a, r, discount = torch.zeros(2, 1), torch.tensor([[0.5], [-0.5]]), torch.tensor([1.0, 1.0]), torch.tensor([0.9, 0.9])
    o_next, epsilon = torch.tensor([[0.0], [5.0]]), torch.tensor([[-2.0], [0.3]])
    loss, _ = agent.critic_loss(prepared(o, a, r, discount, o_next), epsilon)
    # a' = 0 - 0.5 and clip(tanh(5) + 0.3) = 1; Q' = min(-1.5, 4.5) and min(3, 3)
    y = np.array([1.0 + 0.9 * -1.5, 1.0 + 0.9 * 3.0])
    expected = np.mean((np.array([0.5, -0.5]) - y) ** 2) + np.mean((np.array([1.0, -1.0]) - y) ** 2)
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_the_actor_climbs_the_first_critic() -> None:
    agent = linear_agent()
    set_linear(agent.critic.networks[1][0], [0.0, -100.0], 0.0)
    set_linear(agent.actor.network[0], [0.5], 0.0)
    loss, _ = agent.actor_loss(prepared(torch.tensor([[1.0]])))
    assert loss.item() == pytest.approx(-math.tanh(0.5), rel=1e-6)
    agent.actor_step(prepared(torch.tensor([[1.0]])))
    assert agent.actor.network[0].bias.grad.item() == pytest.approx(-(1 - math.tanh(0.5) ** 2), rel=1e-5)


def test_actor_and_targets_wait_for_policy_delay_updates() -> None:
    agent = pyrl.make_agent("td3", OBSERVATION, ACTION, net_arch=(4,), policy_delay=3)
    batch = pyrl.types.Batch(
        observation=np.ones((4, 1), np.float32), action=np.ones((4, 1), np.float32), reward=np.ones(4, np.float32),
        next_observation=np.ones((4, 1), np.float32), terminated=np.zeros(4, bool), discount=np.full(4, 0.9, np.float32),
        index=np.arange(4),
    )  # fmt: skip

    def copies() -> list[torch.Tensor]:
        return [a.values.clone() for a in (agent.trainables[name].arena for name in ("critic", "actor", "target_actor", "target_critic"))]

    for update in range(1, 7):
        before = copies()
        metrics = agent.learn(batch).metrics
        changed = [not torch.equal(a, b) for a, b in zip(before, copies())]
        assert changed == [True] + [update % 3 == 0] * 3
        assert ("loss/actor" in metrics) == (update % 3 == 0)


@pytest.mark.parametrize("option", ["target_policy_noise", "target_noise_clip", "policy_delay"])
def test_bad_options(option: str) -> None:
    with pytest.raises(ValueError, match=f"TD3Config: {option} is -1"):
        pyrl.make_agent("td3", OBSERVATION, ACTION, **{option: -1})
