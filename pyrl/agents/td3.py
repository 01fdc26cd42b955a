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

The actor ascends Q_1(o, pi(o)). Acting, networks and what is not said here are DDPG's.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from torch import Tensor

from pyrl.agents.checks import Count, NonNegative
from pyrl.agents.ddpg import DDPG, DDPGConfig, bellman_target, critic_loss
from pyrl.agents.off_policy import native_critic_step
from pyrl.agents.registry import register
from pyrl.engine.update import Report
from pyrl.types import Batch, Observation


@dataclasses.dataclass(frozen=True, kw_only=True)
class TD3Config(DDPGConfig):
    """Defaults as in Stable-Baselines3, but for the exploration noise, which it leaves out."""

    policy_delay: Count = 2  # updates of the critics for one of the actor and the target networks
    target_policy_noise: NonNegative = 0.2  # sigma~ of the target's action, in [-1, 1]
    target_noise_clip: NonNegative = 0.5  # c, its bound


def smoothed(action: Tensor, noise: Tensor, noise_clip: float) -> Tensor:
    """a' = clip(pi'(o') + clip(epsilon, -c, c), -1, 1), section 5.3. All [B, A]."""
    return (action + noise.clamp(-noise_clip, noise_clip)).clamp(-1.0, 1.0)


@register("td3")
class TD3(DDPG):
    """Box actions with finite bounds, any observation that the encoder takes."""

    Config = TD3Config
    num_critics = 2

    def critic_loss(  # type: ignore[override]
        self, observation: Observation, action: Tensor, reward: Tensor, discount: Tensor, next_observation: Observation, epsilon: Tensor
    ) -> tuple[Tensor, Report]:
        """E[(Q_1 - y)^2] + E[(Q_2 - y)^2] of a batch [B, ...] with target noise [B, A], and a report: it, and the mean of Q."""
        with torch.no_grad():
            next_action = smoothed(self.target_actor(next_observation), epsilon, self.config.target_noise_clip)
            next_q = self.target_critic(next_observation, next_action).amin(0)
            target = bellman_target(reward, discount, next_q)
        q = self.critic(observation, action)
        loss = critic_loss(q, target)
        return loss, (loss, q.mean())

    def torch_update(self, batch: Batch) -> dict[str, float]:
        data = self.prepare(batch)
        return self.run(self.tensor_update, *data, self.drawn(data[1]), (self.updates + 1) % self.config.policy_delay == 0)

    def tensor_update(  # type: ignore[override]
        self,
        observation: Observation,
        action: Tensor,
        reward: Tensor,
        discount: Tensor,
        next_observation: Observation,
        xi: Tensor,
        moves_actor: bool,
    ) -> dict[str, Tensor]:
        """The critics' step, then, every policy_delay-th time, the actor's step and the averages."""
        epsilon = self.config.target_policy_noise * xi
        loss, q_mean = self.critic_update(observation, action, reward, discount, next_observation, epsilon)
        report = {"loss/critic": loss, "train/q_mean": q_mean}
        if moves_actor:
            (report["loss/actor"],) = self.actor_update(observation)
            self.update_targets()
        return report

    def native_update(self, batch: Batch) -> dict[str, float]:
        """The same step by hand."""
        observation, action, reward, discount, next_observation = self.native_prepare(batch)
        target_actor, target_critic, c = self.native_target_actor, self.native_target_critic, self.config.target_noise_clip
        epsilon = self.config.target_policy_noise * self.normal(action.shape, action.dtype)
        next_action = target_actor.networks[0].infer(target_actor.parameters, next_observation)
        next_action = (next_action + epsilon.clip(-c, c)).clip(-1.0, 1.0)
        next_q = [n.infer(target_critic.parameters, next_observation, next_action)[:, 0] for n in target_critic.networks]
        loss, q_mean = native_critic_step(self.native_critic, observation, action, reward + discount * np.minimum(*next_q))
        metrics = {"loss/critic": loss, "train/q_mean": q_mean}
        if (self.updates + 1) % self.config.policy_delay == 0:
            metrics["loss/actor"] = self.native_actor_step(observation)
            self.update_targets()
        return metrics
