"""Environments whose every number can be foretold, in all kinds of spaces; a vector environment of every mode."""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space, concatenate, create_empty_array

Script = list[tuple[int, str]]  # one (length, end) per episode, repeated; end: "terminated", "truncated" or "both"

OBSERVATIONS: dict[str, spaces.Space] = {
    "box": spaces.Box(-1000, 1000, (3,)),
    "float64": spaces.Box(-1000, 1000, (3,), np.float64),
    "scalar": spaces.Box(0, 1000, ()),
    "image": spaces.Box(0, 255, (2, 2), np.uint8),
    "discrete": spaces.Discrete(64),
    "discrete_start": spaces.Discrete(64, start=-5),
    "multi_discrete": spaces.MultiDiscrete([8, 8]),
    "multi_binary": spaces.MultiBinary(6),
    "dict": spaces.Dict({"z": spaces.Box(-1000, 1000, (2,)), "a": spaces.Tuple((spaces.Discrete(64), spaces.MultiBinary(3)))}),
    "tuple": spaces.Tuple((spaces.Discrete(64), spaces.Dict({"b": spaces.Box(-1000, 1000, (2,))}))),
}
ACTIONS: dict[str, spaces.Space] = {
    "discrete": spaces.Discrete(3),
    "discrete_start": spaces.Discrete(3, start=-2),
    "multi_discrete": spaces.MultiDiscrete([3, 2], start=[1, -4]),
    "box": spaces.Box(-1, 1, (2,)),
}


class Scripted(gym.Env):
    """Episodes as a script says. Observations tell episode (mod 8), step (< 8) and a random number; the reward tells
    the action."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"]}

    def __init__(self, script: Script, observation: str = "box", action: str = "discrete", render_mode: str | None = None) -> None:
        self.script = script
        self.kind = observation
        self.observation_space = OBSERVATIONS[observation]
        self.action_space = ACTIONS[action]
        self.render_mode = render_mode
        self.episode = -1
        self.t = 0
        self.closed = False

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        self.episode = 0 if seed is not None else self.episode + 1
        self.t = 0
        return self.observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        if not self.action_space.contains(np.int64(action) if isinstance(action, int) else action):
            raise AssertionError(f"illegal action {action!r}")
        length, end = self.script[self.episode % len(self.script)]
        self.t += 1
        over = self.t >= length
        reward = 16.0 * self.episode + self.t + 0.25 * float(np.sum(action))
        info = {"is_success": self.episode % 2 == 0} if over else {"noise": self.t}
        return self.observe(), reward, over and end != "truncated", over and end != "terminated", info

    def observe(self) -> Any:
        episode, t, noise = self.episode % 8, self.t, int(self.np_random.integers(200))
        where = np.array([episode, t], np.float32)
        number = episode * 8 + t
        return {
            "box": lambda: np.array([episode, t, noise], np.float32),
            "float64": lambda: np.array([episode, t, noise], np.float64),
            "scalar": lambda: np.array(number, np.float32),
            "image": lambda: np.array([[episode, t], [noise, 0]], np.uint8),
            "discrete": lambda: number,
            "discrete_start": lambda: np.int64(number - 5),
            "multi_discrete": lambda: np.array([episode, t]),
            "multi_binary": lambda: np.array([number >> k & 1 for k in range(6)], np.int8),
            "dict": lambda: {"z": where, "a": (number, np.array([t & 1, t >> 1 & 1, t >> 2 & 1], np.int8))},
            "tuple": lambda: (number, {"b": where}),
        }[self.kind]()

    def render(self) -> np.ndarray:
        return np.full((4, 6, 3), self.t, np.uint8)

    def close(self) -> None:
        self.closed = True


def where(kind: str, observation: Any) -> tuple[np.ndarray, np.ndarray]:
    """Episode (mod 8) and step that observations [..., ] of this kind tell."""
    if kind in ("box", "float64"):
        return observation[..., 0].astype(int), observation[..., 1].astype(int)
    if kind == "image":
        return observation[..., 0, 0].astype(int), observation[..., 0, 1].astype(int)
    if kind == "multi_discrete":
        return observation[..., 0], observation[..., 1]
    if kind == "multi_binary":
        number = (observation.astype(int) << np.arange(6)).sum(-1)
    elif kind == "dict":
        number = np.asarray(observation["a"][0])
    elif kind == "tuple":
        number = np.asarray(observation[0])
    else:
        number = np.asarray(observation).astype(int) + (5 if kind == "discrete_start" else 0)
    return number // 8, number % 8


def policy(kind: str, action: str, observation: Any) -> np.ndarray:
    """An action for each observation [..., ], counted from zero; depends on what is seen only."""
    episode, t = where(kind, observation)
    number = np.asarray(7 * episode + 3 * t, np.int64)
    if action in ("discrete", "discrete_start"):
        return number % 3
    if action == "multi_discrete":
        return np.stack([number % 3, number % 2], axis=-1)
    return np.stack([np.sin(number), 2.0 * np.cos(number)], axis=-1).astype(np.float32)  # partly out of bounds


class Faulty(gym.Env):
    """Goes wrong in a chosen way at a chosen step."""

    observation_space = spaces.Box(-1, 1, (2,))
    action_space = spaces.Discrete(3)

    def __init__(self, fault: str | None = None, at: int = 3) -> None:
        self.fault, self.at, self.t = fault, at, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        if self.fault == "reset" and (self.at == 0 or self.t):
            raise KeyError("no ground to stand on")
        self.t = 0
        return (np.full(2, np.nan, np.float32) if self.fault == "reset nan" else np.zeros(2, np.float32)), {}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict]:
        self.t += 1
        observation: Any = np.zeros(2, np.float32)
        reward: Any = 1.0
        if self.t == self.at:
            if self.fault == "raise":
                raise ZeroDivisionError("wheels came off")
            if self.fault == "reset":
                return observation, reward, True, False, {}
            observation = {
                "nan": np.array([0, np.nan], np.float32),
                "inf": np.array([np.inf, 0], np.float32),
                "shape": np.zeros(3, np.float32),
                "dtype": np.zeros(2, np.complex64),
                "none": None,
            }.get(str(self.fault), observation)
            reward = {"nan reward": np.nan, "text reward": "much"}.get(str(self.fault), reward)
        return observation, reward, False, False, {}


class ToyVector(VectorEnv):
    """Scripted environments under one of Gymnasium's autoreset modes, with the freedom in details that real ones take.

    declared: what metadata says (None: nothing). final: ``"object"`` (as SyncVectorEnv), ``"batch"`` (an array [N,
    ...] or a dict or tuple of such) or ``"none"``.
    """

    def __init__(
        self,
        envs: list[Scripted],
        mode: AutoresetMode,
        declared: AutoresetMode | str | None,
        final: str = "object",
        dead_reward: float = 0.0,
    ) -> None:
        self.envs, self.mode, self.final, self.dead_reward = envs, mode, final, dead_reward
        self.num_envs = len(envs)
        self.single_observation_space, self.single_action_space = envs[0].observation_space, envs[0].action_space
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self.metadata = {} if declared is None else {"autoreset_mode": declared}
        self.spec = None
        self.render_mode = None
        self.ended = np.zeros(self.num_envs, bool)
        self.seen: list[Any] = [None] * self.num_envs

    def batch(self, rows: list[Any]) -> Any:
        return concatenate(
            self.single_observation_space,
            rows,
            create_empty_array(self.single_observation_space, self.num_envs, fn=np.zeros),
        )

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict]:
        mask = (options or {}).get("reset_mask", np.ones(self.num_envs, bool))
        for i in np.flatnonzero(mask):
            self.seen[i], _ = self.envs[i].reset(seed=None if seed is None else seed + int(i))
        self.ended[mask] = False
        return self.batch(self.seen), {}

    def step(self, actions: Any) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict]:
        reward, terminated, truncated = (
            np.zeros(self.num_envs),
            np.zeros(self.num_envs, bool),
            np.zeros(self.num_envs, bool),
        )
        success, has_success = np.zeros(self.num_envs, bool), np.zeros(self.num_envs, bool)
        for i, env in enumerate(self.envs):
            if self.ended[i] and self.mode is AutoresetMode.NEXT_STEP:
                self.seen[i], _ = env.reset()
                reward[i] = self.dead_reward
                continue
            assert not (self.ended[i] and self.mode is AutoresetMode.DISABLED), "stepped after the end"
            action = actions[i] if isinstance(self.single_action_space, spaces.Box) else np.asarray(actions[i])
            self.seen[i], reward[i], terminated[i], truncated[i], info = env.step(action)
            if "is_success" in info:
                success[i], has_success[i] = info["is_success"], True
        self.ended = terminated | truncated
        infos: dict[str, Any] = {"is_success": success, "_is_success": has_success} if has_success.any() else {}
        if self.mode is AutoresetMode.SAME_STEP and self.ended.any():
            infos = {"final_info": infos, "_final_info": self.ended.copy()}
            if self.final == "object":
                infos["final_obs"] = np.full(self.num_envs, None, object)
                for i in np.flatnonzero(self.ended):
                    infos["final_obs"][i] = self.seen[i]
            elif self.final == "batch":
                infos["final_obs"] = self.batch(self.seen)
            for i in np.flatnonzero(self.ended):
                self.seen[i], _ = self.envs[i].reset()
        return self.batch(self.seen), reward, terminated, truncated, infos


class Walk(gym.Env):
    """Its state can be saved."""

    observation_space = spaces.Box(-50, 50, (2,))
    action_space = spaces.Discrete(2)

    def __init__(self, fails_at: int = -1) -> None:
        self.x, self.t, self.steps, self.fails_at = 0.0, 0, 0, fails_at

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.x, self.t = float(self.np_random.normal()), 0
        return self.observe(), {}

    def step(self, action: Any) -> Any:
        self.t += 1
        self.steps += 1
        if self.steps == self.fails_at:
            raise ZeroDivisionError("wheels came off")
        self.x += (1.0 if action else -1.0) + float(self.np_random.normal())
        return self.observe(), -abs(self.x), abs(self.x) > 8, self.t >= 25, {}

    def observe(self) -> np.ndarray:
        return np.array([self.x, self.t], np.float32)

    def state_dict(self) -> dict[str, Any]:
        return {"x": self.x, "t": self.t, "random": {"state": {k: str(v) for k, v in self.np_random.bit_generator.state["state"].items()}}}

    def load_state_dict(self, state: Any) -> None:
        self.x, self.t = state["x"], state["t"]
        whole = self.np_random.bit_generator.state
        whole["state"] = {k: int(v) for k, v in state["random"]["state"].items()}
        self.np_random.bit_generator.state = whole
