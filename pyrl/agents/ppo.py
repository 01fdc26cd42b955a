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
from pyrl.engine.step import LossReport
from pyrl.nets.distributions import masked
from pyrl.schedules import value_at
from pyrl.types import Array, Learned, Rollout


@dataclasses.dataclass(frozen=True, kw_only=True)
class SurrogateConfig(ActorCriticConfig):
    """What `SurrogateAgent` reads; defaults as in Stable-Baselines3."""

    batch_size: Count = 64  # minibatch
    n_epochs: Count = 10  # passes over a rollout
    clip_range: Rate = 0.2  # epsilon of the surrogate
    clip_range_vf: Positive | None = None  # epsilon of the value clip; None: off
    target_kl: Positive | None = None  # stop the passes over a rollout when the KL estimate exceeds 1.5 times this; None: off


@dataclasses.dataclass(frozen=True, kw_only=True)
class PPOConfig(SurrogateConfig):
    """Defaults as in Stable-Baselines3."""


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


class SurrogateAgent(ActorCriticAgent):
    """What the synchronous form and the asynchronous one (`pyrl.agents.appo`) share: passes over a rollout down the clipped surrogate."""

    honours_masks = True

    def __init__(self, observation_space: spaces.Space, action_space: spaces.Space, config: Any, seed: int, num_envs: int) -> None:
        super().__init__(observation_space, action_space, config, seed, num_envs)
        if config.batch_size > config.n_steps * num_envs:
            held = f"n_steps * num_envs = {config.n_steps * num_envs}"
            raise ValueError(f"{self.name}: batch_size is {config.batch_size}, but a rollout holds only {held} transitions")
        self.minibatches = ops.RandomStream(seed, "minibatches")

    def streams(self) -> dict[str, ops.RandomStream]:
        return {**super().streams(), "minibatches": self.minibatches}

    def learn(self, rollout: Rollout) -> Learned:
        config, updater = self.config, self.updater
        learning_rate, epsilon, ent_coef = (
            value_at(schedule, self.progress.share) for schedule in (config.learning_rate, config.clip_range, config.ent_coef)
        )
        native = updater.begin(learning_rate)
        samples, valid_index, explained = self.samples(rollout, native)
        coefficients = self.scalar(epsilon), self.scalar(ent_coef)
        reports: list[dict[str, float]] = []
        epochs, kl = 0, 0.0
        for _ in range(config.n_epochs):
            order = ops.permutation(len(samples) if valid_index is None else len(valid_index), self.minibatches)
            order, *data = updater.to_device(order if valid_index is None else valid_index[order], *coefficients)
            minibatches = [order[at : at + config.batch_size] for at in range(0, len(order), config.batch_size)]
            latest = updater.collect([updater.launch(self.update, samples, rows, *data) for rows in minibatches])
            reports += latest
            self.updates += len(latest)
            epochs += 1
            kl = float(np.mean([report["train/kl"] for report in latest]))
            if config.target_kl is not None and kl > 1.5 * config.target_kl:
                break
        metrics = {
            **{name: float(np.mean([report[name] for report in reports])) for name in ("loss/policy", "loss/value", "loss/entropy")},
            "train/kl": kl,
            "train/epochs": epochs,
            "train/explained_variance": explained,
            "train/learning_rate": learning_rate,
        }
        return Learned(metrics)

    def update(self, samples: Samples, rows: Array, epsilon: Array, ent_coef: Array) -> LossReport:
        """One step down the gradient of `loss` for the minibatch ``rows`` [B] of a rollout."""
        return self.step(samples.rows(rows), epsilon, ent_coef)

    def loss(self, batch: Samples, epsilon: Tensor, ent_coef: Tensor) -> tuple[Tensor, LossReport]:  # type: ignore[override]
        """Eq. 9, negated, of a minibatch; its three terms and the KL estimate."""
        config, network = self.config, self.network
        output, value = network(batch.observation)
        output = masked(output, batch.action_mask)
        log_prob, entropy = network.distribution.log_prob_and_entropy(output, network.log_std, batch.action)
        A = standardized(batch.advantage) if config.normalize_advantage else batch.advantage
        policy_loss = -clipped_surrogate(log_prob, batch.log_prob, A, epsilon)
        critic_loss = value_loss(value, batch.value, batch.return_, config.clip_range_vf)
        entropy = entropy.mean()
        loss = policy_loss + config.vf_coef * critic_loss - ent_coef * entropy
        kl = approximate_kl(log_prob, batch.log_prob)
        return loss, {"loss/policy": policy_loss, "loss/value": critic_loss, "loss/entropy": entropy, "train/kl": kl}

    def native_gradient(self, batch: Samples, epsilon: float, ent_coef: float) -> LossReport:  # type: ignore[override]
        """The same by hand: forward, the gradients of eq. 9 w.r.t. the outputs, backward."""
        config, native = self.config, self.native["network"]
        (actor, critic), w, g = native.networks, native.parameters, native.gradients
        output, value = actor.forward(w, batch.observation), critic.forward(w, batch.observation)
        logits = masked(self.distribution.logits(output), batch.action_mask)
        policy_loss, entropy, kl, _, d_output = ops.policy_loss(
            logits, batch.action, batch.advantage, log_prob_old=batch.log_prob, clip_range=epsilon,
            ent_coef=ent_coef, normalize_advantage=config.normalize_advantage, **self.native_distribution(),
        )  # fmt: skip
        old = None if config.clip_range_vf is None else batch.value
        critic_loss, d_value = ops.value_loss(
            value, batch.return_, value_old=old, clip_range=config.clip_range_vf or 0.0, coefficient=config.vf_coef
        )
        actor.backward(w, g, self.distribution.by_output(d_output))
        critic.backward(w, g, d_value)
        return {"loss/policy": policy_loss, "loss/value": critic_loss, "loss/entropy": entropy, "train/kl": kl}


@register("ppo")
class PPO(SurrogateAgent):
    """Discrete, multi-discrete, multi-binary and continuous actions."""

    Config = PPOConfig
