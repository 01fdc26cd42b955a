"""The actions that a stepper is handed, for all of its environments."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import Space, spaces

from pyrl.errors import DTypeError, ShapeError
from pyrl.spaces.actions import Actions
from pyrl.types import Array


class ActionBorder(Actions):
    """Checks N actions of the agent before they become the environments' (`batch`, `each`)."""

    def __init__(self, space: Space, num_envs: int) -> None:
        super().__init__(space, "step")
        self._shape = (num_envs, *self.stored.shape)
        self._stored_dtype = np.dtype(self.stored.dtype)
        self._kinds = "fiub" if self.is_box else "iub" if isinstance(space, spaces.MultiBinary) else "iu"

    def check(self, action: Any) -> Array:
        """The agent's action as an array of the right shape and kind."""
        array = np.asarray(action)
        if array.dtype is self._stored_dtype and array.shape == self._shape:
            return array
        if array.shape != self._shape:
            raise ShapeError(f"step: action has shape {list(array.shape)}, expected [N, ...] = {list(self._shape)}")
        if array.dtype.kind not in self._kinds:
            raise DTypeError(f"step: action has dtype {array.dtype}, expected {self._stored_dtype}")
        return array
