"""Stacked frames through the adapter for Stable-Baselines3: stored once, stacked again, and what they take."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces

pytest.importorskip("stable_baselines3", reason="Stable-Baselines3 is not installed (pyrl[sb3])")

from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecFrameStack

from pyrl.adapters import sb3

DISCRETE = spaces.Discrete(4)


class Frames(gym.Env):
    """Pictures whose pixels count the steps; an episode lasts seven."""

    observation_space, action_space = spaces.Box(0, 255, (1, 6, 6), np.uint8), spaces.Discrete(2)
    count = 0

    def picture(self) -> np.ndarray:
        self.count += 1
        return np.full((1, 6, 6), self.count % 251, np.uint8)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        self.t = 0
        return self.picture(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.t += 1
        return self.picture(), 1.0, self.t == 7, False, {}


def test_stacked_frames_are_stored_once_and_come_back() -> None:
    env = VecFrameStack(make_vec_env(Frames, 2), 4, channels_order="first")
    options = {"device": "cpu", "n_envs": 2}
    whole = sb3.ReplayBuffer(100, env.observation_space, env.action_space, **options)
    frames = sb3.ReplayBuffer(100, env.observation_space, env.action_space, **options, frame_stack=4)
    obs = env.reset()
    for _ in range(40):
        new_obs, reward, done, infos = env.step(np.zeros(2, np.int64))
        next_obs = new_obs.copy()
        for i in np.flatnonzero(done):
            next_obs[i] = infos[i]["terminal_observation"]
        for buffer in (whole, frames):
            buffer.add(obs, next_obs, np.zeros(2, np.int64), reward, done, infos)
        obs = new_obs
    index = whole.replay.draw(64)
    for want, have in zip(whole._get_samples(index), frames._get_samples(index)):
        assert (want is None) == (have is None)
        if want is not None:
            torch.testing.assert_close(have, want)
    assert frames.nbytes < 0.5 * whole.nbytes


def test_a_stack_that_is_none_is_refused() -> None:
    space = spaces.Box(0, 255, (4, 6, 6), np.uint8)
    stack, zeros = np.full((1, 4, 6, 6), 3, np.uint8), np.zeros((1, 3, 6, 6), np.uint8)
    rest = np.zeros(1, np.int64), np.ones(1, np.float32), np.zeros(1, bool), [{}]
    buffer = sb3.ReplayBuffer(100, space, DISCRETE, "cpu", frame_stack=4)
    with pytest.raises(ValueError, match=r"stack_padding is 'zero', but obs has not zeros"):
        buffer.add(stack, stack, *rest)
    begin = np.concatenate([zeros, stack[:, :1]], 1)
    with pytest.raises(ValueError, match=r"frame_stack is 4, but next_obs is not obs moved on by a frame"):
        buffer.add(begin, stack, *rest)
    sb3.ReplayBuffer(100, space, DISCRETE, "cpu", frame_stack=4, stack_padding="repeat").add(stack, stack, *rest)


ATARI = spaces.Box(0, 255, (4, 84, 84), np.uint8), spaces.Discrete(18)


def test_a_million_atari_transitions_fit() -> None:
    assert sb3.ReplayBuffer.forecast(1_000_000, *ATARI, frame_stack=4) <= 7.3e9
    small = sb3.ReplayBuffer(1000, *ATARI, "cpu", frame_stack=4)
    assert small.nbytes == sb3.ReplayBuffer.forecast(1000, *ATARI, frame_stack=4)
