"""Agents in checkpoints, and telling how two of them differ."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyrl.checkpoint.loading import load
from pyrl.checkpoint.saving import save
from pyrl.checkpoint.spaces_json import space_from_json, space_to_json
from pyrl.errors import CheckpointError, SpaceError

if TYPE_CHECKING:
    from pyrl.agents.base import Agent


def save_agent(path: str | Path, agent: Agent, *, loop: Mapping[str, Any] | None = None, metadata: Mapping[str, Any] | None = None) -> Path:
    """Write what `load_agent` needs to make ``agent`` again; ``loop`` is the loop's own state, to go on training."""
    from pyrl.agents.base import config_to_json

    about = {
        "algo": agent.name,
        "seed": agent.seed,
        "num_envs": agent.num_envs,
        "config": config_to_json(agent.config),
        "observation_space": space_to_json(agent.observation_space),
        "action_space": space_to_json(agent.action_space),
    }
    return save(path, {**agent.state_dict(), **({} if loop is None else {"loop": loop})}, {**about, **(metadata or {})})


def load_agent(path: str | Path, *, device: str | None = None) -> Agent:
    """The agent that `save_agent` wrote, as it was: networks, optimisers, random streams, counters.

    ``device`` takes the place of the config's: ``"cpu"`` where what was trained with ``device="cuda"`` has no GPU now.
    """
    from pyrl.agents.base import make_agent

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


def require_match(saved: Any, wanted: Any, what: str) -> None:
    """Raise an error that lists every difference between two spaces (or their JSON), or two mappings of settings.

    SpaceError for spaces, CheckpointError otherwise; ``what`` names the thing compared.
    """
    from gymnasium import Space

    spaces = isinstance(saved, Space) or isinstance(wanted, Space)
    saved, wanted = (space_to_json(s) if isinstance(s, Space) else s for s in (saved, wanted))
    ours, theirs = dict(_leaves(wanted)), dict(_leaves(saved))
    differing = [k for k in {**theirs, **ours} if ours.get(k, _ABSENT) != theirs.get(k, _ABSENT)]
    if differing:
        lines = [f"  {k or 'value'}: saved {theirs.get(k, _ABSENT)}, wanted {ours.get(k, _ABSENT)}" for k in differing]
        raise (SpaceError if spaces else CheckpointError)("\n".join([f"{what} differs:", *lines]))


_ABSENT = "(nothing)"


def _leaves(tree: Any, path: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from _leaves(value, f"{path}.{key}" if path else str(key))
    else:
        yield path, json.dumps(tree, default=str)
