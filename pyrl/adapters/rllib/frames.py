"""Stacked frames: the newest is stored, the stack is made again at the draw."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces

from pyrl.adapters.columns import column_space
from pyrl.errors import SpaceError


class Frames:
    """``count`` frames in the last dimension of an observation, oldest first; 1: observations as they are."""

    def __init__(self, count: int, padding: Any) -> None:
        if padding not in ("repeat", "zero"):
            raise ValueError(f'EpisodeReplayBuffer: stack_padding is {padding!r}, expected "repeat" or "zero"')
        self.count, self.padding = count, padding

    def space(self, observed: Any) -> Any:
        """Of what is stored."""
        if self.count == 1:
            return observed
        if not isinstance(observed, spaces.Box) or not observed.shape or observed.shape[-1] % self.count:
            raise SpaceError(
                f"EpisodeReplayBuffer: frame_stack is {self.count}, and observations are {observed}, "
                f"expected one array whose last dimension is a multiple of {self.count}"
            )
        return column_space((*observed.shape[:-1], observed.shape[-1] // self.count), observed.dtype)

    def newest(self, id: str, observation: Any, begins: bool) -> Any:
        """What is stored of an episode's stacks [T + 1, ...], which are checked to be what a draw will make of it; ValueError if not."""
        if self.count == 1:
            return observation
        channels = observation.shape[-1] // self.count
        if not np.array_equal(observation[1:, ..., :-channels], observation[:-1, ..., channels:]):
            raise ValueError(f"add: episode {id}: frame_stack is {self.count}, but an observation is not the last moved on by a frame")
        newest = observation[..., -channels:]
        if begins:
            older = observation[0].reshape(*observation.shape[1:-1], self.count, channels)[..., :-1, :]
            if (older != (newest[0][..., None, :] if self.padding == "repeat" else 0)).any():
                what = "its first frame" if self.padding == "repeat" else "zeros"
                raise ValueError(f"add: episode {id}: stack_padding is {self.padding!r}, but {what} does not stand before its first frame")
        return np.ascontiguousarray(newest)

    def stacked(self, drawn: Any) -> Any:
        """[B, count, ..., C] as the host's stacks [B, ..., count * C]."""
        if self.count == 1:
            return drawn
        moved = np.moveaxis(drawn, 1, -2)
        return moved.reshape(*moved.shape[:-2], -1)
