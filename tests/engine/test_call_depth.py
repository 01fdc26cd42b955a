"""From `learn` to the optimiser step there are at most three calls (docs/architecture.md): the updater, the update, the step."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import gymnasium
import pytest

import pyrl
from pyrl.agents.registry import agent_class
from pyrl.engine.arena import Arena
from pyrl.engine.native import Native

PACKAGE = str(Path(pyrl.__file__).parent)
ENVS = {"ppo": "CartPole-v1", "a2c": "CartPole-v1", "dqn": "CartPole-v1", "ddpg": "Pendulum-v1", "td3": "Pendulum-v1", "sac": "Pendulum-v1"}
SMALL = {"n_steps": 16, "batch_size": 8, "learning_starts": 8, "net_arch": (4,)}


def calls_since_learn() -> list[str]:
    """The functions of pyrl between `learn` and the function that calls this one's caller, outermost first."""
    frame, names = sys._getframe(2), list[str]()
    while frame is not None and frame.f_code.co_name != "learn":
        code = frame.f_code
        if code.co_filename.startswith(PACKAGE) and code.co_name not in ("<listcomp>", "<genexpr>"):
            names.append(code.co_name)
        frame = frame.f_back  # type: ignore[assignment]
    assert frame is not None, "not called by learn"
    return names[::-1]


@pytest.mark.parametrize("engine", ["torch", "native"])
@pytest.mark.parametrize("algo", ENVS)
def test_calls_from_learn_to_the_optimiser_step(algo: str, engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kind: Any = Native if engine == "native" else Arena
    paths: list[list[str]] = []
    step = kind.step

    def watched(self: Any, *args: Any) -> Any:
        paths.append(calls_since_learn())
        return step(self, *args)

    monkeypatch.setattr(kind, "step", watched)
    env = gymnasium.make(ENVS[algo])
    known = {field.name for field in dataclasses.fields(agent_class(algo).Config)}
    options = {name: value for name, value in SMALL.items() if name in known}
    agent = pyrl.make_agent(algo, env.observation_space, env.action_space, engine=engine, **options)
    env.close()
    for _ in pyrl.iterate(agent, ENVS[algo], total_steps=32):
        pass
    assert paths
    assert max(map(len, paths)) <= 3, paths[0]
    assert all(path[-1] == "__call__" for path in paths)  # of the `Step`
