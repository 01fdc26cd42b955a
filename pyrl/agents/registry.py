"""Agents by name: those of this package (one file each), of this process (`register`), and of installed extensions.

Importing this file loads neither torch nor any agent, so that the command line can list them at once.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import pkgutil
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from typing_extensions import Unpack

from pyrl.agents.options import AgentOptions
from pyrl.errors import UnknownNameError, closest_names

if TYPE_CHECKING:
    from gymnasium import spaces

    from pyrl.agents.base import Agent, AgentConfig

# Files that are not agents.
SHARED = {"actor_critic", "base", "checkpoints", "checks", "observations", "off_policy", "options", "registry", "state"}
registered: dict[str, Any] = {}  # name -> class, filled by `register`

AgentType = TypeVar("AgentType", bound="type[Agent]")


def available_agents() -> list[str]:
    """Names of the agents of this package, of installed extensions, and of this process. Imports nothing heavy."""
    own = {m.name for m in pkgutil.iter_modules([str(Path(__file__).parent)])} - SHARED
    return sorted(own | set(registered) | {e.name for e in entry_points(group="pyrl.agents")})


def check_algorithm(name: str, env: object = None) -> None:
    """UnknownNameError where there is no agent called ``name``; where ``env`` is one, the two were swapped."""
    known = available_agents()
    if name not in known:
        swapped = isinstance(env, str) and env in known
        meant = f"; did you mean {env} {name}, the algorithm first?" if swapped else closest_names(name, known)
        raise UnknownNameError(f"unknown algorithm {name!r}{meant} (algorithms: {', '.join(known)})")


def register(name: str) -> Callable[[AgentType], AgentType]:
    """Class decorator: ``@register("ppo")``."""

    def keep(cls: AgentType) -> AgentType:
        cls.name = name
        registered[name] = cls
        return cls

    return keep


def agent_class(name: str) -> type[Agent]:
    """The class called ``name``; UnknownNameError with the closest names otherwise."""
    if name not in registered:
        check_algorithm(name)
        outside = {e.name: e for e in entry_points(group="pyrl.agents")}
        if name in outside:
            register(name)(outside[name].load())
        else:
            importlib.import_module(f"pyrl.agents.{name}")
    return registered[name]


def make_config(name: str, options: Mapping[str, Any], others: Iterable[str] = ()) -> AgentConfig:
    """The config of algorithm ``name`` with ``options`` set; ValueError for a field it does not have, with the closest names of
    those and of ``others``, which the caller takes beside them."""
    config_type = agent_class(name).Config
    known = [f.name for f in dataclasses.fields(config_type)]
    for option in options:
        if option not in known:
            near = closest_names(option, [*known, *others])
            raise UnknownNameError(f"{name} has no option {option!r}{near} (options: {', '.join(known)})")
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in options.items()}
    return config_type(**values)


def make_agent(
    name: str,
    observation_space: spaces.Space,
    action_space: spaces.Space,
    *,
    seed: int = 0,
    num_envs: int = 1,
    **options: Unpack[AgentOptions],
) -> Agent:
    """An untrained agent for these (single-environment) spaces; ``options`` are the fields of its config."""
    return agent_class(name)(observation_space, action_space, make_config(name, options), seed, num_envs)


def config_to_json(config: AgentConfig) -> dict[str, Any]:
    """Plain JSON values, to be read back by `make_config`."""
    return json.loads(json.dumps(dataclasses.asdict(config)))
