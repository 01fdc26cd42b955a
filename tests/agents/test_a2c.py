"""A2C: losses by hand, the direction of the gradient, every space, learning, the two flags, determinism, the optimiser."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from agent_envs import ACTION_SPACES, OBSERVATION_SPACES, CutOrEnd, TwoStates, random_env
from gymnasium import spaces

import pyrl
from pyrl.agents.a2c import policy_loss, value_loss
from pyrl.engine.optimizers import TensorFlowRMSprop

SMALL = {"net_arch": (8,), "learning_rate": 1e-2}


def test_losses_by_hand() -> None:
    log_prob = torch.tensor([-0.5, -2.0]).requires_grad_()
    loss = policy_loss(log_prob, torch.tensor([3.0, -1.0]))
    assert loss.item() == pytest.approx(-(3.0 * -0.5 + -1.0 * -2.0) / 2)
    loss.backward()
    np.testing.assert_allclose(log_prob.grad.numpy(), [-1.5, 0.5])  # a good action becomes likelier, a bad one less likely
    assert value_loss(torch.tensor([1.0, 2.0]), torch.tensor([3.0, 2.0])).item() == pytest.approx(2.0)


def test_rmsprop_in_tensorflows_form_by_hand() -> None:
    parameter = torch.tensor([1.0])
    parameter.grad = torch.tensor([2.0])
    TensorFlowRMSprop([parameter], lr=0.1, alpha=0.9, eps=0.01).step()
    # v starts at 1: 0.9 + 0.1 * 4 = 1.3; epsilon stands inside the root
    assert parameter.item() == pytest.approx(1.0 - 0.1 * 2.0 / math.sqrt(1.3 + 0.01))


@pytest.mark.parametrize("engine", ["native", "torch"])
def test_an_update_makes_good_actions_likelier(engine: str) -> None:
    agent = pyrl.make_agent("a2c", spaces.Discrete(2), spaces.Discrete(2), seed=1, num_envs=4, engine=engine, **SMALL)
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
    for engine in ("native", "torch"):
        agent = pyrl.make_agent("a2c", OBSERVATION_SPACES[observation], ACTION_SPACES[action], num_envs=2, engine=engine, **SMALL)
        for metrics in pyrl.iterate(agent, env, total_steps=40):
            assert all(math.isfinite(v) for v in metrics.values())
        assert pyrl.evaluate(agent, env, episodes=3).lengths.tolist() == [7, 7, 7]


def test_learns_two_states() -> None:
    agent = pyrl.make_agent("a2c", spaces.Discrete(2), spaces.Discrete(2), num_envs=4, **SMALL)
    for _ in pyrl.iterate(agent, TwoStates, total_steps=4000):
        pass
    assert pyrl.evaluate(agent, TwoStates, episodes=10).mean == 10.0


@pytest.mark.parametrize("use_rms_prop", [True, False])
def test_tells_truncation_from_termination(use_rms_prop: bool) -> None:
    options = {"n_steps": 16, "net_arch": (32,), "learning_rate": 5e-3, "gamma": 0.9, "ent_coef": 0.05, "use_rms_prop": use_rms_prop}
    agent = pyrl.make_agent("a2c", CutOrEnd.observation_space, CutOrEnd.action_space, num_envs=4, **options)
    for _ in pyrl.iterate(agent, CutOrEnd, total_steps=60_000):
        pass
    assert agent.act(0) == 1
    np.testing.assert_allclose(agent.network.value(torch.tensor([0, 1])).detach(), [9.0, 10.0], rtol=0.2)


def test_same_seed_same_run() -> None:
    def run(seed: int) -> torch.Tensor:
        agent = pyrl.make_agent("a2c", spaces.Discrete(2), spaces.Discrete(2), seed=seed, num_envs=3, **SMALL)
        for _ in pyrl.iterate(agent, TwoStates, total_steps=200):
            pass
        return agent.arena.values.clone()

    assert torch.equal(run(3), run(3))
    assert not torch.equal(run(3), run(4))


def test_defaults_are_those_of_stable_baselines3() -> None:
    config = pyrl.agents.a2c.A2CConfig()
    assert (config.learning_rate, config.n_steps, config.gae_lambda, config.ent_coef, config.vf_coef) == (7e-4, 5, 1.0, 0.0, 0.5)
    assert config.use_rms_prop
    assert not config.normalize_advantage
