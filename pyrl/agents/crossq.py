"""CrossQ (Bhatt et al. 2024, arXiv:1902.05605v4): SAC without target networks, with batch normalisation in its critics.

    symbol            here                  shape
    pi, alpha, H-bar  actor, temperature, target_entropy      as in SAC (`pyrl.agents.entropy`)
    Q_1, Q_2          critic                [2, B]
    x, x-hat          x                     [B, D]      in a layer of batch renormalisation (Ioffe 2017, arXiv:1702.03275, algorithm 1)
    mu_B, sigma_B     mean, var             [D]         of the batch; sigma_B^2 = var + epsilon
    mu, sigma^2       running_mean, running_var   [D]   averages of them: buffers, saved with the weights
    r, d              r, d                  [D]         sigma_B / sigma in [1/r_max, r_max], (mu_B - mu) / sigma in [-d_max, d_max]
    y                 target                [B]         r + discount * (min_i Q_i(o', a') - alpha log pi(a'|o')), a' ~ pi(.|o')

Normalisation fails in SAC because (o', a'), whose actions are the policy's, is distributed otherwise than the (o, a) of the replay.
Here both go through the critics as one batch, [Q(o, a), Q(o', a')] = Q([o, o'], [a, a']) (figure 3), and no gradient flows into
Q(o', a'); there is no target network to have moments of its own. The critics are wide, Adam's beta_1 is 0.5, and the actor and the
temperature move at every third update. In the actor's loss and everywhere outside of updates, critics normalise by the running moments.

Not as in the authors' code: their actor is normalised too. Here it is SAC's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from gymnasium import spaces
from torch import Tensor, nn
from torch.nn import functional as F

from pyrl.agents.checks import Count, Layers, PartLayers, Rate
from pyrl.agents.ddpg import bellman_target, critic_loss
from pyrl.agents.entropy import LOG_STD_RANGE, EntropyAgent, EntropyConfig, squashed_sample
from pyrl.agents.off_policy import td_report
from pyrl.agents.registry import register
from pyrl.agents.sac import soft_value
from pyrl.engine.step import LossReport, Step
from pyrl.nets.mlp import mlp
from pyrl.types import Array, Batch, map_observation


@dataclasses.dataclass(frozen=True, kw_only=True)
class CrossQConfig(EntropyConfig):
    """Defaults as in sb3-contrib. The paper's critics have layers of 2048."""

    learning_rate: Rate = 1e-3  # of every Adam; "linear_1e-3" falls to zero over the run
    policy_delay: Count = 3  # updates of the critics for one of the actor and the temperature
    net_arch: Layers | PartLayers = dataclasses.field(default_factory=lambda: {"actor": (256, 256), "critic": (1024, 1024)})


class BatchRenorm(nn.Module):
    """Batch renormalisation of [B, size]: in training mode by the batch, corrected to the running moments as far as r and d may go, else by
    the running moments. In its first ``warm_up`` batches r = 1 and d = 0, which is batch normalisation."""

    running_mean: Tensor
    running_var: Tensor
    batches: Tensor

    def __init__(
        self, size: int, *, momentum: float = 0.99, epsilon: float = 1e-3, r_max: float = 3.0, d_max: float = 5.0, warm_up: int = 100_000
    ) -> None:
        super().__init__()
        self.momentum, self.epsilon, self.r_max, self.d_max, self.warm_up = momentum, epsilon, r_max, d_max, warm_up
        self.weight, self.bias = nn.Parameter(torch.ones(size)), nn.Parameter(torch.zeros(size))
        self.register_buffer("running_mean", torch.zeros(size))
        self.register_buffer("running_var", torch.ones(size))
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        """gamma (x-hat r + d) + beta, x-hat = (x - mu_B) / sigma_B: batch normalisation of gain gamma r and shift gamma d + beta."""
        if not self.training:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.epsilon)
        with torch.no_grad():
            var, mean = torch.var_mean(x, 0, correction=0)
            running_std = (self.running_var + self.epsilon).sqrt()
            is_warm = self.batches >= self.warm_up
            r = ((var + self.epsilon).sqrt() / running_std).clamp(1.0 / self.r_max, self.r_max).where(is_warm, 1.0)
            d = ((mean - self.running_mean) / running_std).clamp(-self.d_max, self.d_max).where(is_warm, 0.0)
            self.running_mean.lerp_(mean, 1.0 - self.momentum)
            self.running_var.lerp_(var, 1.0 - self.momentum)
            self.batches += 1
        return F.batch_norm(x, None, None, self.weight * r, self.weight * d + self.bias, training=True, eps=self.epsilon)


def renormalized_mlp(sizes: Sequence[int], activation: Any) -> nn.Sequential:
    """An `mlp` with a `BatchRenorm` before each linear layer."""
    layers = [[BatchRenorm(layer.in_features), layer] if isinstance(layer, nn.Linear) else [layer] for layer in mlp(sizes, activation)]
    return nn.Sequential(*(layer for group in layers for layer in group))


@contextmanager
def mode(network: nn.Module, *, training: bool) -> Iterator[None]:
    """Training or evaluation mode of ``network``, and the one before afterwards."""
    before = network.training
    network.train(training)
    try:
        yield
    finally:
        network.train(before)


@register("crossq")
class CrossQ(EntropyAgent):
    """Box actions with finite bounds, any observation that the encoder takes. It has no native form."""

    Config = CrossQConfig

    def __init__(self, observation_space: spaces.Space, action_space: spaces.Space, config: CrossQConfig, seed: int, num_envs: int) -> None:
        super().__init__(observation_space, action_space, config, seed, num_envs)
        self.actor, self.critic = self.make_networks(2, LOG_STD_RANGE, make_critic=renormalized_mlp)
        self.critic.eval()
        self.critic_step = Step(self.trainable("critic", self.critic), self.critic_loss)
        self.actor_step = Step(self.trainable("actor", self.actor), self.actor_loss)
        self.updater = self.make_updater(self.critic_step, self.actor_step, self.temperature_step)

    def usual_optimizer(self) -> tuple[str, dict[str, Any]]:
        return "adam", {"betas": (0.5, 0.999)}

    def update_data(self, batch: Batch) -> tuple[Any, ...]:
        """Noise [B, A] of the next actions and of the actions, and whether the policy moves too."""
        return *super().update_data(batch), (self.updates + 1) % self.config.policy_delay == 0

    def update(self, batch: Batch, next_xi: Array, xi: Array, moves_policy: bool) -> LossReport:  # type: ignore[override]
        """The critics' step, then, every policy_delay-th time, the actor's and the temperature's."""
        alpha = self.temperature.alpha
        report = {**self.critic_step(batch, next_xi, alpha), "train/temperature": alpha.squeeze()}
        if moves_policy:
            report |= self.actor_step(batch, xi, alpha)
            if self.learns_temperature:
                self.temperature_step(report["train/entropy"])
        return report

    def critic_loss(self, batch: Batch, xi: Tensor, alpha: Tensor) -> tuple[Tensor, LossReport]:
        """E[(Q_i(o, a) - y)^2] / 2 of a batch [B, ...] with noise xi [B, A] for a', summed over i; it, and the mean of Q."""
        with torch.no_grad():
            mean, log_std = self.actor(batch.next_observation)
            next_action, next_log_prob = squashed_sample(mean, log_std, xi)
        both = map_observation(lambda now, following: torch.cat([now, following]), batch.observation, batch.next_observation)
        with mode(self.critic, training=True):
            q, next_q = self.critic(both, torch.cat([batch.action, next_action])).chunk(2, dim=1)
        target = bellman_target(batch.reward, batch.discount, soft_value(next_q.detach(), next_log_prob, alpha))
        loss = critic_loss(q, target, batch.weight, coefficient=0.5)
        return loss, {"loss/critic": loss, "train/q_mean": q.mean(), **td_report(q, target, batch)}

    def actor_loss(self, batch: Batch, xi: Tensor, alpha: Tensor) -> tuple[Tensor, LossReport]:
        """E[alpha log pi(a|o) - min_i Q_i(o, a)] with the action of noise xi [B, A]; it, and the entropy [] of pi."""
        mean, log_std = self.actor(batch.observation)
        action, log_prob = squashed_sample(mean, log_std, xi)
        with mode(self.critic, training=False):
            loss = -soft_value(self.critic(batch.observation, action), log_prob, alpha).mean()
        return loss, {"loss/actor": loss, "train/entropy": -log_prob.mean()}
