"""What agents share whose policy is rewarded for its entropy (Haarnoja et al. 2018, arXiv:1812.05905): a Gaussian squashed by tanh, and
the temperature, the price of entropy, fixed or learned. Critics, targets and losses are their own.

    symbol            here                  shape
    pi(a|o)           actor                 mean and log_std [B, A] of u; a = tanh(u), u = mean + std * xi, xi ~ N(0, 1)
    log pi(a|o)       log_prob              [B]
    alpha             temperature           exp(log_alpha)
    H-bar             target_entropy        what the entropy of pi is held at; "auto": -A
"""

from __future__ import annotations

import dataclasses
import math
from typing import Annotated, Any, Literal

import torch
from gymnasium import spaces
from torch import Tensor, nn
from torch.nn import functional as F

from pyrl.agents.checks import Rate, Starts
from pyrl.agents.continuous_actors import SquashedGaussianActor
from pyrl.agents.off_policy import ContinuousAgent, ContinuousConfig
from pyrl.engine.step import LossReport, Step
from pyrl.nets.distributions import LOG_SQRT_2PI
from pyrl.schedules import value_at
from pyrl.types import Batch, Learned

LOG_STD_RANGE = (-20.0, 2.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EntropyConfig(ContinuousConfig):
    """What `EntropyAgent` reads; names as in Stable-Baselines3."""

    # alpha, the temperature; "auto": learned, from 1 on; "auto_0.1": from 0.1 on
    ent_coef: Literal["auto"] | Annotated[str, Starts("auto_")] | Rate = "auto"
    target_entropy: float | Literal["auto"] = "auto"  # H-bar, of the actions in [-1, 1]; "auto": minus the number of action dimensions


def is_learned(ent_coef: Any) -> bool:
    """Whether alpha is learned, not given."""
    return isinstance(ent_coef, str) and ent_coef.startswith("auto")


def temperature_at(ent_coef: Any, progress: float) -> float:
    """alpha: where it is learned, its first value. At least 1e-30, as its logarithm is what is kept."""
    if ent_coef == "auto":
        return 1.0
    return max(float(ent_coef.removeprefix("auto_")) if is_learned(ent_coef) else value_at(ent_coef, progress), 1e-30)


def squashed_sample(mean: Tensor, log_std: Tensor, xi: Tensor) -> tuple[Tensor, Tensor]:
    """a = tanh(u), u = mean + std * xi, and log pi(a|o) = sum log N(u) - log(1 - tanh(u)^2) (appendix C). [B, A] -> [B, A], [B].

    log(1 - tanh(u)^2) = 2 (log 2 - u - softplus(-2u)), which neither overflows nor loses digits at the bounds.
    """
    u = torch.addcmul(mean, log_std.exp(), xi)
    log_prob = torch.addcmul(2.0 * (u + F.softplus(-2.0 * u)) - log_std, xi, xi, value=-0.5)
    constant = mean.shape[1] * (LOG_SQRT_2PI + 2.0 * math.log(2.0))
    return torch.tanh(u), log_prob.sum(1) - constant


def temperature_loss(log_alpha: Tensor, entropy: Tensor, target_entropy: float) -> Tensor:
    """log alpha (H - H-bar), H = -E[log pi]: eq. 18 with log alpha for alpha, as its authors' code has it; the gradient's sign is the
    same. log_alpha [1], entropy [] -> []."""
    return log_alpha.squeeze() * (entropy - target_entropy)


class Temperature(nn.Module):
    """log_alpha [1], kept in logarithm so that alpha stays positive."""

    def __init__(self, alpha: float) -> None:
        super().__init__()
        self.log_alpha = nn.Parameter(torch.full((1,), math.log(alpha)))

    @property
    def alpha(self) -> Tensor:
        return self.log_alpha.detach().exp()

    def native_parts(self) -> tuple[nn.Module, ...]:
        return ()  # no layers: the native engine needs the parameter only

    @torch.no_grad()
    def set(self, alpha: float) -> None:
        self.log_alpha.fill_(math.log(alpha))


class EntropyAgent(ContinuousAgent):
    """The policy and its temperature. A subclass makes ``actor``, ``critic`` and their steps, reports ``train/entropy`` [] of pi from its
    actor's step, and makes ``temperature_step`` of it if ``learns_temperature``."""

    Acting = SquashedGaussianActor

    def __init__(self, observation_space: spaces.Space, action_space: spaces.Space, config: Any, seed: int, num_envs: int) -> None:
        super().__init__(observation_space, action_space, config, seed, num_envs)
        self.temperature = Temperature(temperature_at(config.ent_coef, 0.0)).to(self.device)
        self.target_entropy = -float(self.scale.size) if config.target_entropy == "auto" else float(config.target_entropy)
        self.learns_temperature = is_learned(config.ent_coef)
        self.temperature_step = Step(
            self.trainable("temperature", self.temperature), self.temperature_loss, self.native_temperature_gradient
        )

    def learn(self, batch: Batch) -> Learned:
        if not (self.learns_temperature or isinstance(self.config.ent_coef, float)):
            self.temperature.set(temperature_at(self.config.ent_coef, self.progress.share))
        return super().learn(batch)

    def update_data(self, batch: Batch) -> tuple[Any, ...]:
        """Noise [B, A] of the next actions and of the actions."""
        return self.noise_like(batch.action), self.noise_like(batch.action)

    def temperature_loss(self, entropy: Tensor) -> tuple[Tensor, LossReport]:
        """Eq. 18 for the entropy [] of pi."""
        return temperature_loss(self.temperature.log_alpha, entropy, self.target_entropy), {}

    def native_temperature_gradient(self, entropy: float) -> LossReport:
        self.native["temperature"].gradients.numpy()[0] = entropy - self.target_entropy
        return {}
