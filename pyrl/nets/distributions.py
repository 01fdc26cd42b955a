"""Action distributions: what a policy network must put out, how to sample from it and how likely an action was.

Sampling is a kernel (`pyrl.ops`: Philox, sample and log-probability in one call, no autograd); log-probability and entropy for
the loss are torch. Each class is made from an action space and names ``size``, the width of the network's output.
"""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor
from torch.nn import functional as F

from pyrl.errors import SpaceError
from pyrl.ops.random import RandomStream
from pyrl.ops.sampling import sample_categorical, sample_gaussian, sample_multi_categorical
from pyrl.types import Array

FORBIDDEN = -1e8  # a logit whose probability is 0, and which is finite, so that 0 times it is 0
LOG_SQRT_2PI = 0.5 * math.log(2.0 * math.pi)


def masked(output: Array, action_mask: Array | None) -> Array:
    """Logits or Q [B, M] with `FORBIDDEN` where ``action_mask`` (bool [B, M]) is False, which gives these a gradient of 0 too."""
    if action_mask is None:
        return output
    if isinstance(output, Tensor):
        return output.masked_fill(~torch.as_tensor(action_mask, device=output.device), FORBIDDEN)
    return np.where(action_mask, output, output.dtype.type(FORBIDDEN))


class Distribution(Protocol):
    """``output`` is the policy network's [B, size]; ``log_std`` is read by the Gaussian only."""

    size: int
    nvec: list[int]  # choices of each component; none of the Gaussian
    choices: int | tuple[int, ...] | None  # the same as `pyrl.ops.acting.act` takes it

    def sample(self, output: Tensor, log_std: Tensor | None, random: RandomStream, deterministic: bool) -> tuple[Tensor, Tensor]:
        """(action [B, ...], log_prob float32 [B]); outside autograd."""
        ...

    def shaped(self, action: np.ndarray) -> np.ndarray:
        """Actions [B, A] or [B] of a kernel as the space has them."""
        return action

    def log_prob_and_entropy(self, output: Tensor, log_std: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """(log_prob [B], entropy [B]), differentiable."""
        ...

    def mode(self, output: Tensor) -> Tensor:
        """The most likely action [B, ...]: int64 choices, or the mean."""
        ...

    def logits(self, output: Array) -> Array:
        """``output`` as the kernels take it: the logits of the ``nvec`` choices, or the mean."""
        return output

    def by_output(self, gradient: Array) -> Array:
        """The gradient w.r.t. ``output``, from a kernel's w.r.t. `logits`."""
        return gradient


class Categorical(Distribution):
    """Discrete(n): the output is n logits."""

    def __init__(self, space: spaces.Discrete) -> None:
        self.size = int(space.n)
        self.nvec, self.choices = [self.size], self.size

    def sample(self, output: Tensor, log_std: Tensor | None, random: RandomStream, deterministic: bool) -> tuple[Tensor, Tensor]:
        return sample_categorical(output, random, deterministic=deterministic)

    def log_prob_and_entropy(self, output: Tensor, log_std: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        log_p = torch.log_softmax(output, dim=1)
        return log_p.gather(1, action.unsqueeze(1)).squeeze(1), -(log_p.exp() * log_p).sum(1)

    def mode(self, output: Tensor) -> Tensor:
        return output.argmax(1)


class MultiCategorical(Distribution):
    """MultiDiscrete(nvec): the logits of independent categoricals side by side."""

    def __init__(self, space: spaces.MultiDiscrete) -> None:
        self.nvec = [int(n) for n in space.nvec.ravel()]
        self.size, self.choices = sum(self.nvec), tuple(self.nvec)

    def sample(self, output: Tensor, log_std: Tensor | None, random: RandomStream, deterministic: bool) -> tuple[Tensor, Tensor]:
        return sample_multi_categorical(output, self.nvec, random, deterministic=deterministic)

    def log_prob_and_entropy(self, output: Tensor, log_std: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        log_prob, entropy = output.new_zeros(len(output)), output.new_zeros(len(output))
        for i, logits in enumerate(output.split(self.nvec, dim=1)):
            log_p = torch.log_softmax(logits, dim=1)
            log_prob = log_prob + log_p.gather(1, action[:, i : i + 1]).squeeze(1)
            entropy = entropy - (log_p.exp() * log_p).sum(1)
        return log_prob, entropy

    def mode(self, output: Tensor) -> Tensor:
        return torch.stack([logits.argmax(1) for logits in output.split(self.nvec, dim=1)], 1)


class Bernoulli(Distribution):
    """MultiBinary [A]: the output is the logit of each 1, independent of the others.

    To the kernels that is a categorical of two, whose first logit is zero.
    """

    def __init__(self, space: spaces.MultiBinary) -> None:
        self.size = math.prod(space.shape)
        self.nvec, self.choices = [2] * self.size, (2,) * self.size

    def sample(self, output: Tensor, log_std: Tensor | None, random: RandomStream, deterministic: bool) -> tuple[Tensor, Tensor]:
        return sample_multi_categorical(self.logits(output), self.nvec, random, deterministic=deterministic)

    def log_prob_and_entropy(self, output: Tensor, log_std: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        log_sum = F.softplus(output)  # of exp(0) + exp(output)
        return (action * output - log_sum).sum(1), (log_sum - torch.sigmoid(output) * output).sum(1)

    def mode(self, output: Tensor) -> Tensor:
        return (output > 0).long()

    def logits(self, output: Array) -> Array:
        if isinstance(output, Tensor):
            return torch.stack((torch.zeros_like(output), output), 2).flatten(1)
        pairs = np.zeros((len(output), 2 * self.size), output.dtype)
        pairs[:, 1::2] = output
        return pairs

    def by_output(self, gradient: Array) -> Array:
        return gradient[:, 1::2].copy()


class DiagonalGaussian(Distribution):
    """Box [A]: the output is the mean, the standard deviation does not depend on the observation."""

    def __init__(self, space: spaces.Box) -> None:
        self.shape = space.shape
        self.size = math.prod(space.shape)
        self.nvec: list[int] = []
        self.choices = None

    def sample(self, output: Tensor, log_std: Tensor | None, random: RandomStream, deterministic: bool) -> tuple[Tensor, Tensor]:
        assert log_std is not None
        action, log_prob = sample_gaussian(output, log_std.detach(), random, deterministic=deterministic)
        return action.reshape(-1, *self.shape), log_prob

    def shaped(self, action: np.ndarray) -> np.ndarray:
        return action if len(self.shape) == 1 else action.reshape(-1, *self.shape)

    def log_prob_and_entropy(self, output: Tensor, log_std: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        z = (action.flatten(1) - output) * torch.exp(-log_std)
        log_prob = (-0.5 * z.square() - log_std - LOG_SQRT_2PI).sum(1)
        entropy = (0.5 + LOG_SQRT_2PI + log_std).sum().expand(len(output))
        return log_prob, entropy

    def mode(self, output: Tensor) -> Tensor:
        return output.reshape(-1, *self.shape)


def distribution_for(space: spaces.Space) -> Distribution:
    """The distribution over ``space``."""
    if isinstance(space, spaces.Discrete):
        return Categorical(space)
    if isinstance(space, spaces.MultiDiscrete):
        return MultiCategorical(space)
    if isinstance(space, spaces.MultiBinary):
        return Bernoulli(space)
    if isinstance(space, spaces.Box):
        return DiagonalGaussian(space)
    raise SpaceError(f"action_space is {space}, expected Discrete, MultiDiscrete, MultiBinary or Box")
