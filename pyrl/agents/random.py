"""The random baseline: uniform actions, nothing learned. What every score must be compared with."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from gymnasium import spaces

from pyrl.agents.base import Agent, AgentConfig, brings_own
from pyrl.agents.checks import Count
from pyrl.agents.registry import register
from pyrl.agents.storage import RolloutSpec
from pyrl.errors import SettingError
from pyrl.ops import RandomStream, sample_multi_categorical, uniform_indices
from pyrl.own import name_of
from pyrl.spaces import all_finite, choices
from pyrl.trees import first_leaf
from pyrl.types import Choice, Learned, PolicyInput, Rollout


@dataclasses.dataclass(frozen=True, kw_only=True)
class RandomConfig(AgentConfig):
    """Only how often the loop reports."""

    n_steps: Count = 128  # steps of each environment between two metrics records


@register("random")
class Random(Agent):
    """Draws uniformly from the action space. An unbounded side of a Box is taken as -1 or 1, or as 1 from a bound beyond that."""

    loop = "on_policy"
    honours_masks = True
    Config = RandomConfig

    def __init__(self, observation_space: spaces.Space, action_space: spaces.Space, config: RandomConfig, seed: int, num_envs: int) -> None:
        if brings_own(config):
            raise SettingError(f"random: features_extractor is {name_of(config.features_extractor)}, expected a name: it has no network")
        for name, expected in (("precision", ("float32",)), ("engine", ("auto", "torch"))):
            if (given := getattr(config, name)) not in expected:
                raise SettingError(f"random: {name} is {given!r}, expected {' or '.join(map(repr, expected))}: it has no network")
        super().__init__(observation_space, action_space, config, seed, num_envs)
        self.uniform = UniformActions(action_space)

    def storage(self) -> RolloutSpec:
        return RolloutSpec(n_steps=self.config.n_steps)

    def choose(self, given: PolicyInput, deterministic: bool = False) -> Choice:
        if given.action_mask is not None:
            logits, nvec = np.zeros(given.action_mask.shape, np.float32), choices(self.action_space)
            action = sample_multi_categorical(logits, nvec, self.random, mask=given.action_mask)[0]
            return Choice(action if isinstance(self.action_space, spaces.MultiDiscrete) else action[:, 0])
        return Choice(self.uniform(len(first_leaf(given.observation)), self.random))

    def learn(self, data: Rollout) -> Learned:
        return Learned({})


_GRID = 1 << 24  # Box actions are on a grid of 2^-24, as float32 uniforms are
_MOST = (1 << 63) - 1  # choices of one draw


class UniformActions:
    """Draws uniform actions of ``space``, in the agent's units (`pyrl.spaces.actions`), those of a Box in the Box."""

    def __init__(self, space: Any) -> None:
        self.space = space
        if isinstance(space, spaces.Box) and space.dtype.kind == "f":
            self._low = np.where(np.isfinite(space.low), space.low, np.where(space.high > -1.0, -1.0, space.high - 1.0))
            self._high = np.where(np.isfinite(space.high), space.high, np.where(space.low < 1.0, 1.0, space.low + 1.0))
            with np.errstate(over="ignore"):
                self._width = self._high - self._low  # infinite if the Box is wider than the largest number

    def __call__(self, count: int, random: RandomStream) -> np.ndarray:
        """``count`` of them."""
        space = self.space
        if isinstance(space, spaces.Discrete):
            return uniform_indices(count, int(space.n), random)
        if not isinstance(space, spaces.Box):
            return np.stack([uniform_indices(count, n, random) for n in choices(space)], axis=1)
        if space.dtype.kind != "f":
            return _uniform_integers(space, count, random)
        unit = uniform_indices(count * self._low.size, _GRID, random).reshape(count, *space.shape) / _GRID
        if all_finite(self._width):
            drawn = self._low + unit * self._width
        else:
            drawn = self._low.astype(np.float64) * (1.0 - unit) + self._high.astype(np.float64) * unit
        return drawn.astype(space.dtype)


def _uniform_integers(space: spaces.Box, count: int, random: RandomStream) -> np.ndarray:
    """Each integer from low to high is as likely as any other."""
    columns = []
    for low, high in zip(space.low.ravel().tolist(), space.high.ravel().tolist()):
        span = int(high) - int(low) + 1
        if span <= _MOST:
            drawn = uniform_indices(count, span, random).astype(np.uint64)
        else:  # up to three of more than 2^63 are never drawn
            drawn = uniform_indices(count, span // 4, random).astype(np.uint64) * np.uint64(4)
            drawn += uniform_indices(count, 4, random).astype(np.uint64)
        columns.append(drawn + np.uint64(int(low) % (1 << 64)))  # modulo 2^64, as the dtypes are
    return np.stack(columns, axis=1).reshape(count, *space.shape).astype(space.dtype)
