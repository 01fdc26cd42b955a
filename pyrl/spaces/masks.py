"""Action masks: what environments say may be chosen, in ``info["action_mask"]``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium import Space, spaces

from pyrl.spaces import choices
from pyrl.types import Array

MASK_KEY = "action_mask"  # in an info


class MaskReader:
    """Reads the masks of one action space.

    A mask says of every choice of a Discrete whether it may be chosen, or of every choice of all components of a MultiDiscrete, side
    by side or as a tuple of their masks (what ``space.sample(mask=...)`` takes). One that allows a component nothing says nothing of it:
    environments give such masks where an episode is over.
    """

    def __init__(self, space: Space) -> None:
        self.sizes = list(choices(space)) if isinstance(space, spaces.Discrete | spaces.MultiDiscrete) else []
        self._starts = np.cumsum([0, *self.sizes])[:-1]

    def read(self, given: Any, name: str = f"info[{MASK_KEY!r}]") -> Array:
        """bool [M]. ValueError where ``given`` is not a mask of the space."""
        if not self.sizes:
            raise ValueError(f"{name} is given, expected None: masks of Box and MultiBinary actions are not known")
        flat = flat_mask(given)
        if flat.dtype.kind not in "biuf" or flat.size != sum(self.sizes) or not np.isin(flat, (0, 1)).all():
            raise ValueError(f"{name} is {given!r:.100}, expected {sum(self.sizes)} numbers, each 0 or 1")
        mask = flat.astype(bool)
        nothing = ~np.logical_or.reduceat(mask, self._starts)
        if nothing.any():
            mask |= np.repeat(nothing, self.sizes)
        return mask

    def rows(self, given: Sequence[Any], name: str = f"info[{MASK_KEY!r}]") -> Array:
        """bool [N, M] of one mask each; where it is None, anything may be chosen."""
        table = np.ones((len(given), sum(self.sizes)), bool)
        for i, mask in enumerate(given):
            if mask is not None:
                table[i] = self.read(mask, name)
        return table


def flat_mask(given: Any) -> Array:
    """A mask, or a tuple of those of the components, as one new array, not looked at yet."""
    parts = given if isinstance(given, tuple | list) else [given]
    return np.concatenate([np.asarray(part).reshape(-1) for part in parts])


def masks_in(infos: Mapping[str, Any], num_envs: int) -> list[Any]:
    """The masks in the infos of a vector environment, None of those that gave none."""
    values = infos.get(MASK_KEY)
    if values is None:
        return [None] * num_envs
    given = infos.get(f"_{MASK_KEY}")
    if isinstance(values, tuple):  # one array [N, n] for each component
        values = list(zip(*values))
    return [values[i] if given is None or given[i] else None for i in range(num_envs)]
