"""CrossQ: batch renormalisation by its slow definition, the joint pass, and the moments as state. What it shares with the others is in
test_continuous_agents.py."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from agent_envs import prepared
from gymnasium import spaces
from test_sac import log_prob_by_hand

import pyrl
from pyrl.agents.crossq import BatchRenorm
from pyrl.errors import NonFiniteError
from pyrl.types import Batch, PolicyInput

OBSERVATION, ACTION = spaces.Box(-5, 5, (1,)), spaces.Box(-1, 1, (1,))


class SlowRenorm:
    """Algorithm 1 of Ioffe 2017, one number at a time; its averages as in batch normalisation."""

    def __init__(self, size: int, momentum: float, epsilon: float, r_max: float, d_max: float, warm_up: int) -> None:
        self.mean, self.var, self.batches = [0.0] * size, [1.0] * size, 0
        self.about = momentum, epsilon, r_max, d_max, warm_up

    def __call__(self, x: np.ndarray, gamma: np.ndarray, beta: np.ndarray) -> np.ndarray:
        momentum, epsilon, r_max, d_max, warm_up = self.about
        y = np.zeros_like(x)
        for j in range(x.shape[1]):
            mu_b = sum(x[:, j]) / len(x)
            var_b = sum((v - mu_b) ** 2 for v in x[:, j]) / len(x)
            sigma_b, sigma = math.sqrt(var_b + epsilon), math.sqrt(self.var[j] + epsilon)
            r, d = 1.0, 0.0
            if self.batches >= warm_up:
                r = min(max(sigma_b / sigma, 1 / r_max), r_max)
                d = min(max((mu_b - self.mean[j]) / sigma, -d_max), d_max)
            y[:, j] = [gamma[j] * ((v - mu_b) / sigma_b * r + d) + beta[j] for v in x[:, j]]
            self.mean[j] = momentum * self.mean[j] + (1 - momentum) * mu_b
            self.var[j] = momentum * self.var[j] + (1 - momentum) * var_b
        self.batches += 1
        return y


@pytest.mark.parametrize("warm_up", [0, 3, 100])
def test_batch_renormalisation_by_definition(warm_up: int) -> None:
    """Batches that move, some beyond r_max and d_max; with r and d as constants of the gradient."""
    random = np.random.default_rng(warm_up)
    about = {"momentum": 0.9, "epsilon": 1e-3, "r_max": 1.5, "d_max": 0.5, "warm_up": warm_up}
    layer, slow = BatchRenorm(4, **about).double(), SlowRenorm(4, **about)
    gamma, beta = random.normal(size=(2, 4))
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(gamma))
        layer.bias.copy_(torch.from_numpy(beta))
    for i in range(12):
        x = random.normal(0.1 * i * np.array([0, 1, -2, 5]), [0.01, 1, 2, 4], (6, 4))
        np.testing.assert_allclose(layer(torch.from_numpy(x)).detach(), slow(x, gamma, beta), rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(layer.running_mean, slow.mean, rtol=1e-12)
        np.testing.assert_allclose(layer.running_var, slow.var, rtol=1e-12)
        assert int(layer.batches) == i + 1
    layer.eval()
    before = copy.deepcopy(layer.state_dict())
    expected = gamma * (x - slow.mean) / np.sqrt(np.array(slow.var) + 1e-3) + beta
    np.testing.assert_allclose(layer(torch.from_numpy(x)).detach(), expected, rtol=1e-9)
    assert all(torch.equal(before[name], now) for name, now in layer.state_dict().items())


@pytest.mark.parametrize("warm_up", [0, 100])
def test_r_and_d_are_constants_of_the_gradient(warm_up: int) -> None:
    """dy/dx is that of batch normalisation, times r."""
    x = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    layer = BatchRenorm(3, warm_up=warm_up).double()
    layer(x).square().sum().backward()
    std = (x.detach().var(0, correction=0) + 1e-3).sqrt()
    r, d = (std / math.sqrt(1 + 1e-3), x.detach().mean(0) / math.sqrt(1 + 1e-3)) if warm_up == 0 else (torch.ones(3), torch.zeros(3))
    copied = x.detach().clone().requires_grad_(True)
    x_hat = (copied - copied.mean(0)) / (copied.var(0, correction=0) + 1e-3).sqrt()
    (x_hat * r.clamp(1 / 3, 3) + d.clamp(-5, 5)).square().sum().backward()
    torch.testing.assert_close(x.grad, copied.grad)


def linear_agent(**options: Any) -> Any:
    """mean = o, log_std = log(1/2); Q_1 = a-hat, Q_2 = 2 a-hat, of the normalised action."""
    agent: Any = pyrl.make_agent("crossq", OBSERVATION, ACTION, net_arch=(), **options)
    with torch.no_grad():
        agent.actor.network[0].weight.copy_(torch.tensor([[1.0], [0.0]]))
        agent.actor.network[0].bias.copy_(torch.tensor([0.0, math.log(0.5)]))
        for network, slope in zip(agent.critic.networks, (1.0, 2.0)):
            network[1].weight.copy_(torch.tensor([[0.0, slope]]))
            network[1].bias.zero_()
    return agent


def test_critic_loss_by_hand() -> None:
    """Both halves are normalised by the moments of both; no gradient flows into the second."""
    agent = linear_agent()
    o, a, r, discount = torch.zeros(2, 1), torch.tensor([[0.5], [-0.5]]), torch.tensor([1.0, 2.0]), torch.tensor([0.9, 0.0])
    o_next, xi, alpha = torch.tensor([[0.2], [0.0]]), torch.tensor([[1.0], [0.0]]), torch.tensor([0.1])
    loss, report = agent.critic_loss(prepared(o, a, r, discount, o_next), xi, alpha)
    both = np.array([0.5, -0.5, math.tanh(0.7), 0.0])
    hat = (both - both.mean()) / math.sqrt(both.var() + 1e-3)
    y = np.array([1.0 + 0.9 * (min(hat[2], 2 * hat[2]) - 0.1 * log_prob_by_hand(0.2, 0.5, 1.0)), 2.0])
    assert loss.item() == pytest.approx(0.5 * np.mean((hat[:2] - y) ** 2) + 0.5 * np.mean((2 * hat[:2] - y) ** 2), rel=1e-5)
    assert report["train/q_mean"].item() == pytest.approx(1.5 * hat[:2].mean(), rel=1e-4)
    gradient = torch.autograd.grad(loss, agent.critic.networks[0][1].weight)[0][0, 1]
    assert gradient.item() == pytest.approx(np.mean((hat[:2] - y) * hat[:2]), rel=1e-4)
    running = agent.critic.networks[0][0].running_mean
    np.testing.assert_allclose(running, [0.01 * 0.05, 0.01 * both.mean()], rtol=1e-5)


def test_actor_loss_by_hand() -> None:
    """By the running moments, which stay as they are: mean 0.5, variance 4."""
    agent = linear_agent()
    for network in agent.critic.networks:
        network[0].running_mean.fill_(0.5)
        network[0].running_var.fill_(4.0)
    before = copy.deepcopy(agent.critic.state_dict())
    loss, report = agent.actor_loss(prepared(torch.tensor([[0.2], [-0.3]])), torch.tensor([[1.0], [-1.0]]), torch.tensor([0.1]))
    hats = [(a - 0.5) / math.sqrt(4 + 1e-3) for a in (math.tanh(0.7), math.tanh(-0.8))]
    log_probs = [log_prob_by_hand(0.2, 0.5, 1.0), log_prob_by_hand(-0.3, 0.5, -1.0)]
    expected = np.mean([0.1 * log_prob - min(hat, 2 * hat) for log_prob, hat in zip(log_probs, hats)])
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    assert report["train/entropy"].item() == pytest.approx(-np.mean(log_probs), rel=1e-5)
    assert all(torch.equal(before[name], now) for name, now in agent.critic.state_dict().items())


def batch_of(size: int, seed: int = 0) -> Batch:
    random = np.random.default_rng(seed)
    observation, following = random.normal(size=(2, size, 1)).astype(np.float32)
    return Batch(
        observation, random.uniform(-1, 1, (size, 1)).astype(np.float32), random.normal(size=size).astype(np.float32), following,
        np.zeros(size, bool), np.full(size, 0.9, np.float32), np.arange(size),
    )  # fmt: skip


def test_policy_and_temperature_wait_for_policy_delay_updates() -> None:
    agent: Any = pyrl.make_agent("crossq", OBSERVATION, ACTION, net_arch=(4,))
    assert agent.config.policy_delay == 3
    names = "critic", "actor", "temperature"
    for update in range(1, 7):
        before = [agent.trainables[name].arena.values.clone() for name in names]
        metrics = agent.learn(batch_of(4)).metrics
        changed = [not torch.equal(a, agent.trainables[name].arena.values) for a, name in zip(before, names)]
        assert changed == [True] + [update % 3 == 0] * 2
        assert ("loss/actor" in metrics) == (update % 3 == 0)
    assert set(agent.trainables) == set(names)  # no target network
    assert agent.trainables["critic"].optimizer.param_groups[0]["betas"] == (0.5, 0.999)
    assert not hasattr(agent.config, "tau")


def test_moments_are_state_and_move_in_updates_only(tmp_path: Path) -> None:
    """Saved, loaded, and going on from there bit for bit; acting, values and critics that are called leave them alone."""
    agent: Any = pyrl.make_agent("crossq", OBSERVATION, ACTION, net_arch=(4,), policy_delay=2, seed=1)
    fresh = copy.deepcopy(agent.critic.state_dict())
    for i in range(5):
        agent.learn(batch_of(8, i))
    moved = {name for name, value in agent.critic.state_dict().items() if not torch.equal(value, fresh[name])}
    assert {name.rpartition(".")[2] for name in moved} == {"weight", "bias", "running_mean", "running_var", "batches"}
    assert not any(part.training for part in agent.critic.modules())
    before = copy.deepcopy(agent.critic.state_dict())
    agent.act(np.zeros(1, np.float32))
    agent.choose(PolicyInput(np.zeros((3, 1), np.float32), np.zeros(3, bool)))
    agent.critic(torch.zeros(3, 1), torch.zeros(3, 1))
    assert all(torch.equal(before[name], value) for name, value in agent.critic.state_dict().items())
    loaded: Any = pyrl.load(agent.save(tmp_path / "agent"))
    for i in range(5, 9):
        assert agent.learn(batch_of(8, i)).metrics == loaded.learn(batch_of(8, i)).metrics
    for name, value in agent.critic.state_dict().items():
        assert torch.equal(value, loaded.critic.state_dict()[name]), name


def test_an_update_that_fails_leaves_the_moments() -> None:
    agent: Any = pyrl.make_agent("crossq", OBSERVATION, ACTION, net_arch=(4,))
    agent.learn(batch_of(8))
    before = copy.deepcopy(agent.critic.state_dict())
    batch = batch_of(8)
    batch.reward[0] = np.nan
    with pytest.raises(NonFiniteError):
        agent.learn(batch)
    assert all(torch.equal(before[name], value) for name, value in agent.critic.state_dict().items())
    assert not any(part.training for part in agent.critic.modules())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"policy_delay": 0}, "CrossQConfig: policy_delay is 0"),
        ({"tau": 0.005}, "crossq has no option 'tau'"),
        ({"engine": "native"}, "crossq: engine is 'native', but the algorithm has no native form; take 'auto' or 'torch'"),
        ({"engine": "compile"}, "crossq: engine is 'compile', but the networks have buffers"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pyrl.make_agent("crossq", OBSERVATION, ACTION, **options)
