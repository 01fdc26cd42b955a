"""Twin delayed DDPG (Fujimoto et al. 2018, arXiv:1802.09477): DDPG with three changes.

    symbol              here                    shape
    pi(o)               actor                   [B, A]   deterministic, in [-1, 1] by tanh
    Q_1, Q_2            critic                  [2, B]
    pi', Q_1', Q_2'     target_actor, target_critic      slow copies
    sigma~, c           target_policy_noise, target_noise_clip
    y                   target                  [B]      r + discount * min_i Q_i'(o', a'), discount = gamma^k (1 - terminated)
    a'                  next_action             [B, A]   pi'(o') + clip(epsilon, -c, c), epsilon ~ N(0, sigma~)
    d                   policy_delay

1. Clipped double Q-learning (eq. 10): the smaller of two critics makes the target of both.
2. Delayed updates (section 5.2): the actor and all target networks move at every d-th update of the critics only.
3. Target policy smoothing (section 5.3): noise on the target's action, so that Q' is averaged over similar actions.

The actor ascends Q_1(o, pi(o)), as in DDPG (`pyrl.agents.ddpg`).
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from pyrl.agents.checks import Count, Layers, NonNegative, PartLayers, Rate, Tau, Weight
from pyrl.agents.continuous_actors import DeterministicActor
from pyrl.agents.ddpg import bellman_target, critic_loss
from pyrl.agents.off_policy import ContinuousConfig, TargetActorAgent, native_critic_gradient, native_policy_gradient, td_report
from pyrl.agents.registry import register
from pyrl.engine.step import LossReport
from pyrl.types import Array, Batch


@dataclasses.dataclass(frozen=True, kw_only=True)
class TD3Config(ContinuousConfig):
    """Defaults as in Stable-Baselines3, but for the exploration noise, which it leaves out."""

    learning_rate: Rate = 1e-3  # of both Adams; "linear_1e-3" falls to zero over the run
    noise_std: Weight = 0.1  # of exploration, where every action has the range [-1, 1]
    tau: Tau = 0.005  # Polyak factor of the target networks, after each update
    net_arch: Layers | PartLayers = (400, 300)  # hidden layers of actor and critics each
    policy_delay: Count = 2  # updates of the critics for one of the actor and the target networks
    target_policy_noise: NonNegative = 0.2  # sigma~ of the target's action, in [-1, 1]
    target_noise_clip: NonNegative = 0.5  # c, its bound


def smoothed(action: Tensor, noise: Tensor, noise_clip: float) -> Tensor:
    """a' = clip(pi'(o') + clip(epsilon, -c, c), -1, 1), section 5.3. All [B, A]."""
    return (action + noise.clamp(-noise_clip, noise_clip)).clamp(-1.0, 1.0)


@register("td3")
class TD3(TargetActorAgent):
    """Box actions with finite bounds, any observation that the encoder takes."""

    Config = TD3Config
    Acting = DeterministicActor

    def __init__(self, observation_space: spaces.Space, action_space: spaces.Space, config: TD3Config, seed: int, num_envs: int) -> None:
        super().__init__(observation_space, action_space, config, seed, num_envs, num_critics=2)

    def update_data(self, batch: Batch) -> tuple[Any, ...]:
        """(xi ~ N(0, 1) of the target's action [B, A], whether the actor moves too)"""
        return self.noise_like(batch.action), (self.updates + 1) % self.config.policy_delay == 0

    def update(self, batch: Batch, xi: Array, moves_actor: bool) -> LossReport:  # type: ignore[override]
        """The critics' step, then, every policy_delay-th time, the actor's step and the averages."""
        report = self.critic_step(batch, self.config.target_policy_noise * xi)
        if moves_actor:
            report = {**report, **self.actor_step(batch)}
            self.average_targets()
        return report

    def critic_loss(self, batch: Batch, epsilon: Tensor) -> tuple[Tensor, LossReport]:  # type: ignore[override]
        """E[(Q_1 - y)^2] + E[(Q_2 - y)^2] of a batch [B, ...] with target noise [B, A]; it, and the mean of Q."""
        with torch.no_grad():
            next_action = smoothed(self.target_actor(batch.next_observation), epsilon, self.config.target_noise_clip)
            next_q = self.target_critic(batch.next_observation, next_action).amin(0)
            target = bellman_target(batch.reward, batch.discount, next_q)
        q = self.critic(batch.observation, batch.action)
        loss = critic_loss(q, target, batch.weight)
        return loss, {"loss/critic": loss, "train/q_mean": q.mean(), **td_report(q, target, batch)}

    def native_critic_gradient(self, batch: Batch, epsilon: np.ndarray) -> LossReport:  # type: ignore[override]
        """The same by hand."""
        target_critic, c = self.native["target_critic"], self.config.target_noise_clip
        next_action = self.native["target_actor"].infer(batch.next_observation)
        next_action = (next_action + epsilon.clip(-c, c)).clip(-1.0, 1.0)
        next_q = [n.infer(target_critic.parameters, batch.next_observation, next_action)[:, 0] for n in target_critic.networks]
        target = batch.reward + batch.discount * np.minimum(*next_q)
        return native_critic_gradient(self.native["critic"], batch, target)

    def actor_loss(self, batch: Batch) -> tuple[Tensor, LossReport]:  # type: ignore[override]
        """-E[Q_1(o, pi(o))]"""
        loss = -self.critic.first(batch.observation, self.actor(batch.observation)).mean()
        return loss, {"loss/actor": loss}

    def native_actor_gradient(self, batch: Batch) -> LossReport:  # type: ignore[override]
        """The same by hand."""
        q = native_policy_gradient(self.native["actor"], self.native["critic"], batch.observation)
        return {"loss/actor": -float(q.mean())}
