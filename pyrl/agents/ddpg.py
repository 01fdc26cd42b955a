"""Deep deterministic policy gradient (Lillicrap et al. 2016, arXiv:1509.02971).

    symbol        here                   shape
    mu(o)         actor                  [B, A]   deterministic, in [-1, 1] by tanh
    Q(o, a)       critic                 [1, B]
    mu', Q'       target_actor, target_critic     slow copies: theta' <- tau theta + (1 - tau) theta' after each update
    y             target                 [B]      r + discount * Q'(o', mu'(o')), discount = gamma^k (1 - terminated)
    N             noise                  [N, A]   exploration, by mu(o) + N (eq. 7): Gaussian, or Ornstein and Uhlenbeck's process

The critic descends (Q(o, a) - y)^2 (eq. 4 and 5), the actor ascends Q(o, mu(o)), whose gradient is the deterministic policy
gradient, grad_a Q grad_theta mu (eq. 6; Silver et al. 2014).
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor
from torch.nn import functional as F

from pyrl.agents.checks import Layers, PartLayers, Rate, Tau, Weight
from pyrl.agents.continuous_actors import DeterministicActor
from pyrl.agents.off_policy import ContinuousConfig, TargetActorAgent, native_critic_gradient, native_policy_gradient, td_report
from pyrl.agents.registry import register
from pyrl.engine.step import LossReport
from pyrl.types import Batch


@dataclasses.dataclass(frozen=True, kw_only=True)
class DDPGConfig(ContinuousConfig):
    """Defaults as in Stable-Baselines3, but for the noise, which it leaves out."""

    learning_rate: Rate = 1e-3  # of both Adams; "linear_1e-3" falls to zero over the run
    noise_std: Weight = 0.1  # of exploration, where every action has the range [-1, 1]
    tau: Tau = 0.005  # Polyak factor of the target networks, after each update
    net_arch: Layers | PartLayers = (400, 300)  # hidden layers of actor and critic each


def bellman_target(reward: Tensor, discount: Tensor, next_value: Tensor) -> Tensor:
    """y = r + discount * Q'(o', a'), eq. 5. All [B]."""
    return reward + discount * next_value


def critic_loss(q: Tensor, target: Tensor, weight: Tensor | None = None, coefficient: float = 1.0) -> Tensor:
    """L = E[w (Q(o, a) - y)^2], eq. 4, summed over the critics, times ``coefficient``. q [count, B], target and importance weights [B]."""
    if weight is not None:
        return coefficient * len(q) * (weight * (q - target).square()).mean()
    return coefficient * len(q) * F.mse_loss(q, target.expand_as(q))


@register("ddpg")
class DDPG(TargetActorAgent):
    """Box actions with finite bounds, any observation that the encoder takes."""

    Config = DDPGConfig
    Acting = DeterministicActor

    def update(self, batch: Batch) -> LossReport:  # type: ignore[override]
        """The critic's step, the actor's step, the averages."""
        report = {**self.critic_step(batch), **self.actor_step(batch)}
        self.average_targets()
        return report

    def critic_loss(self, batch: Batch) -> tuple[Tensor, LossReport]:  # type: ignore[override]
        """Eq. 4 of a batch [B, ...]; it, and the mean of Q."""
        with torch.no_grad():
            next_q = self.target_critic.first(batch.next_observation, self.target_actor(batch.next_observation))
            target = bellman_target(batch.reward, batch.discount, next_q)
        q = self.critic(batch.observation, batch.action)
        loss = critic_loss(q, target, batch.weight)
        return loss, {"loss/critic": loss, "train/q_mean": q.mean(), **td_report(q, target, batch)}

    def native_critic_gradient(self, batch: Batch) -> LossReport:  # type: ignore[override]
        """The same by hand."""
        next_action = self.native["target_actor"].infer(batch.next_observation)
        next_q = self.native["target_critic"].infer(batch.next_observation, next_action)[:, 0]
        target = batch.reward + batch.discount * next_q
        return native_critic_gradient(self.native["critic"], batch, target)

    def actor_loss(self, batch: Batch) -> tuple[Tensor, LossReport]:  # type: ignore[override]
        """-E[Q(o, mu(o))], whose gradient is eq. 6, negated."""
        loss = -self.critic.first(batch.observation, self.actor(batch.observation)).mean()
        return loss, {"loss/actor": loss}

    def native_actor_gradient(self, batch: Batch) -> LossReport:  # type: ignore[override]
        """The same by hand."""
        q = native_policy_gradient(self.native["actor"], self.native["critic"], batch.observation)
        return {"loss/actor": -float(q.mean())}
