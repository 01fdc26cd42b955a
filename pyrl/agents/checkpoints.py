"""Agents in checkpoints.

What a checkpoint asks for before its weights are looked at (the size of observations, networks, environments) is compared with what
its files hold, so that a few bytes of settings never cost more than they and a fixed allowance.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gymnasium.spaces import Tuple
from torch import Tensor
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.nn.parameter import is_lazy

from pyrl.agents.registry import config_to_json, make_agent, make_config
from pyrl.agents.state import require_sane
from pyrl.checkpoint import checkpoint_errors, exists, load, require_match, save, space_from_json, space_to_json
from pyrl.engine.standard import in_standard_state
from pyrl.errors import CheckpointError, NonFiniteError
from pyrl.own import BROUGHT, handed_in, is_own
from pyrl.schedules import is_name
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
    described = space_to_json(Tuple((agent.observation_space, agent.action_space)), most)["spaces"]
    about = {
        "algo": agent.name,
        "seed": agent.seed,
        "num_envs": agent.num_envs,
        "config": config_to_json(agent.config),
        "observation_space": described[0],
        "action_space": described[1],
    }
    return state, about


def save_agent(path: str | Path, agent: Agent) -> Path:
    """Write what `load_agent` needs to make ``agent`` again; nothing where `agent_tree` refuses."""
    return save(path, *agent_tree(agent))


@in_standard_state
def load_agent(
    path: str | Path,
    *,
    device: str | None = None,
    network: Callable[..., Any] | None = None,
    features_extractor: Callable[..., Any] | None = None,
    activation: Callable[..., Any] | None = None,
    optimizer: Callable[..., Any] | None = None,
) -> Agent:
    """The agent as `save_agent` wrote it: networks, optimisers, random streams, counters.

    ``path`` is a checkpoint, or the folder of a run: then its checkpoint ``best`` is loaded, or ``last`` where there is none.
    ``device`` takes the place of the config's: ``"cpu"`` where what was trained with ``device="cuda"`` has no GPU now.
    ``network``, ``features_extractor``, ``activation`` and ``optimizer`` are what it was made with, where that was the user's own: a
    checkpoint only knows their names, and imports nothing.
    FileNotFoundError where there is no checkpoint; CheckpointError for whatever is wrong with it.
    """
    path = trained_in(Path(path))
    given = {"network": network, "features_extractor": features_extractor, "activation": activation, "optimizer": optimizer}
    tree, about = load(path, groups=("model", "optimizer", "normalizer", "random", "counters", "progress"))
    with checkpoint_errors(path, "does not make an agent"):
        model = tree.get("model", {})
        most = ALLOWANCE + _bytes(model)
        described = [about["observation_space"], about["action_space"]]
        both = space_from_json({"type": "Tuple", "spaces": described}, most)  # one budget
        assert isinstance(both, Tuple)
        spaces = both.spaces
        check_observation_space(spaces[0], "pyrl.load")
        if type(about["seed"]) is not int or type(about["num_envs"]) is not int or about["num_envs"] > _MAX_ENVS:
            raise ValueError(
                f"seed is {about['seed']!r} and num_envs {about['num_envs']!r}, expected integers, num_envs at most {_MAX_ENVS}"
            )
        _check_imported(about["config"])
        config = handed_in(about["config"], given, "the agent")
        config = config if device is None else {**config, "device": device}
        with _parameters_within(2 * len(model) + 64, most):
            agent = make_agent(about["algo"], *spaces, seed=about["seed"], num_envs=about["num_envs"], **config)
        agent.load_state_dict(tree)
    return agent


def restore_agent(path: str | Path, agent: Agent, changed: Container[str] = ()) -> tuple[dict[str, Any], dict[str, Any]]:
    """Load the checkpoint of a run into ``agent``, if it has the same spaces and config, apart from the fields that may have
    ``changed``; ``(tree, metadata)``, for its loop."""
    tree, about = load(path)
    with checkpoint_errors(path, "is not of this run"):
        if "loop" not in tree:
            raise CheckpointError(f"{path} holds no training state to resume from")
        _check_imported(about["config"])
        # With the fields that older versions did not have.
        configs = [config_to_json(config) for config in (make_config(agent.name, about["config"]), agent.config)]
        # An object that was passed again is checked by its weights: its module may have another name.
        own = [name for name in BROUGHT if all(is_own(config.get(name)) for config in configs)]
        was, now = ({name: value for name, value in config.items() if name not in changed and name not in own} for config in configs)
        for what, saved, wanted in (
            ("algo", about["algo"], agent.name),
            ("observation_space", about["observation_space"], space_to_json(agent.observation_space)),
            ("action_space", about["action_space"], space_to_json(agent.action_space)),
            ("config", was, now),
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
        if parameter is None or threading.get_ident() != thread or is_lazy(parameter):
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


def trained_in(path: Path) -> Path:
    """The checkpoint to load in the folder of a run; any other path as it is."""
    kept = [path / "checkpoints" / name for name in ("best", "last")]
    return path if exists(path) else next((checkpoint for checkpoint in kept if exists(checkpoint)), path)


def _check_imported(config: Mapping[str, Any]) -> None:
    """A checkpoint names functions that are schedules, and the names are never imported."""
    for name, value in config.items():
        if name in BROUGHT:
            continue
        module = value.partition(":")[0] if is_name(value) else None
        if module is not None and module not in sys.modules:
            raise CheckpointError(f"{name} is the function {value!r}; import {module} before it is loaded")
