"""How agents for continuous actions act: by the network, with exploration noise, and uniformly at the beginning."""

from __future__ import annotations

import copy
from abc import abstractmethod
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pyrl import ops
from pyrl.agents.actor import LADDER, Actor
from pyrl.agents.base import tensors
from pyrl.agents.random import UniformActions
from pyrl.engine.native import Native
from pyrl.nets.noise import NormalNoise, standard_normal
from pyrl.ops.acting import act_continuously
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
        self._at_once = type(self).native_actor_action in (
            DeterministicActor.native_actor_action,
            SquashedGaussianActor.native_actor_action,
        )

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

    def native_choice(self, native: Native, given: PolicyInput, deterministic: bool, progress: Progress) -> Choice:
        if self._begins(deterministic, progress):
            return self._uniform(given)
        noise = None if deterministic else self._plain_noise(progress)
        if self._at_once and (deterministic or noise is not None):
            return self._in_one_call(native, given, deterministic, noise)
        action = self.native_actor_action(native, self.encoded(given.observation, native), deterministic)
        return self._choice(action, deterministic, progress)

    def _plain_noise(self, progress: Progress) -> tuple[float, RandomStream] | tuple[()] | None:
        """(std, random) of exploration noise that is Gaussian and the same everywhere; (): there is none; None: it is of another kind."""
        if self.config.noise_std == 0:
            return ()
        std = value_at(self.config.noise_std, progress.share)
        if type(self.noise) is not NormalNoise or self.rungs is not None or type(std) is not float:
            return None
        self.noise.std = std
        return std, self.noise.random

    def _in_one_call(
        self, native: Native, given: PolicyInput, deterministic: bool, noise: tuple[float, RandomStream] | tuple[()] | None
    ) -> Choice:
        features, moments = self.features(given.observation, native)
        action = act_continuously(
            native.networks[0], native.parameters, features, moments, self.log_std_range, noise or None, self.scale.native, self.random,
            deterministic,
        )  # fmt: skip
        return Choice(self.scale.shaped(action))

    @property
    def log_std_range(self) -> tuple[float, float] | None:
        """Of a policy that is a squashed Gaussian."""
        return None

    def torch_choice(self, given: PolicyInput, deterministic: bool, progress: Progress) -> Choice:
        if self._begins(deterministic, progress):
            return self._uniform(given)
        observation = self.normalizer.observation(given.observation)
        with torch.no_grad():
            action = self.actor_action(tensors(observation, self.device), deterministic).cpu().numpy()
        return self._choice(action, deterministic, progress)

    def _begins(self, deterministic: bool, progress: Progress) -> bool:
        return not deterministic and progress.env_steps < self.random_steps

    def _uniform(self, given: PolicyInput) -> Choice:
        return Choice(self.uniform(len(first_leaf(given.observation)), self.random))

    def _choice(self, action: np.ndarray, deterministic: bool, progress: Progress) -> Choice:
        """Of the network's choice, with noise unless it is ``deterministic``."""
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

    @property
    def log_std_range(self) -> tuple[float, float] | None:
        return self.network.log_std_range  # type: ignore[no-any-return]

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
