"""Environments that write to the same observation and info at every step, against the same ones that do not."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from hypothesis import given, settings
from hypothesis import strategies as st
from test_stepper import EXAMPLES, MODES, action_kinds, check, kinds, scripts_of_many
from toy_envs import Script, Scripted

import pyrl
from pyrl.envs import make
from pyrl.envs.notices import _said
from pyrl.errors import EnvError
from pyrl.seeding import stream_seed

REUSED = ["observation", "info", "action"]  # what an environment writes to
held_by_class: dict[str, Any] = {}


def write(held: Any, fresh: Any) -> Any:
    """``fresh`` in the memory of ``held``, containers too."""
    if held is None:
        return fresh
    if isinstance(fresh, dict):
        for key in fresh:
            held[key] = write(held[key], fresh[key])
        return held
    if isinstance(fresh, tuple):
        return tuple(write(h, f) for h, f in zip(held, fresh))
    if isinstance(fresh, np.ndarray):
        held[...] = fresh
        return held
    return fresh


class Reusing(Scripted):
    """One array, dict or info for all steps of one environment; with ``common``, of all environments of the process."""

    def __init__(self, script: Script, observation: str, action: str, reused: list[str], common: bool) -> None:
        super().__init__(script, observation, action)
        self.reused, self.held = reused, held_by_class if common else {}

    def observe(self) -> Any:
        fresh = super().observe()
        if "observation" not in self.reused:
            return fresh
        self.held[self.kind] = write(self.held.get(self.kind), fresh)
        return self.held[self.kind]

    def told(self, info: dict) -> dict:
        if "info" not in self.reused:
            return info
        kept = self.held.setdefault("info", {})
        kept.clear()
        kept.update(info)
        return kept

    def reset(self, **options: Any) -> Any:
        observation, info = super().reset(**options)
        return observation, self.told(info)

    def step(self, action: Any) -> Any:
        observation, *rest, info = super().step(action)
        if "action" in self.reused and isinstance(action, np.ndarray):
            action *= 0
        return observation, *rest, self.told(info)


def makers(scripts: list[Script], *about: Any) -> Any:
    made = iter(scripts)
    held_by_class.clear()
    return lambda: Reusing(next(made), *about)


reused = st.lists(st.sampled_from(REUSED), min_size=1, unique=True)


@pytest.mark.parametrize("backend", ["lean", *MODES], ids=str)
@settings(max_examples=25 * EXAMPLES, deadline=None)
@given(scripts_of_many, kinds, action_kinds, reused, st.booleans(), st.integers(0, 1000))
def test_in_this_process(
    backend: Any, scripts: list[Script], kind: str, action_kind: str, reused: list[str], common: bool, seed: int
) -> None:
    options: dict[str, Any] = {"backend": "lean"} if backend == "lean" else {"backend": "sync", "autoreset": backend}
    with make(makers(scripts, kind, action_kind, reused, common), len(scripts), seed=seed, **options) as stepper:
        stepper.reset()
        check(stepper, scripts, kind, action_kind, 12, [stream_seed(seed, "env", i) for i in range(len(scripts))])


@pytest.mark.parametrize("mode", MODES, ids=lambda m: m.name)
@pytest.mark.parametrize("kind", ["box", "image", "dict", "tuple"])
@pytest.mark.parametrize("what", [["observation"], ["info"], REUSED], ids=str)
def test_in_processes(mode: AutoresetMode, kind: str, what: list[str]) -> None:
    script: Script = [(3, "terminated"), (1, "truncated"), (2, "both")]
    about = dict(script=script, observation=kind, action="box", reused=what, common=False)
    with make(Reusing, 2, env_kwargs=about, backend="async", autoreset=mode) as stepper:
        stepper.reset()
        check(stepper, [script] * 2, kind, "box", 9, [stream_seed(0, "env", i) for i in range(2)])


@pytest.mark.parametrize("mode", MODES, ids=lambda m: m.name)
@pytest.mark.parametrize("kind", ["box", "image", "dict", "tuple"])
@pytest.mark.parametrize("what", [["observation"], ["info"], REUSED], ids=str)
def test_users_own_vector_env(mode: AutoresetMode, kind: str, what: list[str]) -> None:
    """Right, or refused: in SAME_STEP `SyncVectorEnv` keeps the array that the reset has written to."""
    scripts: list[Script] = [[(3, "terminated"), (1, "truncated"), (2, "both")]] * 2
    make_one = makers(scripts, kind, "box", what, False)
    with make(SyncVectorEnv([make_one, make_one], autoreset_mode=mode)) as stepper:
        stepper.reset()
        seeds = [stream_seed(0, "env", i) for i in range(2)]
        if "observation" in what and mode is AutoresetMode.SAME_STEP:
            with pytest.raises(EnvError, match=r"environment 0 \(seed .*the environment reuses its array"):
                check(stepper, scripts, kind, "box", 9, seeds)
        else:
            check(stepper, scripts, kind, "box", 9, seeds)


def test_users_own_processes_are_warned_of() -> None:
    def one() -> gym.Env:
        return Reusing([(2, "terminated")], "box", "discrete", ["observation"], False)

    _said.clear()
    with make(AsyncVectorEnv([one], autoreset_mode=AutoresetMode.SAME_STEP)) as stepper:
        stepper.reset()
        stepper.step(np.zeros(1, np.int64))
        with pytest.warns(UserWarning, match="AsyncVectorEnv has lost it"):
            stepper.step(np.zeros(1, np.int64))


class Corridor(gym.Env):
    """States 0 to 3, one after the other; the last is stayed in, pays 1, and is cut. With gamma 0.5 they are worth .25, .5, 1, 2."""

    observation_space = gym.spaces.Box(0, 1, (4,))
    action_space = gym.spaces.Discrete(1)

    def __init__(self) -> None:
        self.seen, self.info = np.zeros(4, np.float32), {"is_success": False}

    def show(self) -> Any:
        self.seen[:] = np.arange(4) == self.state
        self.info["is_success"] = self.state == 3
        return self.seen, self.info

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.state = 0
        return self.show()

    def step(self, action: Any) -> Any:
        reward = float(self.state == 3)
        cut = self.state == 3
        self.state = min(self.state + 1, 3)
        observation, info = self.show()
        return observation, reward, False, cut, info


@pytest.mark.parametrize("backend", ["lean", "sync", "async", "processes"])
def test_values_learned(backend: Any) -> None:
    with make(Corridor, 1, backend=backend) as stepper:
        agent = pyrl.make_agent(
            "dqn", stepper.single_observation_space, stepper.single_action_space, seed=0, gamma=0.5, net_arch=(16,), learning_rate=0.02,
            batch_size=64, learning_starts=200, buffer_size=400, target_update_interval=25, train_freq=1,
        )  # fmt: skip
        successes = [e.success for metrics in pyrl.iterate(agent, stepper, total_steps=1200) for e in metrics.episodes]
        assert set(successes) == {True}
    values = agent.modules()["q_network"](torch.eye(4)).flatten().tolist()
    np.testing.assert_allclose(values, [0.25, 0.5, 1, 2], atol=0.05)
