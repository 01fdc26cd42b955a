"""Ids: modules that are imported first, in this process, in workers and from the command line; unknown names; notices."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from toy_envs import Faulty

import pyrl
from pyrl.__main__ import main
from pyrl.envs import make, notices
from pyrl.envs.notices import hindsight_is_not_applied
from pyrl.errors import EnvError, UnknownNameError

MODULE = """
import gymnasium as gym, numpy as np
from gymnasium import spaces

class Mine(gym.Env):
    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}
    observation_space, action_space = spaces.Box(-1, 1, (2,)), spaces.Discrete(2)
    def __init__(self, render_mode=None, length=5):
        self.render_mode, self.length = render_mode, length
    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return np.zeros(2, np.float32), {}
    def step(self, action):
        self.t += 1
        return np.ones(2, np.float32), float(action), self.t == self.length, False, {}
    def render(self):
        return np.zeros((32, 32, 3), np.uint8)

class Outer(Mine):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.inner = gym.make("Inner-v0")  # registered by this module

gym.register("Mine-v0", Mine)
gym.register("house/Outer-v0", "its_own_envs:Outer")
gym.register("Inner-v0", Mine)
"""
IDS = ["its_own_envs:Mine-v0", "its_own_envs:house/Outer-v0"]


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / "its_own_envs.py").write_text(MODULE)
    (tmp_path / "halfway.py").write_text("import not_there_at_all\n")
    (tmp_path / "wrong.py").write_text("1 / 0\n")
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name in ("Mine-v0", "house/Outer-v0", "Inner-v0"):
        gym.registry.pop(name, None)
    sys.modules.pop("its_own_envs", None)
    if str(tmp_path) in sys.path:
        sys.path.remove(str(tmp_path))


@pytest.mark.parametrize("env", IDS)
@pytest.mark.parametrize("backend", ["lean", "sync", "async", "processes"])
def test_make_train_and_evaluate(module: Path, monkeypatch: pytest.MonkeyPatch, env: str, backend: Any) -> None:
    monkeypatch.syspath_prepend(str(module))
    with make(env, 2, backend=backend, env_kwargs={"length": 3}) as stepper:
        stepper.reset()
        assert stepper.name == env.partition(":")[2]
        assert [len(stepper.step(np.zeros(2, np.int64)).episodes) for _ in range(6)] == [0, 0, 2] * 2
    run = pyrl.train("random", env, total_steps=20, num_envs=2, backend=backend, run_dir="run")
    assert json.loads((module / "run/config.json").read_text())["env"] == env
    assert pyrl.evaluate(run.agent, env, episodes=2).lengths.tolist() == [5, 5]
    assert pyrl.train("random", env, resume="run", total_steps=40).agent.env_steps == 40


@pytest.mark.timeout(120)
def test_from_the_command_line(module: Path) -> None:
    """As the installed command starts: the current folder is not on the path."""
    program = f"""
    import sys
    sys.path = [p for p in sys.path if p not in ("", {str(module)!r})]
    from pyrl.__main__ import main
    assert main(["train", "ppo", "its_own_envs:Mine-v0", "--total-steps", "64", "--num-envs", "1", "--n-steps", "32", "--batch-size", "32",
                 "--env-kwargs.length", "4", "--run-dir", "run", "--quiet"]) == 0
    """
    again = f"""
    import sys
    sys.path = [p for p in sys.path if p not in ("", {str(module)!r})]
    from pyrl.__main__ import main
    assert main(["train", "--resume", "run", "--total-steps", "96", "--quiet"]) == 0
    assert main(["eval", "run", "--episodes", "2"]) == 0
    """
    for text in (program, again):  # in a new process nothing is registered
        done = subprocess.run([sys.executable, "-c", textwrap.dedent(text)], capture_output=True, text=True, timeout=100)
        assert done.returncode == 0, done.stderr
    assert "4.0" in done.stdout


@pytest.mark.parametrize(
    ("env", "error", "words"),
    [
        ("nowhere_at_all:Mine-v0", UnknownNameError, "unknown environment 'nowhere_at_all:Mine-v0': there is no module 'nowhere_at_all'"),
        ("its_own_envs.deeper:Mine-v0", UnknownNameError, "there is no module 'its_own_envs.deeper'"),
        ("its_own_envs:Mien-v0", UnknownNameError, "unknown environment 'its_own_envs:Mien-v0'; did you mean Mine-v0"),
        ("halfway:Mine-v0", ModuleNotFoundError, "halfway:Mine-v0: importing halfway failed: No module named 'not_there_at_all'"),
        ("wrong:Mine-v0", EnvError, "wrong:Mine-v0: importing wrong raised ZeroDivisionError: division by zero"),
        ("Mine-v7000", UnknownNameError, "environments of a module of yours are named module:Name-v0|did you mean"),
        ("PongNoFrameskip-v4", UnknownNameError, "unknown environment 'PongNoFrameskip-v4'; did you mean ALE/Pong-v5"),
        ("SpaceInvadersDeterministic-v0", UnknownNameError, "did you mean ALE/SpaceInvaders-v5"),
        ("Breakout-ram-v4", UnknownNameError, "did you mean ALE/Breakout-v5"),
        ("Breakout-ramNoFrameskip-v4", UnknownNameError, "did you mean ALE/Breakout-v5"),
        ("Pendulum-v0", UnknownNameError, "did you mean Pendulum-v1"),
    ],
)
def test_names(module: Path, monkeypatch: pytest.MonkeyPatch, env: str, error: type[Exception], words: str) -> None:
    monkeypatch.syspath_prepend(str(module))
    with pytest.raises(error, match=words):
        make(env)
    assert main(["train", "random", env, "--total-steps", "10", "--quiet"]) == (1 if error is EnvError else 2)


def test_a_class_cannot_be_gone_on_with_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pyrl.train("random", Faulty, total_steps=10, run_dir=tmp_path / "run")
    for command in (["train", "--resume"], ["eval"], ["play"]):
        assert main([*command, str(tmp_path / "run")]) == 2
        message = capsys.readouterr().err
        assert "was trained on Faulty, an environment of its program" in message
        assert ("pyrl.train('random', Faulty, resume=" if "--resume" in command else "pyrl.evaluate(pyrl.load(") in message


GOALS = spaces.Dict({name: spaces.Box(-1, 1, (2,)) for name in ("observation", "achieved_goal", "desired_goal")})


class Goals(Faulty):
    observation_space = GOALS  # type: ignore[assignment]
    action_space = spaces.Box(-1, 1, (1,))  # type: ignore[assignment]


@pytest.mark.parametrize(("algo", "warns"), [("sac", True), ("td3", True), ("ppo", False)])
def test_hindsight_is_said_to_be_missing_once(algo: str, warns: bool, recwarn: pytest.WarningsRecorder) -> None:
    notices._said.clear()
    agent = pyrl.make_agent(algo, GOALS, Goals.action_space)
    for _ in range(2):
        pyrl.iterate(agent, Goals, total_steps=10)
    said = [str(w.message) for w in recwarn if "hindsight" in str(w.message)]
    assert len(said) == warns
    hindsight_is_not_applied("Plain", algo, spaces.Dict({"observation": spaces.Discrete(2)}))  # no goals: nothing to say
    assert len([w for w in recwarn if "Plain" in str(w.message)]) == 0
