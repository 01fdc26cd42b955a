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
from pyrl.agents.base import Agent, LearningConfig, OwnActivation, seeded_network, tensors
from pyrl.agents.checks import Amount, BufferDevice, Count, GradientSteps, Layers, NStep, PartLayers, Rate, Tau, Weight, check_range
from pyrl.agents.random import uniform_actions
from pyrl.engine.native import Native
from pyrl.engine.step import LossReport
from pyrl.engine.updater import Updater
from pyrl.nets.actor_critic_continuous import ActionScale, Actor, Critics, GaussianActor
from pyrl.nets.mlp import Activation
from pyrl.nets.noise import DeviceNoise, NoiseType, exploration_noise, standard_normal
from pyrl.nets.own import own_actor_and_critics
from pyrl.schedules import value_at
from pyrl.types import Array, Batch, Observation, first_leaf


@dataclasses.dataclass(frozen=True, kw_only=True)
class ContinuousConfig(LearningConfig):
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
    net_arch: Layers | PartLayers = (256, 256)  # hidden layers of actor and critic each, on the features; or actor=..., critic=...
    activation: Activation | OwnActivation = "relu"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, "batch_size", 1, self.buffer_size)


class ContinuousAgent(Agent):
    """Box actions with finite bounds, any observation that the encoder takes.

    Networks and losses see actions in [-1, 1]; environment and replay see the Box's.
    """

    loop = "off_policy"
    actor: Any
    updater: Updater

    def __init__(self, observation_space: spaces.Space, action_space: spaces.Space, config: Any, seed: int, num_envs: int) -> None:
        self.scale = ActionScale(self.name, action_space)
        super().__init__(observation_space, action_space, config, seed, num_envs)
        self.random_steps = config.learning_starts if config.random_steps is None else config.random_steps
        self.noise = exploration_noise(config.noise_type, value_at(config.noise_std, 0.0), seed)
        on_device = self.device.type == "cuda" and ops.cuda_built()
        self.learning = ops.RandomStream(seed, "learning", device=self.device if on_device else None)  # of actions drawn in losses

    def make_networks(self, num_critics: int, log_std_range: tuple[float, float] | None = None) -> tuple[Any, Any]:
        """(actor, critics); a Gaussian actor where there is a ``log_std_range``."""
        space, size, config = self.observation_space, self.scale.size, self.config
        shape = space, size, config.net_arch, config.activation

        def build() -> nn.ModuleList:
            if config.network is not None:
                return nn.ModuleList(own_actor_and_critics(config, space, self.action_space, size, num_critics, log_std_range))
            if log_std_range is None:
                actor: nn.Module = Actor(*shape, config.features_extractor)
            else:
                actor = GaussianActor(*shape, log_std_range, config.features_extractor)
            return nn.ModuleList([actor, Critics(*shape, num_critics, config.features_extractor)])

        networks: Any = seeded_network(self.seed, build, self.device, config.precision)
        return networks[0], networks[1]

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
        native = self.native["actor"]
        if native.sync() and self.updater.engine == "native":
            action = self.native_choose(self.actor.encoder.array(observation, native.dtype), deterministic)
        else:
            with torch.no_grad():
                action = self.choose(tensors(observation, self.device), deterministic).cpu().numpy()
        if not deterministic and self.config.noise_std != 0:
            self.noise.std = value_at(self.config.noise_std, self.progress)
            action = self.noise(action)
        return {"action": self.scale.to_box(action)}

    @abstractmethod
    def update(self, batch: Batch, *data: Any) -> LossReport:
        """The steps and averages of one update, for every engine (`pyrl.engine.updater`). Of ``batch`` [B] it reads observation, action
        in [-1, 1], reward, discount and next_observation; ``data`` are what `update_data` gave."""

    def update_data(self, batch: Batch) -> tuple[Any, ...]:
        """What an update takes beside its batch: noise, flags."""
        return ()

    def learn(self, batch: Batch) -> dict[str, float]:
        native = self.updater.begin(value_at(self.config.learning_rate, self.progress))
        prepared = self.prepare(batch, native)
        metrics = self.updater(self.update, prepared, *self.update_data(prepared))
        self.updates += 1
        return metrics

    def prepare(self, batch: Batch, native: bool) -> Batch:
        """What an update reads of a batch, actions in [-1, 1]: NumPy arrays with encoded observations if ``native``, else tensors,
        wherever they are."""
        observation, next_observation = (self.normalizer.observation(o) for o in (batch.observation, batch.next_observation))
        action, reward, discount = self.scale.to_unit(batch.action), self.normalizer.reward(batch.reward), batch.discount
        if native:
            encoder, dtype = self.actor.encoder, self.native["actor"].dtype
            observation, next_observation = (encoder.array(o, dtype) for o in (observation, next_observation))
            action, reward, discount = (x.astype(dtype, copy=False) for x in (action, reward, discount))
        else:
            observation, next_observation = tensors(observation), tensors(next_observation)
            action, reward, discount = map(torch.as_tensor, (action, reward, discount))
        return Batch(observation, action, reward, next_observation, None, discount, None)

    def noise_like(self, action: Array) -> Array | DeviceNoise:
        """xi ~ N(0, 1) like ``action`` [B, A], for an update."""
        shape = tuple(action.shape)
        if isinstance(action, np.ndarray):
            return standard_normal(shape, self.learning).astype(action.dtype, copy=False)
        if self.learning.device is not None:
            return DeviceNoise(shape, self.learning)
        return torch.from_numpy(standard_normal(shape, self.learning))


def native_critic_gradient(
    critic: Native, observation: np.ndarray, action: np.ndarray, target: np.ndarray, *, coefficient: float = 1.0, huber: bool = False
) -> tuple[float, float]:
    """The gradient of the distance of every critic from ``target`` [B]; (the sum of their losses, the mean of Q)."""
    loss, q_mean = 0.0, 0.0
    for network in critic.networks:
        q = network.forward(critic.parameters, observation, action)
        own, d_q = ops.value_loss(q, target, coefficient=coefficient, huber=huber)
        network.backward(critic.parameters, critic.gradients, d_q)
        loss, q_mean = loss + coefficient * own, q_mean + float(q.mean()) / len(critic.networks)
    return loss, q_mean


def native_action_gradient(critic: Native, observation: np.ndarray, action: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(min_i Q_i [B], the gradient of minus its mean w.r.t. the action [B, A])."""
    q = np.stack([network.forward(critic.parameters, observation, action)[:, 0] for network in critic.networks])
    smallest = q.argmin(0)
    d_action = np.zeros_like(action)
    for i, network in enumerate(critic.networks):
        d_q, by_action = np.where(smallest == i, -1.0 / len(action), 0.0).astype(action.dtype)[:, None], np.empty_like(action)
        network.backward(critic.parameters, None, d_q, None, by_action)
        d_action += by_action
    return q.min(0), d_action
