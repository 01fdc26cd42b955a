"""Loops that are broken out of, and runs that are resumed: as if nothing had been (exact), or as after a reset (cut)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import pyrl
from pyrl import checkpoint
from pyrl.errors import CheckpointError, EnvError
from pyrl.experiment.metrics import read_csv
from pyrl.loops.base import Loop


class Drift(gymnasium.Env):
    """A noisy walk of 7 or 9 steps, whose whole state can be saved."""

    observation_space = spaces.Box(-10, 10, (2,), np.float32)

    def __init__(self, continuous: bool = False) -> None:
        self.action_space = spaces.Box(-1, 1, (1,)) if continuous else spaces.Discrete(2)
        self.word, self.t, self.x = 1, 0, 0.0

    def noise(self) -> float:
        self.word = (1103515245 * self.word + 12345) % (1 << 31)
        return self.word / (1 << 30) - 1.0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict]:
        if seed is not None:
            self.word = seed % (1 << 31)
        self.t, self.x = 0, self.noise()
        return np.array([self.x, 0.0], np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        self.t += 1
        self.x += 0.3 * float(np.asarray(action).sum()) + 0.1 * self.noise()
        return np.array([self.x, self.t / 9], np.float32), -abs(self.x), self.t == 7 and self.x > 0, self.t == 9, {}

    def state_dict(self) -> dict[str, Any]:
        return {"word": self.word, "t": self.t, "x": np.array([self.x])}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.word, self.t, self.x = state["word"], state["t"], float(state["x"][0])


class Continuous(Drift):
    def __init__(self) -> None:
        super().__init__(continuous=True)


class Silent(gymnasium.Env):
    """`Drift` without the two methods."""

    observation_space = Drift.observation_space

    def __init__(self) -> None:
        self.inner = Drift()
        self.action_space = self.inner.action_space

    def reset(self, **options: Any) -> Any:
        return self.inner.reset(**options)

    def step(self, action: Any) -> Any:
        return self.inner.step(action)


REPLAY: dict[str, Any] = {"learning_starts": 8, "batch_size": 4, "buffer_size": 64, "net_arch": (4,)}
RUNS: dict[str, tuple[str, Any, dict[str, Any]]] = {
    "ppo": ("ppo", Drift, {"n_steps": 5, "batch_size": 5, "n_epochs": 2, "net_arch": (4,), "normalize_reward": True}),
    "a2c": ("a2c", Drift, {"n_steps": 3, "net_arch": (4,), "normalize_observation": True}),
    "dqn": ("dqn", Drift, {**REPLAY, "train_freq": 3, "n_step": 2, "prioritized": True, "target_update_interval": 8}),
    "sac": ("sac", Continuous, REPLAY),
    "ddpg": ("ddpg", Continuous, {**REPLAY, "noise_type": "ornstein-uhlenbeck", "prioritized": True}),
}
TOTAL, CUT = 160, 80


def loop_of(name: str, env: Any = None) -> Loop:
    algo, own, config = RUNS[name]
    stepper = pyrl.envs.make(own if env is None else env, 2, seed=1)
    agent = pyrl.make_agent(algo, stepper.single_observation_space, stepper.single_action_space, num_envs=2, **config)
    return pyrl.iterate(agent, stepper, TOTAL)


def state_of(agent: Any) -> dict[str, Any]:
    state = agent.state_dict()
    return {"weights": state["model"], "random": state["random"], "counters": state["counters"], "normalizer": state["normalizer"]}


def assert_same(one: Any, other: Any) -> None:
    if isinstance(one, Mapping):
        assert one.keys() == other.keys()
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, torch.Tensor | np.ndarray):
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))
    else:
        assert one == other


def run(loop: Loop, until: int = TOTAL) -> Loop:
    for metrics in loop:
        if metrics["time/env_steps"] >= until:
            break
    return loop


def modes(name: str) -> list[Any]:
    env = RUNS[name][1]
    return [None, *(SyncVectorEnv([env] * 2, autoreset_mode=mode) for mode in AutoresetMode)]


@pytest.mark.parametrize("name", RUNS)
def test_a_loop_broken_out_of_continues_as_if_nothing_had_been(name: str) -> None:
    for whole_env, broken_env in zip(modes(name), modes(name), strict=True):
        whole, broken = run(loop_of(name, whole_env)), loop_of(name, broken_env)
        for until in (20, 40, 41, 100, TOTAL):
            run(broken, until)
            assert broken.can_continue
        assert_same(state_of(broken.agent), state_of(whole.agent))
        assert broken.stepper.resets == 1


@pytest.mark.parametrize("name", RUNS)
def test_it_is_reset_where_there_is_nothing_to_continue(name: str) -> None:
    """By request, where somebody else has reset the environments, and after an error in a round."""
    asked = run(loop_of(name), CUT)
    asked.reset()
    assert asked.stepper.resets == 2
    run(asked)
    disturbed = run(loop_of(name), CUT)
    disturbed.stepper.reset(seed=99)
    assert not disturbed.can_continue
    run(disturbed)
    assert_same(state_of(disturbed.agent), state_of(asked.agent))
    failing: Any = run(loop_of(name), CUT)
    step_envs = failing.step_envs
    failing.step_envs = lambda: (step_envs(), 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(failing)
    assert not failing.can_continue
    failing.step_envs = step_envs
    run(failing)
    assert failing.stepper.resets == 2


@pytest.mark.parametrize("name", RUNS)
def test_resuming_is_exact_where_environments_give_their_state(name: str, tmp_path: Path) -> None:
    algo, env, config = RUNS[name]
    whole = pyrl.train(algo, env, total_steps=TOTAL, num_envs=2, run_dir=False, **config).agent
    stop = lambda metrics: metrics["time/env_steps"] >= CUT  # noqa: E731
    pyrl.train(algo, env, total_steps=TOTAL, num_envs=2, run_dir=tmp_path / "run", on_metrics=stop, **config)
    resumed = pyrl.train(algo, env, resume=tmp_path / "run").agent
    assert resumed.env_steps == whole.env_steps
    assert_same(state_of(resumed), state_of(whole))


def test_rows_of_a_resumed_run_come_where_they_would_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The recorder's state is resumed too; the only further row is the last one before the stop."""
    monkeypatch.setattr("pyrl.experiment.recorder.ROWS", 4)
    algo, env, config = RUNS["ppo"]
    rows = []
    for name in ("whole", "parts"):
        stop = (lambda metrics: metrics["time/env_steps"] >= 60) if name == "parts" else None
        pyrl.train(algo, env, total_steps=TOTAL, num_envs=2, run_dir=tmp_path / name, on_metrics=stop, **config)
        if name == "parts":
            pyrl.train(algo, env, resume=tmp_path / name)
        rows.append(read_csv(tmp_path / name / "metrics.csv")["time/env_steps"].tolist())
    assert 60 not in rows[0]
    assert 70 not in rows[0]
    assert rows[1] == sorted({*rows[0], 60.0})


def test_a_rollout_broken_off_by_a_signal_is_in_the_checkpoint(tmp_path: Path) -> None:
    """`stop` ends a run in the middle of a rollout; resumed, the rollout is finished."""
    whole = run(loop_of("ppo"))
    stopped: Any = loop_of("ppo")
    step_envs = stopped.step_envs

    def stepping() -> Any:
        if stopped.agent.env_steps == 76:
            stopped.stop()
        return step_envs()

    stopped.step_envs = stepping
    run(stopped)
    assert len(stopped.buffer) == 4
    path = checkpoint.save(tmp_path / "c", {"agent": stopped.agent.state_dict(), "loop": stopped.state_dict()}, {})
    tree, _ = checkpoint.load(path)
    again = loop_of("ppo")
    again.agent.load_state_dict(tree["agent"])
    again.load_state_dict(tree["loop"])
    assert again.can_continue
    run(again)
    assert_same(state_of(again.agent), state_of(whole.agent))


def test_environments_that_give_no_state_are_cut() -> None:
    loop = run(loop_of("ppo", Silent), CUT)
    with pytest.raises(EnvError, match="no state to save: Silent has no state_dict and load_state_dict"):
        loop.stepper.state_dict()
    assert "stepper" not in loop.state_dict()
    vector = run(loop_of("ppo", SyncVectorEnv([Drift] * 2)), CUT)
    with pytest.raises(EnvError, match="no state to save: VectorStepper cannot reach it"):
        vector.stepper.state_dict()
    with pyrl.envs.make(Drift) as fresh, pytest.raises(EnvError, match="no state to save: there was no reset"):
        fresh.state_dict()


def test_a_state_of_other_environments_is_refused_and_changes_nothing() -> None:
    loop = run(loop_of("ppo"), CUT)
    state = loop.stepper.state_dict()
    other = pyrl.envs.make(Drift, 3)
    before = other.reset(seed=0).copy()
    with pytest.raises(CheckpointError, match=r"stepper/returns is not an array of float64 \[3\]"):
        other.load_state_dict(state)
    np.testing.assert_array_equal(other.observation, before)
    for broken in ({"environments": 1}, {"env_seeds": [1]}, {"observation": {}}, {"first": np.zeros(2)}):
        with pytest.raises(CheckpointError, match="stepper/"):
            loop.stepper.load_state_dict({**state, **broken})
    loop.stepper.load_state_dict(state)
    assert_same(loop.stepper.state_dict(), state)
