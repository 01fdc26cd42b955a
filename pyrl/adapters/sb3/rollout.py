"""The host's rollout buffers: rows in one block, advantages and minibatches by kernels."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common import buffers as host
from stable_baselines3.common.type_aliases import DictRolloutBufferSamples, RolloutBufferSamples

from pyrl import ops
from pyrl.adapters.columns import action_rows, count, device_of, rows_of, share
from pyrl.adapters.sb3.spaces import check_spaces
from pyrl.errors import NonFiniteError, ShapeError
from pyrl.types import map_observation

_BLOCK_BYTES = 2**20  # of minibatches that are taken together


class RolloutBuffer(host.RolloutBuffer):
    """``rollout_buffer_class=`` of PPO and A2C, for any observation that they take, a Dict too.

    The host adds gamma V(final observation) to the reward of a step that a time limit cut, so a step that is done has no future here:
    nothing is bootstrapped twice. Minibatches follow the host's ``seed``. Arrays are allocated once; ``values``, ``returns`` and the others
    stay [n_steps, n_envs].
    """

    observations: Any

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        device: torch.device | str = "auto",
        gae_lambda: float = 1,
        gamma: float = 0.99,
        n_envs: int = 1,
    ) -> None:
        check_spaces(observation_space, action_space)
        name = type(self).__name__
        buffer_size, n_envs = count(name, "n_steps", buffer_size), count(name, "n_envs", n_envs)
        for argument, value in (("gamma", gamma), ("gae_lambda", gae_lambda)):
            share(name, argument, value)
        device_of(name, device)
        super(host.RolloutBuffer, self).__init__(buffer_size, observation_space, action_space, device, n_envs)
        self.gae_lambda, self.gamma = gae_lambda, gamma
        rows = (buffer_size, n_envs)
        spaces_of = observation_space.spaces if isinstance(observation_space, spaces.Dict) else None
        if spaces_of is None:
            self.observations = np.zeros((*rows, *self.obs_shape), observation_space.dtype)
        else:
            self.observations = {key: np.zeros((*rows, *self.obs_shape[key]), child.dtype) for key, child in spaces_of.items()}  # type: ignore[call-overload]
        self.actions = np.zeros((*rows, self.action_dim), action_space.dtype)
        self.episode_starts = np.zeros(rows, np.float32)
        self._values = np.zeros((buffer_size + 1, n_envs), np.float32)
        self.values = self._values[:-1]
        self.rewards, self.log_probs, self.advantages, self.returns = (np.zeros(rows, np.float32) for _ in range(4))
        self._random = ops.RandomStream(int(np.random.randint(2**31)), "minibatches")  # noqa: NPY002 (the host seeds NumPy's global stream)
        self.reset()

    def reset(self) -> None:
        self.pos, self.full = 0, False
        self._columns: tuple[torch.Tensor, ...] | None = None  # what minibatches are taken from

    def add(self, obs: Any, action: Any, reward: Any, episode_start: Any, value: Any, log_prob: Any) -> None:
        if self.full:
            raise ValueError(f"{type(self).__name__}: all n_steps = {self.buffer_size} rows are written; call reset first")
        t = self.pos
        if isinstance(self.obs_shape, dict):
            for key, shape in self.obs_shape.items():
                self.observations[key][t] = rows_of("add", f"obs[{key!r}]", obs[key], (self.n_envs, *shape))
        else:
            self.observations[t] = rows_of("add", "obs", obs, self.observations.shape[1:])
        self.actions[t] = action_rows("add", action, self.action_space.shape, self.actions.shape[1:])  # type: ignore[arg-type]
        one = (self.n_envs,)
        self.rewards[t], self.episode_starts[t] = rows_of("add", "reward", reward, one), rows_of("add", "episode_start", episode_start, one)
        self.values[t], self.log_probs[t] = self._numbers("add: value", value), self._numbers("add: log_prob", log_prob)
        self.pos += 1
        self.full = self.pos == self.buffer_size

    def _numbers(self, name: str, tensor: Any) -> np.ndarray:
        """[n_envs] of a tensor of the policy's."""
        if not isinstance(tensor, torch.Tensor) or tensor.numel() != self.n_envs:
            what = f"has shape {list(tensor.shape)}" if isinstance(tensor, torch.Tensor) else f"is a {type(tensor).__name__}"
            raise ShapeError(f"{name} {what}, expected a tensor of {self.n_envs} elements, one an environment")
        return tensor.detach().cpu().view(-1).numpy()

    def compute_returns_and_advantage(self, last_values: torch.Tensor, dones: np.ndarray) -> None:
        """Generalized advantages (Schulman et al. 2016) and lambda returns, once all rows are written."""
        if not self.full:
            raise ValueError(f"{type(self).__name__}: {self.pos} of n_steps = {self.buffer_size} rows are written, expected all")
        self._values[-1] = self._numbers("compute_returns_and_advantage: last_values", last_values)
        if not np.isfinite(self.rewards).all():
            t, env = np.argwhere(~np.isfinite(self.rewards))[0]
            wrong = f"reward {t} of environment {env} is {self.rewards[t, env]}"
            raise NonFiniteError(f"compute_returns_and_advantage: {wrong}, expected a finite number")
        ended = np.empty(self.rewards.shape, bool)
        np.not_equal(self.episode_starts[1:], 0, out=ended[:-1])
        ended[-1] = rows_of("compute_returns_and_advantage", "dones", dones, (self.n_envs,))
        ops.gae(
            self.rewards, self._values, None, ended, np.zeros_like(ended), gamma=self.gamma, gae_lambda=self.gae_lambda,
            out=(self.advantages, self.returns),
        )  # fmt: skip

    def get(self, batch_size: int | None = None) -> Generator[Any, None, None]:
        """Every row once, in random order, ``batch_size`` at a time; None: all at once."""
        if not self.full:
            raise ValueError(f"{type(self).__name__}: {self.pos} of n_steps = {self.buffer_size} rows are written, expected all")
        size = self.buffer_size * self.n_envs
        step = size if batch_size is None else count("get", "batch_size", batch_size)
        order = torch.from_numpy(ops.permutation(size, self._random))
        if type(self)._get_samples is not RolloutBuffer._get_samples:  # a subclass makes something else of the rows
            yield from map(self._get_samples, order.split(step))
            return
        # Several minibatches are taken by one call: of 64 small rows it would be more work than the copy.
        row_bytes = sum(column[0].nbytes for column in self._flat_columns)
        for block in order.split(step * max(1, _BLOCK_BYTES // (step * row_bytes))):
            yield from map(self._samples, zip(*(column.split(step) for column in self._rows(block))))

    def _get_samples(self, batch_inds: Any, env: Any = None) -> Any:
        return self._samples(self._rows(torch.as_tensor(batch_inds)))

    def _rows(self, index: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Of each column, on the buffer's device."""
        rows: Any = ops.take_rows(self._flat_columns, index)
        return rows if self.device.type == "cpu" else tuple(x.to(self.device) for x in rows)

    def _samples(self, rows: tuple[torch.Tensor, ...]) -> Any:
        if isinstance(self.obs_shape, dict):
            return DictRolloutBufferSamples(dict(zip(self.obs_shape, rows[5:])), *rows[:5])
        return RolloutBufferSamples(rows[5], *rows[:5])

    @property
    def _flat_columns(self) -> tuple[torch.Tensor, ...]:
        """What minibatches are taken from, [n_steps * n_envs, ...] each, the observations last. The host's actions are float32 here,
        whatever their space."""
        if self._columns is None:
            flat = lambda x: torch.from_numpy(x).flatten(0, 1)  # noqa: E731
            numbers = (self.actions.astype(np.float32, copy=False), self.values, self.log_probs, self.advantages, self.returns)
            observations = map_observation(flat, self.observations)
            self._columns = (*map(flat, numbers), *(observations.values() if isinstance(observations, dict) else (observations,)))
        return self._columns


class DictRolloutBuffer(RolloutBuffer, host.DictRolloutBuffer):
    """`RolloutBuffer` by the host's name for Dict observations; either takes both."""
