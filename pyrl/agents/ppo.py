"""Proximal policy optimisation, the clipped form (Schulman et al. 2017, arXiv:1707.06347).

    symbol        here                   shape
    r_t(theta)    ratio                  [B]      pi(a|o) / pi_old(a|o)
    A_t           advantage              [B]      GAE(gamma, lambda) (Schulman et al. 2016, eq. 16), from pyrl.ops.gae
    V(o_t)        value                  [B]
    R_t           return_                [B]      advantage + value, the target of V
    epsilon       clip_range
    c_1, c_2      vf_coef, ent_coef

The data of one rollout serve n_epochs passes in minibatches of batch_size; eq. 9 is the loss of each.
"""

from __future__ import annotations

import dataclasses
from typing import cast

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from pyrl import ops
from pyrl.agents.base import Agent, AgentConfig, check_layers, check_range, check_spaces, register, seeded_network, tensors
from pyrl.nets.arena import Arena
from pyrl.nets.heads import ActorCritic
from pyrl.nets.mlp import Activation
from pyrl.nets.update import Report, Update
from pyrl.schedules import Schedule, check_schedule, value_at
from pyrl.types import Array, Observation, Rollout, map_observation


@dataclasses.dataclass(frozen=True, kw_only=True)
class PPOConfig(AgentConfig):
    """Defaults as in Stable-Baselines3."""

    learning_rate: Schedule = 3e-4  # of Adam; "linear_3e-4" falls to zero over the run
    n_steps: int = 2048  # T, steps of each environment between two updates
    batch_size: int = 64  # minibatch
    n_epochs: int = 10  # passes over a rollout
    gae_lambda: float = 0.95  # lambda of GAE, in [0, 1]
    clip_range: Schedule = 0.2  # epsilon of the surrogate
    clip_range_vf: float | None = None  # epsilon of the value clip; None: off
    normalize_advantage: bool = True  # to zero mean and unit variance in each minibatch
    ent_coef: float = 0.0  # c_2
    vf_coef: float = 0.5  # c_1
    max_grad_norm: float = 0.5  # clip of the gradient's global norm
    target_kl: float | None = None  # stop the passes over a rollout when the KL estimate exceeds 1.5 times this; None: off
    net_arch: tuple[int, ...] = (64, 64)  # hidden layers of actor and critic each
    activation: Activation = "tanh"
    log_std_init: float = 0.0  # of continuous actions

    def __post_init__(self) -> None:
        super().__post_init__()
        check_layers(self)
        for name in ("n_steps", "batch_size", "n_epochs"):
            check_range(self, name, 1, None)
        check_range(self, "gae_lambda", 0.0, 1.0)
        check_schedule("PPOConfig: learning_rate", self.learning_rate)
        check_schedule("PPOConfig: clip_range", self.clip_range)


def clipped_surrogate(log_prob: Tensor, log_prob_old: Tensor, advantage: Tensor, epsilon: Tensor) -> Tensor:
    """L^CLIP, eq. 7: E[min(r A, clip(r, 1 - epsilon, 1 + epsilon) A)], to be maximised. All [B]."""
    r = torch.exp(log_prob - log_prob_old)
    return torch.min(r * advantage, torch.clamp(r, 1.0 - epsilon, 1.0 + epsilon) * advantage).mean()


def value_loss(value: Tensor, value_old: Tensor, return_: Tensor, epsilon: float | None) -> Tensor:
    """L^VF, eq. 9: E[(V - R)^2], with V kept within epsilon of its old value if asked. All [B]."""
    if epsilon is not None:
        value = value_old + torch.clamp(value - value_old, -epsilon, epsilon)
    return (value - return_).square().mean()


def approximate_kl(log_prob: Tensor, log_prob_old: Tensor) -> Tensor:
    """E[r - 1 - log r], the low-variance estimate of KL(old, new) (Schulman 2020, joschu.net/blog/kl-approx.html)."""
    log_r = log_prob - log_prob_old
    return (torch.exp(log_r) - 1.0 - log_r).mean()


def standardized(advantage: Tensor) -> Tensor:
    """Zero mean, unit variance; a single value is left alone."""
    return (advantage - advantage.mean()) / (advantage.std() + 1e-8) if len(advantage) > 1 else advantage


@register("ppo")
class PPO(Agent):
    """Discrete, multi-discrete and continuous actions."""

    loop = "on_policy"
    Config = PPOConfig

    def __init__(self, observation_space: spaces.Space, action_space: spaces.Space, config: PPOConfig, seed: int, num_envs: int) -> None:
        check_spaces("ppo", action_space, (spaces.Discrete, spaces.MultiDiscrete, spaces.Box))
        super().__init__(observation_space, action_space, config, seed, num_envs)
        if config.batch_size > config.n_steps * num_envs:
            held = f"n_steps * num_envs = {config.n_steps * num_envs}"
            raise ValueError(f"ppo: batch_size is {config.batch_size}, but a rollout holds only {held} transitions")

        def build() -> ActorCritic:
            return ActorCritic(observation_space, action_space, config.net_arch, config.activation, config.log_std_init)

        self.network = cast(ActorCritic, seeded_network(seed, build))
        self.arena = Arena(self.network)
        self.optimizer = torch.optim.Adam([self.arena.values], lr=value_at(config.learning_rate, 0.0), eps=1e-5, fused=True)
        self.arena.optimizer = self.optimizer
        self.update = Update(self.arena, self.loss, max_grad_norm=config.max_grad_norm, compiled=config.engine == "compile")
        self.minibatches = ops.RandomStream(seed, "minibatches")

    def modules(self) -> dict[str, torch.nn.Module]:
        return {"network": self.network}

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        return {"optimizer": self.optimizer}

    def streams(self) -> dict[str, ops.RandomStream]:
        return {**super().streams(), "minibatches": self.minibatches}

    @torch.no_grad()
    def policy(self, observation: Observation, deterministic: bool = False) -> dict[str, Array]:
        """log_prob is kept for the ratio; V is not: `learn` computes it for the whole rollout at once, with the same weights."""
        output = self.network.policy(tensors(self.normalizer.observation(observation)))
        action, log_prob = self.network.distribution.sample(output, self.network.log_std, self.random, deterministic)
        return {"action": action.numpy(), "log_prob": log_prob.numpy()}

    def loss(
        self,
        observation: Observation,
        action: Tensor,
        log_prob_old: Tensor,
        value_old: Tensor,
        advantage: Tensor,
        return_: Tensor,
        epsilon: Tensor,
    ) -> tuple[Tensor, Report]:
        """Eq. 9, negated, of a minibatch [B, ...], and a report: its three terms and the KL estimate."""
        config = self.config
        output, value = self.network(observation)
        log_prob, entropy = self.network.distribution.log_prob_and_entropy(output, self.network.log_std, action)
        A = standardized(advantage) if config.normalize_advantage else advantage
        policy_loss = -clipped_surrogate(log_prob, log_prob_old, A, epsilon)
        critic_loss = value_loss(value, value_old, return_, config.clip_range_vf)
        mean_entropy = entropy.mean()
        loss = policy_loss + config.vf_coef * critic_loss - config.ent_coef * mean_entropy
        return loss, (policy_loss, critic_loss, mean_entropy, approximate_kl(log_prob, log_prob_old))

    def learn(self, rollout: Rollout) -> dict[str, float]:
        config = self.config
        learning_rate, epsilon = value_at(config.learning_rate, self.progress), value_at(config.clip_range, self.progress)
        self.optimizer.param_groups[0]["lr"] = learning_rate
        data = self._prepare(rollout)
        reports: list[Tensor] = []
        epochs, kl = 0, 0.0
        for _ in range(config.n_epochs):
            order = torch.from_numpy(ops.permutation(len(data[1]), self.minibatches)).split(config.batch_size)
            reports += [torch.stack(self.update(*(_rows(column, index) for column in data), torch.tensor(epsilon))) for index in order]
            self.updates += len(order)
            epochs += 1
            kl = float(torch.stack(reports[-len(order) :])[:, 3].mean())
            if config.target_kl is not None and kl > 1.5 * config.target_kl:
                break
        policy_loss, critic_loss, entropy, _ = torch.stack(reports).mean(0).tolist()
        return {
            "loss/policy": policy_loss,
            "loss/value": critic_loss,
            "loss/entropy": entropy,
            "train/kl": kl,
            "train/epochs": epochs,
            "train/explained_variance": 1.0 - float((data[5] - data[3]).var() / data[5].var().clamp_min(1e-8)),
            "train/learning_rate": learning_rate,
        }

    @torch.no_grad()
    def _prepare(self, rollout: Rollout) -> tuple[Observation, ...]:
        """Observations, actions, log_prob_old, V_old, A and R of the valid steps, each [B, ...]."""
        T, N = rollout.reward.shape
        observation = tensors(self.normalizer.observation(rollout.observation))
        value = self.network.value(map_observation(lambda x: x.flatten(0, 1), observation)).view(T + 1, N)
        final_value = torch.zeros(T, N)
        if len(rollout.final_step):
            final = tensors(self.normalizer.observation(rollout.final_observation))
            final_value[rollout.final_step, rollout.final_env] = self.network.value(final)
        advantage, return_ = ops.gae(
            torch.from_numpy(self.normalizer.reward(rollout.reward)), value, None,
            torch.from_numpy(rollout.terminated), torch.from_numpy(rollout.truncated),
            gamma=self.config.gamma, gae_lambda=self.config.gae_lambda, final_value=final_value, valid=torch.from_numpy(rollout.valid),
        )  # fmt: skip
        columns = (
            map_observation(lambda x: x[:T], observation),
            *map(torch.from_numpy, (rollout.action, rollout.extra["log_prob"])),
            value[:T],
            advantage,
            return_,
        )
        flat = [map_observation(lambda x: x.flatten(0, 1), column) for column in columns]
        if rollout.valid.all():
            return tuple(flat)
        keep = torch.from_numpy(np.flatnonzero(rollout.valid))
        return tuple(_rows(column, keep) for column in flat)


def _rows(column: Observation, index: Tensor) -> Observation:
    return map_observation(lambda x: x.index_select(0, index), column)
