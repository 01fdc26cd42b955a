"""Soft actor-critic with automatic temperature (Haarnoja et al. 2018, arXiv:1812.05905).

    symbol            here                  shape
    pi(a|o)           actor                 mean and log_std [B, A] of u; a = tanh(u), u = mean + std * xi, xi ~ N(0, 1)
    log pi(a|o)       log_prob              [B]
    Q_1, Q_2          critic                [2, B]
    Q_1', Q_2'        target_critic         [2, B]   slow copies
    alpha             temperature           exp(log_alpha): the price of entropy
    H-bar             target_entropy        what the entropy of pi is held at; "auto": -A
    y                 target                [B]      r + discount * (min_i Q_i'(o', a') - alpha log pi(a'|o')), a' ~ pi(.|o')

The critics descend (Q_i(o, a) - y)^2 / 2 (eq. 5, two of them against overestimation, section 6); the actor descends
alpha log pi(a|o) - min_i Q_i(o, a) through a = tanh(mean + std * xi) (eq. 7 and 9); alpha descends -alpha (log pi + H-bar) (eq. 18;
`pyrl.agents.entropy`).
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from pyrl import ops
from pyrl.agents.checks import Tau
from pyrl.agents.ddpg import bellman_target, critic_loss
from pyrl.agents.entropy import LOG_STD_RANGE, EntropyAgent, EntropyConfig, squashed_sample
from pyrl.agents.off_policy import native_action_gradient, native_critic_gradient, td_report
from pyrl.agents.registry import register
from pyrl.engine.step import LossReport, Step
from pyrl.types import Array, Batch


@dataclasses.dataclass(frozen=True, kw_only=True)
class SACConfig(EntropyConfig):
    """Defaults as in Stable-Baselines3."""

    tau: Tau = 0.005  # Polyak factor of the target networks, after each update


def soft_value(q: Tensor, log_prob: Tensor, alpha: Tensor) -> Tensor:
    """V(o) = min_i Q_i(o, a) - alpha log pi(a|o), eq. 3, the target's bootstrap. q [2, B] -> [B]."""
    return q.min(0).values - alpha * log_prob


@register("sac")
class SAC(EntropyAgent):
    """Box actions with finite bounds, any observation that the encoder takes."""

    Config = SACConfig

    def __init__(self, observation_space: spaces.Space, action_space: spaces.Space, config: SACConfig, seed: int, num_envs: int) -> None:
        super().__init__(observation_space, action_space, config, seed, num_envs)
        self.actor, self.critic = self.make_networks(2, LOG_STD_RANGE)
        critic, actor = self.trainable("critic", self.critic, target="target_critic"), self.trainable("actor", self.actor)
        self.target_critic = critic.target_network
        self.critic_step = Step(critic, self.critic_loss, self.native_critic_gradient)
        self.actor_step = Step(actor, self.actor_loss, self.native_actor_gradient)
        self.updater = self.make_updater(self.critic_step, self.actor_step, self.temperature_step)

    def update(self, batch: Batch, next_xi: Array, xi: Array) -> LossReport:  # type: ignore[override]
        """The critics' step, the actor's, the temperature's, and the average."""
        alpha = self.temperature.alpha
        report = {**self.critic_step(batch, next_xi, alpha), **self.actor_step(batch, xi, alpha), "train/temperature": alpha.squeeze()}
        if self.learns_temperature:
            self.temperature_step(report["train/entropy"])
        self.critic_step.trainable.average(self.config.tau)
        return report

    def critic_loss(self, batch: Batch, xi: Tensor, alpha: Tensor) -> tuple[Tensor, LossReport]:
        """Eq. 5 of a batch [B, ...] with noise xi [B, A] for a'; it, and the mean of Q."""
        with torch.no_grad():
            mean, log_std = self.actor(batch.next_observation)
            next_action, next_log_prob = squashed_sample(mean, log_std, xi)
            next_value = soft_value(self.target_critic(batch.next_observation, next_action), next_log_prob, alpha)
            target = bellman_target(batch.reward, batch.discount, next_value)
        q = self.critic(batch.observation, batch.action)
        loss = critic_loss(q, target, batch.weight, coefficient=0.5)
        return loss, {"loss/critic": loss, "train/q_mean": q.mean(), **td_report(q, target, batch)}

    def native_critic_gradient(self, batch: Batch, xi: np.ndarray, alpha: Tensor) -> LossReport:
        """The same by hand."""
        target = self.native["target_critic"]
        output = self.native["actor"].infer(batch.next_observation)
        next_action, next_log_prob = ops.squashed_gaussian(output, xi, log_std_range=self.actor.log_std_range)
        next_q = [network.infer(target.parameters, batch.next_observation, next_action)[:, 0] for network in target.networks]
        y = batch.reward + batch.discount * (np.minimum(*next_q) - alpha.item() * next_log_prob)
        return native_critic_gradient(self.native["critic"], batch, y, coefficient=0.5)

    def actor_loss(self, batch: Batch, xi: Tensor, alpha: Tensor) -> tuple[Tensor, LossReport]:
        """Eq. 7 with the reparameterised action of noise xi [B, A]; it, and the entropy [] of pi."""
        mean, log_std = self.actor(batch.observation)
        action, log_prob = squashed_sample(mean, log_std, xi)
        loss = (alpha * log_prob - self.critic(batch.observation, action).min(0).values).mean()
        return loss, {"loss/actor": loss, "train/entropy": -log_prob.mean()}

    def native_actor_gradient(self, batch: Batch, xi: np.ndarray, alpha: Tensor) -> LossReport:
        """The same by hand: through min Q and log pi."""
        actor, span, temperature = self.native["actor"], self.actor.log_std_range, alpha.item()
        output = actor.networks[0].forward(actor.parameters, batch.observation)
        action, log_prob = ops.squashed_gaussian(output, xi, log_std_range=span)
        q, d_action = native_action_gradient(self.native["critic"], batch.observation, action)
        d_output = ops.squashed_gaussian_backward(output, xi, action, d_action, temperature / len(action), log_std_range=span)
        actor.networks[0].backward(actor.parameters, actor.gradients, d_output)
        entropy = -float(log_prob.mean())
        return {"loss/actor": -temperature * entropy - float(q.mean()), "train/entropy": entropy}
