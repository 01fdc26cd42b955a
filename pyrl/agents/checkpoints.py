"""Agents in checkpoints."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyrl.agents.registry import config_to_json, make_agent
from pyrl.checkpoint import exists, load, save, space_from_json, space_to_json
from pyrl.engine.standard import in_standard_state
from pyrl.errors import CheckpointError
from pyrl.schedules import is_name

if TYPE_CHECKING:
    from pyrl.agents.base import Agent


def save_agent(path: str | Path, agent: Agent, *, loop: Mapping[str, Any] | None = None, metadata: Mapping[str, Any] | None = None) -> Path:
    """Write what `load_agent` needs to make ``agent`` again; ``loop`` is the loop's own state, to go on training."""
    about = {
        "algo": agent.name,
        "seed": agent.seed,
        "num_envs": agent.num_envs,
        "config": config_to_json(agent.config),
        "observation_space": space_to_json(agent.observation_space),
        "action_space": space_to_json(agent.action_space),
    }
    return save(path, {**agent.state_dict(), **({} if loop is None else {"loop": loop})}, {**about, **(metadata or {})})


@in_standard_state
def load_agent(path: str | Path, *, device: str | None = None) -> Agent:
    """The agent that `save_agent` wrote, as it was: networks, optimisers, random streams, counters.

    ``path`` is a checkpoint, or the folder of a run: then its checkpoint ``best`` is loaded, or ``last`` where there is none.
    ``device`` takes the place of the config's: ``"cpu"`` where what was trained with ``device="cuda"`` has no GPU now.
    """
    path = trained_in(Path(path))
    tree, about = load(path, groups=("model", "optimizer", "normalizer", "random", "counters"))
    try:
        for name, value in about["config"].items():
            _check_imported(path, name, value)
        config = about["config"] if device is None else {**about["config"], "device": device}
        spaces = space_from_json(about["observation_space"]), space_from_json(about["action_space"])
        agent = make_agent(about["algo"], *spaces, seed=about["seed"], num_envs=about["num_envs"], **config)
        agent.load_state_dict(tree)
    except (KeyError, TypeError, RuntimeError, ValueError) as error:
        cause = f"has no {error}" if isinstance(error, KeyError) else str(error)
        raise CheckpointError(f"checkpoint {path} does not make an agent: {cause}") from error
    return agent


def trained_in(path: Path) -> Path:
    """The checkpoint to look at in the folder of a run; any other path as it is."""
    kept = [path / "checkpoints" / name for name in ("best", "last")]
    return path if exists(path) else next((checkpoint for checkpoint in kept if exists(checkpoint)), path)


def _check_imported(path: Path, name: str, value: Any) -> None:
    """A checkpoint names functions that are schedules, and nothing is imported because it says so."""
    if is_name(value) and value.partition(":")[0] not in sys.modules:
        module = value.partition(":")[0]
        raise CheckpointError(f"checkpoint {path}: {name} is the function {value!r}; import {module} before it is loaded")
