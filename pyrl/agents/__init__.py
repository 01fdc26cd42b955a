"""Agents: one algorithm, one file, its maths visible in it. Found by file name, or through the entry-point group ``pyrl.agents``."""

from __future__ import annotations

import pkgutil
from importlib.metadata import entry_points
from typing import Any

from pyrl.errors import UnknownNameError, closest_names

SHARED = {"base", "actor_critic", "continuous"}  # files that are no agent
registered: dict[str, Any] = {}  # name -> class, filled by `pyrl.agents.base.register`


def available_agents() -> list[str]:
    """Names of the agents of this package, of installed extensions, and of this process. Imports nothing heavy."""
    own = {m.name for m in pkgutil.iter_modules(__path__)} - SHARED
    return sorted(own | set(registered) | {e.name for e in entry_points(group="pyrl.agents")})


def check_algorithm(name: str, env: object = None) -> None:
    """UnknownNameError where there is no agent called ``name``; where ``env`` is one, the two were swapped."""
    known = available_agents()
    if name not in known:
        swapped = isinstance(env, str) and env in known
        meant = f"; did you mean {env} {name}, the algorithm first?" if swapped else closest_names(name, known)
        raise UnknownNameError(f"unknown algorithm {name!r}{meant} (algorithms: {', '.join(known)})")
