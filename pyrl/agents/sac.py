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
alpha log pi(a|o) - min_i Q_i(o, a) through a = tanh(mean + std * xi) (eq. 7 and 9); alpha descends -alpha (log pi + H-bar) (eq. 18).
"""

from __future__ import annotations

import copy
import dataclasses
import math
from typing import Annotated, Any, Literal

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn
from torch.nn import functional as F

from pyrl import ops
from pyrl.agents.base import seeded_network
from pyrl.agents.checks import Rate, Starts
from pyrl.agents.ddpg import bellman_target, critic_loss
from pyrl.agents.off_policy import ContinuousAgent, ContinuousConfig, native_action_gradient, native_critic_step
from pyrl.agents.registry import register
from pyrl.engine.arena import Arena, polyak
from pyrl.engine.native import Native
from pyrl.engine.rollback import Atomic
from pyrl.engine.update import Report, Update
from pyrl.nets.actor_critic_continuous import Critics, GaussianActor
from pyrl.nets.distributions import LOG_SQRT_2PI
from pyrl.nets.noise import standard_normal
from pyrl.schedules import value_at
from pyrl.types import Batch, Observation


@dataclasses.dataclass(frozen=True, kw_only=True)
class SACConfig(ContinuousConfig):
    """Defaults as in Stable-Baselines3."""

    # alpha, the temperature; "auto": learned, from 1 on; "auto_0.1": from 0.1 on
    ent_coef: Literal["auto"] | Annotated[str, Starts("auto_")] | Rate = "auto"
    target_entropy: float | Literal["auto"] = "auto"  # H-bar, of the actions in [-1, 1]; "auto": minus the number of action dimensions


def is_learned(ent_coef: Any) -> bool:
    """Whether alpha is learned, not told."""
    return isinstance(ent_coef, str) and ent_coef.startswith("auto")


def temperature_at(ent_coef: Any, progress: float) -> float:
    """alpha: where it is learned, its first value. At least 1e-30, as its logarithm is what is kept."""
    if ent_coef == "auto":
        return 1.0
    return max(float(ent_coef.removeprefix("auto_")) if is_learned(ent_coef) else value_at(ent_coef, progress), 1e-30)


def squashed_sample(mean: Tensor, log_std: Tensor, xi: Tensor) -> tuple[Tensor, Tensor]:
    """a = tanh(u), u = mean + std * xi, and log pi(a|o) = sum log N(u) - log(1 - tanh(u)^2) (appendix C). [B, A] -> [B, A], [B].

    log(1 - tanh(u)^2) = 2 (log 2 - u - softplus(-2u)), which neither overflows nor loses digits at the bounds.
    """
    u = torch.addcmul(mean, log_std.exp(), xi)
    log_prob = torch.addcmul(2.0 * (u + F.softplus(-2.0 * u)) - log_std, xi, xi, value=-0.5)
    constant = mean.shape[1] * (LOG_SQRT_2PI + 2.0 * math.log(2.0))
    return torch.tanh(u), log_prob.sum(1) - constant


def soft_value(q: Tensor, log_prob: Tensor, alpha: Tensor) -> Tensor:
    """V(o) = min_i Q_i(o, a) - alpha log pi(a|o), eq. 3, the target's bootstrap. q [2, B] -> [B]."""
    return q.min(0).values - alpha * log_prob


def temperature_loss(log_alpha: Tensor, entropy: Tensor, target_entropy: float) -> Tensor:
    """log alpha (H - H-bar), H = -E[log pi]: eq. 18 with log alpha for alpha, as its authors' code has it; the gradient's sign is the
    same. log_alpha [1], entropy [] -> []."""
    return log_alpha.squeeze() * (entropy - target_entropy)


class Temperature(nn.Module):
    """log_alpha [1], kept in logarithm so that alpha stays positive."""

    def __init__(self, alpha: float) -> None:
        super().__init__()
        self.log_alpha = nn.Parameter(torch.full((1,), math.log(alpha)))

    @property
    def alpha(self) -> Tensor:
        return self.log_alpha.detach().exp()

    @torch.no_grad()
    def set(self, alpha: float) -> None:
        self.log_alpha.fill_(math.log(alpha))


@register("sac")
class SAC(ContinuousAgent):
    """Box actions with finite bounds, any observation that the encoder takes."""

    Config = SACConfig

    def __init__(self, observation_space: spaces.Space, action_space: spaces.Space, config: SACConfig, seed: int, num_envs: int) -> None:
        super().__init__(observation_space, action_space, config, seed, num_envs)
        shape = (observation_space, self.scale.size, config.net_arch, config.activation)
        images: Any = {"features_extractor": config.features_extractor}
        networks: Any = seeded_network(
            seed, lambda: nn.ModuleList([GaussianActor(*shape, **images), Critics(*shape, 2, **images)]), self.device, config.precision
        )
        self.actor, self.critic = networks
        self.target_critic = copy.deepcopy(self.critic).requires_grad_(False)
        self.temperature = Temperature(temperature_at(config.ent_coef, 0.0)).to(self.device)
        self.target_entropy = -float(self.scale.size) if config.target_entropy == "auto" else float(config.target_entropy)
        self.learns_temperature = is_learned(config.ent_coef)
        self.actor_arena, self.critic_arena = self.adam_arena(self.actor), self.adam_arena(self.critic)
        self.target_critic_arena, self.temperature_arena = Arena(self.target_critic), self.adam_arena(self.temperature)
        self.native_actor, self.native_critic = (
            Native(self.actor_arena, self.actor.network),
            Native(self.critic_arena, *self.critic.networks),
        )
        self.native_target_critic = Native(self.target_critic_arena, *self.target_critic.networks)
        self.native_temperature = Native(self.temperature_arena)
        self.atomic = Atomic(self.critic_arena, self.actor_arena)
        self.engine = self.choose_engine(native=self.native_actor.possible)
        arenas = self.critic_arena, self.actor_arena, self.temperature_arena, self.target_critic_arena
        self.run = self.runner(*arenas, atomic=self.atomic)
        self.critic_update = Update(self.critic_arena, self.critic_loss, compiled=self.engine == "compile")
        self.actor_update = Update(self.actor_arena, self.actor_loss, compiled=self.engine == "compile")
        self.temperature_update = Update(self.temperature_arena, self.temperature_loss, compiled=self.engine == "compile")

    def modules(self) -> dict[str, nn.Module]:
        networks = {"actor": self.actor, "critic": self.critic, "target_critic": self.target_critic}
        return {**networks, "temperature": self.temperature}

    def optimizers(self) -> dict[str, Any]:
        arenas = {"actor": self.actor_arena, "critic": self.critic_arena, "temperature": self.temperature_arena}
        return {name: arena.optimizer for name, arena in arenas.items()}

    def choose(self, observation: Observation, deterministic: bool) -> Tensor:
        """A draw from pi, or tanh(mean)."""
        mean, log_std = self.actor(observation)
        if deterministic:
            return torch.tanh(mean)
        xi = torch.from_numpy(standard_normal(mean.shape, self.random)).to(mean.device)
        return torch.tanh(mean + log_std.exp() * xi)

    def native_choose(self, observation: np.ndarray, deterministic: bool) -> np.ndarray:
        output = self.native_actor.networks[0].infer(self.native_actor.parameters, observation)
        shape = len(output), self.scale.size
        xi = np.zeros(shape, output.dtype) if deterministic else standard_normal(shape, self.random).astype(output.dtype, copy=False)
        return ops.squashed_gaussian(output, xi, log_std_range=self.actor.log_std_range)[0]

    def critic_loss(
        self,
        observation: Observation,
        action: Tensor,
        reward: Tensor,
        discount: Tensor,
        next_observation: Observation,
        xi: Tensor,
        alpha: Tensor,
    ) -> tuple[Tensor, Report]:
        """Eq. 5 of a batch [B, ...] with noise xi [B, A] for a', and a report: it, and the mean of Q."""
        with torch.no_grad():
            mean, log_std = self.actor(next_observation)
            next_action, next_log_prob = squashed_sample(mean, log_std, xi)
            next_value = soft_value(self.target_critic(next_observation, next_action), next_log_prob, alpha)
            target = bellman_target(reward, discount, next_value)
        q = self.critic(observation, action)
        loss = critic_loss(q, target, coefficient=0.5)
        return loss, (loss, q.mean())

    def actor_loss(self, observation: Observation, xi: Tensor, alpha: Tensor) -> tuple[Tensor, Report]:
        """Eq. 7 with the reparameterised action of noise xi [B, A], and a report: it, and log pi [B]."""
        mean, log_std = self.actor(observation)
        action, log_prob = squashed_sample(mean, log_std, xi)
        loss = (alpha * log_prob - self.critic(observation, action).min(0).values).mean()
        return loss, (loss, log_prob)

    def temperature_loss(self, entropy: Tensor) -> tuple[Tensor, Report]:
        """Eq. 18 for the entropy [] of pi."""
        loss = temperature_loss(self.temperature.log_alpha, entropy, self.target_entropy)
        return loss, (loss,)

    def natives(self) -> tuple[Native, ...]:
        return self.native_actor, self.native_critic, self.native_target_critic

    def learn(self, batch: Batch) -> dict[str, float]:
        if not (self.learns_temperature or isinstance(self.config.ent_coef, float)):
            self.temperature.set(temperature_at(self.config.ent_coef, self.progress))
        return super().learn(batch)

    def torch_update(self, batch: Batch) -> dict[str, float]:
        data = self.prepare(batch)
        return self.run(self.tensor_update, *data, self.drawn(data[1]), self.drawn(data[1]))

    def tensor_update(
        self,
        observation: Observation,
        action: Tensor,
        reward: Tensor,
        discount: Tensor,
        next_observation: Observation,
        next_xi: Tensor,
        xi: Tensor,
    ) -> dict[str, Tensor]:
        """The critics' step, the actor's, the temperature's, and the average."""
        alpha = self.temperature.alpha
        critic_loss, q_mean = self.critic_update(observation, action, reward, discount, next_observation, next_xi, alpha)
        actor_loss, log_prob = self.actor_update(observation, xi, alpha)
        entropy = -log_prob.mean()
        if self.learns_temperature:
            self.temperature_update(entropy)
        polyak(self.target_critic_arena, self.critic_arena, self.config.tau)
        return {
            "loss/critic": critic_loss,
            "loss/actor": actor_loss,
            "train/entropy": entropy,
            "train/temperature": alpha.squeeze(),
            "train/q_mean": q_mean,
        }

    def native_update(self, batch: Batch) -> dict[str, float]:
        """The same step by hand: y, the critics' step, the actor's through min Q and log pi, the temperature's, the average."""
        observation, action, reward, discount, next_observation = self.native_prepare(batch)
        actor, critic, target, span = self.native_actor, self.native_critic, self.native_target_critic, self.actor.log_std_range
        alpha = self.temperature.alpha.item()
        next_xi, xi = (self.normal(action.shape, action.dtype) for _ in range(2))

        output = actor.networks[0].infer(actor.parameters, next_observation)
        next_action, next_log_prob = ops.squashed_gaussian(output, next_xi, log_std_range=span)
        next_q = [network.infer(target.parameters, next_observation, next_action)[:, 0] for network in target.networks]
        y = reward + discount * (np.minimum(*next_q) - alpha * next_log_prob)
        critic_loss, q_mean = native_critic_step(critic, observation, action, y, coefficient=0.5)

        output = actor.networks[0].forward(actor.parameters, observation)
        action, log_prob = ops.squashed_gaussian(output, xi, log_std_range=span)
        q, d_action = native_action_gradient(critic, observation, action)
        d_output = ops.squashed_gaussian_backward(output, xi, action, d_action, alpha / len(action), log_std_range=span)
        actor.networks[0].backward(actor.parameters, actor.gradients, d_output)
        actor.step(None)

        mean_log_prob = float(log_prob.mean())
        if self.learns_temperature:
            self.temperature_arena.sync()
            self.temperature_arena.gradients[0] = -(mean_log_prob + self.target_entropy)
            self.native_temperature.step(None)
        polyak(self.target_critic_arena, self.critic_arena, self.config.tau)
        return {
            "loss/critic": critic_loss,
            "loss/actor": alpha * mean_log_prob - float(q.mean()),
            "train/entropy": -mean_log_prob,
            "train/temperature": alpha,
            "train/q_mean": q_mean,
        }
