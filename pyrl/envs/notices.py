"""What environments offer and no agent uses yet: said once, by name."""

from __future__ import annotations

import warnings
from typing import Any

from gymnasium import Space, spaces

MASK_KEY = "action_mask"  # in an info
_GOAL_KEYS = {"observation", "achieved_goal", "desired_goal"}
_said: set[str] = set()


def say_once(text: str) -> None:
    """Warn, at most once in this process."""
    if text not in _said:
        _said.add(text)
        warnings.warn(text, UserWarning, stacklevel=2)


def mask_is_ignored(name: str) -> None:
    say_once(f"{name}: info[{MASK_KEY!r}] is ignored: no agent of pyrl honours action masks yet, and any action may be chosen")


def hindsight_is_not_applied(name: str, agent: str, space: Space | Any) -> None:
    """Where ``space`` is that of a goal-conditioned environment."""
    if isinstance(space, spaces.Dict) and set(space.spaces) >= _GOAL_KEYS:
        say_once(f"{name} has goals, but {agent} does not relabel them: hindsight experience replay is not applied")
