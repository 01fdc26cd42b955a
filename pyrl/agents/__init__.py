"""Agents: one algorithm, one file, its maths visible in it. Found by file name, or through the entry-point group ``pyrl.agents``."""

from pyrl.agents.registry import available_agents

__all__ = ["available_agents"]
