"""Proximal policy optimisation, the clipped form (Schulman et al. 2017, arXiv:1707.06347).

    symbol        here                   shape
    r_t(theta)    r                      [B]      pi(a|o) / pi_old(a|o)
    A_t           advantage              [B]      GAE(gamma, lambda) (Schulman et al. 2016, eq. 16), from pyrl.ops.gae
    V(o_t)        value                  [B]
    R_t           return_                [B]      advantage + value, the target of V
    epsilon       clip_range
    c_1, c_2      vf_coef, ent_coef

The data of one rollout serve n_epochs passes in minibatches of batch_size; eq. 9 is the loss of each.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor
from torch.nn import functional as F

from pyrl import ops
from pyrl.agents.actor_critic import ActorCriticAgent, ActorCriticConfig, Samples, standardized
from pyrl.agents.checks import Count, Positive, Rate
from pyrl.agents.registry import register
from pyrl.engine.update import Report, Update
from pyrl.schedules import value_at
from pyrl.types import Rollout


@dataclasses.dataclass(frozen=True, kw_only=True)
class PPOConfig(ActorCriticConfig):
    """Defaults as in Stable-Baselines3."""

    batch_size: Count = 64  # minibatch
    n_epochs: Count = 10  # passes over a rollout
    clip_range: Rate = 0.2  # epsilon of the surrogate
    clip_range_vf: Positive | None = None  # epsilon of the value clip; None: off
    target_kl: Positive | None = None  # stop the passes over a rollout when the KL estimate exceeds 1.5 times this; None: off


def clipped_surrogate(log_prob: Tensor, log_prob_old: Tensor, advantage: Tensor, epsilon: Tensor) -> Tensor:
    """L^CLIP, eq. 7: E[min(r A, clip(r, 1 - epsilon, 1 + epsilon) A)], to be maximised. All [B].

    That is r A with an upper bound, (1 + epsilon) A or, where A < 0, (1 - epsilon) A.
    """
    r = torch.exp(log_prob - log_prob_old)
    return torch.clamp(r * advantage, max=advantage + epsilon * advantage.abs()).mean()


def value_loss(value: Tensor, value_old: Tensor, return_: Tensor, epsilon: float | None) -> Tensor:
    """L^VF, eq. 9: E[(V - R)^2], with V kept within epsilon of its old value if asked. All [B]."""
    if epsilon is not None:
        value = value_old + torch.clamp(value - value_old, -epsilon, epsilon)
    return F.mse_loss(value, return_)


def approximate_kl(log_prob: Tensor, log_prob_old: Tensor) -> Tensor:
    """E[r - 1 - log r], the low-variance estimate of KL(old, new) (Schulman 2020, joschu.net/blog/kl-approx.html)."""
    log_r = log_prob - log_prob_old
    return (torch.exp(log_r) - 1.0 - log_r).mean()


@register("ppo")
class PPO(ActorCriticAgent):
    """Discrete, multi-discrete, multi-binary and continuous actions."""

    Config = PPOConfig
    config: PPOConfig

    def __init__(self, observation_space: spaces.Space, action_space: spaces.Space, config: PPOConfig, seed: int, num_envs: int) -> None:
        super().__init__(observation_space, action_space, config, seed, num_envs)
        if config.batch_size > config.n_steps * num_envs:
            held = f"n_steps * num_envs = {config.n_steps * num_envs}"
            raise ValueError(f"ppo: batch_size is {config.batch_size}, but a rollout holds only {held} transitions")
        self.update = Update(self.arena, self.loss, max_grad_norm=config.max_grad_norm, compiled=self.engine == "compile")
        self.minibatches = ops.RandomStream(seed, "minibatches")

    def streams(self) -> dict[str, ops.RandomStream]:
        return {**super().streams(), "minibatches": self.minibatches}

    def learn(self, rollout: Rollout) -> dict[str, float]:
        config = self.config
        learning_rate, epsilon, ent_coef = (
            value_at(schedule, self.progress) for schedule in (config.learning_rate, config.clip_range, config.ent_coef)
        )
        self.run.set_learning_rate(learning_rate)
        samples = self.samples(rollout)
        epoch = self.native_epoch if isinstance(samples.advantage, np.ndarray) else self.torch_epoch
        reports: list[tuple[float, ...]] = []
        epochs, kl = 0, 0.0
        for _ in range(config.n_epochs):
            order = ops.permutation(len(samples), self.minibatches)
            latest = epoch(samples, order if samples.valid is None else samples.valid[order], epsilon, ent_coef)
            reports += latest
            self.updates += len(latest)
            epochs += 1
            kl = float(np.mean([report[3] for report in latest]))
            if config.target_kl is not None and kl > 1.5 * config.target_kl:
                break
        policy_loss, critic_loss, entropy, _ = np.mean(reports, axis=0).tolist()
        return {
            "loss/policy": policy_loss,
            "loss/value": critic_loss,
            "loss/entropy": entropy,
            "train/kl": kl,
            "train/epochs": epochs,
            "train/explained_variance": samples.explained_variance,
            "train/learning_rate": learning_rate,
        }

    def loss(self, batch: Samples, epsilon: Tensor, ent_coef: Tensor) -> tuple[Tensor, Report]:
        """Eq. 9, negated, of a minibatch, and a report: its three terms and the KL estimate."""
        config, network = self.config, self.network
        output, value = network(batch.observation)
        log_prob, entropy = network.distribution.log_prob_and_entropy(output, network.log_std, batch.action)
        A = standardized(batch.advantage) if config.normalize_advantage else batch.advantage
        policy_loss = -clipped_surrogate(log_prob, batch.log_prob, A, epsilon)
        critic_loss = value_loss(value, batch.value, batch.return_, config.clip_range_vf)
        entropy = entropy.mean()
        loss = policy_loss + config.vf_coef * critic_loss - ent_coef * entropy
        return loss, (policy_loss, critic_loss, entropy, approximate_kl(log_prob, batch.log_prob))

    def torch_epoch(self, samples: Samples, order: np.ndarray, epsilon: float, ent_coef: float) -> list[tuple[float, ...]]:
        """The reports of one pass; nothing waits for a minibatch before its end."""
        index, *coefficients = self.run.place(torch.from_numpy(order), self.scalar(epsilon), self.scalar(ent_coef))
        columns, pieces = samples.columns(), index.split(self.config.batch_size)
        reports = [self.run.begin(self.tensor_update, columns, rows, *coefficients) for rows in pieces]
        return [tuple(report.values()) for report in self.run.read(reports)]

    def tensor_update(self, columns: tuple[Any, ...], index: Tensor, epsilon: Tensor, ent_coef: Tensor) -> dict[str, Tensor]:
        """A step down the gradient of `loss` for the minibatch ``index`` [B] of a rollout."""
        report = self.update(Samples(*columns).rows(index), epsilon, ent_coef)
        return dict(zip(("policy", "value", "entropy", "kl"), report))

    def native_epoch(self, samples: Samples, order: np.ndarray, epsilon: float, ent_coef: float) -> list[tuple[float, ...]]:
        starts = range(0, len(order), self.config.batch_size)
        return [self.native_update(samples.rows(order[at : at + self.config.batch_size]), epsilon, ent_coef) for at in starts]

    def native_update(self, batch: Samples, epsilon: float, ent_coef: float) -> tuple[float, ...]:
        """The same step by hand: forward, the gradients of eq. 9 by the outputs, backward, Adam."""
        config, native = self.config, self.native
        (actor, critic), w, g = native.networks, native.parameters, native.gradients
        output, value = actor.forward(w, batch.observation), critic.forward(w, batch.observation)
        policy_loss, entropy, kl, _, d_output = ops.policy_loss(
            self.distribution.logits(output), batch.action, batch.advantage, log_prob_old=batch.log_prob, clip_range=epsilon,
            ent_coef=ent_coef, normalize_advantage=config.normalize_advantage, **self.native_distribution(),
        )  # fmt: skip
        old = None if config.clip_range_vf is None else batch.value
        critic_loss, d_value = ops.value_loss(
            value, batch.return_, value_old=old, clip_range=config.clip_range_vf or 0.0, coefficient=config.vf_coef
        )
        actor.backward(w, g, self.distribution.by_output(d_output))
        critic.backward(w, g, d_value)
        native.step(config.max_grad_norm)
        return policy_loss, critic_loss, entropy, kl
