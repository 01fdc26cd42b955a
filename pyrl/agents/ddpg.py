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

import copy
import dataclasses
from typing import Any, ClassVar

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn
from torch.nn import functional as F

from pyrl.agents.base import AgentConfig, seeded_network
from pyrl.agents.checks import Layers, Rate, Weight
from pyrl.agents.off_policy import ContinuousAgent, ContinuousConfig, native_critic_step
from pyrl.agents.registry import register
from pyrl.engine.arena import Arena, polyak
from pyrl.engine.native import Native
from pyrl.engine.rollback import Atomic
from pyrl.engine.update import Report, Update
from pyrl.nets.actor_critic_continuous import Actor, Critics
from pyrl.types import Batch, Observation


@dataclasses.dataclass(frozen=True, kw_only=True)
class DDPGConfig(ContinuousConfig):
    """Defaults as in Stable-Baselines3, but for the noise, which it leaves out."""

    learning_rate: Rate = 1e-3  # of both Adams; "linear_1e-3" falls to zero over the run
    noise_std: Weight = 0.1  # of exploration, where every action has the range [-1, 1]
    net_arch: Layers = (400, 300)  # hidden layers of actor and critic each


def bellman_target(reward: Tensor, discount: Tensor, next_value: Tensor) -> Tensor:
    """y = r + discount * Q'(o', a'), eq. 5. All [B]."""
    return reward + discount * next_value


def critic_loss(q: Tensor, target: Tensor, coefficient: float = 1.0) -> Tensor:
    """L = E[(Q(o, a) - y)^2], eq. 4, summed over the critics, times ``coefficient``. q [count, B], target [B]."""
    return coefficient * len(q) * F.mse_loss(q, target.expand_as(q))


@register("ddpg")
class DDPG(ContinuousAgent):
    """Box actions with finite bounds, any observation that the encoder takes."""

    Config: ClassVar[type[AgentConfig]] = DDPGConfig
    num_critics: ClassVar[int] = 1

    def __init__(self, observation_space: spaces.Space, action_space: spaces.Space, config: DDPGConfig, seed: int, num_envs: int) -> None:
        super().__init__(observation_space, action_space, config, seed, num_envs)
        shape = (observation_space, self.scale.size, config.net_arch, config.activation)
        images: Any = {"features_extractor": config.features_extractor}
        networks: Any = seeded_network(
            seed,
            lambda: nn.ModuleList([Actor(*shape, **images), Critics(*shape, self.num_critics, **images)]),
            self.device,
            config.precision,
        )
        self.actor, self.critic = networks
        self.target_actor, self.target_critic = copy.deepcopy(networks).requires_grad_(False)
        self.actor_arena, self.critic_arena = self.adam_arena(self.actor), self.adam_arena(self.critic)
        self.target_actor_arena, self.target_critic_arena = Arena(self.target_actor), Arena(self.target_critic)
        self.native_actor, self.native_critic = (
            Native(self.actor_arena, self.actor.network),
            Native(self.critic_arena, *self.critic.networks),
        )
        self.native_target_actor = Native(self.target_actor_arena, self.target_actor.network)
        self.native_target_critic = Native(self.target_critic_arena, *self.target_critic.networks)
        self.atomic = Atomic(self.critic_arena)
        self.engine = self.choose_engine(native=self.native_actor.possible)
        arenas = self.critic_arena, self.actor_arena, self.target_actor_arena, self.target_critic_arena
        self.run = self.runner(*arenas, atomic=self.atomic)
        self.critic_update = Update(self.critic_arena, self.critic_loss, compiled=self.engine == "compile")
        self.actor_update = Update(self.actor_arena, self.actor_loss, compiled=self.engine == "compile")

    def modules(self) -> dict[str, nn.Module]:
        return {"actor": self.actor, "critic": self.critic, "target_actor": self.target_actor, "target_critic": self.target_critic}

    def optimizers(self) -> dict[str, Any]:
        return {"actor": self.actor_arena.optimizer, "critic": self.critic_arena.optimizer}

    def choose(self, observation: Observation, deterministic: bool) -> Tensor:
        """mu(o)"""
        return self.actor(observation)

    def native_choose(self, observation: np.ndarray, deterministic: bool) -> np.ndarray:
        return self.native_actor.networks[0].infer(self.native_actor.parameters, observation)

    def critic_loss(
        self, observation: Observation, action: Tensor, reward: Tensor, discount: Tensor, next_observation: Observation
    ) -> tuple[Tensor, Report]:
        """Eq. 4 of a batch [B, ...], and a report: it, and the mean of Q."""
        with torch.no_grad():
            next_q = self.target_critic.first(next_observation, self.target_actor(next_observation))
            target = bellman_target(reward, discount, next_q)
        q = self.critic(observation, action)
        loss = critic_loss(q, target)
        return loss, (loss, q.mean())

    def actor_loss(self, observation: Observation) -> tuple[Tensor, Report]:
        """-E[Q(o, mu(o))], whose gradient is eq. 6, negated."""
        loss = -self.critic.first(observation, self.actor(observation)).mean()
        return loss, (loss,)

    def torch_update(self, batch: Batch) -> dict[str, float]:
        return self.run(self.tensor_update, *self.prepare(batch))

    def tensor_update(
        self, observation: Observation, action: Tensor, reward: Tensor, discount: Tensor, next_observation: Observation
    ) -> dict[str, Tensor]:
        """The critic's step, the actor's step, the averages."""
        loss, q_mean = self.critic_update(observation, action, reward, discount, next_observation)
        (actor_loss,) = self.actor_update(observation)
        self.update_targets()
        return {"loss/critic": loss, "loss/actor": actor_loss, "train/q_mean": q_mean}

    def native_update(self, batch: Batch) -> dict[str, float]:
        """The same step by hand: y, the critic's step, the actor's step, the averages."""
        observation, action, reward, discount, next_observation = self.native_prepare(batch)
        target_actor, target_critic = self.native_target_actor, self.native_target_critic
        next_action = target_actor.networks[0].infer(target_actor.parameters, next_observation)
        next_q = target_critic.networks[0].infer(target_critic.parameters, next_observation, next_action)[:, 0]
        loss, q_mean = native_critic_step(self.native_critic, observation, action, reward + discount * next_q)
        actor_loss = self.native_actor_step(observation)
        self.update_targets()
        return {"loss/critic": loss, "loss/actor": actor_loss, "train/q_mean": q_mean}

    def native_actor_step(self, observation: np.ndarray) -> float:
        """Along eq. 6: grad_a Q of the first critic, then grad_theta mu."""
        actor, critic = self.native_actor, self.native_critic
        action = actor.networks[0].forward(actor.parameters, observation)
        q = critic.networks[0].forward(critic.parameters, observation, action)
        d_action = np.empty_like(action)
        critic.networks[0].backward(critic.parameters, None, np.full_like(q, -1.0 / len(q)), None, d_action)
        actor.networks[0].backward(actor.parameters, actor.gradients, d_action)
        actor.step(None)
        return -float(q.mean())

    def natives(self) -> tuple[Native, ...]:
        return self.native_actor, self.native_critic, self.native_target_actor, self.native_target_critic

    def update_targets(self) -> None:
        polyak(self.target_actor_arena, self.actor_arena, self.config.tau)
        polyak(self.target_critic_arena, self.critic_arena, self.config.tau)
