"""The host's hindsight replay by `pyrl.buffers.Hindsight`."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3 import her as host
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from pyrl import buffers
from pyrl.adapters.columns import count, flag
from pyrl.adapters.sb3.replay import DictReplayBuffer


class HerReplayBuffer(DictReplayBuffer, host.HerReplayBuffer):  # type: ignore[misc]
    """``replay_buffer_class=`` for goal environments: `DictReplayBuffer`, n-step returns included, with hindsight goals.

    Unlike the host's it draws from episodes that still run too, so learning may start before the first one ends.

    ``replay_buffer_kwargs``: ``n_sampled_goal`` new goals for each real one, ``goal_selection_strategy`` ("future", "final", "episode"),
    ``copy_info_dict`` (keep the infos for ``compute_reward``), and those of `ReplayBuffer`.
    """

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Dict,
        action_space: spaces.Space,
        env: VecEnv,
        device: torch.device | str = "auto",
        n_envs: int = 1,
        optimize_memory_usage: bool = False,
        handle_timeout_termination: bool = True,
        n_sampled_goal: int = 4,
        goal_selection_strategy: host.GoalSelectionStrategy | str = "future",
        copy_info_dict: bool = False,
        **options: Any,
    ) -> None:
        self.copy_info_dict = flag(self._name, "copy_info_dict", copy_info_dict)
        super().__init__(
            buffer_size, observation_space, action_space, device, n_envs, optimize_memory_usage, handle_timeout_termination, **options
        )
        strategy = getattr(goal_selection_strategy, "name", goal_selection_strategy)
        try:
            self.goal_selection_strategy = host.GoalSelectionStrategy[str(strategy).upper()]
        except KeyError:
            known = ", ".join(each.name.lower() for each in host.GoalSelectionStrategy)
            raise ValueError(f"{self._name}: goal_selection_strategy is {goal_selection_strategy!r}, expected one of {known}") from None
        self.n_sampled_goal, self.env = count(self._name, "n_sampled_goal", n_sampled_goal, least=0), env
        self.hindsight = self._make_hindsight()
        self.hindsight.check(self.replay)
        self._infos: list[Any] = [None] * self.buffer_size  # of the last vector steps
        self._steps = 0

    def _make_hindsight(self) -> buffers.Hindsight:
        strategy: Any = self.goal_selection_strategy.name.lower()
        return buffers.Hindsight(self._reward, strategy, self.n_sampled_goal, self._kept_infos if self.copy_info_dict else None)

    def _make_replay(self, *args: Any, **options: Any) -> buffers.ReplayBuffer:
        extra = {"step": ((), "int64")} if self.copy_info_dict else None
        return super()._make_replay(*args, extra=extra, **options)

    def add(self, obs: Any, next_obs: Any, action: Any, reward: Any, done: Any, infos: list[dict[str, Any]]) -> None:
        if self.copy_info_dict:
            self._columns = {"step": np.full(self.n_envs, self._steps)}
        super().add(obs, next_obs, action, reward, done, infos)
        if self.copy_info_dict:
            self._infos[self._steps % self.buffer_size] = infos
            self._steps += 1

    def _kept_infos(self, index: np.ndarray) -> list[Any]:
        steps = self.replay.column("step", index) % self.buffer_size
        return [self._infos[step][env] for step, env in zip(steps, index % self.n_envs)]

    def _reward(self, achieved_goal: np.ndarray, desired_goal: np.ndarray, info: Any) -> Any:
        if self.env is None:
            raise RuntimeError(f"{self._name}: it has no env, whose compute_reward it needs; call set_env first")
        return self.env.env_method("compute_reward", achieved_goal, desired_goal, info, indices=[0])[0]

    def _samples(self, batch: Any, env: VecNormalize | None) -> Any:
        """Rewards are computed for raw goals. Where they are summed they are normalised one by one, here."""
        each = None
        if env is not None and env.norm_reward and self.n_steps > 1:
            each = env.normalize_reward
            batch.reward[:] = super()._normalized_return(batch, env)
        return super()._samples(self.hindsight.relabel(self.replay, batch, each), env)

    def _normalized_return(self, batch: Any, env: VecNormalize) -> Any:
        return batch.reward if self.n_steps > 1 else super()._normalized_return(batch, env)

    def truncate_last_trajectory(self) -> None:
        """The episodes that run end here, and values continue beyond them, when the next observation does not follow: by themselves."""

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()  # without env
        del state["hindsight"]  # which calls it
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.hindsight = self._make_hindsight()
