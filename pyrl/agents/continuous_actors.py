"""How agents for continuous actions act: by the network, with exploration noise, and uniformly at the beginning."""

from __future__ import annotations

import copy
from abc import abstractmethod
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pyrl import ops
from pyrl.agents.actor import LADDER, START, Actor
from pyrl.agents.base import tensors
from pyrl.agents.random import UniformActions
from pyrl.engine.native import Native
from pyrl.nets.noise import standard_normal
from pyrl.ops.random import RandomStream
from pyrl.schedules import value_at
from pyrl.trees import first_leaf
from pyrl.types import Choice, Observation, PolicyInput, Progress

if TYPE_CHECKING:
    from pyrl.agents.off_policy import ContinuousAgent


FALL = 0.4  # of the ladder: environment i of N has noise_std * FALL^(LADDER i / (N - 1)), as epsilon-greedy ones fall from 0.4


class ContinuousActor(Actor):
    """The network's choice and exploration noise; uniform actions while random_steps last."""

    def __init__(self, agent: ContinuousAgent) -> None:
        super().__init__(agent, agent.trainables["actor"])
        self.scale, self.noise, self.random_steps = agent.scale, agent.noise, agent.random_steps
        self.uniform = UniformActions(agent.action_space)

    def own_noise(self, random: RandomStream) -> Any:
        noise = copy.deepcopy(self.noise)
        noise.random = random
        return noise

    def explore_by(self, random: RandomStream, noise: Any, rungs: np.ndarray | None) -> None:
        super().explore_by(random, noise, rungs)
        self.noise = noise

    @abstractmethod
    def actor_action(self, observation: Observation, deterministic: bool) -> Tensor:
        """Actions [N, A] in [-1, 1] for normalised observations."""

    @abstractmethod
    def native_actor_action(self, native: Native, observation: np.ndarray, deterministic: bool) -> np.ndarray:
        """The same for encoded observations [N, D], on the native engine."""

    def choose(self, given: PolicyInput, deterministic: bool = False, progress: Progress = START) -> Choice:
        if not deterministic and progress.env_steps < self.random_steps:
            return Choice(self.uniform(len(first_leaf(given.observation)), self.random))
        observation = self.normalizer.observation(given.observation)
        native = self.native_form()
        if native is not None:
            action = self.native_actor_action(native, self.encoded(observation, native), deterministic)
        else:
            with torch.no_grad():
                action = self.actor_action(tensors(observation, self.device), deterministic).cpu().numpy()
        if not deterministic and self.config.noise_std != 0:
            std = value_at(self.config.noise_std, progress.share)
            self.noise.std = std if self.rungs is None else std * FALL ** (LADDER * self.rungs[:, None])
            action = self.noise(action)
        return Choice(self.scale.to_box(action))


class DeterministicActor(ContinuousActor):
    """mu(o)"""

    def actor_action(self, observation: Observation, deterministic: bool) -> Tensor:
        return self.network(observation)

    def native_actor_action(self, native: Native, observation: np.ndarray, deterministic: bool) -> np.ndarray:
        return native.infer(observation)


class SquashedGaussianActor(ContinuousActor):
    """tanh(mean + std * xi), xi ~ N(0, 1), or tanh(mean)."""

    def actor_action(self, observation: Observation, deterministic: bool) -> Tensor:
        mean, log_std = self.network(observation)
        if deterministic:
            return torch.tanh(mean)
        xi = torch.from_numpy(standard_normal(mean.shape, self.random)).to(mean.device)
        return torch.tanh(mean + log_std.exp() * xi)

    def native_actor_action(self, native: Native, observation: np.ndarray, deterministic: bool) -> np.ndarray:
        output = native.infer(observation)
        shape = len(output), self.scale.size
        xi = np.zeros(shape, output.dtype) if deterministic else standard_normal(shape, self.random).astype(output.dtype, copy=False)
        return ops.squashed_gaussian(output, xi, log_std_range=self.network.log_std_range)[0]
