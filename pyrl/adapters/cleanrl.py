"""CleanRL's replay buffer and its advantages: `from pyrl.adapters.cleanrl import ReplayBuffer, PrioritizedReplayBuffer, gae`.

`ReplayBuffer` takes the place of ``cleanrl_utils.buffers.ReplayBuffer`` in a script without another change, `gae` that of the loop over
``reversed(range(args.num_steps))``. CleanRL itself is not needed. docs/coming_from/cleanrl.md has what differs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch

from pyrl import buffers, ops
from pyrl.adapters.columns import action_rows, column_space, count, device_of, flag, rows_of, share
from pyrl.buffers.layout import check_number
from pyrl.errors import DTypeError, ShapeError, SpaceError
from pyrl.types import Array

__all__ = ["PrioritizedReplayBuffer", "PrioritizedSamples", "ReplayBuffer", "ReplayBufferSamples", "gae"]

_TIME_LIMIT = "TimeLimit.truncated"


class ReplayBufferSamples(NamedTuple):
    """A batch, tensors on the buffer's device."""

    observations: torch.Tensor  # [B, ...]
    actions: torch.Tensor  # [B, A]; of a Discrete space int64 [B, 1]
    next_observations: torch.Tensor  # [B, ...]
    dones: torch.Tensor  # float32 [B, 1]
    rewards: torch.Tensor  # float32 [B, 1]


class PrioritizedSamples(NamedTuple):
    """The same with what priorities need."""

    observations: torch.Tensor
    actions: torch.Tensor
    next_observations: torch.Tensor
    dones: torch.Tensor
    rewards: torch.Tensor
    weights: torch.Tensor  # float32 [B, 1]: multiply the losses
    indices: np.ndarray  # int64 [B]: for `update_priorities`


class ReplayBuffer:
    """CleanRL's ReplayBuffer, each observation stored once.

    Args:
        buffer_size: slots of all environments together; the last observation of an episode takes one of its own.
        observation_space, action_space: of one environment; Box, Discrete, MultiDiscrete or MultiBinary.
        device: where samples go; "auto" takes a GPU if torch finds one.
        n_envs: environments.
        optimize_memory_usage: True or False: observations are stored once either way.
        handle_timeout_termination: a ``done`` whose info has ``TimeLimit.truncated`` is a time limit, and sampled as 0: learned from as if
            the episode went on. False where ``done`` is ``terminations`` already, as in CleanRL's scripts.

    Draws follow NumPy's global seed, as CleanRL's do: it is read once, here.
    """

    def __init__(
        self,
        buffer_size: int,
        observation_space: Any,
        action_space: Any,
        device: torch.device | str = "auto",
        n_envs: int = 1,
        optimize_memory_usage: bool = False,
        handle_timeout_termination: bool = True,
    ) -> None:
        self.n_envs = count(type(self).__name__, "n_envs", n_envs)
        size = count(type(self).__name__, "buffer_size", buffer_size, 2 * self.n_envs)
        self.observation_space, self.action_space = observation_space, action_space
        self.device = device_of(type(self).__name__, device)
        self.optimize_memory_usage = flag(type(self).__name__, "optimize_memory_usage", optimize_memory_usage)
        self.handle_timeout_termination = flag(type(self).__name__, "handle_timeout_termination", handle_timeout_termination)
        self._observation = self._column("observation_space", observation_space)
        action_dtype = getattr(action_space, "dtype", None)
        self._action = self._column("action_space", action_space, np.float32 if action_dtype == np.float64 else action_dtype)
        seed = int(np.random.randint(2**31))  # noqa: NPY002
        self.replay = self._made(size, self._observation, self._action, num_envs=self.n_envs, seed=seed)
        self._rows = (self.n_envs, *self._observation.shape)
        self._action_rows = (self.n_envs, *self._action.shape)
        self._never = np.zeros(self.n_envs, bool)

    def _made(self, *arguments: Any, **options: Any) -> Any:
        return buffers.ReplayBuffer(*arguments, **options)

    def _column(self, name: str, space: Any, dtype: Any = None) -> Any:
        shape, given = getattr(space, "shape", None), getattr(space, "dtype", None)
        if shape is None or given is None or hasattr(space, "spaces"):
            raise SpaceError(f"{type(self).__name__}: {name} is {space!r}, expected Box, Discrete, MultiDiscrete or MultiBinary")
        shape = (int(np.prod(shape)),) if name == "action_space" else tuple(shape)
        return column_space(shape or (1,), given if dtype is None else dtype)

    def add(self, obs: Any, next_obs: Any, action: Any, reward: Any, done: Any, infos: Any) -> None:
        """Store one step of every environment: rows [N, ...].

        ``next_obs`` is the final observation where an episode ended. ``infos`` is a list of dicts, one an environment, or a dict whose
        ``TimeLimit.truncated`` is an array [N]; it is read only with ``handle_timeout_termination``, and only where ``done``.
        """
        one = self._never.shape
        terminated, truncated = np.asarray(done, bool), self._never
        if terminated.shape != one:
            terminated = self._flags("done", terminated.reshape(-1))
        if self.handle_timeout_termination and terminated.any():
            truncated = terminated & self._flags("infos", self._time_limits(infos))
            terminated = terminated & ~truncated
        self.replay.add(
            obs if type(obs) is np.ndarray and obs.shape == self._rows else rows_of("add", "obs", obs, self._rows),
            action_rows("add", action, self.action_space.shape, self._action_rows),
            reward if type(reward) is np.ndarray and reward.shape == one else np.asarray(reward).reshape(-1),
            next_obs if type(next_obs) is np.ndarray and next_obs.shape == self._rows else rows_of("add", "next_obs", next_obs, self._rows),
            terminated, truncated,
        )  # fmt: skip

    @staticmethod
    def _time_limits(infos: Any) -> Any:
        if isinstance(infos, Mapping) and _TIME_LIMIT in infos:
            return infos[_TIME_LIMIT]
        if isinstance(infos, list | tuple) and all(isinstance(info, Mapping) for info in infos):
            return [info.get(_TIME_LIMIT, False) for info in infos]
        what = f"a dict without {_TIME_LIMIT!r}" if isinstance(infos, Mapping) else repr(infos)
        raise DTypeError(
            f"add: infos is {what}, expected a list of dicts, one an environment, for handle_timeout_termination; "
            "where done is terminations already, make the buffer with handle_timeout_termination=False"
        )

    def _flags(self, name: str, flags: Any) -> np.ndarray:
        flags = np.asarray(flags, bool)
        if flags.shape != (self.n_envs,):
            raise ShapeError(f"add: {name} has {flags.size} flags, expected one an environment: n_envs is {self.n_envs}")
        return flags

    def extend(self, *columns: Any) -> None:
        """`add` for each step of columns [T, N, ...]."""
        for step in zip(*columns):
            self.add(*step)

    def sample(self, batch_size: int) -> Any:
        """``batch_size`` transitions drawn uniformly, with replacement. ValueError if nothing is stored."""
        return ReplayBufferSamples(*self._tensors(self.replay.sample(batch_size)))

    def _tensors(self, batch: Any) -> tuple[torch.Tensor, ...]:
        ends = batch.terminated.astype(np.float32)[:, None]
        found = (batch.observation, batch.action, batch.next_observation, ends, batch.reward[:, None])
        tensors = tuple(map(torch.from_numpy, found))
        return tensors if self.device.type == "cpu" else tuple(tensor.to(self.device) for tensor in tensors)

    def size(self) -> int:
        """Steps of an environment that can be drawn, on average."""
        return len(self.replay) // self.n_envs

    def reset(self) -> None:
        """Forget everything."""
        self.replay.clear()


class PrioritizedReplayBuffer(ReplayBuffer):
    """The same by priority (Schaul et al. 2016): samples have ``weights`` and ``indices`` beside.

    Args:
        alpha, eps: a transition is drawn in proportion to ``(priority + eps)^alpha``; a new one has the largest priority.
        beta: exponent of the weights, which are divided by the largest of the batch; may be set at any time.
        others: those of `ReplayBuffer`.

    >>> data = rb.sample(args.batch_size)
    >>> td_error = td_target - old_val
    >>> loss = (data.weights.flatten() * td_error.pow(2)).mean()
    >>> rb.update_priorities(data.indices, td_error.abs())
    """

    def __init__(self, *arguments: Any, alpha: float = 0.6, beta: float = 0.4, eps: float = 1e-6, **options: Any) -> None:
        check_number("PrioritizedReplayBuffer", "eps", eps)
        if not 0 < eps < np.inf:
            raise ValueError(f"PrioritizedReplayBuffer: eps is {eps!r}, expected a positive number")
        self._priorities: dict[str, Any] = {"alpha": alpha, "beta": beta, "epsilon": eps}
        super().__init__(*arguments, **options)

    def _made(self, *arguments: Any, **options: Any) -> Any:
        return buffers.PrioritizedReplayBuffer(*arguments, **self._priorities, **options)

    @property
    def beta(self) -> float:
        return self.replay.beta

    @beta.setter
    def beta(self, beta: float) -> None:
        self.replay.beta = share("PrioritizedReplayBuffer", "beta", beta)

    def sample(self, batch_size: int) -> PrioritizedSamples:
        batch = self.replay.sample(batch_size)
        weight = torch.from_numpy(batch.weight[:, None]).to(self.device)
        return PrioritizedSamples._make((*self._tensors(batch), weight, batch.index))

    def update_priorities(self, indices: Array, priorities: Array) -> None:
        """New priorities of the last samples, |td_error| as a rule: [B] or [B, 1], not negative, gradients are left alone."""
        if isinstance(priorities, torch.Tensor):
            priorities = priorities.detach().cpu().numpy()
        priorities = np.asarray(priorities).reshape(-1)
        if len(priorities) != len(indices):
            raise ShapeError(f"update_priorities: priorities has {len(priorities)} elements, indices has {len(indices)}")
        self.replay.update_priorities(np.asarray(indices), priorities)


def gae(rewards: Array, values: Array, dones: Array, next_value: Array, next_done: Array, gamma: float, lam: float) -> tuple[Array, Array]:
    """``(advantages, returns)``, both [T, N], of a rollout as CleanRL's scripts keep it: NumPy arrays or torch tensors.

    Args:
        rewards, values: [T, N], float32 or float64.
        dones: [T, N], of any dtype: whether the step *before* ended an episode, so that observation t is a first one.
        next_value: V of the observation after the last step, N elements.
        next_done: whether the last step ended an episode, N elements.
        gamma, lam: in [0, 1].

    A done of either kind is an end here, as it is in the scripts: they have no value of the observation that a time limit cut off.
    `pyrl.ops.gae` tells the two apart. `ShapeError`, `DTypeError`, ValueError.
    """
    if len(getattr(rewards, "shape", ())) != 2:
        raise ShapeError(f"gae: rewards has shape {list(getattr(rewards, 'shape', ()))}, expected [T, N]")
    steps, envs = rewards.shape
    for name, array, shape in (("values", values, (steps, envs)), ("dones", dones, (steps, envs))):
        if tuple(getattr(array, "shape", ())) != shape:
            raise ShapeError(f"gae: {name} has shape {list(getattr(array, 'shape', ()))}, expected {list(shape)}, that of rewards")
    tensors = isinstance(rewards, torch.Tensor)
    for name, array in (("values", values), ("dones", dones)):
        if isinstance(array, torch.Tensor) != tensors:
            raise DTypeError(f"gae: {name} is a {type(array).__name__}, rewards is a {type(rewards).__name__}, expected arrays of one kind")
    last: list[Any] = []
    for name, row, like in (("next_value", next_value, values), ("next_done", next_done, dones)):
        if row is None:
            raise DTypeError(f"gae: {name} is None, expected {envs} elements, one an environment")
        row = torch.as_tensor(row, dtype=like.dtype, device=like.device) if tensors else np.asarray(row, like.dtype)
        if row.shape not in ((envs,), (1, envs), (envs, 1)):
            raise ShapeError(f"gae: {name} has shape {list(row.shape)}, expected [{envs}], one an environment")
        last.append(row.reshape(1, envs))
    join: Any = torch.cat if tensors else np.concatenate
    ended = join((dones[1:], last[1])) != 0
    value, never = join((values, last[0])), ended & False
    return ops.gae(rewards, value, None, ended, never, gamma=gamma, gae_lambda=lam)
