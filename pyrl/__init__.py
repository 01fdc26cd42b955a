"""pyrl: reinforcement learning with a fast C++ core and thin, readable Python agents.

    run = pyrl.train("ppo", "CartPole-v1")              # train, with curves and checkpoints
    for metrics in pyrl.iterate(agent, env, 100_000):   # the same loop, opened
    pyrl.buffers, pyrl.ops                              # the parts, for your own loop

Names are imported on first use, so that ``import pyrl`` is quick and the parts work without torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyrl import adapters, agents, buffers, checkpoint, deploy, engine, envs, errors, experiment, loops, nets, ops
    from pyrl.agents import available_agents
    from pyrl.agents.base import Agent
    from pyrl.agents.checkpoints import load_agent as load
    from pyrl.agents.registry import make_agent
    from pyrl.deploy.export import export
    from pyrl.experiment.train import Run, train
    from pyrl.loops.evaluation import Evaluation, evaluate
    from pyrl.loops.iterate import iterate
    from pyrl.ops.random import RandomStream

    __version__: str

_HOMES = {
    "Agent": "pyrl.agents.base",
    "available_agents": "pyrl.agents",
    "make_agent": "pyrl.agents.registry",
    "Evaluation": "pyrl.loops",
    "Run": "pyrl.experiment.train",
    "evaluate": "pyrl.loops",
    "export": "pyrl.deploy.export",
    "iterate": "pyrl.loops",
    "train": "pyrl.experiment.train",
    "RandomStream": "pyrl.ops.random",
}
_MODULES = ("adapters", "agents", "buffers", "checkpoint", "deploy", "engine", "envs", "errors", "experiment", "loops", "nets", "ops")

__all__ = [
    "Agent",
    "Evaluation",
    "RandomStream",
    "Run",
    "available_agents",
    "buffers",
    "envs",
    "evaluate",
    "export",
    "iterate",
    "load",
    "make_agent",
    "ops",
    "train",
]


if not TYPE_CHECKING:  # a type checker is to refuse names that are not there

    def __getattr__(name: str) -> Any:
        if name == "__version__":
            from importlib.metadata import version

            return version("pyrl")
        if name == "load":
            return importlib.import_module("pyrl.agents.checkpoints").load_agent
        if name in _HOMES:
            return getattr(importlib.import_module(_HOMES[name]), name)
        if name in _MODULES:
            return importlib.import_module(f"pyrl.{name}")
        raise AttributeError(f"module 'pyrl' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_MODULES})
