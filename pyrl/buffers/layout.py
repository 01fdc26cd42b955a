"""What a replay consists of: the columns of its records, from spaces; sizes and place, checked."""

from __future__ import annotations

import operator
import re
from collections.abc import Iterator, Mapping
from numbers import Real
from typing import Any, NamedTuple

import numpy as np

from pyrl.errors import DeviceError, DTypeError, SpaceError
from pyrl.ops import cuda_built
from pyrl.types import Array, Observation

_RESERVED = {"observation", "action", "reward", "next_observation", "terminated", "truncated", "valid"}  # arguments of add
_SPACES = {
    "observation": "Box, Discrete, MultiDiscrete, MultiBinary, Dict or Tuple",
    "action": "Box, Discrete, MultiDiscrete or MultiBinary",
}


class Plan(NamedTuple):
    """What a buffer consists of."""

    observation: list[tuple[str, str, tuple[int, ...]]]
    columns: list[tuple[str, str, tuple[int, ...]]]
    sizes: dict[str, Any]
    device: str
    host_copy: bool


def plan_of(
    capacity: Any, observation_space: Any, action_space: Any, num_envs: Any, n_step: Any, frame_stack: Any, linked: Any, extra: Any,
    device: Any, host_copy: Any,
) -> Plan:  # fmt: skip
    if reserved := _RESERVED & set(extra or ()):
        raise ValueError(f"ReplayBuffer: extra has a column named {min(reserved)!r}, which is an argument of add")
    given = {"capacity": capacity, "num_envs": num_envs, "n_step": n_step, "frame_stack": frame_stack}
    sizes: dict[str, Any] = {name: _integer(name, value) for name, value in given.items()}
    device, host_copy = _device(device), bool(host_copy)
    if host_copy and device == "cpu":
        raise ValueError("ReplayBuffer: host_copy is True, and device is 'cpu', expected a GPU")
    columns = _leaves(action_space, "action") + _extra_columns(extra)
    return Plan(_leaves(observation_space, "observation"), columns, {**sizes, "linked": bool(linked)}, device, host_copy)


def check_number(caller: str, name: str, value: Any) -> None:
    if not isinstance(value, Real):
        raise DTypeError(f"{caller}: {name} is {value!r}, expected a number")


def _integer(name: str, value: Any) -> int:
    try:
        integer = operator.index(value)
    except TypeError:
        raise DTypeError(f"ReplayBuffer: {name} is {value!r}, expected an integer") from None
    if not -(2**63) <= integer < 2**63:
        raise ValueError(f"ReplayBuffer: {name} is {integer:#x}, expected an integer that 64 bits hold")
    return integer


def _device(device: Any) -> str:
    """What the core calls it: "cpu", "cuda:0"."""
    name = str(device)
    if name == "cpu":
        return name
    if not re.fullmatch(r"cuda(:\d+)?", name):
        raise DeviceError(f"ReplayBuffer: device is {device!r}, expected 'cpu' or 'cuda'")
    if not cuda_built():
        raise DeviceError(
            f"ReplayBuffer: device is {name!r}, and this build of pyrl has no CUDA; build it with PYRL_CUDA=ON (docs/cuda.md), or use 'cpu'"
        )
    import torch

    if not torch.cuda.is_available():
        raise DeviceError(f"ReplayBuffer: device is {name!r}, and torch finds no GPU (docs/cuda.md)")
    return name if ":" in name else f"cuda:{torch.cuda.current_device()}"


def _leaves(space: Any, name: str, path: str = "") -> list[tuple[str, str, tuple[int, ...]]]:
    """(name, dtype, shape) of every array in a space, in the space's order."""
    if hasattr(space, "spaces") and name == "observation":
        children = space.spaces.items() if isinstance(space.spaces, Mapping) else enumerate(space.spaces)
        leaves = [leaf for key, child in children for leaf in _leaves(child, name, f"{path}[{key!r}]")]
        if not leaves:
            raise SpaceError(f"ReplayBuffer: {name}_space{path} is {space}, expected at least one entry")
        return leaves
    shape, dtype = getattr(space, "shape", None), getattr(space, "dtype", None)
    if shape is None or dtype is None or not hasattr(space, "contains"):
        raise SpaceError(f"ReplayBuffer: {name}_space{path} is {space!r}, expected {_SPACES[name]}")
    return [(name + path, np.dtype(dtype).name, tuple(int(n) for n in shape))]


def _extra_columns(extra: Any) -> list[tuple[str, str, tuple[int, ...]]]:
    try:
        return [(name, np.dtype(dtype).name, tuple(map(operator.index, shape))) for name, (shape, dtype) in dict(extra or {}).items()]
    except (TypeError, ValueError):
        expected = "the shape of a row and a dtype by name, {'log_prob': ((), 'float32')}"
        raise DTypeError(f"ReplayBuffer: extra is {extra!r}, expected {expected}") from None


def flat_leaves(space: Any, value: Any) -> Iterator[Array]:
    """The arrays of an observation, in the order of ``space``."""
    if hasattr(space, "spaces"):
        children = space.spaces.items() if isinstance(space.spaces, Mapping) else enumerate(space.spaces)
        for key, child in children:
            try:
                entry = value[key]
            except (KeyError, IndexError, TypeError):
                raise ValueError(f"ReplayBuffer: an observation has no entry {key!r}, expected those of {space}") from None
            yield from flat_leaves(child, entry)
    else:
        yield value


def nested_leaves(space: Any, leaves: Iterator[Array]) -> Observation:
    """The observation of these arrays."""
    if not hasattr(space, "spaces"):
        return next(leaves)
    if isinstance(space.spaces, Mapping):
        return {key: nested_leaves(child, leaves) for key, child in space.spaces.items()}
    return tuple(nested_leaves(child, leaves) for child in space.spaces)
