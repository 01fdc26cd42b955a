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

import copy
import dataclasses
import math
from typing import Annotated, Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn
from torch.nn import functional as F

from pyrl import ops
from pyrl.agents.base import seeded_network
from pyrl.agents.checks import Amount, Count, Layers, Range, Rate
from pyrl.agents.ddpg import bellman_target
from pyrl.agents.off_policy import ContinuousAgent, ContinuousConfig, native_action_gradient, native_critic_step
from pyrl.agents.registry import register
from pyrl.engine.arena import Arena, polyak
from pyrl.engine.native import Native
from pyrl.engine.rollback import Atomic
from pyrl.engine.update import Report, Update
from pyrl.nets.actor_critic_continuous import Critics, GaussianActor
from pyrl.nets.noise import standard_normal
from pyrl.types import Batch, Observation


@dataclasses.dataclass(frozen=True, kw_only=True)
class SVGConfig(ContinuousConfig):
    """Rates, replay and batches as in system S0 (docs/results.md), which averages its targets once an episode, not per update."""

    learning_rate: Rate = 1e-3  # of both Adams; "linear_1e-3" falls to zero over the run
    buffer_size: Count = 10_000  # slots of the replay, all environments together
    learning_starts: Amount = 1_000  # transitions stored before the first update
    batch_size: Count = 100
    net_arch: Layers = (256, 128)  # hidden layers of actor and critic each
    std_min: Annotated[float, Range(0, 1, open_low=True)] = 0.1  # least standard deviation of u


def reparameterized(mean: Tensor, log_std: Tensor, eta: Tensor) -> Tensor:
    """a = pi(o, eta) = tanh(mean + std * eta). All [B, A]."""
    return torch.tanh(mean + log_std.exp() * eta)


def critic_loss(q: Tensor, target: Tensor) -> Tensor:
    """E[Huber(Q(o, a) - y)]: d^2 / 2 within 1, |d| - 1/2 beyond (Huber 1964). Both [B]."""
    return F.smooth_l1_loss(q, target)


@register("svg")
class SVG(ContinuousAgent):
    """Box actions with finite bounds, any observation that the encoder takes."""

    Config = SVGConfig

    def __init__(self, observation_space: spaces.Space, action_space: spaces.Space, config: SVGConfig, seed: int, num_envs: int) -> None:
        super().__init__(observation_space, action_space, config, seed, num_envs)
        shape = (observation_space, self.scale.size, config.net_arch, config.activation)
        images: Any = {"features_extractor": config.features_extractor}
        log_std_range = (math.log(config.std_min), 2.0)
        networks: Any = seeded_network(
            seed,
            lambda: nn.ModuleList([GaussianActor(*shape, log_std_range, **images), Critics(*shape, 1, **images)]),
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
        """pi(o, eta), or pi(o, 0)."""
        mean, log_std = self.actor(observation)
        if deterministic:
            return torch.tanh(mean)
        return reparameterized(mean, log_std, torch.from_numpy(standard_normal(mean.shape, self.random)).to(mean.device))

    def native_choose(self, observation: np.ndarray, deterministic: bool) -> np.ndarray:
        output = self.native_actor.networks[0].infer(self.native_actor.parameters, observation)
        shape = len(output), self.scale.size
        eta = np.zeros(shape, output.dtype) if deterministic else standard_normal(shape, self.random).astype(output.dtype, copy=False)
        return ops.squashed_gaussian(output, eta, log_std_range=self.actor.log_std_range)[0]

    def critic_loss(
        self, observation: Observation, action: Tensor, reward: Tensor, discount: Tensor, next_observation: Observation, eta: Tensor
    ) -> tuple[Tensor, Report]:
        """The Huber loss of a batch [B, ...] with noise eta [B, A] for a', and a report: it, and the mean of Q."""
        with torch.no_grad():
            mean, log_std = self.target_actor(next_observation)
            next_action = reparameterized(mean, log_std, eta)
            target = bellman_target(reward, discount, self.target_critic.first(next_observation, next_action))
        q = self.critic.first(observation, action)
        loss = critic_loss(q, target)
        return loss, (loss, q.mean())

    def actor_loss(self, observation: Observation, eta: Tensor) -> tuple[Tensor, Report]:
        """-E[Q(o, pi(o, eta))] for noise eta [B, A], and a report: it, and the mean of std."""
        mean, log_std = self.actor(observation)
        loss = -self.critic.first(observation, reparameterized(mean, log_std, eta)).mean()
        return loss, (loss, log_std.exp().mean())

    def natives(self) -> tuple[Native, ...]:
        return self.native_actor, self.native_critic, self.native_target_actor, self.native_target_critic

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
        next_eta: Tensor,
        eta: Tensor,
    ) -> dict[str, Tensor]:
        """The critic's step, the actor's step, the averages."""
        critic_loss, q_mean = self.critic_update(observation, action, reward, discount, next_observation, next_eta)
        actor_loss, std = self.actor_update(observation, eta)
        self.update_targets()
        return {"loss/critic": critic_loss, "loss/actor": actor_loss, "train/q_mean": q_mean, "train/std": std}

    def native_update(self, batch: Batch) -> dict[str, float]:
        """The same step by hand: y, the critic's step, and the actor's through Q and the reparameterised action."""
        observation, action, reward, discount, next_observation = self.native_prepare(batch)
        actor, critic, span = self.native_actor, self.native_critic, self.actor.log_std_range
        target_actor, target_critic = self.native_target_actor, self.native_target_critic
        next_eta, eta = (self.normal(action.shape, action.dtype) for _ in range(2))

        output = target_actor.networks[0].infer(target_actor.parameters, next_observation)
        next_action, _ = ops.squashed_gaussian(output, next_eta, log_std_range=span)
        next_q = target_critic.networks[0].infer(target_critic.parameters, next_observation, next_action)[:, 0]
        critic_loss, q_mean = native_critic_step(critic, observation, action, reward + discount * next_q, huber=True)

        output = actor.networks[0].forward(actor.parameters, observation)
        action, _ = ops.squashed_gaussian(output, eta, log_std_range=span)
        q, d_action = native_action_gradient(critic, observation, action)
        d_output = ops.squashed_gaussian_backward(output, eta, action, d_action, 0.0, log_std_range=span)
        actor.networks[0].backward(actor.parameters, actor.gradients, d_output)
        actor.step(None)
        self.update_targets()
        std = np.exp(output[:, self.scale.size :].clip(*span))
        return {"loss/critic": critic_loss, "loss/actor": -float(q.mean()), "train/q_mean": q_mean, "train/std": float(std.mean())}

    def update_targets(self) -> None:
        polyak(self.target_actor_arena, self.actor_arena, self.config.tau)
        polyak(self.target_critic_arena, self.critic_arena, self.config.tau)
