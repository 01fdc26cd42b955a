"""What environments offer and an agent does not use: said once, by name."""

from __future__ import annotations

import warnings
from typing import Any

from gymnasium import Space, spaces

from pyrl.spaces.masks import MASK_KEY

_GOAL_KEYS = {"observation", "achieved_goal", "desired_goal"}
_said: set[str] = set()


def say_once(text: str) -> None:
    """Warn, at most once in this process."""
    if text not in _said:
        _said.add(text)
        warnings.warn(text, UserWarning, stacklevel=2)


def mask_is_ignored(name: str, why: str) -> None:
    say_once(f"{name}: info[{MASK_KEY!r}] is ignored, and any action may be chosen: {why}")


def mask_of_resets_only(name: str) -> None:
    """Where environments give a mask when they are reset, and none later."""
    say_once(f"{name}: info[{MASK_KEY!r}] comes with resets and not with steps, so it holds for the first action of an episode only")


def late_mask_is_ignored(name: str) -> None:
    """Where environments give no mask when they are reset, and one later."""
    mask_is_ignored(name, "it comes with steps and not with resets, where it is looked for")


def hindsight_is_not_applied(name: str, agent: str, space: Space | Any) -> None:
    """Where ``space`` is that of a goal-conditioned environment."""
    if isinstance(space, spaces.Dict) and set(space.spaces) >= _GOAL_KEYS:
        say_once(f"{name} has goals, but {agent} does not relabel them: hindsight experience replay is not applied (her='future' does)")
