"""DQN: hand-computed targets and losses, every space, every option, learning, the two flags, determinism."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from agent_envs import OBSERVATION_SPACES, CutOrEnd, TwoStates, random_env
from gymnasium import spaces

import pyrl
from pyrl.agents.dqn import q_loss, q_target
from pyrl.engine.native import native_q
from pyrl.types import PolicyInput, Progress

SMALL = {"buffer_size": 1000, "learning_starts": 16, "batch_size": 16, "train_freq": 2, "target_update_interval": 20, "net_arch": (8,)}


def test_target_by_hand() -> None:
    reward, discount = torch.tensor([1.0, 2.0]), torch.tensor([0.9, 0.0])
    next_q = torch.tensor([[0.0, 5.0], [0.0, 1.0]])
    next_q_target = torch.tensor([[3.0, 2.0], [7.0, 8.0]])
    assert q_target(reward, discount, next_q, next_q_target, double=False).tolist() == pytest.approx([1.0 + 0.9 * 3.0, 2.0])
    assert q_target(reward, discount, next_q, next_q_target, double=True).tolist() == pytest.approx([1.0 + 0.9 * 2.0, 2.0])


def test_loss_by_hand() -> None:
    td_error = torch.tensor([0.5, -3.0])
    assert q_loss(td_error, None, huber=False).item() == pytest.approx((0.25 + 9.0) / 2)
    assert q_loss(td_error, None, huber=True).item() == pytest.approx((0.125 + 2.5) / 2)
    assert q_loss(td_error, torch.tensor([1.0, 0.5]), huber=True).item() == pytest.approx((0.125 + 1.25) / 2)


def test_gradient_moves_q_towards_the_target() -> None:
    agent = pyrl.make_agent("dqn", spaces.Discrete(2), spaces.Discrete(2), **{**SMALL, "learning_rate": 1e-2})
    observation = np.array([0, 1] * 8)
    batch = pyrl.types.Batch(
        observation=observation, action=np.zeros(16, np.int64), reward=np.full(16, 5.0, np.float32), next_observation=observation,
        terminated=np.ones(16, bool), discount=np.zeros(16, np.float32), index=np.arange(16),
    )  # fmt: skip
    before = agent.q_network(torch.tensor([0, 1])).detach()[:, 0]
    agent.learn(batch)
    after = agent.q_network(torch.tensor([0, 1])).detach()[:, 0]
    assert (after > before).all()


@pytest.mark.parametrize("observation", OBSERVATION_SPACES)
@pytest.mark.parametrize("action", [spaces.Discrete(3), spaces.Discrete(3, start=-1)], ids=str)
def test_every_space(observation: str, action: spaces.Discrete) -> None:
    env = random_env(OBSERVATION_SPACES[observation], action)
    agent = pyrl.make_agent("dqn", OBSERVATION_SPACES[observation], action, num_envs=2, **SMALL)
    for metrics in pyrl.iterate(agent, env, total_steps=100):
        assert all(math.isfinite(v) for v in metrics.values())
    assert agent.updates > 0
    assert pyrl.evaluate(agent, env, episodes=3).lengths.tolist() == [7, 7, 7]


@pytest.mark.parametrize(("double", "dueling", "n_step", "tau"), list(itertools.product([False, True], [False, True], [1, 3], [1.0, 0.05])))
def test_every_combination_learns_two_states(double: bool, dueling: bool, n_step: int, tau: float) -> None:
    options = {
        **SMALL, "double": double, "dueling": dueling, "n_step": n_step, "tau": tau, "learning_rate": 1e-2, "gamma": 0.5,
        "target_update_interval": 50 if tau == 1.0 else 1, "exploration_fraction": 0.5, "batch_size": 64, "net_arch": (16, 16),
    }  # fmt: skip
    agent = pyrl.make_agent("dqn", spaces.Discrete(2), spaces.Discrete(2), num_envs=2, **options)
    for _ in pyrl.iterate(agent, TwoStates, total_steps=1500):
        pass
    assert pyrl.evaluate(agent, TwoStates, episodes=10).mean == 10.0


@pytest.mark.parametrize("n_step", [1, 3])
def test_tells_truncation_from_termination(n_step: int) -> None:
    options = {
        **SMALL,
        "gamma": 0.9,
        "learning_rate": 1e-2,
        "batch_size": 64,
        "net_arch": (32,),
        "exploration_final_eps": 0.3,
        "n_step": n_step,
    }
    agent = pyrl.make_agent("dqn", CutOrEnd.observation_space, CutOrEnd.action_space, **options)
    for _ in pyrl.iterate(agent, CutOrEnd, total_steps=6000):
        pass
    q = agent.q_network(torch.tensor([0, 1])).detach()
    assert agent.act(0) == 1
    assert q[0].tolist() == pytest.approx([1.0, 9.0], rel=0.15)
    assert q[1].tolist() == pytest.approx([10.0, 10.0], rel=0.15)


def test_epsilon_schedules() -> None:
    agent = pyrl.make_agent("dqn", spaces.Discrete(2), spaces.Discrete(2), exploration_fraction=0.5, exploration_final_eps=0.1)
    agent.progress = Progress(0, 0.25)
    assert agent.epsilon == pytest.approx(0.55)
    agent.progress = Progress(0, 0.9)
    assert agent.epsilon == pytest.approx(0.1)
    agent = pyrl.make_agent("dqn", spaces.Discrete(2), spaces.Discrete(2), exploration_decay=5e-4)
    agent.updates = 1000
    assert agent.epsilon == pytest.approx(0.5)
    agent.updates = 10_000
    assert agent.epsilon == pytest.approx(0.05)


def test_hard_and_soft_target_updates() -> None:
    agent = pyrl.make_agent("dqn", spaces.Discrete(2), spaces.Discrete(2), tau=0.25, target_update_interval=1)
    online, target = next(agent.q_network.parameters()), next(agent.target_network.parameters())
    old = target.detach().clone()
    with torch.no_grad():
        online += 1.0
    agent.progress = Progress(1)
    agent.after_update()
    torch.testing.assert_close(target, old + 0.25)
    agent.after_update()  # no environment step since
    torch.testing.assert_close(target, old + 0.25)


def test_same_seed_same_run() -> None:
    def weights(seed: int) -> torch.Tensor:
        agent = pyrl.make_agent("dqn", spaces.Discrete(2), spaces.Discrete(2), seed=seed, num_envs=3, **SMALL)
        for _ in pyrl.iterate(agent, TwoStates, total_steps=300):
            pass
        return torch.cat([p.detach().flatten() for p in agent.q_network.parameters()])

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


def test_continuous_actions_are_refused() -> None:
    with pytest.raises(pyrl.errors.SpaceError, match=r"dqn: action_space is Box.*expected Discrete"):
        pyrl.make_agent("dqn", spaces.Discrete(2), spaces.Box(-1, 1, (1,)))


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("prioritized", [False, True])
@pytest.mark.parametrize("n_step", [1, 3])
@pytest.mark.parametrize("dueling", [False, True])
@pytest.mark.parametrize("double", [False, True])
def test_every_combination_learns(double: bool, dueling: bool, n_step: int, prioritized: bool, soft: bool) -> None:
    target = {"tau": 0.05, "target_update_interval": 1} if soft else {"tau": 1.0, "target_update_interval": 50}
    agent = pyrl.make_agent(
        "dqn", spaces.Discrete(2), spaces.Discrete(2), double=double, dueling=dueling, n_step=n_step, prioritized=prioritized,
        net_arch=(16,), learning_rate=3e-3, train_freq=1, learning_starts=50, exploration_final_eps=0.1, gamma=0.5, **target,
    )  # fmt: skip
    for _ in pyrl.iterate(agent, TwoStates, total_steps=1200):
        pass
    assert pyrl.evaluate(agent, TwoStates, episodes=5).mean == 10.0


@pytest.mark.parametrize("engine", ["native", "torch"])
@pytest.mark.parametrize(("observation", "action"), [(0.0, 2), (0.0, -1), (math.nan, 0)])
def test_what_the_replay_stores_unseen_is_refused_when_it_is_learned(engine: str, observation: float, action: int) -> None:
    """docs/replay.md: values are stored raw; an impossible one changes no weight."""
    box, discrete, flag = spaces.Box(-1, 1, (3,)), spaces.Discrete(2), np.zeros(1, bool)
    buffer = pyrl.buffers.ReplayBuffer(100, box, discrete)
    for _ in range(16):
        row = np.full((1, 3), observation, np.float32)
        buffer.add(row, np.array([action]), np.zeros(1, np.float32), row, flag, flag)
    agent = pyrl.make_agent("dqn", box, discrete, engine=engine, **SMALL)
    before = {name: value.clone() for name, value in agent.modules()["q_network"].state_dict().items()}
    with pytest.raises((ValueError, RuntimeError), match=f"{action}|nan|finite"):
        agent.learn(buffer.sample(16))
    assert all(torch.equal(value, before[name]) for name, value in agent.modules()["q_network"].state_dict().items())


def test_priorities_are_td_errors_and_beta_is_annealed() -> None:
    agent = pyrl.make_agent(
        "dqn", spaces.Discrete(2), spaces.Discrete(2), prioritized=True, priority_alpha=1.0, priority_beta=0.5, priority_beta_final=0.9,
        batch_size=8, learning_starts=8, train_freq=1, net_arch=(4,),
    )  # fmt: skip
    loop = pyrl.iterate(agent, TwoStates, total_steps=100)
    learned: list[Any] = []
    learn = agent.learn
    agent.learn = lambda batch: learned.append(learn(batch)) or learned[-1]  # type: ignore[method-assign, func-returns-value]
    for _ in loop:
        if learned:
            last = {int(i): float(p) for i, p in zip(loop._batch.index, learned[-1].priority)}
            stored = loop.buffer.priorities(np.array(list(last)))
            np.testing.assert_allclose(stored, np.array(list(last.values())) + 1e-6, rtol=1e-5)
    assert loop.buffer.beta == pytest.approx(0.9, abs=0.01)


@pytest.mark.parametrize("tells", [False, True])
@pytest.mark.parametrize("rungs", [None, np.linspace(0.0, 1.0, 5)])
@pytest.mark.parametrize("net_arch", [(8,), (8, 8)])
@pytest.mark.parametrize("dueling", [False, True])
def test_acting_in_one_call_is_acting_in_parts(dueling: bool, net_arch: tuple[int, ...], rungs: Any, tells: bool) -> None:
    observations, actions = spaces.Box(-1, 1, (3,)), spaces.Discrete(4)
    one, parts = (pyrl.make_agent("dqn", observations, actions, num_envs=5, seed=1, dueling=dueling, net_arch=net_arch) for _ in range(2))
    rng, progress = np.random.default_rng(0), Progress(0, 0.06)
    for agent in (one, parts):
        agent.acting.rungs, agent.acting.tells_values = rungs, tells
    for step in range(6):
        mask = rng.random((5, 4)) < 0.7 if step % 2 else None
        if mask is not None:
            mask[:, 0] = True
        given = PolicyInput(rng.standard_normal((5, 3)).astype(np.float32), np.zeros(5, bool), mask)
        q = native_q(parts.native["q_network"], given.observation, keep=False)
        got = one.acting.choose(given, step == 5, progress)
        expected = parts.acting._choice(q, given, step == 5, progress)
        for a, b in zip((got.action, *got.stored.values()), (expected.action, *expected.stored.values()), strict=True):
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(one.acting.value(given), (q if mask is None else np.where(mask, q, np.float32(-1e8))).max(axis=1))
    assert one.random.state == parts.random.state
