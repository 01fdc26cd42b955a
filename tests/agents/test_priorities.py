"""Prioritized replay of the off-policy agents: importance weights in their losses, priorities by the slow definition."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from agent_envs import NATIVE, random_env
from gymnasium import spaces

import pyrl
from pyrl.agents.base import Agent
from pyrl.errors import SettingError
from pyrl.types import Batch, Learned

OBSERVATION, ACTION = spaces.Box(-1, 1, (3,), np.float32), spaces.Box(-1, 1, (2,), np.float32)
AGENTS: dict[str, dict[str, Any]] = {
    "ddpg": {}, "td3": {"target_policy_noise": 0.0}, "sac": {"ent_coef": 1e-30}, "svg": {}, "dqn": {"net_arch": (5,)},
    "tqc": {"n_quantiles": 5}, "crossq": {},
}  # fmt: skip
ON_ENGINES = [(name, engine) for name in AGENTS for engine in ("native", "torch") if engine == "torch" or name in NATIVE]


def make(name: str, engine: str, **options: Any) -> Agent:
    action = spaces.Discrete(3) if name == "dqn" else ACTION
    settings = {"net_arch": (5,), "learning_rate": 1e-3, "prioritized": True, "batch_size": 8, "learning_starts": 0}
    return pyrl.make_agent(name, OBSERVATION, action, engine=engine, seed=2, **{**settings, **AGENTS[name], **options})


def batch_for(agent: Agent, weighted: bool = True) -> Batch:
    random = np.random.default_rng(0)
    action = random.integers(0, 3, 8) if agent.name == "dqn" else random.uniform(-1, 1, (8, 2)).astype(np.float32)
    observation, following = random.normal(size=(2, 8, 3)).astype(np.float32)
    reward, weight = random.normal(0, 3, 8).astype(np.float32), random.uniform(0.1, 1, 8).astype(np.float32)
    terminated = random.random(8) < 0.3
    discount = np.where(terminated, 0, 0.99).astype(np.float32)
    return Batch(observation, action, reward, following, terminated, discount, np.arange(8), weight if weighted else None)


def slow(agent: Any, batch: Batch) -> tuple[float, np.ndarray]:
    """(the critics' loss, priorities) one row and one critic at a time, for agents whose targets have no noise."""
    q = np.zeros((8, len(agent.critic.networks)))
    y = np.zeros(8)
    with torch.no_grad():
        for b in range(8):
            row = [torch.from_numpy(x[b : b + 1]) for x in (batch.observation, batch.action, batch.next_observation)]
            following = agent.target_actor(row[2])
            y[b] = batch.reward[b] + batch.discount[b] * min(agent.target_critic(row[2], following)[:, 0].tolist())
            q[b] = agent.critic(row[0], row[1])[:, 0].numpy()
    losses = [np.mean([batch.weight[b] * (q[b, i] - y[b]) ** 2 for b in range(8)]) for i in range(q.shape[1])]
    return float(np.sum(losses)), np.array([np.mean([abs(q[b, i] - y[b]) for i in range(q.shape[1])]) for b in range(8)])


@pytest.mark.parametrize("engine", ["native", "torch"])
@pytest.mark.parametrize("name", ["ddpg", "td3"])
def test_loss_and_priority_by_definition(name: str, engine: str) -> None:
    agent = make(name, engine)
    batch = batch_for(agent)
    loss, priority = slow(agent, batch)
    learned = agent.learn(batch)
    assert learned.metrics["loss/critic"] == pytest.approx(loss, rel=1e-4)
    np.testing.assert_allclose(learned.priority, priority, rtol=1e-4)


def critic_after(agent: Any, batch: Batch) -> tuple[torch.Tensor, Learned]:
    learned = agent.learn(batch)
    network = agent.q_network if agent.name == "dqn" else agent.critic
    return torch.cat([p.detach().flatten() for p in network.parameters()]), learned


@pytest.mark.parametrize(("name", "engine"), ON_ENGINES)
def test_weights_of_one_change_nothing_and_others_do(name: str, engine: str) -> None:
    """Adam's first step shows the gradient's direction only, so another weighting shows too."""
    plain, reported = critic_after(make(name, engine), batch_for(make(name, engine), weighted=False))
    assert reported.priority is None
    ones = batch_for(make(name, engine))
    ones.weight = np.ones(8, np.float32)
    weighted, learned = critic_after(make(name, engine), ones)
    torch.testing.assert_close(weighted, plain, rtol=0, atol=1e-6)
    assert learned.metrics == pytest.approx(reported.metrics, rel=1e-5, abs=1e-6)
    other, _ = critic_after(make(name, engine), batch_for(make(name, engine)))
    assert (other - plain).abs().max() > 1e-5


@pytest.mark.parametrize("name", [name for name in AGENTS if name in NATIVE])
def test_engines_report_the_same_priorities(name: str) -> None:
    native, expected = (make(name, engine) for engine in ("native", "torch"))
    for _ in range(3):
        ours, theirs = native.learn(batch_for(native)), expected.learn(batch_for(expected))
        assert (ours.priority.shape, ours.priority.dtype) == ((8,), np.float32)
        assert (ours.priority >= 0).all()
        np.testing.assert_allclose(ours.priority, theirs.priority, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "engine"), ON_ENGINES)
def test_replay_draws_by_what_was_learned(name: str, engine: str) -> None:
    agent = make(name, engine, priority_alpha=1.0, priority_beta=0.5, priority_beta_final=0.9, train_freq=1)
    env = random_env(OBSERVATION, spaces.Discrete(3) if name == "dqn" else ACTION)
    loop: Any = pyrl.iterate(agent, env, total_steps=60)
    learned: list[Learned] = []
    learn = loop.learn
    loop.learn = lambda batch: learned.append(learn(batch)) or learned[-1]  # type: ignore[func-returns-value]
    for _ in loop:
        if learned:
            last = {int(i): float(p) for i, p in zip(loop._batch.index, learned[-1].priority)}
            np.testing.assert_allclose(loop.buffer.priorities(np.array(list(last))), np.array(list(last.values())) + 1e-6, rtol=1e-5)
    assert loop.buffer.beta == pytest.approx(0.9, abs=0.02)


def test_an_agent_that_reports_none_is_refused_by_name() -> None:
    agent: Any = make("ddpg", "native")
    agent.learn = lambda batch: Learned({})
    with pytest.raises(TypeError, match="ddpg: learn returned no priority, which prioritized replay needs"):
        list(pyrl.iterate(agent, random_env(OBSERVATION, ACTION), total_steps=40))


@pytest.mark.parametrize("field", ["priority_alpha", "priority_beta", "priority_beta_final"])
def test_settings_of_priorities_are_refused_without_them(field: str) -> None:
    with pytest.raises(SettingError, match=rf"{field} is 0\.5, but prioritized is False, with which it has no effect"):
        make("dqn", "native", prioritized=False, **{field: 0.5})
