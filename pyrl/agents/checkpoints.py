"""Agents in checkpoints.

What a checkpoint asks for before its weights are looked at (the size of observations, networks, environments) is compared with what
its files hold, so that a few bytes of settings never cost more than they and a fixed allowance.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.nn.modules.module import register_module_parameter_registration_hook

from pyrl.agents.registry import config_to_json, make_agent, make_config
from pyrl.agents.state import require_sane
from pyrl.checkpoint import checkpoint_errors, load, require_match, save, space_from_json, space_to_json
from pyrl.errors import CheckpointError, NonFiniteError
from pyrl.spaces import check_observation_space

if TYPE_CHECKING:
    from pyrl.agents.base import Agent

ALLOWANCE = 8 << 20  # bytes that a checkpoint may ask for beyond those of its weights: networks, one observation, one action
_MAX_ENVS = 1 << 20


def agent_tree(agent: Agent) -> tuple[dict[str, Any], dict[str, Any]]:
    """``(tree, metadata)`` of a checkpoint from which `load_agent` makes ``agent`` again. The arrays are the agent's own memory.

    NonFiniteError where a weight is NaN or infinite, SpaceError where a space is larger than `load_agent` takes.
    """
    state = agent.state_dict()
    try:
        for group in ("model", "optimizer", "normalizer"):
            require_sane(state[group], group)
    except CheckpointError as error:
        raise NonFiniteError(f"save: {error}; a checkpoint of it could not be loaded") from None
    most = ALLOWANCE + _bytes(state["model"])
    about = {
        "algo": agent.name,
        "seed": agent.seed,
        "num_envs": agent.num_envs,
        "config": config_to_json(agent.config),
        "observation_space": space_to_json(agent.observation_space, most),
        "action_space": space_to_json(agent.action_space, most),
    }
    return state, about


def save_agent(path: str | Path, agent: Agent) -> Path:
    """Write what `load_agent` needs to make ``agent`` again; nothing where `agent_tree` refuses."""
    return save(path, *agent_tree(agent))


def load_agent(path: str | Path, *, device: str | None = None) -> Agent:
    """The agent that `save_agent` wrote, as it was: networks, optimisers, random streams, counters.

    ``device`` takes the place of the config's: ``"cpu"`` where what was trained with ``device="cuda"`` has no GPU now.
    FileNotFoundError where there is no checkpoint; CheckpointError for whatever is wrong with it.
    """
    tree, about = load(path, groups=("model", "optimizer", "normalizer", "random", "counters"))
    with checkpoint_errors(path, "does not make an agent"):
        model = tree.get("model", {})
        most = ALLOWANCE + _bytes(model)
        spaces = [space_from_json(about[f"{name}_space"], most) for name in ("observation", "action")]
        check_observation_space(spaces[0], "pyrl.load")
        if type(about["seed"]) is not int or type(about["num_envs"]) is not int or about["num_envs"] > _MAX_ENVS:
            raise ValueError(
                f"seed is {about['seed']!r} and num_envs {about['num_envs']!r}, expected integers, num_envs at most {_MAX_ENVS}"
            )
        config = about["config"] if device is None else {**about["config"], "device": device}
        with _parameters_within(2 * len(model) + 64, most):
            agent = make_agent(about["algo"], *spaces, seed=about["seed"], num_envs=about["num_envs"], **config)
        agent.load_state_dict(tree)
    return agent


def restore_agent(path: str | Path, agent: Agent) -> tuple[dict[str, Any], dict[str, Any]]:
    """Make ``agent`` the one in the checkpoint of a run, if it has the same spaces and config; ``(tree, metadata)``, for its loop."""
    tree, about = load(path)
    with checkpoint_errors(path, "is not of this run"):
        if "loop" not in tree:
            raise CheckpointError(f"{path} holds no training state to go on from")
        saved_config = config_to_json(make_config(agent.name, about["config"]))  # with the fields that older versions did not have
        for what, saved, wanted in (
            ("algo", about["algo"], agent.name),
            ("observation_space", about["observation_space"], space_to_json(agent.observation_space)),
            ("action_space", about["action_space"], space_to_json(agent.action_space)),
            ("config", saved_config, config_to_json(agent.config)),
        ):
            require_match(saved, wanted, what)
        agent.load_state_dict(tree)
    return tree, about


def _bytes(model: Any) -> int:
    return sum(t.numel() * t.element_size() for t in model.values() if isinstance(t, Tensor)) if isinstance(model, Mapping) else 0


@contextmanager
def _parameters_within(most: int, most_bytes: int) -> Iterator[None]:
    """CheckpointError once modules made by the body have more parameters, or larger ones: before anything is written to their memory."""
    count, size, thread = 0, 0, threading.get_ident()

    def check(module: Any, name: str, parameter: Any) -> None:
        nonlocal count, size
        if parameter is None or threading.get_ident() != thread:
            return
        count, size = count + 1, size + parameter.numel() * parameter.element_size()
        if count > most or size > most_bytes:
            asked = f"{count} parameters" if count > most else f"parameters of {size} bytes"
            what = f"{type(module).__name__}.{name} {list(parameter.shape)}"
            raise CheckpointError(
                f"its settings ask for {asked} up to {what}, expected at most {most if count > most else most_bytes} by the files' sizes"
            )

    handle = register_module_parameter_registration_hook(check)
    try:
        yield
    finally:
        handle.remove()
