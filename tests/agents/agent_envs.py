"""Which agents there are, tiny environments with known answers, and spaces of every kind."""

from __future__ import annotations

import pkgutil
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

import pyrl.agents
from pyrl.agents.off_policy import ContinuousAgent
from pyrl.agents.registry import SHARED, agent_class
from pyrl.trees import first_leaf
from pyrl.types import Batch, PolicyInput

# By what they are, so that a new file in pyrl/agents is walked over like the others.
AGENTS = tuple(sorted(m.name for m in pkgutil.iter_modules(pyrl.agents.__path__) if m.name not in SHARED))
CONTINUOUS = tuple(name for name in AGENTS if issubclass(agent_class(name), ContinuousAgent))
NATIVE = tuple(
    name for name in AGENTS if hasattr(agent_class(name), "native_gradient") or hasattr(agent_class(name), "native_critic_gradient")
)


class TwoStates(gym.Env):
    """Observation 0 or 1 at random, reward 1 for the action equal to it; ten steps an episode."""

    observation_space = spaces.Discrete(2)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[int, dict]:
        super().reset(seed=seed)
        self.t = 0
        self.state = int(self.np_random.integers(2))
        return self.state, {}

    def step(self, action: int) -> tuple[int, float, bool, bool, dict]:
        reward = float(action == self.state)
        self.state = int(self.np_random.integers(2))
        self.t += 1
        return self.state, reward, False, self.t == 10, {}


class TwoPictures(TwoStates):
    """`TwoStates`, seen: the left or the right half of a picture [36, 36, 1] is bright, with noise on it."""

    observation_space = spaces.Box(0, 255, (36, 36, 1), np.uint8)

    def picture(self, state: int) -> np.ndarray:
        bright = (np.arange(36) // 18 == state)[None, :, None]
        return (150 * bright + self.np_random.integers(0, 100, (36, 36, 1))).astype(np.uint8)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict]:
        state, info = super().reset(seed=seed)
        return self.picture(state), info

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict]:
        state, *rest = super().step(action)
        return self.picture(state), *rest


class CutOrEnd(gym.Env):
    """Where confusing the two flags changes the optimal action.

    In state 0, action 0 pays 1 and *terminates*; action 1 pays 0 and leads to state 1, where every step pays 1 and the episode
    is *truncated* after two of them. With gamma 0.9 state 1 is worth 1 / (1 - 0.9) = 10, so action 1 is worth 9 and action 0 is
    worth 1. Whoever takes the cut for an end values state 1 at most 1.9, whoever bootstraps through the end overrates action 0.
    """

    observation_space = spaces.Discrete(3)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[int, dict]:
        super().reset(seed=seed)
        self.state, self.t = 0, 0
        return 0, {}

    def step(self, action: int) -> tuple[int, float, bool, bool, dict]:
        if self.state == 0 and action == 0:
            self.state = 2
            return 2, 1.0, True, False, {}
        if self.state == 0:
            self.state = 1
            return 1, 0.0, False, False, {}
        self.t += 1
        return 1, 1.0, False, self.t == 2, {}


class TwoTargets(gym.Env):
    """Observation 0 or 1 at random; the reward is minus the square of how far the action is from -0.5 or 2; ten steps an episode."""

    observation_space = spaces.Discrete(2)
    action_space = spaces.Box(-1, 3, (1,))
    targets = (-0.5, 2.0)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[int, dict]:
        super().reset(seed=seed)
        self.t = 0
        self.state = int(self.np_random.integers(2))
        return self.state, {}

    def step(self, action: np.ndarray) -> tuple[int, float, bool, bool, dict]:
        reward = -float((action[0] - self.targets[self.state]) ** 2)
        self.state = int(self.np_random.integers(2))
        self.t += 1
        return self.state, reward, False, self.t == 10, {}


class StayOrGo(gym.Env):
    """`CutOrEnd` for continuous actions: each way of confusing the two flags changes the optimal action.

    In state 0 the action u costs u^2. With probability (1 - u) / 2 the episode then ends: that pays 2, *terminates*, and looks
    like state 1. Otherwise state 1 follows, where every step pays 1 and the episode is *truncated* after two of them. With gamma
    0.8 state 1 is worth 1 / (1 - 0.8) = 5 and leaving for it 4, so that Q(0, u) = 3 + u - u^2 and u = 0.5 is best. Whoever takes
    the cut for an end values leaving at most 0.8 * 1.8, and u = -0.14 seems best; whoever bootstraps through the end values it
    2 + 4, and u = -0.5 seems best.
    """

    observation_space = spaces.Discrete(2)
    action_space = spaces.Box(-1, 1, (1,))

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[int, dict]:
        super().reset(seed=seed)
        self.state, self.t = 0, 0
        return 0, {}

    def step(self, action: np.ndarray) -> tuple[int, float, bool, bool, dict]:
        if self.state == 0:
            self.state = 1
            ends = self.np_random.random() < (1 - action[0]) / 2
            return 1, 2.0 * ends - float(action[0] ** 2), bool(ends), False, {}
        self.t += 1
        return 1, 1.0, False, self.t == 2, {}


OBSERVATION_SPACES = {
    "box": spaces.Box(-1, 1, (3,)),
    "image": spaces.Box(0, 255, (4, 4), np.uint8),
    "float64": spaces.Box(-1, 1, (2,), np.float64),
    "discrete": spaces.Discrete(5),
    "discrete_start": spaces.Discrete(5, start=3),
    "multi_discrete": spaces.MultiDiscrete([2, 3]),
    "multi_binary": spaces.MultiBinary(4),
    "dict": spaces.Dict({"a": spaces.Box(-1, 1, (2,)), "b": spaces.Discrete(3)}),
    "tuple": spaces.Tuple((spaces.Box(-1, 1, (2,)), spaces.MultiBinary(2))),
}
ACTION_SPACES = {
    "discrete": spaces.Discrete(3),
    "discrete_start": spaces.Discrete(3, start=-1),
    "multi_discrete": spaces.MultiDiscrete([2, 3]),
    "box": spaces.Box(-2, 2, (2,)),
}

BOXES = {
    "one": spaces.Box(-2, 2, (1,)),
    "asymmetric": spaces.Box(np.float32([-1, 0]), np.float32([3, 0.5])),
    "matrix": spaces.Box(-1, 1, (2, 3)),
    "scalar": spaces.Box(-1, 3, ()),
    "float64": spaces.Box(-1, 3, (2,), np.float64),
}


def random_env(observation_space: spaces.Space, action_space: spaces.Space, length: int = 7) -> type[gym.Env]:
    """An environment of these spaces with random observations; checks that it is handed legal actions."""

    class RandomSpaces(gym.Env):
        def __init__(self) -> None:
            self.observation_space, self.action_space, self.t = observation_space, action_space, 0

        def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict]:
            super().reset(seed=seed)
            if seed is not None:
                self.observation_space.seed(seed)
            self.t = 0
            return self.observation_space.sample(), {}

        def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
            assert action_space.contains(int(action) if isinstance(action_space, spaces.Discrete) else np.asarray(action)), action
            self.t += 1
            return self.observation_space.sample(), float(self.np_random.normal()), self.t == length, False, {}

    return RandomSpaces


def advance(agent: Any, env_steps: int) -> None:
    """So many environment steps more."""
    agent.progress = agent.progress._replace(env_steps=agent.env_steps + env_steps)


def given(observation: Any) -> PolicyInput:
    """What an agent is handed in the middle of episodes."""
    return PolicyInput(observation, np.zeros(len(first_leaf(observation)), bool))


def prepared(observation: Any, action: Any = None, reward: Any = None, discount: Any = None, next_observation: Any = None) -> Batch:
    """A batch as losses take it."""
    return Batch(observation, action, reward, next_observation, None, discount, None)
