"""Stochastic value gradients, the model-free form SVG(0) (Heess et al. 2015, arXiv:1510.09142), on replay.

    symbol          here                   shape
    pi(o, eta)      actor                  mean and log_std [B, A] of u; a = tanh(u), u = mean + std * eta, eta ~ N(0, 1)
    Q(o, a)         critic                 [1, B]
    pi', Q'         target_actor, target_critic     slow copies: theta' <- tau theta + (1 - tau) theta' after each update
    y               target                 [B]      r + discount * Q'(o', pi'(o', eta')), discount = gamma^k (1 - terminated)

The actor is stochastic, but with its noise eta drawn from outside it is a function that can be differentiated: it ascends
E[Q(o, pi(o, eta))] along E[grad_a Q grad_theta pi], the deterministic policy gradient (`pyrl.agents.ddpg`) averaged over eta. The
critic descends the Huber loss of Q(o, a) - y. The policy explores by itself, and nothing rewards its entropy (as SAC does), so
std has a lower bound. Replay, actor and critic all see the same action, bounded by tanh.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Annotated, Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor
from torch.nn import functional as F

from pyrl import ops
from pyrl.agents.checks import Amount, Count, Layers, PartLayers, Range, Rate, Tau
from pyrl.agents.continuous_actors import SquashedGaussianActor
from pyrl.agents.ddpg import bellman_target
from pyrl.agents.off_policy import ContinuousConfig, TargetActorAgent, native_action_gradient, native_critic_gradient, td_report
from pyrl.agents.registry import register
from pyrl.engine.step import LossReport
from pyrl.types import Array, Batch


@dataclasses.dataclass(frozen=True, kw_only=True)
class SVGConfig(ContinuousConfig):
    """Rates, replay and batches as in system S0 (docs/results.md), which averages its targets once an episode, not per update."""

    learning_rate: Rate = 1e-3  # of both Adams; "linear_1e-3" falls to zero over the run
    buffer_size: Count = 10_000  # slots of the replay, all environments together
    learning_starts: Amount = 1_000  # transitions stored before the first update
    batch_size: Count = 100
    tau: Tau = 0.005  # Polyak factor of the target networks, after each update
    net_arch: Layers | PartLayers = (256, 128)  # hidden layers of actor and critic each
    std_min: Annotated[float, Range(0, 1, open_low=True)] = 0.1  # least standard deviation of u


def reparameterized(mean: Tensor, log_std: Tensor, eta: Tensor) -> Tensor:
    """a = pi(o, eta) = tanh(mean + std * eta). All [B, A]."""
    return torch.tanh(mean + log_std.exp() * eta)


def critic_loss(q: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """E[w Huber(Q(o, a) - y)]: d^2 / 2 within 1, |d| - 1/2 beyond (Huber 1964). All [B]."""
    return F.smooth_l1_loss(q, target) if weight is None else (weight * F.smooth_l1_loss(q, target, reduction="none")).mean()


@register("svg")
class SVG(TargetActorAgent):
    """Box actions with finite bounds, any observation that the encoder takes."""

    Config = SVGConfig
    Acting = SquashedGaussianActor

    def __init__(self, observation_space: spaces.Space, action_space: spaces.Space, config: SVGConfig, seed: int, num_envs: int) -> None:
        log_std_range = math.log(config.std_min), 2.0
        super().__init__(observation_space, action_space, config, seed, num_envs, log_std_range=log_std_range)

    def update_data(self, batch: Batch) -> tuple[Any, ...]:
        """Noise [B, A] of the next actions and of the actions."""
        return self.noise_like(batch.action), self.noise_like(batch.action)

    def update(self, batch: Batch, next_eta: Array, eta: Array) -> LossReport:  # type: ignore[override]
        """The critic's step, the actor's step, the averages."""
        report = {**self.critic_step(batch, next_eta), **self.actor_step(batch, eta)}
        self.average_targets()
        return report

    def critic_loss(self, batch: Batch, eta: Tensor) -> tuple[Tensor, LossReport]:  # type: ignore[override]
        """The Huber loss of a batch [B, ...] with noise eta [B, A] for a'; it, and the mean of Q."""
        with torch.no_grad():
            mean, log_std = self.target_actor(batch.next_observation)
            next_action = reparameterized(mean, log_std, eta)
            target = bellman_target(batch.reward, batch.discount, self.target_critic.first(batch.next_observation, next_action))
        q = self.critic.first(batch.observation, batch.action)
        loss = critic_loss(q, target, batch.weight)
        return loss, {"loss/critic": loss, "train/q_mean": q.mean(), **td_report(q, target, batch)}

    def native_critic_gradient(self, batch: Batch, eta: np.ndarray) -> LossReport:  # type: ignore[override]
        """The same by hand."""
        output = self.native["target_actor"].infer(batch.next_observation)
        next_action, _ = ops.squashed_gaussian(output, eta, log_std_range=self.actor.log_std_range)
        target = batch.reward + batch.discount * self.native["target_critic"].infer(batch.next_observation, next_action)[:, 0]
        return native_critic_gradient(self.native["critic"], batch, target, huber=True)

    def actor_loss(self, batch: Batch, eta: Tensor) -> tuple[Tensor, LossReport]:  # type: ignore[override]
        """-E[Q(o, pi(o, eta))] for noise eta [B, A]; it, and the mean of std."""
        mean, log_std = self.actor(batch.observation)
        loss = -self.critic.first(batch.observation, reparameterized(mean, log_std, eta)).mean()
        return loss, {"loss/actor": loss, "train/std": log_std.exp().mean()}

    def native_actor_gradient(self, batch: Batch, eta: np.ndarray) -> LossReport:  # type: ignore[override]
        """The same by hand: through Q and the reparameterised action."""
        actor, span = self.native["actor"], self.actor.log_std_range
        output = actor.networks[0].forward(actor.parameters, batch.observation)
        action, _ = ops.squashed_gaussian(output, eta, log_std_range=span)
        q, d_action = native_action_gradient(self.native["critic"], batch.observation, action)
        d_output = ops.squashed_gaussian_backward(output, eta, action, d_action, 0.0, log_std_range=span)
        actor.networks[0].backward(actor.parameters, actor.gradients, d_output)
        std = np.exp(output[:, self.scale.size :].clip(*span))
        return {"loss/actor": -float(q.mean()), "train/std": float(std.mean())}
