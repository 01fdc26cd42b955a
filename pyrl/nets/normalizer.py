"""Normalisation of observations and rewards by running moments, as an agent owns it.

Storage stays raw: the loop shows the agent each step once (`update`, `observe_reward`), and the statistics of the moment are
applied where values are used (`observation`, `reward`), when the agent acts and when it learns. The semantics are those of
Stable-Baselines3's VecNormalize: observations by their mean and variance, rewards by the standard deviation of the running
discounted return (Engstrom et al., "Implementation matters in deep policy gradients", 2020), without subtracting a mean.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from pyrl.errors import ShapeError
from pyrl.ops.acting import Moments
from pyrl.ops.sampling import RunningMoments
from pyrl.spaces import leaves, pick
from pyrl.trees import map_space
from pyrl.types import Array, Observation, map_observation

if TYPE_CHECKING:
    from gymnasium import Space

EPSILON = 1e-8  # added to variances, as in Stable-Baselines3


class Normalizer:
    """Normalises and clips; what is not asked for is left as it is, and where nothing is, arrays come back untouched.

    - ``normalize_observation``: every Box leaf of float dtype is normalised, in dicts and tuples too; others pass unchanged.
    - ``clip_observation``: bound of the (normalised) float leaves; None: no bound.
    - ``normalize_reward``, ``clip_reward``: the same for rewards; ``gamma`` is the discount of the running return.

    Normalised values are float32; values that are only clipped keep their dtype. NumPy in, NumPy out; torch in, torch out.
    """

    def __init__(
        self,
        observation_space: Space,
        *,
        normalize_observation: bool = False,
        clip_observation: float | None = None,
        normalize_reward: bool = False,
        clip_reward: float | None = None,
        gamma: float = 0.99,
        num_envs: int = 1,
    ) -> None:
        for name, bound in (("clip_observation", clip_observation), ("clip_reward", clip_reward)):
            if bound is not None and not bound > 0:
                raise ValueError(f"Normalizer: {name} is {bound}, expected a positive number or None")
        self.normalize_observation = normalize_observation
        self.clip_observation = clip_observation
        self.normalize_reward = normalize_reward
        self.clip_reward = clip_reward
        self.gamma = gamma
        self._observation_moments = map_space(_moments_for, observation_space)
        self._named_moments = _named(observation_space, self._observation_moments)
        self._reward_moments = RunningMoments()
        self._running_return = np.zeros(num_envs)
        self.changes_observation = normalize_observation or clip_observation is not None
        # Whether there is anything to do; if not, `update` and `observe_reward` need not be called.
        self.active = self.changes_observation or normalize_reward or clip_reward is not None
        # With which a kernel of `pyrl.ops.acting` does what `observation` does; None: none does.
        self.moments: Moments | None = None
        if normalize_observation and isinstance(self._observation_moments, RunningMoments):  # of an observation that is one array
            number, mean, m2 = self._observation_moments.arrays
            self.moments = Moments(number, mean, m2, clip_observation, EPSILON)

    def begin(self, envs: slice = slice(None)) -> None:
        """These environments were reset: their running returns start anew. The moments stay."""
        self._running_return[envs] = 0.0

    def update(self, observation: Observation) -> None:
        """Count the observations [..., N, ...] of one step, or of more. NonFiniteError for a NaN or infinity."""
        if self.normalize_observation:
            map_observation(_count, observation, self._observation_moments)

    def observe_reward(self, reward: Array, ended: Array, valid: Array | None = None, first_env: int | None = None) -> None:
        """Count the rewards [N] of one step, or [T, N] of T steps one after the other, of all environments, or of N from ``first_env`` on.
        ``ended`` (bool, the same shape: terminated or truncated) ends the running return of an environment; where ``valid`` is False
        there was no step, and nothing is counted. NonFiniteError for a NaN or infinity, and nothing has changed then."""
        if not self.normalize_reward:
            return
        reward = np.asarray(reward, np.float64)
        ended = np.asarray(ended, bool)
        usual = valid is None and first_env is None  # a step of all of them
        if usual and reward.shape == ended.shape == self._running_return.shape:
            running_return = self._running_return * self.gamma + reward
            self._reward_moments.update(running_return)
            running_return[ended] = 0.0
            self._running_return[:] = running_return
            return
        envs = slice(first_env, None if first_env is None else first_env + reward.shape[-1])
        running_return = self._running_return[envs].copy()
        if reward.ndim not in (1, 2) or reward.shape[-1:] != running_return.shape:
            expected = f"[N] = [{len(running_return)}]"
            raise ShapeError(f"Normalizer: reward has shape {list(reward.shape)}, expected {expected}")
        valid = np.ones(reward.shape, bool) if valid is None else np.asarray(valid)
        told = np.empty(reward.shape)
        for step, over, made, row in zip(*map(np.atleast_2d, (reward, ended, valid, told))):
            np.copyto(running_return, running_return * self.gamma + step, where=made)
            row[:] = running_return
            running_return[over] = 0.0
        self._reward_moments.update(told if valid.all() else told[valid])
        self._running_return[envs] = running_return

    def observation(self, observation: Observation) -> Observation:
        """Observations [..., *shape] as the networks shall see them."""
        if not self.changes_observation:
            return observation
        return map_observation(self._normalized, observation, self._observation_moments)

    def traceable(self, observation: Observation) -> Observation:
        """`observation` for tensors by operations of torch alone, to whom the moments are constants: for export."""
        if not self.changes_observation:
            return observation
        return map_observation(self._traceable, observation, self._observation_moments)

    def reward(self, reward: Array) -> Array:
        """Rewards of any shape as the losses shall see them."""
        if self.normalize_reward:
            return self._reward_moments.normalize(_floats(reward), clip=self.clip_reward, epsilon=EPSILON, center=False)
        return _clipped(reward, self.clip_reward)

    def _normalized(self, x: Array, moments: RunningMoments | None) -> Array:
        if moments is None:
            return x
        if self.normalize_observation:
            return moments.normalize(_floats(x), clip=self.clip_observation, epsilon=EPSILON)
        return x if self.clip_observation is None else x.clip(-self.clip_observation, self.clip_observation)

    def _traceable(self, x: Any, moments: RunningMoments | None) -> Any:
        if moments is None:
            return x
        if self.normalize_observation:
            import torch

            mean, scale = moments.mean, 1.0 / np.sqrt(moments.var + EPSILON)
            x = ((x.double() - torch.as_tensor(mean)) * torch.as_tensor(scale)).float()
        return _clipped(x, self.clip_observation)

    def moments_in_use(self) -> list[np.ndarray]:
        """The arrays of all moments, which are changed in place: what another normaliser of this kind must have to normalise alike."""
        used = list(self._named_moments.values()) if self.normalize_observation else []
        return [array for moments in [*used, *([self._reward_moments] if self.normalize_reward else [])] for array in moments.arrays]

    def state_dict(self) -> dict[str, Any]:
        """The moments in use, as arrays; empty where nothing is normalised."""
        state: dict[str, Any] = {}
        if self.normalize_observation:
            state |= {name: moments.state_dict() for name, moments in self._named_moments.items()}
        if self.normalize_reward:
            state["reward"] = {**self._reward_moments.state_dict(), "running_return": self._running_return.copy()}
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """ValueError names what is missing. Running returns of another number of environments are dropped: they start anew."""
        expected = self.state_dict()
        missing = [name for name in expected if name not in state]
        if missing:
            raise ValueError(f"Normalizer: the state has {sorted(state)}, expected {missing[0]!r} too")
        if self.normalize_observation:
            for name, moments in self._named_moments.items():
                moments.load_state_dict(state[name])
        if self.normalize_reward:
            self._reward_moments.load_state_dict(state["reward"])
            running_return = np.array(state["reward"]["running_return"], np.float64)
            same = running_return.shape == self._running_return.shape
            self._running_return = running_return if same else np.zeros_like(self._running_return)


def _moments_for(space: Any) -> RunningMoments | None:
    """Those of a float Box, None for any other array."""
    from gymnasium import spaces

    is_float = isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.floating)
    return RunningMoments(space.shape or ()) if is_float else None


def _named(space: Space, tree: Any) -> dict[str, RunningMoments]:
    """The moments of every float leaf by a dotted name, or by one in brackets where two would have the same (1 and "1")."""
    found = {path: moments for path, _ in leaves(space) if (moments := pick(tree, path)) is not None}
    dotted = {".".join(map(str, ("observation", *path))): moments for path, moments in found.items()}
    if len(dotted) == len(found):
        return dotted
    return {"observation" + "".join(f"[{key!r}]" for key in path): moments for path, moments in found.items()}


def _clipped(x: Array, bound: float | None) -> Array:
    return x if bound is None else x.clip(-bound, bound)


def _count(x: Array, moments: RunningMoments | None) -> None:
    if moments is not None:
        moments.update(_floats(x))


def _floats(x: Array) -> Array:
    """Contiguous and float32 or float64, as the kernels want it; a copy only where needed."""
    if not isinstance(x, np.ndarray):
        return x.contiguous()
    return np.ascontiguousarray(x if x.dtype in (np.float32, np.float64) else x.astype(np.float32)).reshape(x.shape)
