"""DDPG: hand-computed target, losses and gradients. What it shares with its successors is in test_continuous_agents.py."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from agent_envs import given, prepared
from gymnasium import spaces

import pyrl
from pyrl.agents.ddpg import bellman_target, critic_loss

OBSERVATION, ACTION = spaces.Box(-5, 5, (1,)), spaces.Box(-1, 3, (1,))


def set_linear(layer: torch.nn.Linear, weight: list[float], bias: float) -> None:
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([weight]))
        layer.bias.fill_(bias)


def linear_agent() -> pyrl.Agent:
    """mu = tanh(o / 2), Q = o + 2 a + 1; targets mu' = tanh(o), Q' = 3 a."""
    agent = pyrl.make_agent("ddpg", OBSERVATION, ACTION, net_arch=(), gamma=0.9, tau=0.5)
    set_linear(agent.actor.network[0], [0.5], 0.0)
    set_linear(agent.critic.networks[0][0], [1.0, 2.0], 1.0)
    set_linear(agent.target_actor.network[0], [1.0], 0.0)
    set_linear(agent.target_critic.networks[0][0], [0.0, 3.0], 0.0)
    return agent


def test_equations_by_hand() -> None:
    target = bellman_target(torch.tensor([1.0, 2.0]), torch.tensor([0.9, 0.0]), torch.tensor([10.0, 10.0]))
    assert target.tolist() == pytest.approx([10.0, 2.0])
    assert critic_loss(torch.tensor([[9.0, 5.0]]), target).item() == pytest.approx((1.0 + 9.0) / 2)
    assert critic_loss(torch.tensor([[9.0, 5.0], [10.0, 2.0]]), target).item() == pytest.approx(5.0)


def test_losses_of_a_batch_by_hand() -> None:
    agent = linear_agent()
    o, a, r, discount, o_next = (torch.tensor(x) for x in ([[1.0], [2.0]], [[0.5], [-1.0]], [1.0, 2.0], [0.9, 0.0], [[0.5], [3.0]]))
    loss, report = agent.critic_loss(prepared(o, a, r, discount, o_next))
    y = [1.0 + 0.9 * 3.0 * math.tanh(0.5), 2.0]
    q = [1.0 + 2.0 * 0.5 + 1.0, 2.0 - 2.0 + 1.0]
    assert loss.item() == pytest.approx(((q[0] - y[0]) ** 2 + (q[1] - y[1]) ** 2) / 2, rel=1e-5)
    assert report["train/q_mean"].item() == pytest.approx(2.0)
    loss, _ = agent.actor_loss(prepared(o))
    assert loss.item() == pytest.approx(-((1 + 2 * math.tanh(0.5) + 1) + (2 + 2 * math.tanh(1.0) + 1)) / 2, rel=1e-5)


def test_the_actors_gradient_is_the_deterministic_policy_gradient() -> None:
    """d/db of -E[Q(o, tanh(w o + b))] = -E[dQ/da (1 - mu^2)] = -E[2 (1 - mu^2)]; for w times o."""
    agent = linear_agent()
    o = torch.tensor([[1.0], [2.0]])
    agent.actor_step(prepared(o))
    mu = np.tanh([0.5, 1.0])
    gradient = agent.actor.network[0]
    assert gradient.bias.grad.item() == pytest.approx(-np.mean(2 * (1 - mu**2)), rel=1e-5)
    assert gradient.weight.grad.item() == pytest.approx(-np.mean(2 * (1 - mu**2) * [1.0, 2.0]), rel=1e-5)
    assert agent.actor.network[0].bias.item() > 0  # towards larger actions, whose Q is larger


def test_one_update() -> None:
    """The critic first, then the actor through the new critic; then both targets half-way (tau = 0.5)."""
    agent = linear_agent()
    batch = pyrl.types.Batch(
        observation=np.float32([[1.0], [2.0]]), action=np.float32([[2.0], [-1.0]]), reward=np.float32([100.0, 100.0]),
        next_observation=np.float32([[0.5], [3.0]]), terminated=np.array([False, True]), discount=np.float32([0.9, 0.0]),
        index=np.arange(2),
    )  # fmt: skip
    metrics = agent.learn(batch).metrics
    y = [100.0 + 0.9 * 3.0 * math.tanh(0.5), 100.0]
    q = [1.0 + 2.0 * 0.5 + 1.0, 2.0 - 2.0 + 1.0]  # actions 2 and -1 of the Box [-1, 3] are 0.5 and -1 of [-1, 1]
    assert metrics["loss/critic"] == pytest.approx(((q[0] - y[0]) ** 2 + (q[1] - y[1]) ** 2) / 2, rel=1e-5)
    assert agent.critic.networks[0][0].bias.item() > 1.0  # towards the target, which is higher
    for target, online, before in (
        (agent.target_actor.network[0].weight[0, 0], agent.actor.network[0].weight[0, 0], 1.0),
        (agent.target_critic.networks[0][0].weight[0, 1], agent.critic.networks[0][0].weight[0, 1], 3.0),
    ):
        assert target.item() == pytest.approx((before + online.item()) / 2, rel=1e-6)


def test_exploration_is_around_the_policy() -> None:
    agent = pyrl.make_agent("ddpg", OBSERVATION, ACTION, num_envs=5000, random_steps=0, noise_std=0.2)
    observation = np.zeros((5000, 1), np.float32)
    greedy, explored = (agent.choose(given(observation), deterministic=d).action for d in (True, False))
    assert (explored - greedy).std() == pytest.approx(0.2 * 2.0, rel=0.05)  # half the Box's width is 2
    assert (explored - greedy).mean() == pytest.approx(0.0, abs=0.02)


@pytest.mark.parametrize(
    ("option", "value", "message"), [("noise_type", "pink", "noise_type is 'pink'"), ("noise_std", -1, "noise_std is -1")]
)
def test_bad_options(option: str, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pyrl.make_agent("ddpg", OBSERVATION, ACTION, **{option: value})
