"""Prioritized replay under Stable-Baselines3's own `train`: priorities and weighted gradients, recomputed by hand."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from sb3_settings import off_policy

pytest.importorskip("stable_baselines3", reason="Stable-Baselines3 is not installed (pyrl[sb3])")

from stable_baselines3 import DQN

from pyrl.adapters import sb3
from pyrl.errors import DTypeError, SettingError


@pytest.mark.parametrize("name", ["DQN", "DDPG", "TD3", "SAC"])
@pytest.mark.parametrize("alpha", [0.0, 0.6])
def test_prioritized_algorithms(name: str, alpha: float) -> None:
    """With alpha = 0 all weights are 1. Priorities are |TD error|, recomputed here from the networks before the update."""
    env = "CartPole-v1" if name == "DQN" else "Pendulum-v1"
    model: Any = getattr(sb3, f"Prioritized{name}")(
        "MlpPolicy", env, replay_buffer_kwargs={"alpha": alpha, "beta_final": 0.9}, **off_policy()
    )
    model.learn(60)
    assert len(model.critic._forward_hooks if name != "DQN" else model.q_net._forward_hooks) == 0
    buffer, before, seen = model.replay_buffer, deepcopy(model.policy), {}
    draw, update = buffer.replay.sample, buffer.replay.update_priorities
    buffer.replay.sample = lambda *args: seen.setdefault("batch", draw(*args))
    buffer.replay.update_priorities = lambda index, priority: (seen.update(priority=priority, index=index), update(index, priority))
    torch.manual_seed(3)
    model._update_learning_rate = lambda optimizers: None
    model.train(1, 16)
    batch, priority = seen["batch"], torch.as_tensor(seen["priority"])
    np.testing.assert_array_equal(seen["index"], batch.index)
    if alpha == 0:
        np.testing.assert_array_equal(batch.weight, 1)
    torch.manual_seed(3)
    np.testing.assert_allclose(priority, expected_error(name, model, before, batch), rtol=1e-3, atol=1e-4)


def expected_error(name: str, model: Any, policy: Any, batch: Any) -> torch.Tensor:
    obs, next_obs, action, reward = map(torch.from_numpy, (batch.observation, batch.next_observation, batch.action, batch.reward))
    reward, alive = reward[:, None], torch.from_numpy(~batch.terminated)[:, None]
    with torch.no_grad():
        if name == "DQN":
            target = reward + 0.99 * alive * policy.q_net_target(next_obs).max(1, keepdim=True)[0]
            return (policy.q_net(obs).gather(1, action.view(-1, 1)) - target).abs()[:, 0]
        if name == "SAC":
            policy.actor.action_log_prob(obs)  # takes its noise first
            log_alpha = seen_entropy(model, policy, obs)
            next_action, log_prob = policy.actor.action_log_prob(next_obs)
            bonus = -log_alpha * log_prob[:, None]
        else:
            noise = action.clone().normal_(0, model.target_policy_noise).clamp(-model.target_noise_clip, model.target_noise_clip)
            next_action, bonus = (policy.actor_target(next_obs) + noise).clamp(-1, 1), 0
        value = torch.cat(policy.critic_target(next_obs, next_action), 1).min(1, keepdim=True)[0] + bonus
        errors = [q - (reward + 0.99 * alive * value) for q in policy.critic(obs, action)]
        return torch.cat(errors, 1).abs().mean(1)


def seen_entropy(model: Any, policy: Any, obs: torch.Tensor) -> float:
    """The host's coefficient before the update: its Adam moves the logarithm by at most the learning rate."""
    return float(torch.exp(model.log_ent_coef.detach()))


def test_importance_weights_scale_gradients() -> None:
    """A batch drawn with weights w moves DQN as the loss mean(w * huber) does."""
    model = sb3.PrioritizedDQN("MlpPolicy", "CartPole-v1", replay_buffer_kwargs={"beta": 1.0}, **off_policy())
    model.learn(60)
    buffer, network = model.replay_buffer, deepcopy(model.q_net)
    buffer.update_priorities(buffer.replay.draw(40), np.random.default_rng(0).exponential(size=40))
    samples = deepcopy(buffer).sample(16)
    assert samples.weights.min() < 0.9
    with torch.no_grad():
        target = samples.rewards + 0.99 * (1 - samples.dones) * model.q_net_target(samples.next_observations).max(1, keepdim=True)[0]
    loss = torch.nn.functional.smooth_l1_loss(network(samples.observations).gather(1, samples.actions), target, reduction="none")
    (samples.weights.view(-1, 1) * loss).mean().backward()
    torch.nn.utils.clip_grad_norm_(network.parameters(), model.max_grad_norm)
    model.train(1, 16)
    for own, wanted in zip(model.q_net.parameters(), network.parameters()):
        torch.testing.assert_close(own.grad, wanted.grad)


def test_beta_rises_over_the_run() -> None:
    model = sb3.PrioritizedDQN("MlpPolicy", "CartPole-v1", replay_buffer_kwargs={"beta": 0.4, "beta_final": 0.8}, **off_policy())
    model.learn(100)
    assert model.replay_buffer.replay.beta == pytest.approx(0.8)


def test_an_algorithm_without_priorities_is_told_so() -> None:
    model = DQN("MlpPolicy", "CartPole-v1", replay_buffer_class=sb3.PrioritizedReplayBuffer, **off_policy())
    with pytest.raises(RuntimeError, match="use PrioritizedDQN"):
        model.learn(100)
    with pytest.raises(TypeError, match="replay_buffer_class is ReplayBuffer, expected a PrioritizedReplayBuffer"):
        sb3.PrioritizedDQN("MlpPolicy", "CartPole-v1", replay_buffer_class=sb3.ReplayBuffer)


def test_returns_summed_with_another_gamma_than_the_algorithms_are_refused() -> None:
    def made(gamma: float) -> Any:
        kwargs = {"n_steps": 3, "gamma": gamma}
        return sb3.PrioritizedDQN("MlpPolicy", "CartPole-v1", gamma=0.5, replay_buffer_kwargs=kwargs, **off_policy())

    with pytest.raises(ValueError, match=r"PrioritizedDQN: gamma is 0\.5, but replay_buffer_kwargs sum returns with gamma 0\.99"):
        made(0.99)
    assert made(0.5).replay_buffer.gamma == 0.5


def test_options_of_the_algorithm_reach_the_buffer_or_are_refused() -> None:
    made = sb3.PrioritizedDQN("MlpPolicy", "CartPole-v1", n_steps=3, gamma=0.9, **off_policy()).replay_buffer
    assert (made.n_steps, made.gamma) == (3, 0.9)
    with pytest.raises(SettingError, match="PrioritizedDQN: alpha is an option of the buffer: give it in replay_buffer_kwargs"):
        sb3.PrioritizedDQN("MlpPolicy", "CartPole-v1", alpha=0.6)
    with pytest.raises(ValueError, match="n_steps is 3, but replay_buffer_kwargs have 2"):
        sb3.PrioritizedDQN("MlpPolicy", "CartPole-v1", n_steps=3, replay_buffer_kwargs={"n_steps": 2, "gamma": 0.99}, **off_policy())


def test_priorities_as_a_column_with_gradients() -> None:
    buffer = sb3.PrioritizedReplayBuffer(10, spaces.Box(-1, 1, (1,)), spaces.Discrete(2), "cpu")
    for _ in range(2):
        buffer.add(np.zeros((1, 1), np.float32), np.zeros((1, 1), np.float32), np.zeros(1, np.int64), np.zeros(1), np.zeros(1, bool), [{}])
    index = buffer.sample(2).indices
    buffer.update_priorities(index, torch.full((2, 1), -3.0, requires_grad=True))
    np.testing.assert_allclose(buffer.replay.priorities(index.numpy()), (3 + 1e-6) ** 0.6, rtol=1e-6)
    with pytest.raises(DTypeError, match="td_error is None"):
        buffer.update_priorities(index, None)
