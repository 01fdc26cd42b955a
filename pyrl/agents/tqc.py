"""Truncated quantile critics (Kuznetsov et al. 2020, arXiv:2005.04269): SAC whose critics foresee the distribution of the return.

    symbol                here                  shape
    pi, alpha, H-bar      actor, temperature, target_entropy      as in SAC (`pyrl.agents.entropy`)
    theta_n^m(o, a)       critic, atoms         [N, B, M]   atom m of critic n: the quantile tau_m of the return
    theta'_n^m            target_critic         [N, B, M]   slow copies
    tau_m                 fractions             [M]         (2 m - 1) / 2 M, m = 1 .. M
    z_(1) <= z_(2) ..     kept                  [B, k N]    the k N smallest of all N M atoms at (o', a'), k = M - d
    d                     top_quantiles_to_drop_per_net
    y_i                   target                [B, k N]    r + discount * (z_(i) - alpha log pi(a'|o')), a' ~ pi(.|o')

The atoms of all critics are pooled, and the highest dropped (section 3.2, eq. 11): how much the target underestimates is set by d, whatever
N is, where a minimum over critics has one step for each critic. Every critic descends the quantile Huber loss to all y_i (section 3.3),
rho_tau(u) = |tau - 1(u < 0)| Huber(u), u = y_i - theta_n^m, the mean over m and i. The actor descends alpha log pi(a|o) minus the mean of
all atoms: nothing is dropped there. With one atom a critic and d = 0 this is an ensemble of medians.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated

import torch
from gymnasium import spaces
from torch import Tensor
from torch.nn import functional as F

from pyrl.agents.checks import Range, Tau, check_range
from pyrl.agents.ddpg import bellman_target
from pyrl.agents.entropy import LOG_STD_RANGE, EntropyAgent, EntropyConfig, squashed_sample
from pyrl.agents.off_policy import td_report
from pyrl.agents.registry import register
from pyrl.engine.step import LossReport, Step
from pyrl.types import Array, Batch


@dataclasses.dataclass(frozen=True, kw_only=True)
class TQCConfig(EntropyConfig):
    """Defaults as in sb3-contrib. The paper has five critics of three layers of 512, and a d of 0 to 5 by environment."""

    tau: Tau = 0.005  # Polyak factor of the target networks, after each update
    n_critics: Annotated[int, Range(1, 100)] = 2  # N
    n_quantiles: Annotated[int, Range(1, 10_000)] = 25  # M, atoms of each critic
    top_quantiles_to_drop_per_net: Annotated[int, Range(0, 9_999)] = 2  # d, below M: d N atoms are left out of the target

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, "top_quantiles_to_drop_per_net", 0, self.n_quantiles - 1)


def truncated(atoms: Tensor, drop: int) -> Tensor:
    """z_(1) .. z_(k N): the atoms of all critics but the ``drop`` N highest, in order. [N, B, M] -> [B, k N], k = M - drop."""
    N, B, M = atoms.shape
    return atoms.transpose(0, 1).reshape(B, N * M).sort(1).values[:, : N * (M - drop)]


def quantile_huber_loss(atoms: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """E[w mean_m,i rho_(tau_m)(y_i - theta^m)], summed over the critics. atoms [N, B, M], target [B, K], weight [B] -> []."""
    fractions = (torch.arange(atoms.shape[2], dtype=atoms.dtype, device=atoms.device) + 0.5) / atoms.shape[2]
    theta, y = torch.broadcast_tensors(atoms[..., None], target[None, :, None, :])  # [N, B, M, K]
    huber = F.smooth_l1_loss(theta, y, reduction="none")  # of u = y - theta: u^2 / 2 within 1, |u| - 1/2 beyond
    tau = fractions[:, None]
    loss = (torch.where(y < theta.detach(), 1.0 - tau, tau) * huber).mean((2, 3)).sum(0)  # [B]
    return loss.mean() if weight is None else (weight * loss).mean()


@register("tqc")
class TQC(EntropyAgent):
    """Box actions with finite bounds, any observation that the encoder takes. It has no native form."""

    Config = TQCConfig

    def __init__(self, observation_space: spaces.Space, action_space: spaces.Space, config: TQCConfig, seed: int, num_envs: int) -> None:
        super().__init__(observation_space, action_space, config, seed, num_envs)
        self.actor, self.critic = self.make_networks(config.n_critics, LOG_STD_RANGE, num_outputs=config.n_quantiles)
        critic, actor = self.trainable("critic", self.critic, target="target_critic"), self.trainable("actor", self.actor)
        self.target_critic = critic.target_network
        self.critic_step, self.actor_step = Step(critic, self.critic_loss), Step(actor, self.actor_loss)
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
        """The quantile Huber loss of a batch [B, ...] with noise xi [B, A] for a'; it, and the mean of Q.

        The td_error of a critic is the mean of its atoms minus the mean of the target's."""
        with torch.no_grad():
            mean, log_std = self.actor(batch.next_observation)
            next_action, next_log_prob = squashed_sample(mean, log_std, xi)
            kept = truncated(self.target_critic(batch.next_observation, next_action), self.config.top_quantiles_to_drop_per_net)
            next_value = kept - alpha * next_log_prob[:, None]
            target = bellman_target(batch.reward[:, None], batch.discount[:, None], next_value)
        atoms = self.critic(batch.observation, batch.action)
        loss = quantile_huber_loss(atoms, target, batch.weight)
        return loss, {"loss/critic": loss, "train/q_mean": atoms.mean(), **td_report(atoms.mean(2), target.mean(1), batch)}

    def actor_loss(self, batch: Batch, xi: Tensor, alpha: Tensor) -> tuple[Tensor, LossReport]:
        """E[alpha log pi(a|o) - mean_n,m theta_n^m(o, a)] with the action of noise xi [B, A]; it, and the entropy [] of pi."""
        mean, log_std = self.actor(batch.observation)
        action, log_prob = squashed_sample(mean, log_std, xi)
        loss = (alpha * log_prob).mean() - self.critic(batch.observation, action).mean()
        return loss, {"loss/actor": loss, "train/entropy": -log_prob.mean()}
