"""Deep deterministic policy gradient (Lillicrap et al. 2016, arXiv:1509.02971).

    symbol        here                   shape
    mu(o)         actor                  [B, A]   deterministic, in [-1, 1] by tanh
    Q(o, a)       critic                 [1, B]
    mu', Q'       target_actor, target_critic     slow copies: theta' <- tau theta + (1 - tau) theta' after each update
    y             target                 [B]      r + discount * Q'(o', mu'(o')), discount = gamma^k (1 - terminated)
    N             noise                  [N, A]   exploration: Gaussian, or Ornstein and Uhlenbeck's process

The critic descends (Q(o, a) - y)^2 (eq. 4 and 5), the actor ascends Q(o, mu(o)), whose gradient is the deterministic policy
gradient, grad_a Q grad_theta mu (eq. 6; Silver et al. 2014). Actions are those of the Box at the border only (`ActionScale`).
"""

from __future__ import annotations

import copy
import dataclasses
from typing import Any, ClassVar, get_args

import torch
from gymnasium import spaces
from torch import Tensor, nn

from pyrl.agents.base import (
    Agent,
    AgentConfig,
    check_choice,
    check_layers,
    check_range,
    check_replay,
    register,
    seeded_network,
    tensors,
)
from pyrl.agents.random import uniform_actions
from pyrl.nets.arena import Arena
from pyrl.nets.continuous import ActionScale, Actor, Critics, polyak
from pyrl.nets.mlp import Activation
from pyrl.nets.noise import NoiseType, exploration_noise
from pyrl.nets.update import Report, Update
from pyrl.schedules import Schedule, check_schedule, value_at
from pyrl.types import Array, Batch, Observation, first_leaf


@dataclasses.dataclass(frozen=True, kw_only=True)
class DDPGConfig(AgentConfig):
    """Defaults as in Stable-Baselines3, but for the noise, which it leaves out."""

    learning_rate: Schedule = 1e-3  # of both Adams; "linear_1e-3" falls to zero over the run
    buffer_size: int = 1_000_000  # slots of the replay, all environments together
    learning_starts: int = 100  # transitions stored before the first update
    random_steps: int | None = None  # environment steps of uniform random actions at the beginning; None: learning_starts
    batch_size: int = 256
    tau: float = 0.005  # Polyak factor of the target networks
    train_freq: int = 1  # steps of each environment between two rounds of updates
    gradient_steps: int = 1  # updates in a round; -1: as many as transitions were added since the last
    n_step: int = 1  # length of the returns
    noise_type: NoiseType = "normal"  # of exploration
    noise_std: float = 0.1  # its standard deviation (sigma), where every action has the range [-1, 1]
    net_arch: tuple[int, ...] = (400, 300)  # hidden layers of actor and critic each
    activation: Activation = "relu"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_layers(self)
        check_replay(self)
        check_choice(self, "noise_type", get_args(NoiseType))
        check_range(self, "noise_std", 0.0, None)
        if self.random_steps is not None:
            check_range(self, "random_steps", 0, None)
        check_schedule(f"{type(self).__name__}: learning_rate", self.learning_rate)


def bellman_target(reward: Tensor, discount: Tensor, next_q: Tensor) -> Tensor:
    """y = r + discount * Q'(o', a'), eq. 5. All [B]."""
    return reward + discount * next_q


def critic_loss(q: Tensor, target: Tensor) -> Tensor:
    """L = E[(Q(o, a) - y)^2], eq. 4, summed over the critics. q [count, B], target [B]."""
    return (q - target).square().mean(1).sum()


@register("ddpg")
class DDPG(Agent):
    """Box actions with finite bounds, any observation that the encoder takes."""

    loop = "off_policy"
    Config: ClassVar[type[AgentConfig]] = DDPGConfig
    num_critics = 1

    def __init__(self, observation_space: spaces.Space, action_space: spaces.Space, config: DDPGConfig, seed: int, num_envs: int) -> None:
        self.scale = ActionScale(self.name, action_space)
        super().__init__(observation_space, action_space, config, seed, num_envs)
        shape = (observation_space, self.scale.size, config.net_arch, config.activation)
        networks: Any = seeded_network(seed, lambda: nn.ModuleList([Actor(*shape), Critics(*shape, self.num_critics)]))
        self.actor, self.critic = networks
        self.target_actor, self.target_critic = copy.deepcopy(networks).requires_grad_(False)
        self.actor_arena, self.critic_arena = Arena(self.actor), Arena(self.critic)
        self.target_actor_arena, self.target_critic_arena = Arena(self.target_actor), Arena(self.target_critic)
        for arena in (self.actor_arena, self.critic_arena):
            arena.optimizer = torch.optim.Adam([arena.values], lr=value_at(config.learning_rate, 0.0), fused=True)
        compiled = config.engine == "compile"
        self.critic_update = Update(self.critic_arena, self.critic_loss, compiled=compiled)
        self.actor_update = Update(self.actor_arena, self.actor_loss, compiled=compiled)
        self.noise = exploration_noise(config.noise_type, config.noise_std, seed)
        self.random_steps = config.learning_starts if config.random_steps is None else config.random_steps

    def modules(self) -> dict[str, nn.Module]:
        return {"actor": self.actor, "critic": self.critic, "target_actor": self.target_actor, "target_critic": self.target_critic}

    def optimizers(self) -> dict[str, Any]:
        return {"actor": self.actor_arena.optimizer, "critic": self.critic_arena.optimizer}

    def streams(self) -> dict[str, Any]:
        return {**super().streams(), "noise": self.noise}

    @torch.no_grad()
    def policy(self, observation: Observation, deterministic: bool = False) -> dict[str, Array]:
        """mu(o) + N (eq. 7), or a uniform action while random_steps last."""
        if not deterministic and self.env_steps < self.random_steps:
            return {"action": uniform_actions(self.action_space, len(first_leaf(observation)), self.random)}
        action = self.actor(tensors(self.normalizer.observation(observation)))
        return {"action": self.scale.to_box(action if deterministic else self.noise(action))}

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

    def learn(self, batch: Batch) -> dict[str, float]:
        data = self._prepare(batch)
        critic_loss, q_mean = self.critic_update(*data)
        (actor_loss,) = self.actor_update(data[0])
        self._update_targets()
        self.updates += 1
        return {"loss/critic": critic_loss.item(), "loss/actor": actor_loss.item(), "train/q_mean": q_mean.item()}

    def _prepare(self, batch: Batch) -> tuple[Any, ...]:
        """o, a in [-1, 1], r, discount and o' as tensors [B, ...]; the learning rate of now."""
        for optimizer in self.optimizers().values():
            optimizer.param_groups[0]["lr"] = value_at(self.config.learning_rate, self.progress)
        observation, next_observation = (tensors(self.normalizer.observation(o)) for o in (batch.observation, batch.next_observation))
        reward = torch.as_tensor(self.normalizer.reward(batch.reward))
        return observation, self.scale.to_unit(batch.action), reward, torch.as_tensor(batch.discount), next_observation

    def _update_targets(self) -> None:
        polyak(self.target_actor_arena, self.actor_arena, self.config.tau)
        polyak(self.target_critic_arena, self.critic_arena, self.config.tau)
