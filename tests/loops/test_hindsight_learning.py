"""Agents with `her`: bits are flipped towards a goal, which is found by chance too seldom to be learned from."""

from __future__ import annotations

import functools
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

import pyrl
from pyrl.errors import EnvError, SettingError, SpaceError


class Bits(gym.Env):
    """Flip one bit a step (or, continuous, each whose action is positive) until they are those of the goal: a reward of -1 before."""

    def __init__(self, count: int = 8, continuous: bool = False) -> None:
        self.count, self.continuous = count, continuous
        bits = spaces.Box(0, 1, (count,), np.float32)
        self.observation_space = spaces.Dict({"observation": bits, "achieved_goal": bits, "desired_goal": bits})
        self.action_space = spaces.Box(-1, 1, (count,)) if continuous else spaces.Discrete(count)

    def observe(self) -> dict[str, np.ndarray]:
        return {"observation": self.bits.copy(), "achieved_goal": self.bits.copy(), "desired_goal": self.goal}

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.t, (self.bits, self.goal) = 0, self.np_random.integers(0, 2, (2, self.count)).astype(np.float32)
        return self.observe(), {}

    def compute_reward(self, achieved_goal: np.ndarray, desired_goal: np.ndarray, info: Any) -> np.ndarray:
        return -(achieved_goal != desired_goal).any(-1).astype(float)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        flipped = np.asarray(action) > 0 if self.continuous else np.arange(self.count) == action
        self.bits, self.t = np.where(flipped, 1 - self.bits, self.bits).astype(np.float32), self.t + 1
        solved = bool((self.bits == self.goal).all())
        return self.observe(), float(solved) - 1, solved, self.t == self.count and not solved, {"is_success": solved}


SETTINGS: dict[str, Any] = {"learning_rate": 1e-3, "gamma": 0.98, "batch_size": 64, "learning_starts": 100, "net_arch": (64, 64), "seed": 0}


def solved(algo: str, env: Any, steps: int, **config: Any) -> float:
    """Share of episodes."""
    run = pyrl.train(algo, env, total_steps=steps, run_dir=False, **{**SETTINGS, **config})
    return float((pyrl.evaluate(run.agent, env, episodes=50, seed=1).returns > -env().count).mean())


@pytest.mark.filterwarnings("ignore:.*hindsight")
def test_dqn_solves_bits_with_hindsight_and_not_without() -> None:
    settings = {"target_update_interval": 200, "train_freq": 1, "exploration": "linear_0.3"}
    env = functools.partial(Bits, 10)
    assert solved("dqn", env, 5000, her="future", **settings) >= 0.9
    assert solved("dqn", env, 5000, **settings) <= 0.2


@pytest.mark.filterwarnings("ignore:.*hindsight")
def test_sac_solves_bits_with_hindsight_and_not_without() -> None:
    env = functools.partial(Bits, 6, True)
    assert solved("sac", env, 4000, her="future", gamma=0.95) >= 0.9
    assert solved("sac", env, 4000, gamma=0.95) <= 0.3


@pytest.mark.parametrize("algo", ["dqn", "ddpg", "td3", "sac", "svg"])
@pytest.mark.parametrize("engine", ["native", "torch"])
def test_every_algorithm_with_everything(algo: str, engine: str) -> None:
    env = functools.partial(Bits, 4, algo != "dqn")
    run = pyrl.train(
        algo, env, total_steps=150, run_dir=False, her="episode", n_step=3, prioritized=True, num_envs=2, engine=engine, **SETTINGS
    )
    assert run.agent.updates > 0


def test_environments_in_other_processes() -> None:
    with pyrl.envs.make(functools.partial(Bits, 4), 2, backend="async") as stepper:
        agent = pyrl.make_agent("dqn", stepper.single_observation_space, stepper.single_action_space, num_envs=2, her="final", **SETTINGS)
        for _ in pyrl.iterate(agent, stepper, total_steps=130):
            pass
    assert agent.updates > 0


class NoReward(Bits):
    compute_reward: Any = property()  # none


class NoGoals(Bits):
    def __init__(self) -> None:
        super().__init__()
        self.observation_space: Any = spaces.Discrete(8)


class Masks(Bits):
    def reset(self, **options: Any) -> Any:
        observation, info = super().reset(**options)
        return observation, {**info, "action_mask": np.ones(self.action_space.n, np.int8)}


def test_what_hindsight_cannot_do_is_said() -> None:
    agent = pyrl.make_agent("dqn", Bits().observation_space, Bits().action_space, her="future", **SETTINGS)
    with pytest.raises(EnvError, match=r"her.* needs rewards for other goals, expected compute_reward"):
        pyrl.iterate(agent, NoReward, total_steps=10)
    plain = pyrl.make_agent("dqn", spaces.Discrete(8), Bits().action_space, her="future", **SETTINGS)
    with pytest.raises(SpaceError, match=r"observation_space is Discrete\(8\), expected a Dict with achieved_goal and desired_goal"):
        pyrl.iterate(plain, NoGoals, total_steps=10)
    with pytest.raises(SettingError, match="n_sampled_goal is 7, but her is 'none'"):
        pyrl.make_agent("dqn", Bits().observation_space, Bits().action_space, n_sampled_goal=7)
    with pytest.raises(SettingError, match="her is given, but Masks gives action masks"):
        list(pyrl.iterate(agent, Masks, total_steps=10))
    with pytest.raises(SettingError, match="her is 'past'"):
        pyrl.make_agent("dqn", Bits().observation_space, Bits().action_space, her="past")
