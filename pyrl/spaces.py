"""What pyrl accepts as observation and action spaces, and how two spaces differ in words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pyrl.errors import SpaceError

if TYPE_CHECKING:
    from gymnasium import Space


def check_observation_space(space: Space, where: str) -> None:
    """SpaceError unless ``space`` is Box, Discrete, MultiDiscrete, MultiBinary, or a Dict or Tuple of such."""
    from gymnasium import spaces

    if isinstance(space, spaces.Dict | spaces.Tuple):
        entries = space.spaces.items() if isinstance(space, spaces.Dict) else enumerate(space.spaces)
        if not space.spaces:
            raise SpaceError(f"{where}: observation_space is {space}, expected at least one entry")
        for key, entry in entries:
            check_observation_space(entry, f"{where}: entry {key!r}")
    elif not isinstance(space, spaces.Box | spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary):
        raise SpaceError(f"{where}: observation_space is {space}, expected Box, Discrete, MultiDiscrete, MultiBinary, Dict or Tuple")


def check_action_space(space: Space, where: str) -> None:
    """SpaceError unless ``space`` is Discrete, MultiDiscrete or Box."""
    from gymnasium import spaces

    if not isinstance(space, spaces.Discrete | spaces.MultiDiscrete | spaces.Box):
        raise SpaceError(f"{where}: action_space is {space}, expected Discrete, MultiDiscrete or Box")


def difference(ours: Space, theirs: Space) -> str | None:
    """None where the spaces are equal, else the first difference: ``"['x'] is Discrete(3), expected Discrete(4)"``."""
    return None if ours == theirs else _difference(ours, theirs, "")


def _difference(ours: Any, theirs: Any, path: str) -> str:
    from gymnasium import spaces

    name = path or "the space"
    if type(ours) is not type(theirs):
        return f"{name} is {theirs}, expected {ours}"
    if isinstance(ours, spaces.Dict):
        if list(ours.spaces) != list(theirs.spaces):
            return f"{name} has the keys {list(theirs.spaces)}, expected {list(ours.spaces)}"
        return next(_difference(s, theirs[k], f"{path}[{k!r}]") for k, s in ours.spaces.items() if s != theirs[k])
    if isinstance(ours, spaces.Tuple):
        if len(ours.spaces) != len(theirs.spaces):
            return f"{name} has {len(theirs.spaces)} entries, expected {len(ours.spaces)}"
        return next(_difference(s, t, f"{path}[{i}]") for i, (s, t) in enumerate(zip(ours.spaces, theirs.spaces)) if s != t)
    for attribute in ("shape", "dtype"):
        a, b = getattr(ours, attribute), getattr(theirs, attribute)
        if a != b:
            return f"{name} has {attribute} {b}, expected {a}"
    if isinstance(ours, spaces.Box):
        bound = "low" if not np.array_equal(ours.low, theirs.low) else "high"
        a, b = getattr(ours, bound), getattr(theirs, bound)
        at = tuple(int(i) for i in np.argwhere(a != b)[0]) if a.shape else ()
        return f"{name} has {bound}{list(at)} = {b[at]}, expected {a[at]}"
    return f"{name} is {theirs}, expected {ours}"
