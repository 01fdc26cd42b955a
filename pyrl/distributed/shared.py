"""What processes share without a lock: weights, and slots for chunks.

The memory is torch's shared memory, which has no name: nothing is left of it when the last process that maps it is gone, however it
went. Who may touch a slot is said over pipes: the parent sends a slot's number to a collector, which fills it and sends the number back.
At each moment a slot belongs to one side alone, and a side that dies holds nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from typing_extensions import Self

from pyrl.agents.actor import Weights
from pyrl.agents.storage import RolloutSpec
from pyrl.buffers import RolloutBuffer
from pyrl.buffers.replay import flat_leaves, nested_leaves
from pyrl.distributed.chunks import Chunk, read_episodes, write_episodes
from pyrl.trees import zeros_for
from pyrl.types import Progress, Rollout

ALIGNMENT = 64  # bytes
_MOMENT = 3  # words before the weights: environment steps, share of the run, updates
_TRIES = 100  # to read weights that are being replaced; then the old ones serve for another chunk
_COLUMNS = ("action", "reward", "terminated", "truncated", "valid", "first")
_NUMBERS = ("incarnation", "sequence", "version", "finals", "episodes", "masked")


class SharedWeights:
    """The latest weights: written by the learner, read by anybody. Two places, used in turn, each with a checksum: what was read while it
    was written is seen by that, on every processor."""

    def __init__(self, example: Weights) -> None:
        self._begin = _MOMENT + example.statistics.size  # of the values
        self._values = torch.zeros((2, self._begin - (-example.values.nbytes // 8)), dtype=torch.int64).share_memory_()
        self._about = torch.full((3,), -1, dtype=torch.int64).share_memory_()  # version; checksums
        self._dtype, self._size = example.values.dtype, example.values.size
        self._open()

    def _open(self) -> None:
        """The same memory as arrays, whose elements are read and written in a tenth of a tensor's time."""
        self._words, self._numbers = self._values.numpy(), self._about.numpy()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_words", "_numbers")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()

    def write(self, weights: Weights) -> None:
        place = weights.version % 2
        words = self._words[place]
        self._numbers[1 + place] = -1
        beside = words[: self._begin].view(np.float64)
        beside[:_MOMENT], beside[_MOMENT:] = (*weights.progress, weights.updates), weights.statistics
        words[self._begin :].view(self._dtype)[: self._size] = weights.values
        self._numbers[1 + place] = self._checksum(words, weights.version)
        self._numbers[0] = weights.version

    def read(self, known: int) -> Weights | None:
        """The weights, unless their version is ``known`` or they change all the time."""
        for _ in range(_TRIES):
            version = int(self._numbers[0])
            if version in (known, -1):
                return None
            words = self._words[version % 2].copy()
            if self._numbers[1 + version % 2] == self._checksum(words, version):
                beside = words[: self._begin].view(np.float64)
                env_steps, share, updates = beside[:_MOMENT].tolist()
                values = words[self._begin :].view(self._dtype)[: self._size]
                return Weights(version, values, Progress(int(env_steps), share), int(updates), beside[_MOMENT:])
        return None

    @staticmethod
    def _checksum(words: np.ndarray, version: int) -> int:
        """The sum of all words: what is made of two versions differs from both, but once in 2^63. Not negative, as a place that is being
        written has -1. A CRC takes ten times as long, most of the way of large weights."""
        return (int(np.add.reduce(words)) + version) & 0x7FFF_FFFF_FFFF_FFFF


@dataclass(frozen=True)
class Slots:
    """Places for chunks, each of some columns at multiples of 64 bytes."""

    observation_space: Any
    columns: dict[str, tuple[slice, tuple[int, ...], Any]]  # name: (bytes, shape, dtype)
    extra: tuple[str, ...]
    size: int  # bytes

    @classmethod
    def packed(cls, observation_space: Any, arrays: Mapping[str, tuple[tuple[int, ...], Any]], extra: tuple[str, ...]) -> Self:
        """``arrays``: shape and dtype of the columns."""
        columns, at = {}, 0
        for name, (shape, dtype) in arrays.items():
            size = int(np.prod(shape)) * np.dtype(dtype).itemsize
            columns[name] = slice(at, at + size), shape, np.dtype(dtype)
            at += -(-size // ALIGNMENT) * ALIGNMENT
        return cls(observation_space, columns, extra, at)

    def fitted(self, finals: int, episodes: int) -> Self:
        """Room for as many final observations and as many episodes, and no more."""
        rows = {"episodes": episodes} | {name: finals for name in self.columns if name.startswith("final_")}
        arrays = {name: ((rows.get(name, shape[0]), *shape[1:]), dtype) for name, (_, shape, dtype) in self.columns.items()}
        return self.packed(self.observation_space, arrays, self.extra)

    def slots(self, count: int) -> Tensor:
        return torch.zeros((count, self.size), dtype=torch.uint8).share_memory_()

    def views(self, slot: np.ndarray) -> dict[str, np.ndarray]:
        """The columns in the bytes of a slot."""
        return {name: slot[place].view(dtype).reshape(shape) for name, (place, shape, dtype) in self.columns.items()}

    def write(self, slot: np.ndarray, chunk: Chunk) -> None:
        raise NotImplementedError

    def read(self, slot: np.ndarray, collector: int) -> Chunk:
        """A chunk whose arrays are those of the slot."""
        raise NotImplementedError


@dataclass(frozen=True)
class ChunkLayout(Slots):
    """Where the columns of a rollout [T, N] are in a slot."""

    @classmethod
    def of(cls, spec: RolloutSpec, num_envs: int, observation_space: Any, action_space: Any, mask_size: int) -> ChunkLayout:
        """``mask_size``: M of the environments' action masks; 0: they give none."""
        T, N = spec.n_steps, num_envs
        empty = RolloutBuffer(T, N, observation_space, action_space, extra=spec.extra).take(zeros_for(observation_space, N))
        arrays: dict[str, tuple[tuple[int, ...], Any]] = {"numbers": ((len(_NUMBERS),), np.int64)}
        for i, leaf in enumerate(flat_leaves(observation_space, empty.observation)):
            arrays[f"observation.{i}"] = (T + 1, N, *leaf.shape[2:]), leaf.dtype
            arrays[f"final_observation.{i}"] = (T * N, *leaf.shape[2:]), leaf.dtype
        arrays["action"] = (T, N, *empty.action.shape[2:]), empty.action.dtype
        arrays["reward"] = (T, N), np.float32
        arrays |= {name: ((T, N), np.bool_) for name in ("terminated", "truncated", "valid")}
        arrays["first"] = (T + 1, N), np.bool_
        arrays |= {name: ((T * N,), np.int64) for name in ("final_step", "final_env")}
        arrays |= {f"extra.{name}": ((T, N, *shape), np.dtype(dtype)) for name, (shape, dtype) in spec.extra.items()}
        arrays["action_mask"] = (T, N, mask_size), np.bool_
        arrays["episodes"] = (T * N, 4), np.float64
        return cls.packed(observation_space, arrays, tuple(spec.extra))

    def write(self, slot: np.ndarray, chunk: Chunk) -> None:
        views, rollout = self.views(slot), chunk.rollout
        assert isinstance(rollout, Rollout)
        finals = len(rollout.final_step)
        mask, room = rollout.action_mask, views["action_mask"]
        if mask is not None and mask.shape != room.shape:
            raise ValueError(f"ChunkLayout: action_mask has shape {list(mask.shape)}, expected {list(room.shape)}")
        for i, leaf in enumerate(flat_leaves(self.observation_space, rollout.observation)):
            views[f"observation.{i}"][:] = leaf
        for i, leaf in enumerate(flat_leaves(self.observation_space, rollout.final_observation)):
            views[f"final_observation.{i}"][:finals] = leaf
        for name in _COLUMNS:
            views[name][:] = getattr(rollout, name)
        views["final_step"][:finals], views["final_env"][:finals] = rollout.final_step, rollout.final_env
        for name in self.extra:
            views[f"extra.{name}"][:] = rollout.extra[name]
        if mask is not None:
            room[:] = mask
        write_episodes(views["episodes"], chunk.episodes)
        views["numbers"][:] = chunk.incarnation, chunk.sequence, chunk.version, finals, len(chunk.episodes), mask is not None

    def read(self, slot: np.ndarray, collector: int) -> Chunk:
        """A chunk whose arrays are those of the slot."""
        views = self.views(slot)
        numbers = dict(zip(_NUMBERS, views["numbers"].tolist()))
        finals, leaves = numbers["finals"], sum(name.startswith("observation.") for name in self.columns)

        def observation(name: str, count: int | None = None) -> Any:
            return nested_leaves(self.observation_space, iter([views[f"{name}.{i}"][:count] for i in range(leaves)]))

        rollout = Rollout(
            observation=observation("observation"),
            final_observation=observation("final_observation", finals),
            final_step=views["final_step"][:finals],
            final_env=views["final_env"][:finals],
            extra={name: views[f"extra.{name}"] for name in self.extra},
            action_mask=views["action_mask"] if numbers["masked"] else None,
            **{name: views[name] for name in _COLUMNS},
        )
        episodes = read_episodes(views["episodes"], numbers["episodes"])
        return Chunk(rollout, episodes, collector, numbers["incarnation"], numbers["sequence"], numbers["version"])
