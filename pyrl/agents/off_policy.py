"""What off-policy agents for continuous actions share: scaling, warm-up, exploration noise. Networks and losses are their own."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from pyrl import ops
from pyrl.agents.base import Agent, AgentConfig, tensors
from pyrl.agents.checks import Amount, BufferDevice, Count, GradientSteps, Layers, NStep, Rate, Tau, Weight, check_range
from pyrl.agents.random import uniform_actions
from pyrl.engine.arena import Arena
from pyrl.engine.native import Native
from pyrl.engine.rollback import Atomic
from pyrl.engine.runner import Runner
from pyrl.nets.actor_critic_continuous import ActionScale
from pyrl.nets.mlp import Activation
from pyrl.nets.noise import Draw, NoiseType, exploration_noise, standard_normal
from pyrl.schedules import value_at
from pyrl.types import Array, Batch, Observation, first_leaf


@dataclasses.dataclass(frozen=True, kw_only=True)
class ContinuousConfig(AgentConfig):
    """What `ContinuousAgent` and its loop read; names as in Stable-Baselines3."""

    learning_rate: Rate = 3e-4  # of every Adam; "linear_3e-4" falls to zero over the run
    buffer_size: Count = 1_000_000  # slots of the replay, all environments together
    buffer_device: BufferDevice = "cpu"  # where the replay lies: cpu, cuda, cuda:1 (a build with CUDA, and networks there)
    learning_starts: Amount = 100  # transitions stored before the first update
    random_steps: Amount | None = None  # environment steps of uniform random actions at the beginning; None: learning_starts
    batch_size: Count = 256
    tau: Tau = 0.005  # Polyak factor of the target networks, after each update
    train_freq: Count = 1  # steps of each environment between two rounds of updates
    gradient_steps: GradientSteps = 1  # updates in a round; -1: as many as transitions were added since the last
    n_step: NStep = 1  # length of the returns
    noise_type: NoiseType = "normal"  # of exploration, beyond the policy's own
    noise_std: Weight = 0.0  # its standard deviation (sigma), where every action has the range [-1, 1]; 0: none
    net_arch: Layers = (256, 256)  # hidden layers of actor and critic each, on the features
    activation: Activation = "relu"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, "batch_size", 1, self.buffer_size)


class ContinuousAgent(Agent):
    """Box actions with finite bounds, any observation that the encoder takes.

    Networks and losses see actions in [-1, 1]; environment and replay see the Box's.
    """

    loop = "off_policy"
    actor: Any
    native_actor: Native
    atomic: Atomic  # of the arenas whose steps come before the last of an update
    run: Runner

    def __init__(self, observation_space: spaces.Space, action_space: spaces.Space, config: Any, seed: int, num_envs: int) -> None:
        self.scale = ActionScale(self.name, action_space)
        super().__init__(observation_space, action_space, config, seed, num_envs)
        self.random_steps = config.learning_starts if config.random_steps is None else config.random_steps
        self.noise = exploration_noise(config.noise_type, value_at(config.noise_std, 0.0), seed)
        on_device = self.device.type == "cuda" and ops.cuda_built()
        self.learning = ops.RandomStream(seed, "learning", device=self.device if on_device else None)  # of actions drawn in losses

    def adam_arena(self, network: nn.Module) -> Arena:
        """The parameters of ``network`` with an Adam of their own."""
        arena = Arena(network)
        arena.optimizer = torch.optim.Adam([arena.values], lr=value_at(self.config.learning_rate, 0.0), fused=True)
        return arena

    def streams(self) -> dict[str, Any]:
        return {**super().streams(), "noise": self.noise, "learning": self.learning}

    @abstractmethod
    def choose(self, observation: Observation, deterministic: bool) -> Tensor:
        """Actions [N, A] in [-1, 1] for normalised observations."""

    @abstractmethod
    def native_choose(self, observation: np.ndarray, deterministic: bool) -> np.ndarray:
        """The same for encoded observations [N, D], on the native engine."""

    def policy(self, observation: Observation, deterministic: bool = False) -> dict[str, Array]:
        """The actor's choice and exploration noise; uniform actions while random_steps last."""
        if not deterministic and self.env_steps < self.random_steps:
            return {"action": uniform_actions(self.action_space, len(first_leaf(observation)), self.random)}
        observation = self.normalizer.observation(observation)
        if self.engine == "native" and self.native_actor.ready():
            action = self.native_choose(self.actor.encoder.array(observation, self.native_actor.dtype), deterministic)
        else:
            with torch.no_grad():
                action = self.choose(tensors(observation, self.device), deterministic).cpu().numpy()
        if not deterministic and self.config.noise_std != 0:
            self.noise.std = value_at(self.config.noise_std, self.progress)
            action = self.noise(action)
        return {"action": self.scale.to_box(action)}

    @abstractmethod
    def natives(self) -> tuple[Native, ...]:
        """The networks of an update."""

    @abstractmethod
    def native_update(self, batch: Batch) -> dict[str, float]: ...

    @abstractmethod
    def torch_update(self, batch: Batch) -> dict[str, float]: ...

    def learn(self, batch: Batch) -> dict[str, float]:
        self.run.set_learning_rate(value_at(self.config.learning_rate, self.progress))
        if self.learns_natively(*self.natives()):
            with self.atomic:
                metrics = self.native_update(batch)
        else:
            metrics = self.torch_update(batch)
        self.updates += 1
        return metrics

    def learns_natively(self, *natives: Native) -> bool:
        """Whether all of these can be learned, or read, by the native engine now."""
        return self.engine == "native" and all(n.ready_to_learn() if n.arena.optimizer else n.ready() for n in natives)

    def prepare(self, batch: Batch) -> tuple[Observation, Tensor, Tensor, Tensor, Observation]:
        """o, a in [-1, 1], r, discount and o' as tensors [B, ...], wherever they lie."""
        observation, next_observation = (tensors(self.normalizer.observation(o)) for o in (batch.observation, batch.next_observation))
        columns = (self.scale.to_unit(batch.action), self.normalizer.reward(batch.reward), batch.discount)
        action, reward, discount = map(torch.as_tensor, columns)
        return observation, action, reward, discount, next_observation

    def native_prepare(self, batch: Batch) -> tuple[np.ndarray, ...]:
        """The same as NumPy arrays, observations encoded."""
        encoder, dtype = self.actor.encoder, self.native_actor.dtype
        observation, next_observation = (
            encoder.array(self.normalizer.observation(o), dtype) for o in (batch.observation, batch.next_observation)
        )
        rest = (self.scale.to_unit(batch.action), self.normalizer.reward(batch.reward), batch.discount)
        action, reward, discount = (x.astype(dtype, copy=False) for x in rest)
        return observation, action, reward, discount, next_observation

    def drawn(self, action: Tensor) -> Tensor | Draw:
        """xi ~ N(0, 1) like ``action`` [B, A] for an update by torch."""
        shape = tuple(action.shape)
        return torch.from_numpy(self.normal(shape)) if self.learning.device is None else Draw(shape, self.learning)

    def normal(self, shape: tuple[int, ...], dtype: Any = np.float32) -> np.ndarray:
        """xi ~ N(0, 1) [B, A] for a loss."""
        return standard_normal(shape, self.learning).astype(dtype, copy=False)


def native_critic_step(
    critic: Native, observation: np.ndarray, action: np.ndarray, target: np.ndarray, *, coefficient: float = 1.0, huber: bool = False
) -> tuple[float, float]:
    """One step of every critic towards ``target`` [B]; (the sum of their losses, the mean of Q)."""
    loss, q_mean = 0.0, 0.0
    for network in critic.networks:
        q = network.forward(critic.parameters, observation, action)
        own, d_q = ops.value_loss(q, target, coefficient=coefficient, huber=huber)
        network.backward(critic.parameters, critic.gradients, d_q)
        loss, q_mean = loss + coefficient * own, q_mean + float(q.mean()) / len(critic.networks)
    critic.step(None)
    return loss, q_mean


def native_action_gradient(critic: Native, observation: np.ndarray, action: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(min_i Q_i [B], the gradient of minus its mean by the action [B, A])."""
    q = np.stack([network.forward(critic.parameters, observation, action)[:, 0] for network in critic.networks])
    smallest = q.argmin(0)
    d_action = np.zeros_like(action)
    for i, network in enumerate(critic.networks):
        d_q, by_action = np.where(smallest == i, -1.0 / len(action), 0.0).astype(action.dtype)[:, None], np.empty_like(action)
        network.backward(critic.parameters, None, d_q, None, by_action)
        d_action += by_action
    return q.min(0), d_action
