"""Agents in checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyrl.agents.registry import config_to_json, make_agent
from pyrl.checkpoint import load, save, space_from_json, space_to_json
from pyrl.errors import CheckpointError

if TYPE_CHECKING:
    from pyrl.agents.base import Agent


def agent_tree(agent: Agent) -> tuple[dict[str, Any], dict[str, Any]]:
    """``(tree, metadata)`` of a checkpoint from which `load_agent` makes ``agent`` again. The arrays are the agent's own memory."""
    about = {
        "algo": agent.name,
        "seed": agent.seed,
        "num_envs": agent.num_envs,
        "config": config_to_json(agent.config),
        "observation_space": space_to_json(agent.observation_space),
        "action_space": space_to_json(agent.action_space),
    }
    return agent.state_dict(), about


def save_agent(path: str | Path, agent: Agent) -> Path:
    """Write what `load_agent` needs to make ``agent`` again."""
    return save(path, *agent_tree(agent))


def load_agent(path: str | Path, *, device: str | None = None) -> Agent:
    """The agent that `save_agent` wrote, as it was: networks, optimisers, random streams, counters.

    ``device`` takes the place of the config's: ``"cpu"`` where what was trained with ``device="cuda"`` has no GPU now.
    """
    tree, about = load(path, groups=("model", "optimizer", "normalizer", "random", "counters"))
    try:
        config = about["config"] if device is None else {**about["config"], "device": device}
        spaces = space_from_json(about["observation_space"]), space_from_json(about["action_space"])
        agent = make_agent(about["algo"], *spaces, seed=about["seed"], num_envs=about["num_envs"], **config)
        agent.load_state_dict(tree)
    except (KeyError, TypeError, RuntimeError, ValueError) as error:
        cause = f"has no {error}" if isinstance(error, KeyError) else str(error)
        raise CheckpointError(f"checkpoint {path} does not make an agent: {cause}") from error
    return agent
