"""Networks of the off-policy agents for continuous actions: actors and critics whose actions are in [-1, 1]."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn
from torch.nn import functional as F

from pyrl.errors import SpaceError
from pyrl.nets.batched_mlp import batched_mlp
from pyrl.nets.convolutional import FeaturesExtractor
from pyrl.nets.encoder import Encoder, MakeFeatures
from pyrl.nets.mlp import Activation, MakeActivation, NetArch, layers_of, mlp
from pyrl.ops.acting import Scale
from pyrl.types import Array, Observation


class ActionScale:
    """The only place where actions in [-1, 1] become those of a Box, and back.

    Networks, losses and exploration noise see [-1, 1], whatever the Box; environments, users and the replay see the Box's own
    units, so that stored experience does not depend on the agent.
    """

    def __init__(self, name: str, space: spaces.Space) -> None:
        """SpaceError unless ``space`` is a bounded Box of floats; ``name`` is the algorithm's, for the message."""
        if not isinstance(space, spaces.Box) or not np.issubdtype(space.dtype, np.floating):
            raise SpaceError(f"{name}: action_space is {space}, expected a Box of floats")
        with np.errstate(over="ignore", invalid="ignore"):
            low, high = space.low.astype(np.float32).ravel(), space.high.astype(np.float32).ravel()
            center, half = (high + low) / 2, (high - low) / 2
        if not (np.isfinite(center).all() and np.isfinite(half).all()):
            raise SpaceError(f"{name}: action_space is {space}, expected finite bounds, as its actions are bounded by tanh")
        self.shape, self.dtype = space.shape, np.result_type(space.dtype, np.float32)
        self.size = half.size
        self.center, self.half = center, half
        self.native = Scale(center, half, self.dtype == np.float64)  # as `pyrl.ops.acting` takes it
        wide = half >= np.finfo(np.float32).tiny  # a Box may have no width
        self.inverse = np.divide(1.0, half, out=np.zeros_like(half), where=wide)
        self._on_gpus: dict[torch.device, tuple[Tensor, ...]] = {}  # center and inverse there

    def shaped(self, action: np.ndarray) -> np.ndarray:
        """[N, A] in the Box -> [N, *shape]."""
        return action if len(self.shape) == 1 else action.reshape(-1, *self.shape)

    def to_box(self, action: np.ndarray) -> np.ndarray:
        """[N, A] in [-1, 1] -> [N, *shape] in the Box, float32 or as precise as the Box."""
        return (self.center + self.half * action).reshape(-1, *self.shape).astype(self.dtype, copy=False)

    def to_unit(self, action: Array) -> Array:
        """[B, *shape] in the Box -> float32 [B, A] in [-1, 1]; a tensor on a GPU gives one there."""
        if isinstance(action, Tensor) and action.is_cuda:
            if action.device not in self._on_gpus:
                self._on_gpus[action.device] = tuple(torch.as_tensor(x, device=action.device) for x in (self.center, self.inverse))
            center, inverse = self._on_gpus[action.device]
            return (action.reshape(-1, self.size).float() - center) * inverse
        return (np.asarray(action).reshape(-1, self.size).astype(np.float32, copy=False) - self.center) * self.inverse


class Actor(nn.Module):
    """mu(observation) [B, A] in [-1, 1]: deterministic, bounded by tanh."""

    def __init__(
        self,
        observation_space: spaces.Space,
        action_size: int,
        net_arch: NetArch,
        activation: Activation | MakeActivation,
        features_extractor: FeaturesExtractor | MakeFeatures = "flatten",
    ) -> None:
        super().__init__()
        self.encoder = Encoder(observation_space, features_extractor)
        self.network = nn.Sequential(*mlp((self.encoder.size, *layers_of(net_arch, "actor"), action_size), activation), nn.Tanh())

    def forward(self, observation: Observation) -> Tensor:
        return self.network(self.encoder(observation).to(_dtype(self)))

    def native_parts(self) -> tuple[nn.Module, ...]:
        return (self.network,)


class GaussianActor(nn.Module):
    """(mean, log_std), each [B, A]: of a Gaussian whose samples are still to be squashed by tanh.

    log_std is kept within ``log_std_range``, so that the standard deviation neither vanishes nor explodes.
    """

    def __init__(
        self,
        observation_space: spaces.Space,
        action_size: int,
        net_arch: NetArch,
        activation: Activation | MakeActivation,
        log_std_range: tuple[float, float] = (-20.0, 2.0),
        features_extractor: FeaturesExtractor | MakeFeatures = "flatten",
    ) -> None:
        super().__init__()
        self.encoder = Encoder(observation_space, features_extractor)
        self.network = mlp((self.encoder.size, *layers_of(net_arch, "actor"), 2 * action_size), activation)
        self.log_std_range = log_std_range

    def forward(self, observation: Observation) -> tuple[Tensor, Tensor]:
        mean, log_std = self.network(self.encoder(observation).to(_dtype(self))).chunk(2, dim=1)
        return mean, F.hardtanh(log_std, *self.log_std_range)  # a clamp whose gradient is one kernel

    def native_parts(self) -> tuple[nn.Module, ...]:
        return (self.network,)


class Critics(nn.Module):
    """Q_i(observation, action), i = 1 ... count, of actions [B, A] in [-1, 1]: networks that share no layer but the convolutional
    ones of images.

    num_outputs: how many numbers a critic gives for a value (quantiles of it, say); None: the value.
    make: makes the layers of one critic of their sizes and the activation.
    """

    def __init__(
        self,
        observation_space: spaces.Space,
        action_size: int,
        net_arch: NetArch,
        activation: Activation | MakeActivation,
        count: int,
        features_extractor: FeaturesExtractor | MakeFeatures = "flatten",
        num_outputs: int | None = None,
        make: Callable[..., nn.Sequential] = mlp,
    ) -> None:
        super().__init__()
        self.encoder = Encoder(observation_space, features_extractor)
        self.num_outputs = num_outputs
        sizes = (self.encoder.size + action_size, *layers_of(net_arch, "critic"), num_outputs or 1)
        self.networks = nn.ModuleList([make(sizes, activation) for _ in range(count)])

    def forward(self, observation: Observation, action: Tensor) -> Tensor:
        """[count, B], or [count, B, num_outputs]."""
        output = batched_mlp(self.networks, self._joined(observation, action))
        return output.squeeze(2) if self.num_outputs is None else output

    def first(self, observation: Observation, action: Tensor) -> Tensor:
        """Q_1 alone, [B], or [B, num_outputs]."""
        output = self.networks[0](self._joined(observation, action))
        return output.squeeze(1) if self.num_outputs is None else output

    def native_parts(self) -> tuple[nn.Module, ...]:
        return tuple(self.networks)

    def _joined(self, observation: Observation, action: Tensor) -> Tensor:
        return torch.cat([self.encoder(observation), action], dim=1).to(_dtype(self))


def _dtype(module: nn.Module) -> torch.dtype:
    return next(module.parameters()).dtype
