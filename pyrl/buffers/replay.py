"""The replay buffer: a stream of records, from which batches of windows are drawn (docs/replay.md)."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Iterator, Mapping
from numbers import Real
from typing import Any, Literal

import numpy as np

from pyrl.buffers.pickling import Pickled, pickled
from pyrl.errors import DeviceError, DTypeError, NonFiniteError, SpaceError
from pyrl.ops import cuda_built
from pyrl.ops.replay import ReplayCore
from pyrl.seeding import stream_key
from pyrl.types import Array, Batch, Observation

_RESERVED = {"observation", "action", "reward", "next_observation", "terminated", "truncated", "valid"}  # arguments of add
_SPACES = {
    "observation": "Box, Discrete, MultiDiscrete, MultiBinary, Dict or Tuple",
    "action": "Box, Discrete, MultiDiscrete or MultiBinary",
}
_TRANSITION = 1
_ENDS = {8: "terminated", 16: "truncated", 32: "cut"}  # with _TRANSITION: flags of csrc/replay/ring_view.hpp


@pickled
class ReplayBuffer(Pickled):
    """Stores each observation once; draws transitions, n-step returns and frame stacks as windows of consecutive records.

    Args:
        capacity: slots in total, tails included; rounded down to a multiple of ``num_envs``. ``nbytes`` is exact.
        observation_space: Box, Discrete, MultiDiscrete, MultiBinary, or a (nested) Dict or Tuple of them; of a single frame if
            frames are stacked. dtypes are kept as the space says.
        action_space: Box, Discrete, MultiDiscrete or MultiBinary.
        num_envs: N, the number of lanes.
        n_step: longest return; windows are shortened at an episode's end and at the newest record, never left out.
        gamma: discount factor of the returns, in [0, 1].
        frame_stack: m frames an observation; batches hold ``[B, m, ...]`` for m > 1, oldest frame first.
        seed: of the draws.
        stack_padding: what stands before an episode's first frame: the frame itself ("repeat") or zeros.
        linked: False for transitions without order (a shuffled data set): both observations are stored in each record.
        extra: further columns, ``{"log_prob": ((), "float32")}``: shape of one row and dtype.
        kind: what batches consist of, "numpy" or "torch" (CPU tensors).
        device: "cpu", or "cuda" (or "cuda:1"): the ring lies in the GPU's memory, and batches consist of tensors there, on torch's current
            stream. ``add`` takes rows from the CPU or tensors on that GPU (docs/cuda.md).
        host_copy: with a GPU: the ring lies in host memory too, as the authority, and what is new is copied to the GPU, where batches are
            drawn. Checkpoints then cost no download.
    """

    def __init__(
        self,
        capacity: int,
        observation_space: Any,
        action_space: Any,
        num_envs: int = 1,
        n_step: int = 1,
        gamma: float = 0.99,
        frame_stack: int = 1,
        seed: int = 0,
        *,
        stack_padding: Literal["repeat", "zero"] = "repeat",
        linked: bool = True,
        extra: Mapping[str, tuple[tuple[int, ...], Any]] | None = None,
        kind: Literal["numpy", "torch"] = "numpy",
        device: Any = "cpu",
        host_copy: bool = False,
    ) -> None:
        for name, value, allowed in (("stack_padding", stack_padding, ("repeat", "zero")), ("kind", kind, ("numpy", "torch"))):
            if value not in allowed:
                raise ValueError(f"ReplayBuffer: {name} is {value!r}, expected one of {', '.join(allowed)}")
        if reserved := _RESERVED & set(extra or ()):
            raise ValueError(f"ReplayBuffer: extra has a column named {min(reserved)!r}, which is an argument of add")
        capacity, num_envs, n_step, frame_stack = (
            _integer(name, value)
            for name, value in (("capacity", capacity), ("num_envs", num_envs), ("n_step", n_step), ("frame_stack", frame_stack))
        )
        check_number("ReplayBuffer", "gamma", gamma)
        if not isinstance(linked, bool | np.bool_):
            raise DTypeError(f"ReplayBuffer: linked is {linked!r}, expected True or False")
        self.device, self.host_copy = _device(device), bool(host_copy)
        if host_copy and self.device == "cpu":
            raise ValueError("ReplayBuffer: host_copy is True, and device is 'cpu', expected a GPU")
        if kind == "torch":
            import torch  # noqa: F401  (the core makes tensors only where torch is loaded)
        self.observation_space, self.action_space = observation_space, action_space
        self.num_envs, self.n_step, self.gamma, self.frame_stack, self.linked = num_envs, n_step, gamma, frame_stack, linked
        self._torch = kind == "torch"
        self._extra = tuple(extra or ())
        self._leaves = _leaves(observation_space, "observation")
        self._nests = hasattr(observation_space, "spaces")  # observations are dicts or tuples, of a single array perhaps
        columns = _leaves(action_space, "action")
        columns += _extra_columns(extra)
        try:
            self._core = ReplayCore(
                self._leaves, columns, capacity=capacity, num_envs=num_envs, n_step=n_step, frame_stack=frame_stack,
                pad_with_zeros=stack_padding == "zero", linked=bool(linked), gamma=gamma, key=stream_key(seed, "replay"),
            )  # fmt: skip
        except MemoryError:
            slot = sum(np.dtype(dtype).itemsize * math.prod(shape) for _, dtype, shape in self._leaves + columns)
            size = f"about {capacity * slot / 2**30:.0f} GiB"
            raise MemoryError(f"ReplayBuffer: capacity is {capacity}, {size}, more than memory can hold") from None
        if self.device != "cpu":
            self._core.move_to(self.device, self.host_copy)
        self._options: dict[str, Any] = {
            "capacity": self.capacity, "num_envs": num_envs, "n_step": n_step, "gamma": float(gamma), "frame_stack": frame_stack,
            "stack_padding": stack_padding, "linked": bool(linked),
            "columns": [[name, dtype, list(shape)] for name, dtype, shape in self._leaves + columns],
        }  # fmt: skip

    def __len__(self) -> int:
        """Transitions that can be drawn now."""
        return len(self._core)

    @property
    def capacity(self) -> int:
        """Slots in total."""
        return self._core.capacity

    @property
    def nbytes(self) -> int:
        """Bytes of the whole store, exact, reserved at construction; with ``host_copy`` those of both places."""
        return self._core.nbytes

    @property
    def bytes_copied(self) -> int:
        """Bytes of rows that were sent to the GPU so far, their headers of 4 bytes a row included."""
        return self._core.bytes_copied

    @property
    def skipped_rows(self) -> int:
        """Rows on the GPU that were not stored, because their reward was not finite. Waits for the GPU."""
        return self._core.skipped_rows

    def add(
        self,
        observation: Observation,
        action: Array,
        reward: Array,
        next_observation: Observation,
        terminated: Array,
        truncated: Array,
        valid: Array | None = None,
        **extra: Array,
    ) -> None:
        """Store one transition of each environment: every argument leads with N (which may be left out if N = 1).

        ``next_observation`` is the final one where the episode ended. If ``observation`` is not bit for bit the last
        ``next_observation`` of its lane, the stream is cut there. Rows with ``valid`` False are not stored. Rewards are kept
        as float32; float64 observations and actions are rounded to the space's float32, integers become any integer dtype that
        holds their values. Observations and actions are stored raw, unseen: NaN or an action outside of its space is an error where it
        is learned from, not here (docs/replay.md).

        On a GPU, rows may be tensors there, all of them, of exactly the dtypes that are stored; nothing waits. Of these a row whose reward
        is not finite is not stored, which cuts its lane, and counted in ``skipped_rows``. Rows from the CPU are packed, and copied
        when a batch is drawn.

        Raises ShapeError, DTypeError, NonFiniteError (reward) or ValueError, naming the argument; then nothing is stored.
        """
        if self._nests:
            observation, next_observation = (tuple(flat_leaves(self.observation_space, o)) for o in (observation, next_observation))
            if len(self._leaves) == 1:
                observation, next_observation = observation[0], next_observation[0]
        columns = action
        if self._extra or extra:
            if extra.keys() != set(self._extra):
                raise ValueError(f"add: extra columns are {sorted(extra)}, expected {sorted(self._extra)}")
            columns = (action, *(extra[name] for name in self._extra))
        self._core.add(observation, columns, reward, next_observation, terminated, truncated, valid)

    def sample(self, batch_size: int, out: Batch | None = None, *, replacement: bool = True) -> Batch:
        """Draw uniformly: ``batch_size`` windows of whatever can be drawn, one transition included; distinct if ``replacement`` is False.

        ``out``: a batch of this size from this buffer, or one of torch CPU tensors; it is filled and returned.
        Raises ValueError if nothing is stored, or less than is asked for without replacement.

        On a GPU nothing waits, unless the host cannot be sure without a look that anything is stored, or ``replacement`` is False. The
        call can be captured in a CUDA graph, each replay of which
        draws anew (`flush`). Keep the buffer as long as the graph.
        """
        if out is None:
            return self._batch(self._core.sample(batch_size, replacement, self._torch, None))
        self._core.sample(batch_size, replacement, self._torch, self._arrays(out))
        return out

    def get(self, index: Array, out: Batch | None = None) -> Batch:
        """The windows of the named records (``batch.index``: int64 [B]). ValueError if any of them is gone."""
        arrays = self._core.get(index, self._torch, None if out is None else self._arrays(out))
        return self._batch(arrays) if out is None else out

    def epoch(self, batch_size: int, *, drop_last: bool = False) -> Iterator[Batch]:
        """Every drawable record once, in random order. Adding meanwhile may overwrite records that are still to come: `get` says so."""
        if batch_size < 1:
            raise ValueError(f"epoch: batch_size is {batch_size}, expected at least 1")
        order = self._core.shuffled()
        for start in range(0, len(order) - (batch_size - 1 if drop_last else 0), batch_size):
            yield self.get(order[start : start + batch_size])

    def is_drawable(self, index: Array) -> np.ndarray:
        """bool [B]: whether the named records can (still) be drawn."""
        return self._core.drawable(index)

    def episodes(self) -> list[dict[str, Any]]:
        """The episodes in the buffer, oldest first in each environment.

        ``index``: names of the transitions that are still stored, in order; ``env``; ``length``; ``begins``: False if the
        beginning is overwritten; ``ended``: "terminated", "truncated", "cut", or None while it goes on.
        """
        return [
            {
                "env": int(env),
                "index": np.arange(start, end) * self.num_envs + env,
                "length": int(end - start),
                "begins": bool(begins),
                "ended": next((name for bit, name in _ENDS.items() if ended & bit), None),
            }
            for env, start, end, begins, ended in self._core.episodes()
        ]

    def clear(self) -> None:
        """Forget everything; old names stay stale for ever."""
        self._core.clear()

    def flush(self) -> None:
        """Put what was added since the last draw onto the GPU, before all that comes on torch's current stream.

        ``sample`` does so itself; who replays a captured one does it here, before the capture and between replays."""
        self._core.flush()

    def state_dict(self) -> dict[str, Any]:
        """Arrays, numbers and strings; restoring gives the same contents and the same next draws, bit for bit.

        The arrays are copies, as long as the written part of the ring."""
        return {"options": self._options, **self._core.state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Into a buffer of the same capacity, spaces and options; ValueError otherwise, and nothing is changed."""
        given = state.get("options") if isinstance(state, Mapping) else None
        if not isinstance(given, Mapping):
            raise DTypeError("load_state_dict: expected the dict that state_dict() gives, with its options")
        for name, own in self._options.items():
            if given.get(name) != own:
                raise ValueError(f"load_state_dict: the state is of a buffer with {name} {given.get(name)!r}, this one has {own!r}")
        columns = [name for name, _, _ in self._options["columns"]]
        columns += [] if self.linked else [f"next_{name}" for name, _, _ in self._leaves]
        fixed = ("options", "random", "origins", "heads", "pending", "flags", "priorities", "column.reward")
        if further := sorted(map(str, state.keys() - {*fixed, *(f"column.{n}" for n in columns)})):
            raise ValueError(f"load_state_dict: the state has an entry {further[0]!r}, which this buffer does not know")
        words = state.get("random", (0, 0, 0))  # the core says that it is missing
        sane = isinstance(words, tuple | list) and all(type(word) is int and 0 <= word < 1 << 64 for word in words)
        if not sane or len(words) != 3 or words[1] != 0:
            raise ValueError(f"load_state_dict: random is {words!r}, expected (key, 0, draw) of 64-bit words")
        arrays = {k: np.asarray(v, order="C") if type(v) is np.ndarray else v for k, v in state.items() if k != "options"}
        self._check_rows({k: v for k, v in arrays.items() if type(v) is np.ndarray and v.dtype == np.uint8})  # the core refuses the rest
        self._core.set_state(arrays)

    def _check_rows(self, arrays: Mapping[str, Any]) -> None:
        """What the records hold and no `add` would have stored; their shapes are for the core to check."""
        reward, flags = arrays.get("column.reward"), arrays.get("flags")
        if reward is not None and flags is not None and reward.shape == (*flags.shape, 4):
            transitions = reward.view(np.float32)[..., 0][flags & _TRANSITION != 0]
            if not np.isfinite(transitions).all():
                raise NonFiniteError("load_state_dict: a reward is NaN or infinite")
        for name, dtype, _ in self._options["columns"]:
            for column in (f"column.{name}", f"column.next_{name}"):
                if dtype == "bool" and column in arrays and (arrays[column] > 1).any():
                    raise ValueError(f"load_state_dict: {column} holds bytes other than 0 and 1")

    def arguments(self) -> dict[str, Any]:
        """What the constructor made this from, the seed aside: spaces and JSON values. DeviceError on a GPU."""
        if self.device != "cpu":
            what = f"{type(self).__name__}: one on {self.device} cannot be copied or pickled"
            raise DeviceError(f"{what}; load its state_dict() into another of the same options")
        options = {name: value for name, value in self._options.items() if name != "columns"}
        extra = {name: [shape, dtype] for name, dtype, shape in self._options["columns"] if name in self._extra}
        spaces = {"observation_space": self.observation_space, "action_space": self.action_space}
        return {**spaces, **options, "extra": extra, "kind": "torch" if self._torch else "numpy"}

    def __repr__(self) -> str:
        return f"ReplayBuffer({len(self)} of {self.capacity} slots, {self.num_envs} environments, {self.nbytes / 2**20:.1f} MiB)"

    def _batch(self, arrays: tuple[Array, ...]) -> Batch:
        count = len(self._leaves)
        observation: Observation = arrays[0]
        next_observation: Observation = arrays[count]
        if self._nests:
            observation = nested_leaves(self.observation_space, iter(arrays[:count]))
            next_observation = nested_leaves(self.observation_space, iter(arrays[count : 2 * count]))
        extra = dict(zip(self._extra, arrays[2 * count + 1 : -4])) if self._extra else {}
        return Batch(observation, arrays[2 * count], arrays[-4], next_observation, arrays[-3], arrays[-2], arrays[-1], None, extra)

    def _arrays(self, batch: Batch) -> tuple[Array, ...]:
        if not isinstance(batch, Batch):
            raise DTypeError(f"ReplayBuffer: out is a {type(batch).__name__}, expected a Batch")
        tail = (batch.reward, batch.terminated, batch.discount, batch.index)
        if not self._nests and not self._extra:
            return (batch.observation, batch.next_observation, batch.action, *tail)
        observations = (
            *flat_leaves(self.observation_space, batch.observation),
            *flat_leaves(self.observation_space, batch.next_observation),
        )
        if batch.extra.keys() != set(self._extra):
            raise ValueError(f"ReplayBuffer: out has extra columns {sorted(batch.extra)}, expected {sorted(self._extra)}")
        return (*observations, batch.action, *(batch.extra[name] for name in self._extra), *tail)


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
