"""The host's spaces as the columns of a record: one array of fixed shape an observation, a key or an action."""

from __future__ import annotations

from typing import Any

from gymnasium import spaces

from pyrl.adapters.columns import column_space
from pyrl.errors import SpaceError


def observation_columns(space: spaces.Space, shape: Any) -> spaces.Space:
    """``shape``: what the host's `get_obs_shape` says of ``space``, a shape or a dict of them."""
    if isinstance(space, spaces.Dict):
        return spaces.Dict({key: column_space(shape[key], child.dtype) for key, child in space.spaces.items()})
    return column_space(shape, space.dtype)


def frame_space(space: spaces.Space, frame_stack: int) -> spaces.Box:
    """Of one frame, where the first dimension of ``space`` is ``frame_stack`` frames, oldest first."""
    if not isinstance(space, spaces.Box) or not space.shape or space.shape[0] % frame_stack:
        raise SpaceError(
            f"ReplayBuffer: frame_stack is {frame_stack}, and observation_space is {space}, "
            f"expected a Box whose first dimension is a multiple of {frame_stack} (channels first)"
        )
    rows = space.shape[0] // frame_stack
    return column_space(space.shape[1:] if rows == 1 and len(space.shape) > 1 else (rows, *space.shape[1:]), space.dtype)


def check_spaces(observation_space: Any, action_space: Any) -> None:
    """SpaceError for what the host's buffers do not take either, by the name of the argument."""
    flat = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)
    children = observation_space.spaces.values() if isinstance(observation_space, spaces.Dict) else (observation_space,)
    if not all(isinstance(child, flat) for child in children):
        expected = "Box, Discrete, MultiDiscrete, MultiBinary, or a Dict of them"
        raise SpaceError(f"ReplayBuffer: observation_space is {observation_space!r}, expected {expected}")
    if not isinstance(action_space, flat):
        raise SpaceError(f"ReplayBuffer: action_space is {action_space!r}, expected Box, Discrete, MultiDiscrete or MultiBinary")
