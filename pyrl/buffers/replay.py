"""The replay buffer: a stream of records, from which batches of windows are drawn (docs/replay.md)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from pyrl.buffers.layout import check_number, flat_leaves, nested_leaves, plan_of
from pyrl.buffers.pickling import Pickled, pickled
from pyrl.errors import DeviceError, DTypeError
from pyrl.ops.replay import ReplayCore
from pyrl.seeding import stream_key
from pyrl.types import Array, Batch, Observation

_ENDS = {8: "terminated", 16: "truncated", 32: "cut"}  # flags of csrc/replay/ring_view.hpp


@dataclass(frozen=True, slots=True)
class Window:
    """How much of the stream a record of `ReplayBuffer.get` stands for; None: as the buffer was made."""

    n_step: int | None = None
    frame_stack: int | None = None


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
        device: "cpu", or "cuda" (or "cuda:1"): the ring is in the GPU's memory, and batches consist of tensors there, on torch's current
            stream. ``add`` takes rows from the CPU or tensors on that GPU (docs/cuda.md).
        host_copy: with a GPU: the ring is in host memory too, as the authority, and what is new is copied to the GPU, where batches are
            drawn. Checkpoints then cost no download.
    """

    _prioritized = False

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
        check_number("ReplayBuffer", "gamma", gamma)
        if not isinstance(linked, bool | np.bool_):
            raise DTypeError(f"ReplayBuffer: linked is {linked!r}, expected True or False")
        if kind == "torch":
            import torch  # noqa: F401  (the core makes tensors only where torch is loaded)
        plan = plan_of(capacity, observation_space, action_space, num_envs, n_step, frame_stack, linked, extra, device, host_copy)
        sizes = plan.sizes
        self.device, self.host_copy = plan.device, plan.host_copy
        self.observation_space, self.action_space = observation_space, action_space
        self.num_envs, self.n_step, self.frame_stack = sizes["num_envs"], sizes["n_step"], sizes["frame_stack"]
        self.gamma, self.linked = gamma, linked
        self._torch = kind == "torch"
        self._extra = frozenset(extra or ())
        self._leaves = plan.observation
        self._nests = hasattr(observation_space, "spaces")  # observations are dicts or tuples, of a single array perhaps
        try:
            self._core = ReplayCore(
                plan.observation, plan.columns, **sizes, pad_with_zeros=stack_padding == "zero", gamma=gamma, key=stream_key(seed, "replay")
            )
        except MemoryError:
            slot = sum(np.dtype(dtype).itemsize * math.prod(shape) for _, dtype, shape in plan.observation + plan.columns)
            size = f"about {sizes['capacity'] * slot / 2**30:.0f} GiB"
            raise MemoryError(f"ReplayBuffer: capacity is {sizes['capacity']}, {size}, more than memory can hold") from None
        if self.device != "cpu":
            self._core.move_to(self.device, self.host_copy)
        self._options: dict[str, Any] = {
            "capacity": self.capacity, "num_envs": self.num_envs, "n_step": self.n_step, "gamma": float(gamma),
            "frame_stack": self.frame_stack,
            "stack_padding": stack_padding, "linked": bool(linked),
            "columns": [[name, dtype, list(shape)] for name, dtype, shape in plan.observation + plan.columns],
        }  # fmt: skip

    @classmethod
    def forecast(
        cls,
        capacity: int,
        observation_space: Any,
        action_space: Any,
        num_envs: int = 1,
        n_step: int = 1,
        frame_stack: int = 1,
        *,
        linked: bool = True,
        extra: Mapping[str, tuple[tuple[int, ...], Any]] | None = None,
        device: Any = "cpu",
        host_copy: bool = False,
    ) -> int:
        """What ``nbytes`` of a buffer of these options will be, exactly, before anything is allocated. Errors as in the constructor."""
        plan = plan_of(capacity, observation_space, action_space, num_envs, n_step, frame_stack, linked, extra, device, host_copy)
        places = {"on_device": plan.device != "cpu", "host_copy": plan.host_copy}
        return ReplayCore.forecast(plan.observation, plan.columns, **plan.sizes, prioritized=cls._prioritized, **places)

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
            observation, next_observation = self._flat(observation), self._flat(next_observation)
        columns = self._columns("add", extra) if extra or self._extra else None
        self._core.add(observation, action, reward, next_observation, terminated, truncated, valid, columns)

    def extend(
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
        """Store T steps of each environment: every argument leads with [T, N] (N may be left out if it is 1).

        The buffer is then what T calls of `add` make it, bit for bit, and priorities too: a new record gets the largest of before its
        step. Raises what `add` does, and then nothing is stored. On a GPU, rows from the CPU cannot be stored while a graph is captured.
        """
        if self._nests:
            observation, next_observation = self._flat(observation), self._flat(next_observation)
        columns = self._columns("extend", extra) if extra or self._extra else None
        self._core.extend(observation, action, reward, next_observation, terminated, truncated, valid, columns, None, 0)

    def extend_some(self, first_env: int, /, observation: Observation, *rows: Array, **extra: Array) -> np.ndarray:
        """`extend` with the steps of some environments, n neighbours from ``first_env`` on: ``rows`` are its further arguments, all lead
        with [T, n]. Returns the indices of the new transitions, int64 [T, n], -1 where ``valid`` is False. Errors as there, and DeviceError
        on a GPU."""
        action, reward, next_observation, terminated, truncated, valid = rows
        if self._nests:
            observation, next_observation = self._flat(observation), self._flat(next_observation)
        columns = self._columns("extend", extra) if extra or self._extra else None
        steps = observation, action, reward, next_observation, terminated, truncated, valid
        return self._core.extend(*steps, columns, first_env, np.shape(terminated)[-1])

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
        self._core.sample(batch_size, replacement, self._torch, self._fields(out))
        return out

    def draw(self, batch_size: int, *, replacement: bool = True) -> Array:
        """The indices of a draw, int64 [B]: those that `sample` would give now, without the windows. Errors and device as there."""
        return self._core.draw(batch_size, replacement, self._torch)

    def get(self, index: Array, out: Batch | None = None, *, window: Window | None = None) -> Batch:
        """The windows of these records (`draw`, ``batch.index``: int64 [B]).

        ``window``: their lengths, those of the buffer by default; a longer frame stack than the buffer's leaves out the records whose
        history is partly overwritten. ``out`` as in `sample`, of the window's shapes.
        ValueError if a record is gone or not drawable, naming the first such element of ``index``; DTypeError, ShapeError.
        """
        n_step, frame_stack = (self.n_step, self.frame_stack) if window is None else self._lengths(window)
        fields = self._core.get(index, n_step, frame_stack, self._torch, None if out is None else self._fields(out))
        return self._batch(fields) if out is None else out

    def steps(self, index: Array, n_step: int | None = None) -> np.ndarray:
        """The transitions of the windows from these on, one by one: int64 [B, n_step], -1 after a window's end. ``n_step``: the buffer's by
        default. ValueError if a record is gone; DeviceError on a GPU."""
        return self._core.steps(index, self.n_step if n_step is None else n_step)

    def column(self, name: str, index: Array) -> np.ndarray:
        """One column of these transitions (int64 [B]), [B, ...]: "reward", "action", "observation" or "next_observation" (of a dict by its
        entries, "observation['goal']"), or a further one. They need not be drawable. ValueError if one is gone; DeviceError on a GPU."""
        return self._core.column(name, index)

    def delete(self, index: Array) -> int:
        """Delete the episodes that these records (int64 [B]) belong to, as far as they are in the buffer: none of their transitions is
        drawable any more, and their slots are used again when their turn comes. An episode that still runs ends there, as by a manual
        reset. Returns how many transitions were deleted. ValueError, and nothing is deleted, if a record is gone or not drawable."""
        return self._core.delete(index)

    def epoch(self, batch_size: int, *, drop_last: bool = False) -> Iterator[Batch]:
        """Every drawable record once, in random order. Adding meanwhile may overwrite records that are still to come: `get` says so."""
        if batch_size < 1:
            raise ValueError(f"epoch: batch_size is {batch_size}, expected at least 1")
        order = self._core.shuffled()
        for start in range(0, len(order) - (batch_size - 1 if drop_last else 0), batch_size):
            yield self.get(order[start : start + batch_size])

    def is_drawable(self, index: Array) -> np.ndarray:
        """bool [B]: whether these records can (still) be drawn."""
        return self._core.drawable(index)

    @property
    def newest(self) -> np.ndarray:
        """int64 [N]: the index of each environment's newest transition, -1 where there is none."""
        return self._core.newest

    def indices(self) -> np.ndarray:
        """int64 [len]: every record that can be drawn, those of an environment oldest first. Takes no draw."""
        env, start, end = self._core.episodes()[:, :3].T
        length = end - start
        within = np.arange(length.sum()) - np.repeat(np.cumsum(length) - length, length)
        index = (np.repeat(start, length) + within) * self.num_envs + np.repeat(env, length)
        return index[self._core.drawable(index)] if self.frame_stack > 1 else index

    def episodes(self) -> list[dict[str, Any]]:
        """The episodes in the buffer, oldest first in each environment.

        ``index``: those of the transitions that are still stored, in order; ``env``; ``length``; ``begins``: False if the
        beginning is overwritten; ``ended``: "terminated", "truncated", "cut", or None while it runs.
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
        """Forget everything; old indices stay stale for ever."""
        self._core.clear()

    def cut(self) -> None:
        """The episodes that run end here, as by a manual reset: what is added next follows nothing. DeviceError on a GPU."""
        self._core.cut()

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
        self._core.set_state(arrays)

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

    def _batch(self, fields: tuple[Any, ...], weight: Array | None = None) -> Batch:
        """The core's fields as a record; their order is the core's (csrc/bindings/replay_core.hpp)."""
        observation, action, reward, next_observation, terminated, discount, index, extra = fields
        if self._nests:
            observation, next_observation = self._nested(observation), self._nested(next_observation)
        return Batch(observation, action, reward, next_observation, terminated, discount, index, weight, extra or {})

    def _fields(self, batch: Batch) -> tuple[Any, ...]:
        """The reverse of `_batch`."""
        if not isinstance(batch, Batch):
            raise DTypeError(f"ReplayBuffer: out is a {type(batch).__name__}, expected a Batch")
        observation, next_observation, extra = batch.observation, batch.next_observation, None
        if self._nests:
            observation, next_observation = self._flat(observation), self._flat(next_observation)
        if self._extra:
            extra = batch.extra
            if extra.keys() != self._extra:
                raise ValueError(f"ReplayBuffer: out has extra columns {sorted(extra)}, expected {sorted(self._extra)}")
        return (observation, batch.action, batch.reward, next_observation, batch.terminated, batch.discount, batch.index, extra)

    def _flat(self, observation: Observation) -> Any:
        """The leaves of an observation as the core takes them: one as itself, several as a tuple."""
        leaves = tuple(flat_leaves(self.observation_space, observation))
        return leaves[0] if len(self._leaves) == 1 else leaves

    def _nested(self, leaves: Any) -> Observation:
        return nested_leaves(self.observation_space, iter((leaves,) if len(self._leaves) == 1 else leaves))

    def _columns(self, caller: str, extra: dict[str, Array]) -> dict[str, Array]:
        if extra.keys() != self._extra:
            raise ValueError(f"{caller}: extra columns are {sorted(extra)}, expected {sorted(self._extra)}")
        return extra

    def _lengths(self, window: Window) -> tuple[int, int]:
        if not isinstance(window, Window):
            raise DTypeError(f"get: window is {window!r}, expected a Window")
        n_step, frame_stack = window.n_step, window.frame_stack
        return self.n_step if n_step is None else n_step, self.frame_stack if frame_stack is None else frame_stack
