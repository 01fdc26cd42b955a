"""The host's replay buffers on the record stream of `pyrl.buffers`."""

from __future__ import annotations

import re
from typing import Any, Literal

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common import buffers as host
from stable_baselines3.common.type_aliases import DictReplayBufferSamples, ReplayBufferSamples
from stable_baselines3.common.vec_env import VecNormalize

from pyrl import buffers
from pyrl.adapters.columns import action_rows, count, device_of, flag, rows_of, share
from pyrl.adapters.sb3.spaces import check_spaces, column_space, frame_space, observation_columns
from pyrl.errors import DTypeError, ShapeError
from pyrl.types import Array, Batch, map_observation

_HOST_NAMES = {"next_observation": "next_obs", "observation": "obs", "terminated": "done"}  # of what `add` is given


class ReplayBuffer(host.ReplayBuffer):
    """``replay_buffer_class=`` of DQN, DDPG, TD3 and SAC, for any observation that they take, a Dict too.

    Each observation is stored once, whatever ``optimize_memory_usage`` says: it is accepted and needs no trade with
    ``handle_timeout_termination``. ``buffer_size`` counts slots: the last observation of each episode takes one of its own.
    Draws follow the host's ``seed``.

    ``replay_buffer_kwargs``, beside the host's ``handle_timeout_termination``:
        n_steps, gamma: length of the returns, and the algorithm's discount factor, which is needed where n_steps > 1. Returns end early
            at an episode's end and at the newest transition; samples hold their ``discounts``.
        frame_stack: the observation's first dimension is so many frames, oldest first (VecFrameStack with images, channels first): only
            the newest is stored, and they are stacked again at the draw.
        stack_padding: what stands before an episode's first frame: zeros ("zero", as VecFrameStack) or the frame itself ("repeat").

    ``replay`` is the `pyrl.buffers.ReplayBuffer` behind it.
    """

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        device: torch.device | str = "auto",
        n_envs: int = 1,
        optimize_memory_usage: bool = False,
        handle_timeout_termination: bool = True,
        *,
        n_steps: int = 1,
        gamma: float | None = None,
        frame_stack: int = 1,
        stack_padding: Literal["zero", "repeat"] = "zero",
    ) -> None:
        check_spaces(observation_space, action_space)
        counts = {"buffer_size": buffer_size, "n_envs": n_envs, "n_steps": n_steps, "frame_stack": frame_stack}
        buffer_size, n_envs, n_steps, frame_stack = (count(self._name, name, value) for name, value in counts.items())
        if n_steps > 1 and gamma is None:
            raise ValueError(
                f"{self._name}: n_steps is {n_steps} and gamma is missing: give replay_buffer_kwargs the algorithm's gamma too"
            )
        if gamma is not None:
            share(self._name, "gamma", gamma)
        if buffer_size < n_envs * (n_steps + frame_stack):
            least = f"n_envs * (n_steps + frame_stack) = {n_envs * (n_steps + frame_stack)}"
            raise ValueError(f"{self._name}: buffer_size is {buffer_size}, expected at least {least}")
        device_of(self._name, device)
        super(host.ReplayBuffer, self).__init__(buffer_size, observation_space, action_space, device, n_envs)  # allocates nothing
        self.buffer_size = buffer_size // n_envs
        self.optimize_memory_usage = flag(self._name, "optimize_memory_usage", optimize_memory_usage)
        self.handle_timeout_termination = flag(self._name, "handle_timeout_termination", handle_timeout_termination)
        self.n_steps, self.gamma, self.frame_stack, self.stack_padding = n_steps, gamma, frame_stack, stack_padding
        stored = observation_columns(observation_space, self.obs_shape)
        self.replay = self._make_replay(
            buffer_size,
            stored if frame_stack == 1 else frame_space(stored, frame_stack),
            self._action_column(action_space),
            num_envs=n_envs,
            n_step=n_steps,
            gamma=1.0 if gamma is None else gamma,
            frame_stack=frame_stack,
            stack_padding=stack_padding,
            seed=int(np.random.randint(2**31)),  # noqa: NPY002 (the host seeds NumPy's global stream)
        )
        self._never = np.zeros(n_envs, bool)
        self._begins = np.ones(n_envs, bool)  # environments whose next observation is an episode's first
        self._frames = None if frame_stack == 1 else (n_envs, frame_stack, *self.replay.observation_space.shape)
        self._shape = None if isinstance(self.obs_shape, dict) or self._frames else (n_envs, *self.obs_shape)
        self._action_shape = (n_envs, *self.replay.action_space.shape)
        self._columns: dict[str, np.ndarray] = {}  # that an add stores beside

    @property
    def _name(self) -> str:
        return type(self).__name__

    @classmethod
    def _action_column(cls, space: spaces.Space) -> spaces.Box:
        shape = () if isinstance(space, spaces.Discrete) else (host.get_action_dim(space),)
        return column_space(shape, cls._maybe_cast_dtype(space.dtype))

    def _make_replay(self, *args: Any, **options: Any) -> buffers.ReplayBuffer:
        return buffers.ReplayBuffer(*args, **options)

    @property
    def dones(self) -> _Ends:  # type: ignore[override]
        return _Ends()

    def size(self) -> int:
        """Transitions of an environment that can be drawn, on average."""
        return len(self.replay) // self.n_envs

    @property
    def nbytes(self) -> int:
        """Bytes of the whole store, exact, reserved at construction."""
        return self.replay.nbytes

    def reset(self) -> None:
        super().reset()
        if hasattr(self, "replay"):
            self.replay.clear()
            self._begins[:] = True

    def add(self, obs: Any, next_obs: Any, action: Any, reward: Any, done: Any, infos: list[dict[str, Any]]) -> None:
        """One step of every environment, as the host's buffers take it. Errors are those of `pyrl.buffers.ReplayBuffer.add`."""
        # A step of 4 numbers takes a microsecond in all: nothing is converted or called that need not be.
        if not (type(action) is type(done) is np.ndarray and (type(obs) is np.ndarray or self._shape is None)):
            obs, next_obs, action, done = self._arrays(obs, next_obs, action, done)
        if len(done) != self.n_envs:
            raise ShapeError(f"add: done has shape {list(done.shape)}, expected [{self.n_envs}], one an environment")
        terminated = truncated = self._never
        if done[0] if self.n_envs == 1 else np.count_nonzero(done):
            terminated = np.asarray(done, bool)
            if self.handle_timeout_termination:
                truncated = terminated & self._time_limits(infos)
                terminated = terminated & ~truncated
        if action.shape != self._action_shape:
            action = action_rows("add", action, self.action_space.shape, self._action_shape)  # type: ignore[arg-type]
        if self._shape is None:
            obs, next_obs = self._rows(obs, next_obs, done)
        elif obs.shape != self._shape:
            obs, next_obs = (rows_of("add", name, rows, self._shape) for name, rows in (("obs", obs), ("next_obs", next_obs)))
        try:
            if self._columns:
                self.replay.add(obs, action, reward, next_obs, terminated, truncated, **self._columns)
            else:
                self.replay.add(obs, action, reward, next_obs, terminated, truncated)
        except (ValueError, TypeError) as error:
            raise type(error)(re.sub("|".join(_HOST_NAMES), lambda name: _HOST_NAMES[name[0]], str(error))) from None
        self.pos += 1
        if self.pos == self.buffer_size:
            self.full, self.pos = True, 0

    def _arrays(self, obs: Any, next_obs: Any, action: Any, done: Any) -> tuple[Any, Any, np.ndarray, np.ndarray]:
        """Lists and numbers, which the host takes too."""
        if self._shape is not None:
            obs, next_obs = np.asarray(obs), np.asarray(next_obs)
        return obs, next_obs, np.asarray(action), np.atleast_1d(np.asarray(done))

    def _time_limits(self, infos: Any) -> list[bool]:
        if not isinstance(infos, list | tuple) or len(infos) != self.n_envs or not all(isinstance(info, dict) for info in infos):
            raise DTypeError(f"add: infos is {infos!r}, expected a list of {self.n_envs} dicts, for handle_timeout_termination")
        return [bool(info.get("TimeLimit.truncated", False)) for info in infos]

    def _rows(self, obs: Any, next_obs: Any, done: Any) -> tuple[Any, Any]:
        """What is stored of the observations of dicts and of stacked frames."""
        if self._frames is None:
            return self._entries("obs", obs), self._entries("next_obs", next_obs)
        whole = (self.n_envs, *self.obs_shape)  # type: ignore[misc]
        newest = self._newest_frames(rows_of("add", "obs", obs, whole), rows_of("add", "next_obs", next_obs, whole))
        self._begins = np.asarray(done, bool)
        return newest

    def _entries(self, name: str, obs: Any) -> dict[str, np.ndarray]:
        if not isinstance(obs, dict):
            raise DTypeError(f"add: {name} is a {type(obs).__name__}, expected a dict with {sorted(self.obs_shape)}")
        shapes: Any = self.obs_shape
        try:
            return {key: rows_of("add", f"{name}[{key!r}]", obs[key], (self.n_envs, *shape)) for key, shape in shapes.items()}
        except KeyError as missing:
            raise ValueError(f"add: {name} has no entry {missing}, expected {sorted(self.obs_shape)}") from None

    def _newest_frames(self, obs: np.ndarray, next_obs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What is stored of two stacks, which are checked to be what a draw will make of the stored frames."""
        obs, next_obs = obs.reshape(self._frames), next_obs.reshape(self._frames)
        if not np.array_equal(next_obs[:, :-1], obs[:, 1:]):
            raise ValueError(f"add: frame_stack is {self.frame_stack}, but next_obs is not obs moved on by a frame")
        if self._begins.any():
            older, newest = obs[self._begins, :-1], obs[self._begins, -1:]
            if (older != (newest if self.stack_padding == "repeat" else 0)).any():
                expected = "the first frame" if self.stack_padding == "repeat" else "zeros"
                raise ValueError(
                    f"add: stack_padding is {self.stack_padding!r}, but obs has not {expected} before an episode's first frame"
                )
        return np.ascontiguousarray(obs[:, -1]), np.ascontiguousarray(next_obs[:, -1])

    def extend(self, *args: Any, **kwargs: Any) -> None:
        """T calls of `add`: every argument of it with a leading dimension more."""
        names = ("obs", "next_obs", "action", "reward", "done", "infos")
        columns = {**dict(zip(names, args)), **kwargs}
        for t in range(len(columns["reward"])):
            self.add(**{name: map_observation(lambda rows, t=t: rows[t], columns[name]) for name in names[:-1]}, infos=columns["infos"][t])

    def sample(self, batch_size: int, env: VecNormalize | None = None) -> ReplayBufferSamples:
        """Draw uniformly. ``env`` normalises observations and rewards, as they were given."""
        return self._samples(self.replay.sample(batch_size), env)

    def _get_samples(self, batch_inds: np.ndarray, env: VecNormalize | None = None) -> ReplayBufferSamples:
        """The samples of these records: indices of ``self.replay``."""
        return self._samples(self.replay.get(np.ascontiguousarray(batch_inds)), env)

    def _samples(self, batch: Batch, env: VecNormalize | None) -> Any:
        observation: Any = batch.observation
        next_observation: Any = batch.next_observation
        reward = batch.reward
        if self._frames is not None:
            observation, next_observation = (o.reshape(-1, *self.obs_shape) for o in (observation, next_observation))
        if env is not None:
            observation, next_observation = env.normalize_obs(observation), env.normalize_obs(next_observation)
            if env.norm_reward:
                reward = self._normalized_return(batch, env)
        # The arrays are fresh, and a tensor of one costs a third of a tensor of its own.
        tensor: Any = torch.from_numpy if self.device.type == "cpu" else self.to_torch
        dict_like = isinstance(self.obs_shape, dict)
        samples: Any = DictReplayBufferSamples if dict_like else ReplayBufferSamples
        return samples(
            map_observation(tensor, observation) if dict_like else tensor(observation),
            tensor(batch.action.reshape(-1, self.action_dim)),
            map_observation(tensor, next_observation) if dict_like else tensor(next_observation),
            tensor(batch.terminated.astype(np.float32)[:, None]),
            tensor(reward[:, None]),
            None if self.gamma is None else tensor(batch.discount[:, None]),
        )

    def _normalized_return(self, batch: Batch, env: VecNormalize) -> Array:
        """float32 [B]: the sums of normalised rewards. The host clips them one by one, so a sum of raw ones would not do."""
        if self.n_steps == 1:
            return env.normalize_reward(batch.reward).astype(np.float32)
        steps = self.replay.steps(batch.index)
        rewards = np.zeros(steps.shape)
        rewards[steps >= 0] = env.normalize_reward(self.replay.column("reward", steps[steps >= 0]))
        return (rewards @ self.replay.gamma ** np.arange(self.n_steps)).astype(np.float32)

    @classmethod
    def forecast(
        cls, buffer_size: int, observation_space: spaces.Space, action_space: spaces.Space, n_envs: int = 1, frame_stack: int = 1
    ) -> int:
        """What ``nbytes`` will be, before anything is allocated."""
        check_spaces(observation_space, action_space)
        stored = observation_columns(observation_space, host.get_obs_shape(observation_space))
        frame = stored if frame_stack == 1 else frame_space(stored, frame_stack)
        return cls._replay_class.forecast(buffer_size, frame, cls._action_column(action_space), n_envs, frame_stack=frame_stack)

    _replay_class = buffers.ReplayBuffer


class _Ends:
    """Stands for the host's array of flags, into which `learn` writes the end of a stream that it breaks off (with
    ``optimize_memory_usage``). Ours sees that by itself: the next observation does not follow the last. It is a cut there, and
    values continue beyond it."""

    def __setitem__(self, position: Any, ended: Any) -> None:
        pass


class DictReplayBuffer(ReplayBuffer, host.DictReplayBuffer):  # type: ignore[misc]
    """`ReplayBuffer` by the host's name for Dict observations; either takes both."""
