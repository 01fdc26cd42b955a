"""TQC: the truncated target and the quantile Huber loss by slow definitions. What it shares with the others is in
test_continuous_agents.py."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from agent_envs import prepared
from gymnasium import spaces
from test_sac import log_prob_by_hand

import pyrl
from pyrl.agents.tqc import quantile_huber_loss, truncated
from pyrl.errors import SettingError

OBSERVATION, ACTION = spaces.Box(-5, 5, (1,)), spaces.Box(-1, 1, (1,))


def slow_target(atoms: np.ndarray, drop: int, reward: np.ndarray, discount: np.ndarray, bonus: np.ndarray) -> np.ndarray:
    """y [B, (M - drop) N] of atoms [N, B, M]: each row's atoms pooled, sorted, the highest ``drop`` N left out; bonus = -alpha log pi."""
    N, B, M = atoms.shape
    rows = []
    for b in range(B):
        pool = sorted(float(atoms[n, b, m]) for n in range(N) for m in range(M))
        kept = pool[: len(pool) - drop * N]
        rows.append([reward[b] + discount[b] * (z + bonus[b]) for z in kept])
    return np.array(rows)


def slow_loss(atoms: np.ndarray, target: np.ndarray, weight: np.ndarray) -> float:
    """One pair of atoms at a time."""
    N, B, M = atoms.shape
    total = 0.0
    for n in range(N):
        for b in range(B):
            pairs = []
            for m in range(M):
                tau = (2 * (m + 1) - 1) / (2 * M)
                for y in target[b]:
                    u = float(y - atoms[n, b, m])
                    huber = 0.5 * u * u if abs(u) <= 1 else abs(u) - 0.5
                    pairs.append(abs(tau - (1.0 if u < 0 else 0.0)) * huber)
            total += weight[b] * np.mean(pairs) / B
    return total


@pytest.mark.parametrize(("N", "M", "drop"), [(1, 1, 0), (2, 5, 0), (2, 5, 2), (5, 3, 2), (3, 4, 1)])
def test_target_and_loss_by_definition(N: int, M: int, drop: int) -> None:
    random = np.random.default_rng(N + M + drop)
    atoms, following = random.normal(0, 2, (2, N, 6, M))
    reward, bonus = random.normal(size=(2, 6))
    discount, weight = random.uniform(0, 1, (2, 6))
    kept = truncated(torch.from_numpy(following), drop)
    assert kept.shape == (6, (M - drop) * N)
    target = reward[:, None] + discount[:, None] * (kept.numpy() + bonus[:, None])
    expected = slow_target(following, drop, reward, discount, bonus)
    np.testing.assert_allclose(target, expected, rtol=1e-12)
    weighted = quantile_huber_loss(torch.from_numpy(atoms), torch.from_numpy(expected), torch.from_numpy(weight))
    assert weighted.item() == pytest.approx(slow_loss(atoms, expected, weight), rel=1e-10)
    plain = quantile_huber_loss(torch.from_numpy(atoms), torch.from_numpy(expected))
    assert plain.item() == pytest.approx(slow_loss(atoms, expected, np.ones(6)), rel=1e-10)


def test_the_loss_finds_quantiles() -> None:
    """Its minimum for many samples from a distribution: the (2 m - 1) / 2 M quantiles, up to what Huber's bow near zero moves them."""
    target = torch.linspace(-100.0, 100.0, 4001)[None]  # uniform
    atoms = torch.zeros(1, 1, 4, requires_grad=True)
    optimizer = torch.optim.Adam([atoms], lr=2.0)
    for step in range(400):
        optimizer.param_groups[0]["lr"] = 2.0 * (1 - step / 400)
        optimizer.zero_grad()
        quantile_huber_loss(atoms, target).backward()
        optimizer.step()
    np.testing.assert_allclose(atoms.detach().flatten(), [-75, -25, 25, 75], atol=1.0)


def linear_agent(**options: Any) -> Any:
    """mean = o, log_std = log(1/2); two critics of two atoms each: (a, a + 1) and (2 a, 5); targets (3 a, 1) and (0, 9)."""
    settings = {"n_critics": 2, "n_quantiles": 2, "top_quantiles_to_drop_per_net": 1, "net_arch": (), **options}
    agent: Any = pyrl.make_agent("tqc", OBSERVATION, ACTION, **settings)
    with torch.no_grad():
        agent.actor.network[0].weight.copy_(torch.tensor([[1.0], [0.0]]))
        agent.actor.network[0].bias.copy_(torch.tensor([0.0, math.log(0.5)]))
        for critic, slopes, offsets in (
            (agent.critic.networks[0], (1.0, 1.0), (0.0, 1.0)),
            (agent.critic.networks[1], (2.0, 0.0), (0.0, 5.0)),
            (agent.target_critic.networks[0], (3.0, 0.0), (0.0, 1.0)),
            (agent.target_critic.networks[1], (0.0, 0.0), (0.0, 9.0)),
        ):
            critic[0].weight.copy_(torch.tensor([[0.0, slope] for slope in slopes]))
            critic[0].bias.copy_(torch.tensor(offsets))
    return agent


def test_critic_loss_by_hand() -> None:
    """Of the atoms 3 a', 1, 0 and 9, the highest two are dropped."""
    agent = linear_agent()
    o, a, r, discount = torch.zeros(2, 1), torch.tensor([[0.5], [-0.5]]), torch.tensor([1.0, 2.0]), torch.tensor([0.9, 0.0])
    o_next, xi, alpha = torch.tensor([[0.2], [0.0]]), torch.tensor([[1.0], [0.0]]), torch.tensor([0.1])
    batch = prepared(o, a, r, discount, o_next)
    loss, report = agent.critic_loss(batch, xi, alpha)
    bonus = np.array([-0.1 * log_prob_by_hand(0.2, 0.5, 1.0), -0.1 * log_prob_by_hand(0.0, 0.5, 0.0)])
    following = np.array([[[3 * math.tanh(0.7), 1.0], [0.0, 1.0]], [[0.0, 9.0], [0.0, 9.0]]])
    y = slow_target(following, 1, np.array([1.0, 2.0]), np.array([0.9, 0.0]), bonus)
    assert y[0].tolist() == pytest.approx([1.0 + 0.9 * bonus[0], 1.0 + 0.9 * (1.0 + bonus[0])])
    atoms = np.array([[[0.5, 1.5], [-0.5, 0.5]], [[1.0, 5.0], [-1.0, 5.0]]])
    assert loss.item() == pytest.approx(slow_loss(atoms, y, np.ones(2)), rel=1e-5)
    assert report["train/q_mean"].item() == pytest.approx(atoms.mean())
    batch.weight = torch.tensor([0.5, 2.0])
    loss, report = agent.critic_loss(batch, xi, alpha)
    assert loss.item() == pytest.approx(slow_loss(atoms, y, np.array([0.5, 2.0])), rel=1e-5)
    np.testing.assert_allclose(report["td_error"].detach(), atoms.mean(2) - y.mean(1), rtol=1e-5)


def test_actor_loss_by_hand() -> None:
    """The mean of all atoms, the highest too."""
    agent = linear_agent()
    loss, report = agent.actor_loss(prepared(torch.tensor([[0.2], [-0.3]])), torch.tensor([[1.0], [-1.0]]), torch.tensor([0.1]))
    actions = math.tanh(0.7), math.tanh(-0.8)
    log_probs = [log_prob_by_hand(0.2, 0.5, 1.0), log_prob_by_hand(-0.3, 0.5, -1.0)]
    expected = np.mean([0.1 * log_prob - (a + a + 1 + 2 * a + 5) / 4 for log_prob, a in zip(log_probs, actions)])
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    assert report["train/entropy"].item() == pytest.approx(-np.mean(log_probs), rel=1e-5)


def test_more_dropped_is_a_smaller_target() -> None:
    """And a critic's loss falls with learning."""
    batch = pyrl.types.Batch(
        observation=np.linspace(-1, 1, 32, dtype=np.float32)[:, None], action=np.linspace(1, -1, 32, dtype=np.float32)[:, None],
        reward=np.linspace(0, 1, 32, dtype=np.float32), next_observation=np.ones((32, 1), np.float32), terminated=np.ones(32, bool),
        discount=np.zeros(32, np.float32), index=np.arange(32),
    )  # fmt: skip
    agent: Any = pyrl.make_agent("tqc", OBSERVATION, ACTION, net_arch=(16,), learning_rate=1e-2, n_critics=3, n_quantiles=7)
    losses = [agent.learn(batch).metrics["loss/critic"] for _ in range(100)]
    assert losses[-1] < 0.1 * losses[0]
    atoms = agent.critic(torch.zeros(1, 1), torch.zeros(1, 1))
    assert atoms.shape == (3, 1, 7)
    means = [truncated(atoms, drop).mean().item() for drop in range(7)]
    assert means == sorted(means, reverse=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top_quantiles_to_drop_per_net": 25}, r"top_quantiles_to_drop_per_net is 25, expected a value in \[0, 24\]"),
        ({"n_quantiles": 2}, r"top_quantiles_to_drop_per_net is 2, expected a value in \[0, 1\]"),
        ({"n_critics": 0}, "TQCConfig: n_critics is 0"),
        ({"engine": "native"}, "tqc: engine is 'native', but the algorithm has no native form; take 'auto' or 'torch'"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises((SettingError, ValueError), match=message):
        pyrl.make_agent("tqc", OBSERVATION, ACTION, **options)
