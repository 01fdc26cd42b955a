"""Native environments and Gymnasium's, side by side: from the same state, with the same action and the same random numbers.

`python tests/envs/gymnasium_twin.py 1000000` compares so many steps of each, and prints where bits differ.
"""

from __future__ import annotations

import math
import sys
import warnings
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from pyrl.envs.native import native_of
from pyrl.ops.environments import EnvironmentPool
from pyrl.ops.random import RandomStream
from pyrl.trees import zeros_for

HEAD = 24  # bytes of a pool's state before the environment's own: key, step, length
KEY = 11
FOR_STEP, FOR_RESET = 0, 1

CASES: list[tuple[str, dict[str, Any]]] = [
    ("CartPole-v0", {}), ("CartPole-v1", {}), ("CartPole-v1", {"sutton_barto_reward": True}), ("Pendulum-v1", {}),
    ("Pendulum-v1", {"g": 9.81}), ("Acrobot-v1", {}), ("MountainCar-v0", {}), ("MountainCar-v0", {"goal_velocity": 0.01}),
    ("MountainCarContinuous-v0", {}), ("FrozenLake-v1", {}), ("FrozenLake-v1", {"is_slippery": False}),
    ("FrozenLake-v1", {"success_rate": 0.75, "reward_schedule": (5, -1, -0.1)}), ("FrozenLake8x8-v1", {}),
    ("FrozenLake-v1", {"desc": ["SFFFFH", "FHFSFF", "FFFFHG"]}), ("CliffWalking-v1", {}), ("CliffWalkingSlippery-v1", {}),
    ("Taxi-v4", {}), ("Taxi-v4", {"is_rainy": True}),
]  # fmt: skip

# Wide ranges of states, beyond those that episodes visit; attributes of a continuous state in their order.
WIDE = {
    "CartPole": (2.4, 5, 0.2, 5), "Pendulum": (30, 8), "Acrobot": (np.pi, np.pi, 4 * np.pi, 9 * np.pi),
    "MountainCar": (1.2, 0.07), "MountainCarContinuous": (1.2, 0.07),
}  # fmt: skip


class SameNumbers:
    """Stands for a Gymnasium environment's ``np_random``: hands out what a native environment draws at ``step`` of its life."""

    def __init__(self, step: int, purpose: int) -> None:
        self._stream = RandomStream.from_state((KEY, 0, step))
        self._purpose, self._taken = purpose, 0

    def random(self) -> float:
        words = self._stream.words(self._purpose, self._taken // 2)
        high, low = words[2:] if self._taken % 2 else words[:2]
        self._taken += 1
        return ((high << 32 | low) >> 11) * 2.0**-53

    def uniform(self, low: Any = 0.0, high: Any = 1.0, size: Any = None) -> Any:
        low, high = np.asarray(low, np.float64), np.asarray(high, np.float64)
        shape = size if size is not None else np.broadcast(low, high).shape
        drawn = np.array([self.random() for _ in range(math.prod(shape))]).reshape(shape)
        result = low + (high - low) * drawn
        return float(result) if result.ndim == 0 else result


class Theirs:
    """A Gymnasium environment, with its state in the native form's bytes."""

    def __init__(self, env_id: str, kwargs: dict[str, Any]) -> None:
        self.env: Any = gymnasium.make(env_id, disable_env_checker=True, **kwargs).unwrapped
        self.kind = type(self.env).__name__.removesuffix("Env").replace("Continuous_MountainCar", "MountainCarContinuous")
        self.table = isinstance(self.env.observation_space, spaces.Discrete)
        self.stepped = False

    def reset(self, step: int) -> Any:
        self.env._np_random = SameNumbers(step, FOR_RESET)
        self.stepped = False
        return self.env.reset()[0]

    def step(self, action: Any, step: int) -> tuple[Any, float, bool]:
        self.env._np_random = SameNumbers(step, FOR_STEP) if self.table else None
        observation, reward, terminated, _, _ = self.env.step(action)
        self.stepped = True
        return observation, float(reward), bool(terminated)

    def state(self) -> bytes:
        if self.table:
            return np.int64(self.env.s).tobytes()
        values = np.array(self.env.state, np.float64).tobytes()
        return values + np.int64(self.stepped).tobytes() if self.kind == "MountainCarContinuous" else values

    def start_anywhere(self, rng: np.random.Generator) -> None:
        """A state that a reset does not give."""
        if self.table:
            self.env.s = int(rng.integers(self.env.observation_space.n))
            return
        state = rng.uniform(-1, 1, len(WIDE[self.kind])) * WIDE[self.kind]
        self.env.state = tuple(state) if self.kind == "MountainCar" else state
        if self.kind == "MountainCarContinuous":
            self.env.state, self.stepped = state.astype(np.float32), True
        self.env.steps_beyond_terminated = None

    def action(self, rng: np.random.Generator) -> Any:
        space = self.env.action_space
        if isinstance(space, spaces.Discrete):
            return int(rng.integers(space.n))
        edge = rng.random() < 0.1
        return (rng.choice([-1, 1], space.shape) * space.high if edge else rng.uniform(space.low, space.high)).astype(np.float32)


class Ours:
    """As many native environments, in states of Gymnasium's."""

    def __init__(self, env_id: str, kwargs: dict[str, Any], count: int) -> None:
        native = native_of(gymnasium.make(env_id, disable_env_checker=True, **kwargs), env_id)
        self.native, self.count = native, count
        self.pool = EnvironmentPool(native.description, native.parameters.tolist(), count, 0)
        self.observation = zeros_for(native.observation_space, count)

    def set_states(self, states: list[bytes], steps: list[int]) -> None:
        heads = (np.array([KEY, step], np.uint64).tobytes() + bytes(8) for step in steps)
        self.pool.state = (
            np.frombuffer(b"".join(head + state for head, state in zip(heads, states)), np.uint8).reshape(self.count, -1).copy()
        )

    def states(self) -> list[bytes]:
        return [row[HEAD:].tobytes() for row in self.pool.state]

    def reset(self) -> np.ndarray:
        assert self.pool.reset(None, None, self.observation) is None
        return self.observation

    def step(self, actions: list[Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        reward, over, cut = np.zeros(self.count), np.zeros(self.count, bool), np.zeros(self.count, bool)
        batch = np.array(actions, self.native.action_space.dtype)
        told = self.pool.step(batch, self.observation, self.observation.copy(), reward, over, cut, False)
        assert not isinstance(told, tuple), told
        return self.observation, reward, over


@dataclass
class Steps:
    """Steps that Gymnasium's environment made; each starts from a state, and each reset has a number of its own."""

    states: list[bytes] = field(default_factory=list)
    actions: list[Any] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    results: list[tuple[Any, float, bool, bytes]] = field(default_factory=list)  # observation, reward, terminated, state
    resets: list[tuple[int, Any, bytes]] = field(default_factory=list)


def make_steps(theirs: Theirs, count: int, rng: np.random.Generator) -> Steps:
    made, left = Steps(), 0
    for step in range(count):
        if left == 0:
            number = count + step
            made.resets.append((number, np.asarray(theirs.reset(number)), theirs.state()))
            if rng.random() < 0.7:
                theirs.start_anywhere(rng)
            left = int(rng.integers(5, 60))
        action = theirs.action(rng)
        made.states.append(theirs.state())
        made.actions.append(action)
        made.numbers.append(step)
        result = theirs.step(action, step)
        made.results.append((*result, theirs.state()))
        left = 0 if result[2] else left - 1
    return made


def compare(env_id: str, kwargs: dict[str, Any], steps: int, seed: int = 0) -> Counter[str]:
    """How many values of each kind differ in any bit, of ``steps`` steps and the resets between them."""
    rng, theirs, different = np.random.default_rng(seed), Theirs(env_id, kwargs), Counter[str]()
    at_once = min(steps, 10_000)
    for _ in range(steps // at_once):
        made = make_steps(theirs, at_once, rng)
        ours = Ours(env_id, kwargs, at_once)
        ours.set_states(made.states, made.numbers)
        observation, reward, over = ours.step(made.actions)
        for i, (result, state) in enumerate(zip(made.results, ours.states())):
            own = (observation[i], reward[i], over[i], state)
            for name, a, b in zip(("observation", "reward", "terminated", "state"), result, own):
                different[name] += bits(a, observation.dtype) != bits(b, observation.dtype)
        ours = Ours(env_id, kwargs, len(made.resets))
        blank = bytes(len(made.states[0]))
        ours.set_states([blank] * len(made.resets), [number for number, _, _ in made.resets])
        observation = ours.reset()
        for i, ((_, seen, state), own_state) in enumerate(zip(made.resets, ours.states())):
            different["reset observation"] += bits(seen, observation.dtype) != bits(observation[i], observation.dtype)
            different["reset state"] += state != own_state
    return +different


def bits(value: Any, dtype: Any) -> bytes:
    if isinstance(value, bytes):
        return value
    return np.asarray(value, dtype if isinstance(value, int | np.integer) and not isinstance(value, bool) else None).tobytes()


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    count = int(sys.argv[1])
    for name, keywords in CASES:
        if not sys.argv[2:] or name in sys.argv[2:]:
            differing = compare(name, keywords, count)
            print(f"{name} {keywords}: {count} steps, {dict(differing) or 'no bit differs'}", flush=True)
