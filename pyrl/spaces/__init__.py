"""What spaces mean: which ones pyrl trains on, the arrays that they consist of, and how two of them differ in words.

`pyrl.spaces.actions` is the border between an agent's actions and its environment's, `pyrl.spaces.observations` says which numbers an
array of an observation may hold.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from numbers import Integral
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from pyrl.errors import SpaceError
from pyrl.types import Observation

if TYPE_CHECKING:
    from gymnasium import Space

Path: TypeAlias = tuple[Any, ...]  # keys and indices on the way to one array of an observation

MAX_CHOICES = 1 << 24  # of one Discrete, or of all components of a MultiDiscrete: each is an input or an output of a network
MAX_NUMBERS = 1 << 28  # of one Box or MultiBinary
_DTYPES = {"bool", "float16", "float32", "float64"} | {f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}


def check_observation_space(space: Space, where: str) -> None:
    """SpaceError unless ``space`` is Box, Discrete, MultiDiscrete, MultiBinary, or a Dict or Tuple of such, and can be represented."""
    from gymnasium import spaces

    if isinstance(space, spaces.Dict | spaces.Tuple):
        entries = space.spaces.items() if isinstance(space, spaces.Dict) else enumerate(space.spaces)
        if not space.spaces:
            raise SpaceError(f"{where}: observation_space is {space}, expected at least one entry")
        for key, entry in entries:
            if not isinstance(key, str | Integral):
                raise SpaceError(f"{where}: observation_space has the key {key!r}, expected strings and integers, as checkpoints keep them")
            check_observation_space(entry, f"{where}: entry {key!r}")
    elif not isinstance(space, spaces.Box | spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary):
        raise SpaceError(f"{where}: observation_space is {space}, expected Box, Discrete, MultiDiscrete, MultiBinary, Dict or Tuple")
    elif fault := _unfit(space):
        raise SpaceError(f"{where}: observation_space is {space}, {fault}")


def check_action_space(space: Space, where: str) -> None:
    """SpaceError unless ``space`` is Discrete, MultiDiscrete, MultiBinary or Box, and can be represented."""
    from gymnasium import spaces

    if not isinstance(space, spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary | spaces.Box):
        raise SpaceError(f"{where}: action_space is {space}, expected Discrete, MultiDiscrete, MultiBinary or Box")
    if fault := _unfit(space):
        raise SpaceError(f"{where}: action_space is {space}, {fault}")


def _unfit(space: Any) -> str | None:
    """Why no network can see, or choose, the numbers of this single array; None if one can."""
    from gymnasium import spaces

    dtype, size = np.dtype(space.dtype), math.prod(space.shape)
    if dtype.name not in _DTYPES or not dtype.isnative:
        return f"whose dtype is {dtype.name if dtype.isnative else dtype.str}, expected a native bool, integer, float16, float32 or float64"
    if size == 0:
        return f"whose shape is {list(space.shape)}, expected at least one number"
    if size > MAX_NUMBERS:
        return f"whose shape is {list(space.shape)}, expected at most {MAX_NUMBERS} numbers"
    if isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
        counts, starts = choices(space), starts_of(space)
        if sum(counts) > MAX_CHOICES:
            return f"which has {sum(counts)} choices, expected at most {MAX_CHOICES}: each is an input or output of a network"
        limit = min(np.iinfo(dtype).max, np.iinfo(np.int64).max)
        if any(start + count - 1 > limit for start, count in zip(starts, counts)):
            return f"whose largest value is {max(s + n - 1 for s, n in zip(starts, counts))}, expected at most {limit}"
    return None


def choices(space: Any) -> list[int]:
    """How many choices each component of a Discrete, MultiDiscrete or MultiBinary has, flat."""
    from gymnasium import spaces

    if isinstance(space, spaces.Discrete):
        return [int(space.n)]
    return [int(n) for n in space.nvec.ravel()] if isinstance(space, spaces.MultiDiscrete) else [2] * math.prod(space.shape)


def starts_of(space: Any) -> list[int]:
    """The smallest value of each component of the same, flat."""
    return [int(start) for start in np.ravel(getattr(space, "start", np.zeros(space.shape, np.int64)))]


def all_finite(array: np.ndarray) -> bool:
    """Whether ``array`` holds no NaN and no infinity."""
    # A sum of squares costs less than half of a look at each number, which decides if the sum overflows.
    return (array.dtype.char in "fd" and math.isfinite(np.vdot(array, array))) or bool(np.isfinite(array).all())


def leaves(space: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """(path, space) of every single array of an observation, in the space's order."""
    from gymnasium import spaces

    if isinstance(space, spaces.Dict | spaces.Tuple):
        for key, entry in space.spaces.items() if isinstance(space, spaces.Dict) else enumerate(space.spaces):
            yield from leaves(entry, (*path, key))
    else:
        yield path, space


def pick(observation: Observation, path: Path) -> Any:
    """The array of ``observation`` that is at ``path``."""
    for key in path:
        observation = observation[key]
    return observation


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
