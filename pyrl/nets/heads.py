"""Whole networks of the agents: actor and critic, and action values with an optional dueling head."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from gymnasium import spaces
from torch import Tensor, nn

from pyrl.nets.convolutional import FeaturesExtractor
from pyrl.nets.distributions import DiagonalGaussian, distribution_for
from pyrl.nets.encoder import Encoder, MakeFeatures
from pyrl.nets.mlp import Activation, MakeActivation, NetArch, layers_of, make_activation, mlp, orthogonal
from pyrl.types import Observation


class ActorCritic(nn.Module):
    """A policy and a value network that share no layer but the convolutional ones of images, or the features of the user's own.

    Initialised as in Stable-Baselines3: orthogonal, gain sqrt(2) inside, 0.01 for the policy's last layer, 1 for the value's.
    """

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        net_arch: NetArch,
        activation: Activation | MakeActivation,
        log_std_init: float,
        features_extractor: FeaturesExtractor | MakeFeatures = "flatten",
    ) -> None:
        super().__init__()
        self.encoder = Encoder(observation_space, features_extractor)
        self.distribution = distribution_for(action_space)
        actor, critic = ((self.encoder.size, *layers_of(net_arch, part)) for part in ("actor", "critic"))
        self.actor = orthogonal(mlp((*actor, self.distribution.size), activation), math.sqrt(2), 0.01)
        self.critic = orthogonal(mlp((*critic, 1), activation), math.sqrt(2), 1.0)
        width = self.distribution.size if isinstance(self.distribution, DiagonalGaussian) else 0
        self.log_std = nn.Parameter(torch.full((width,), float(log_std_init)))

    def policy(self, observation: Observation) -> Tensor:
        """Policy output [B, size]."""
        return self.actor(self._encoded(observation))

    def value(self, observation: Observation) -> Tensor:
        """V(observation) [B]."""
        return self.critic(self._encoded(observation)).squeeze(1)

    def forward(self, observation: Observation) -> tuple[Tensor, Tensor]:
        encoded = self._encoded(observation)
        return self.actor(encoded), self.critic(encoded).squeeze(1)

    def native_parts(self) -> tuple[nn.Module, ...]:
        """The MLPs that the native engine runs."""
        return self.actor, self.critic

    def _encoded(self, observation: Observation) -> Tensor:
        return self.encoder(observation).to(self.log_std.dtype)


class QNetwork(nn.Module):
    """Q(observation, .) [B, A] for discrete actions.

    Dueling (Wang et al. 2016, eq. 9): Q = V + advantage - mean advantage, two streams over a shared trunk.
    """

    def __init__(
        self,
        observation_space: spaces.Space,
        num_actions: int,
        net_arch: Sequence[int],
        activation: Activation | MakeActivation,
        dueling: bool,
        features_extractor: FeaturesExtractor | MakeFeatures = "flatten",
    ) -> None:
        super().__init__()
        self.encoder = Encoder(observation_space, features_extractor)
        self.dueling = dueling
        if not dueling:
            self.network = mlp((self.encoder.size, *net_arch, num_actions), activation)
            return
        trunk, stream = (self.encoder.size, *net_arch[:-1]), net_arch[-1:]
        self.network = nn.Sequential(*mlp(trunk, activation), make_activation(activation)) if len(trunk) > 1 else nn.Sequential()
        self.advantage = mlp((trunk[-1], *stream, num_actions), activation)
        self.value = mlp((trunk[-1], *stream, 1), activation)

    def forward(self, observation: Observation) -> Tensor:
        hidden = self.network(self.encoder(observation).to(next(self.parameters()).dtype))
        if not self.dueling:
            return hidden
        advantage = self.advantage(hidden)
        return self.value(hidden) + advantage - advantage.mean(dim=1, keepdim=True)

    def native_parts(self) -> tuple[nn.Module, ...]:
        """The MLPs that `native_q` runs: one, or value, advantage and the trunk where there is one."""
        if not self.dueling:
            return (self.network,)
        return (self.value, self.advantage, self.network) if len(self.network) else (self.value, self.advantage)
