"""cpprb's replay buffers (11.0) on pyrl's record stream: `from pyrl.adapters.cpprb import ReplayBuffer, PrioritizedReplayBuffer`.

Constructors, methods and the dictionaries of a sample are cpprb's, and cpprb itself is not needed. docs/coming_from/cpprb.md says what
differs; the main things:

- ``indexes`` name records for ever (int64) and are not positions in the ring: a priority that comes after its record was overwritten is
  dropped, as with cpprb's ``check_for_update=True``.
- n-step: ``done`` is that of the whole window, and the last steps of an episode that `on_episode_end` cuts have the last observation as
  their next one. The column ``discounts`` is gamma^k, k <= n the steps that were summed.
- With ``next_of`` an episode's last observation takes a slot of its own: of one stream ``size`` transitions fit, one less for each end of
  an episode among them.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from pyrl import buffers
from pyrl.adapters.columns import column_space
from pyrl.buffers.layout import check_number
from pyrl.errors import DTypeError, SettingError, SettingTypeError, ShapeError
from pyrl.ops import n_step_return

__all__ = ["PrioritizedReplayBuffer", "ReplayBuffer"]


class _Column(NamedTuple):
    shape: tuple[int, ...]  # of one row
    dtype: np.dtype


class ReplayBuffer:
    """cpprb's ReplayBuffer: any columns, drawn uniformly.

    Args:
        size: transitions it holds, the oldest are overwritten; a float such as 1e6 is taken.
        env_dict: the columns, ``{"obs": {"shape": 3, "dtype": np.float32}}``; ``shape`` is 1 where it is left out: rows ``[1]``.
        next_of: columns whose next value ``next_<name>`` is stored once, as the value of the step after it.
        stack_compress: refused; `pyrl.buffers.ReplayBuffer` has ``frame_stack``.
        default_dtype: of columns without ``dtype``; float32.
        Nstep: ``{"size": n, "gamma": 0.99, "rew": name or names, "next": name or names}``; needs the column ``done``.
        mmap_prefix: refused.

    Draws follow NumPy's global seed, as cpprb's do: it is read once, here.
    """

    _name = "ReplayBuffer"

    def __init__(
        self,
        size: float,
        env_dict: Mapping[str, Mapping[str, Any]] | None = None,
        next_of: Any = None,
        *,
        stack_compress: Any = None,
        default_dtype: Any = None,
        Nstep: Mapping[str, Any] | None = None,
        mmap_prefix: str | None = None,
    ) -> None:
        self._size = _whole(self._name, "size", size)
        for name, value, instead in (
            ("stack_compress", stack_compress, "pyrl.buffers.ReplayBuffer(frame_stack=m) stores each frame once"),
            ("mmap_prefix", mmap_prefix, "state_dict() and pyrl.checkpoint write a buffer to disk"),
        ):
            if value is not None:
                raise SettingError(f"{self._name}: {name} is {value!r}, expected None; {instead}")
        self._columns = _columns(self._name, env_dict, default_dtype)
        self._next_of = _names(self._name, "next_of", next_of, self._columns)
        self._n_step = None if Nstep is None else _NStep(self._name, Nstep, self._columns, self._next_of)
        self._stored = {k: c for k, c in self._columns.items() if k not in self._next_of}
        if self._n_step is not None:
            self._stored["discounts"] = _Column((1,), np.dtype(np.float32))
        self._keys = [(name, f"column {name}") for name in self._stored]  # apart from the names that the stream has itself
        for name in self._next_of:
            if f"next_{name}" in self._columns:
                raise SettingError(f"{self._name}: next_of is {next_of!r}, and env_dict has next_{name} too; leave it out of env_dict")
        self._buffer = self._made()
        self._given = {**self._columns, **{f"next_{name}": self._columns[name] for name in self._next_of}}
        self._episode_length = self._stored_ever = 0
        self._idle = _idle(1)

    def _made(self) -> Any:
        return buffers.ReplayBuffer(*self._arguments(), **self._options())

    def _arguments(self) -> tuple[int, Any, Any]:
        from gymnasium.spaces import Dict

        nothing = column_space((1,), np.uint8)
        if not self._next_of:
            return self._size, nothing, nothing
        return self._size + 1, Dict({k: column_space(*self._columns[k]) for k in self._next_of}), nothing  # one for the newest next value

    def _options(self) -> dict[str, Any]:
        try:
            extra = {key: (self._stored[name].shape, self._stored[name].dtype) for name, key in self._keys}
            seed = int(np.random.randint(2**31))  # noqa: NPY002
            return {"linked": bool(self._next_of), "extra": extra, "seed": seed}
        except TypeError as error:
            raise SettingTypeError(f"{self._name}: env_dict is not understood: {error}") from None

    def add(self, **columns: Any) -> int | None:
        """Store one step, or several in their order: every column of ``env_dict``, rows [...] or [T, ...].

        Returns the index of the first record that was stored, None if the n-step windows are all still open. KeyError names a column that
        is missing; ShapeError, DTypeError.
        """
        rows, steps = self._rows(columns)
        self._episode_length += steps
        if self._n_step is None:
            return self._store(rows, steps)
        whole = self._n_step.add(rows)
        return None if whole is None else self._store(whole, len(whole["done"]))

    def on_episode_end(self) -> None:
        """The episode is over, whether it terminated or was cut: n-step windows end here."""
        self._episode_length = 0
        if self._n_step is not None:
            rows = self._n_step.end()
            if rows is not None:
                self._store(rows, len(rows["done"]))

    def sample(self, batch_size: int) -> dict[str, np.ndarray]:
        """``batch_size`` transitions drawn uniformly, with replacement: a dict of arrays [B, ...]. ValueError if nothing is stored."""
        return self._dictionary(self._buffer.sample(batch_size))

    def get_all_transitions(self, shuffle: bool = False) -> dict[str, np.ndarray]:
        """All that is stored, oldest first, or in random order."""
        index = self._buffer.indices()
        return self._dictionary(self._buffer.get(np.random.permutation(index) if shuffle else index))  # noqa: NPY002

    def clear(self) -> None:
        self._buffer.clear()
        self._stored_ever = -(-self._stored_ever // self._size) * self._size  # so that an index is never given twice
        self._episode_length = 0
        if self._n_step is not None:
            self._n_step.clear()

    def get_stored_size(self) -> int:
        return len(self._buffer)

    def get_buffer_size(self) -> int:
        return self._size

    def get_next_index(self) -> int:
        """How many records were stored so far, cut at ``size`` as positions of a ring are."""
        return (self._newest() + 1) % self._size

    def get_current_episode_len(self) -> int:
        return self._episode_length

    def is_Nstep(self) -> bool:
        return self._n_step is not None

    def save_transitions(self, file: Any, *, safe: bool = True) -> None:
        """All transitions as an .npz file without pickles; ``safe`` is cpprb's, and makes no difference here."""
        columns: dict[str, Any] = self.get_all_transitions()
        np.savez(file, **columns)

    def load_transitions(self, file: Any) -> None:
        """Add the transitions of `save_transitions`, n-step ones as they were stored."""
        with np.load(file, allow_pickle=False) as saved:
            wanted = {**{k: self._given[k] for k in self._given}, **self._stored}
            if missing := sorted(wanted.keys() - set(saved.files)):
                raise KeyError(f"load_transitions: file has no column {missing[0]!r}, expected {', '.join(wanted)}")
            rows = {name: np.asarray(saved[name], column.dtype) for name, column in wanted.items()}
            self._store(rows, len(next(iter(rows.values()))))

    def _newest(self) -> int:
        """The index of the newest record: where observations are not linked, every record takes the next one."""
        return int(self._buffer.newest[0]) if self._next_of else self._stored_ever - 1

    def _rows(self, columns: dict[str, Any]) -> tuple[dict[str, np.ndarray], int]:
        """The columns as [T, ...] of the stored dtypes, and T."""
        rows: dict[str, np.ndarray] = {}
        steps, first = -1, ""
        for name, (shape, dtype) in self._given.items():
            try:
                value = np.asarray(columns[name], dtype)
            except KeyError:
                raise KeyError(f"add: column {name!r} is missing, expected {', '.join(self._given)}") from None
            except (TypeError, ValueError) as error:
                raise DTypeError(f"add: {name} is {columns[name]!r}, expected numbers of dtype {dtype}: {error}") from None
            try:
                rows[name] = value = value[None] if value.shape == shape else value.reshape((-1, *shape))
            except ValueError:
                raise ShapeError(f"add: {name} has shape {list(value.shape)}, expected {_shape(shape)} or [T, ...] of it") from None
            if steps < 0:
                steps, first = len(value), name
            elif len(value) != steps:
                raise ShapeError(f"add: {name} has {len(value)} rows, {first} has {steps}")
        if len(columns) != len(rows):
            unknown = next(name for name in columns if name not in rows)
            raise SettingError(f"add: column {unknown!r} is not in env_dict, expected {', '.join(self._given)}")
        return rows, steps

    def _store(self, rows: dict[str, np.ndarray], steps: int) -> int:
        nothing, zero, false = self._idle if steps == 1 else _idle(steps)
        now: Any = nothing
        following: Any = nothing
        if self._next_of:
            now, following = {k: rows[k] for k in self._next_of}, {k: rows[f"next_{k}"] for k in self._next_of}
        put = self._buffer.add if steps == 1 else self._buffer.extend
        put(now, nothing, zero, following, false, false, **{key: rows[name] for name, key in self._keys})
        self._stored_ever += steps
        return self._newest() - steps + 1

    def _dictionary(self, batch: Any) -> dict[str, np.ndarray]:
        found = dict(zip(self._stored, batch.extra.values()))
        for name in self._next_of:
            found[name], found[f"next_{name}"] = batch.observation[name], batch.next_observation[name]
        return found


class PrioritizedReplayBuffer(ReplayBuffer):
    """cpprb's PrioritizedReplayBuffer: record i is drawn in proportion to ``(priority_i + eps)^alpha``.

    A new record has the largest priority in the buffer. Draws are stratified.

    Args:
        size, env_dict: those of `ReplayBuffer`, and its keywords.
        alpha, eps: exponent in [0, 1], and what is added to every priority, positive.
        check_for_update: True or False: late priorities are dropped either way.
    """

    _name = "PrioritizedReplayBuffer"

    def __init__(
        self,
        size: float,
        env_dict: Mapping[str, Mapping[str, Any]] | None = None,
        *,
        alpha: float = 0.6,
        eps: float = 1e-4,
        check_for_update: bool = False,
        **options: Any,
    ) -> None:
        check_number(self._name, "alpha", alpha)
        check_number(self._name, "eps", eps)
        if not 0.0 < eps < float("inf"):
            raise SettingError(f"{self._name}: eps is {eps}, expected a positive number")
        self._alpha, self._eps = float(alpha), float(eps)
        super().__init__(size, env_dict, **options)

    def _made(self) -> Any:
        return buffers.PrioritizedReplayBuffer(
            *self._arguments(), alpha=self._alpha, epsilon=self._eps, weights_over="buffer", **self._options()
        )

    def add(self, *, priorities: Any = None, **columns: Any) -> int | None:
        """As `ReplayBuffer.add`; ``priorities`` (a number a row) instead of the largest in the buffer. Not with ``Nstep``."""
        if priorities is None:
            return super().add(**columns)
        if self._n_step is not None:
            raise SettingError("add: priorities is given, and the buffer has Nstep; call update_priorities after the add")
        first = super().add(**columns)
        assert first is not None
        given = np.asarray(priorities, np.float64).ravel()
        self.update_priorities(np.arange(first, self._newest() + 1), given)
        return first

    def sample(self, batch_size: int, beta: float = 0.4) -> dict[str, np.ndarray]:
        """By priority: the columns, ``weights`` (float32 [B], divided by the largest of the buffer) and ``indexes`` (int64 [B])."""
        self._buffer.beta = beta
        batch = self._buffer.sample(batch_size)
        found = self._dictionary(batch)
        found["weights"], found["indexes"] = batch.weight, batch.index
        return found

    def update_priorities(self, indexes: Any, priorities: Any) -> None:
        """New priorities, a number each, from 0 on; those of records that are gone are dropped."""
        if indexes is None or priorities is None:
            raise DTypeError(f"update_priorities: {'indexes' if indexes is None else 'priorities'} is None, expected an array")
        index, priority = np.asarray(indexes, np.int64).ravel(), np.asarray(priorities, np.float64).ravel()
        if len(index) != len(priority):
            raise ShapeError(f"update_priorities: priorities has {len(priority)} elements, indexes has {len(index)}")
        self._buffer.update_priorities(index, priority)

    def get_max_priority(self) -> float:
        """The largest in the buffer; 1 before the first update (less ``eps``), in an empty buffer and with alpha 0."""
        leaves = self._buffer.priorities(self._buffer.indices())
        if not len(leaves) or self._alpha == 0:
            return 1.0
        return float(leaves.max() ** (1 / self._alpha) - self._eps)


class _NStep:
    """Turns steps into n-step transitions; holds the last n - 1, whose windows are open."""

    def __init__(self, caller: str, options: Mapping[str, Any], columns: Mapping[str, _Column], next_of: tuple[str, ...]) -> None:
        if not isinstance(options, Mapping) or "size" not in options:
            raise SettingTypeError(f"{caller}: Nstep is {options!r}, expected a dict with size, gamma, rew and next")
        if unknown := sorted(options.keys() - {"size", "gamma", "rew", "next"}):
            raise SettingError(f"{caller}: Nstep has an entry {unknown[0]!r}, expected size, gamma, rew and next")
        if next_of:
            what = f"{caller}: Nstep is given, and next_of is {list(next_of)}"
            raise SettingError(f"{what}; an n-step transition's next value is n steps on: name a column next_... in Nstep['next'] instead")
        if "done" not in columns:
            raise SettingError(f"{caller}: Nstep is given, and env_dict has no column 'done', which ends the sums")
        if "discounts" in columns:
            raise SettingError(f"{caller}: env_dict has a column 'discounts', which Nstep adds")
        self.size = _whole(f"{caller}: Nstep", "size", options["size"])
        self.gamma = options.get("gamma", 0.99)
        check_number(caller, "Nstep['gamma']", self.gamma)
        if not 0 <= self.gamma <= 1:
            raise SettingError(f"{caller}: Nstep['gamma'] is {self.gamma}, expected a number in [0, 1]")
        self.rewards = _names(caller, "Nstep['rew']", options.get("rew"), columns)
        self.next = _names(caller, "Nstep['next']", options.get("next"), columns)
        self.clear()

    def clear(self) -> None:
        self._open: dict[str, np.ndarray] | None = None

    def add(self, rows: dict[str, np.ndarray]) -> dict[str, np.ndarray] | None:
        # The caller may write to its arrays afterwards; concatenate copies.
        rows = {k: np.concatenate((self._open[k], v)) if self._open is not None else v.copy() for k, v in rows.items()}
        whole = max(len(rows["done"]) - self.size + 1, 0)
        self._open = {k: v[whole:] for k, v in rows.items()}
        return self._windows(rows, whole) if whole else None

    def end(self) -> dict[str, np.ndarray] | None:
        rows, self._open = self._open, None
        return None if rows is None or not len(rows["done"]) else self._windows(rows, len(rows["done"]))

    def _windows(self, rows: dict[str, np.ndarray], count: int) -> dict[str, np.ndarray]:
        """The first ``count`` rows with the sums and the ends of their windows."""
        done: Any = rows["done"].reshape(len(rows["done"]), -1).any(1)
        step = np.arange(len(done))
        end = np.minimum.accumulate(np.where(done, step, len(done) - 1)[::-1])[::-1]  # of each step's episode, as far as it is known
        last = np.minimum(step + self.size - 1, end)[:count]
        found = {name: column[:count] for name, column in rows.items()}
        for name in ("done", *self.next):
            found[name] = rows[name][last]
        for name in self.rewards:
            found[name] = self._sums(rows[name], done)[:count]
        found["discounts"] = (self.gamma ** (last - step[:count] + 1)).astype(np.float32)[:, None]
        return found

    def _sums(self, reward: np.ndarray, done: np.ndarray) -> np.ndarray:
        flat = np.ascontiguousarray(reward.reshape(len(reward), -1), np.float32 if reward.dtype == np.float32 else np.float64)
        ends = np.repeat(done[:, None], flat.shape[1], 1)
        sums = n_step_return(flat, None, None, ends, np.zeros_like(ends), n=self.size, gamma=self.gamma)
        return sums.reshape(reward.shape).astype(reward.dtype, copy=False)


def _whole(caller: str, name: str, value: Any) -> int:
    try:
        whole = int(value) if isinstance(value, float) and value.is_integer() else operator.index(value)
    except TypeError:
        raise SettingTypeError(f"{caller}: {name} is {value!r}, expected a whole number") from None
    if whole < 1:
        raise SettingError(f"{caller}: {name} is {value!r}, expected at least 1")
    return whole


def _columns(caller: str, env_dict: Any, default_dtype: Any) -> dict[str, _Column]:
    if not isinstance(env_dict, Mapping) or not env_dict:
        raise SettingTypeError(f"{caller}: env_dict is {env_dict!r}, expected columns by name, {{'obs': {{'shape': 3}}}}")
    return dict(_each_column(caller, env_dict, np.float32 if default_dtype is None else default_dtype))


def _each_column(caller: str, env_dict: Mapping[str, Any], default_dtype: Any) -> Iterator[tuple[str, _Column]]:
    for name, about in env_dict.items():
        where = f"{caller}: env_dict[{name!r}]"
        if not isinstance(about, Mapping):
            raise SettingTypeError(f"{where} is {about!r}, expected a dict with shape and dtype")
        if unknown := sorted(about.keys() - {"shape", "dtype"}):
            raise SettingError(f"{where} has an entry {unknown[0]!r}, expected shape and dtype")
        try:
            shape = tuple(operator.index(n) for n in np.atleast_1d(about.get("shape", 1)))
            dtype = np.dtype(about.get("dtype", default_dtype))
        except TypeError:
            raise SettingTypeError(f"{where} is {about!r}, expected shape: whole numbers, dtype: what NumPy knows") from None
        if dtype.kind not in "biuf" or dtype.itemsize > 8 or min(shape, default=1) < 1:
            raise SettingError(f"{where} has shape {shape} and dtype {dtype}, expected extents of at least 1, and numbers or bool")
        yield name, _Column(shape, dtype)


def _names(caller: str, argument: str, given: Any, columns: Mapping[str, _Column]) -> tuple[str, ...]:
    names = () if given is None else (given,) if isinstance(given, str) else tuple(given)
    for name in names:
        if name not in columns:
            raise SettingError(f"{caller}: {argument} has {name!r}, which is no column of env_dict: {', '.join(columns)}")
    return names


def _idle(steps: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What the stream asks for and cpprb does not have: rows of a byte, rewards, flags."""
    return np.zeros((steps, 1), np.uint8), np.zeros(steps, np.float32), np.zeros(steps, np.bool_)


def _shape(shape: tuple[int, ...]) -> str:
    return str(list(shape))
