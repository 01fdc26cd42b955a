"""What ``mypy --strict`` says of a user's program: nothing of a right one, and each mistake of a wrong one."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import pyrl
from pyrl.agents.options import AgentOptions
from pyrl.agents.registry import agent_class, available_agents

ROOT = Path(__file__).parent.parent
SETTINGS = """
[mypy]
strict = True
[mypy-pyrl.*]
follow_imports = silent
[mypy-torch.*,matplotlib.*,rich.*,tyro.*,safetensors.*,tensorboard.*]
follow_imports = skip
"""
RIGHT = """
from pathlib import Path
from typing import Any
import gymnasium
import torch
import pyrl
from pyrl.errors import EnvError, UnsavedError
from pyrl.types import Metrics

def watch(metrics: Metrics) -> bool:
    return metrics["time/env_steps"] > 1000

def make_env() -> gymnasium.Env[Any, Any]:
    return gymnasium.make("CartPole-v1")

run: pyrl.Run = pyrl.train(
    "ppo", "CartPole-v1", total_steps=1000, seed=0, num_envs=8, backend="sync", run_dir=Path("x"), on_metrics=watch, threads=2,
    learning_rate="linear_1e-3", n_epochs=4, net_arch=(64, 64), activation="tanh", max_grad_norm=None, engine="native",
)
def Net(*about: object) -> torch.nn.Module:
    return torch.nn.Linear(3, 3)

own = pyrl.train(
    "ppo", make_env, features_extractor=Net, activation=torch.nn.Mish, net_arch={"actor": (64,), "critic": [256, 256]},
    optimizer=torch.optim.NAdam, optimizer_kwargs={"betas": (0.9, 0.99), "weight_decay": 1e-4},
)
whole = pyrl.train("sac", make_env, network=lambda observation_space, action_space, config: (Net(), Net()), optimizer="sgd")
handed: pyrl.Agent = pyrl.load("x", network=Net, features_extractor=Net, activation=torch.nn.Mish, optimizer=torch.optim.NAdam)
more = pyrl.train("dqn", make_env, resume="x", total_episodes=3, stop_at_return=400.0, prioritized=True, exploration_fraction=0.2)
vector = gymnasium.make_vec("CartPole-v1", num_envs=2)
agent: pyrl.Agent = pyrl.make_agent("ppo", vector.single_observation_space, vector.single_action_space, num_envs=2, gamma=0.9)
settings: dict[str, Any] = {"mine": 1}
other = pyrl.make_agent("of another package", vector.single_observation_space, vector.single_action_space, **settings)
for metrics in pyrl.iterate(agent, vector, total_steps=100, stop_window=3):
    value: float = metrics["time/seconds"]
    lengths: list[int] = [episode.length for episode in metrics.episodes]
scores: pyrl.Evaluation = pyrl.evaluate(agent, "CartPole-v1", episodes=5, num_envs=2)
mean: float = scores.mean
saved: Path = agent.save("y")
names: list[str] = pyrl.available_agents()
again: pyrl.Agent = pyrl.load(saved, device="cpu")
stream = pyrl.RandomStream(0, "mine")
with pyrl.envs.make("CartPole-v1", 4) as stepper:
    stepper.reset(seed=1)
"""
WRONG = """
import pyrl
pyrl.train("ppo", "CartPole-v1", lerning_rate=1e-3)  # call-arg
pyrl.train("ppo", "CartPole-v1", n_epochs="4")  # arg-type
pyrl.train("ppo", "CartPole-v1", activation="sigmoid")  # arg-type
pyrl.train("ppo", "CartPole-v1", backend=3)  # arg-type
pyrl.train("ppo", 3)  # arg-type
pyrl.train("ppo")  # call-arg
pyrl.train("ppo", "CartPole-v1", on_metrics=len)  # arg-type
pyrl.make_agent("dqn", 1, 2)  # arg-type
pyrl.iterate("ppo", "CartPole-v1", 10)  # arg-type
pyrl.evaluate("ppo", "CartPole-v1")  # arg-type
pyrl.evaluate(pyrl.load("x"), None)  # arg-type
pyrl.train("ppo", "CartPole-v1", network="mine")  # arg-type
pyrl.train("ppo", "CartPole-v1", optimizer="nadam")  # arg-type
pyrl.load("x", network=3)  # arg-type
x: int = pyrl.load("x")  # assignment
y: str = pyrl.train("ppo", "CartPole-v1").metrics[0]["loss/value"]  # assignment
pyrl.missing  # attr-defined
"""


def test_strict_programs(tmp_path: Path) -> None:
    for name, text in {"settings.ini": SETTINGS, "right.py": RIGHT, "wrong.py": WRONG}.items():
        (tmp_path / name).write_text(text)
    command = [sys.executable, "-m", "mypy", "--config-file", "settings.ini", "--cache-dir", str(ROOT / ".mypy_cache" / "user")]
    done = subprocess.run([*command, "right.py", "wrong.py"], capture_output=True, text=True, cwd=tmp_path, timeout=600)
    found: dict[int, set[str]] = {}
    for file, line, kind in re.findall(r"^(\w+\.py):(\d+): error: .*\[([\w-]+)\]$", done.stdout, re.MULTILINE):
        assert file == "wrong.py", done.stdout
        found.setdefault(int(line), set()).add(kind)
    wanted = {i: {line.rsplit("# ")[1]} for i, line in enumerate(WRONG.splitlines(), 1) if "# " in line}
    assert found == wanted, done.stdout + done.stderr


def test_every_setting_has_a_type() -> None:
    fields = {field.name for name in available_agents() for field in dataclasses.fields(agent_class(name).Config)}
    assert set(AgentOptions.__annotations__) == fields


def test_what_is_exported_is_there() -> None:
    assert pyrl.__all__ == sorted(pyrl.__all__, key=lambda name: (not name[0].isupper(), name))
    assert all(hasattr(pyrl, name) for name in pyrl.__all__)
