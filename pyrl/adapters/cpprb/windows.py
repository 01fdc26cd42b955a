"""What becomes of steps before they are stored: n-step windows, and single frames of stacks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from pyrl.adapters.cpprb.arguments import Column, names_in, whole_number
from pyrl.buffers.layout import check_number
from pyrl.errors import SettingError, SettingTypeError
from pyrl.ops import n_step_return


class NStep:
    """Turns steps into n-step transitions; holds the last n - 1, whose windows are open."""

    def __init__(self, caller: str, options: Mapping[str, Any], columns: Mapping[str, Column], next_of: tuple[str, ...]) -> None:
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
        self.size = whole_number(f"{caller}: Nstep", "size", options["size"])
        self.gamma = options.get("gamma", 0.99)
        check_number(caller, "Nstep['gamma']", self.gamma)
        if not 0 <= self.gamma <= 1:
            raise SettingError(f"{caller}: Nstep['gamma'] is {self.gamma}, expected a number in [0, 1]")
        self.rewards = names_in(caller, "Nstep['rew']", options.get("rew"), columns)
        self.next = names_in(caller, "Nstep['next']", options.get("next"), columns)
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


class Frames:
    """Takes the newest frame of stacks [..., m], and sees to it that the stream can stack them again."""

    def __init__(self, caller: str, compressed: tuple[str, ...], next_of: tuple[str, ...], columns: Mapping[str, Column]) -> None:
        if set(compressed) != set(next_of):
            given = f"{caller}: stack_compress is {list(compressed)}, and next_of is {list(next_of)}"
            raise SettingError(f"{given}, expected the same columns: a frame is the last of one stack and the next one's of another")
        depths = {columns[name].shape[-1] for name in compressed}
        if len(depths) != 1 or min(depths) < 2:
            raise SettingError(
                f"{caller}: stack_compress has columns with {sorted(depths)} frames in the last dimension, expected one number from 2"
            )
        self.names, self.depth = compressed, depths.pop()
        self.padding: str | None = None  # what stands before an episode's first frame, once one was seen
        self.end()

    def end(self) -> None:
        """What comes next follows nothing."""
        self._last: dict[str, np.ndarray] | None = None

    def column(self, column: Column) -> Column:
        return Column(column.shape[:-1], column.dtype)

    def streams(self, rows: dict[str, np.ndarray], steps: int) -> Iterator[tuple[bool, slice]]:
        """The runs of rows that follow one another: (whether it starts a stream, which rows).

        SettingError where next values are not the stack moved on by a frame, or where a stream does not start as an episode does.
        """
        begins = np.zeros(steps, bool)
        for name in self.names:
            now, following = rows[name], rows[f"next_{name}"]
            if not np.array_equal(following[..., :-1], now[..., 1:]):
                raise SettingError(f"add: next_{name} is not {name} moved on by a frame, which stack_compress needs")
            begins[1:] |= (now[1:] != following[:-1]).any(axis=tuple(range(1, now.ndim)))
            begins[0] |= self._last is None or not np.array_equal(now[0], self._last[name])
        for at in np.flatnonzero(begins):
            self._check_padding({name: rows[name][at] for name in self.names})
        self._last = {name: rows[f"next_{name}"][-1].copy() for name in self.names}
        edges = [0, *(int(at) for at in np.flatnonzero(begins) if at > 0), steps]
        for start, end in zip(edges, edges[1:]):
            yield bool(begins[start]), slice(start, end)

    def _check_padding(self, stacks: dict[str, np.ndarray]) -> None:
        older, newest = ([stack[..., at] for stack in stacks.values()] for at in (slice(None, -1), slice(-1, None)))
        fits = {"repeat": all((o == n).all() for o, n in zip(older, newest)), "zero": not any(o.any() for o in older)}
        if self.padding is None and fits["repeat"] != fits["zero"]:
            self.padding = "repeat" if fits["repeat"] else "zero"
        if not fits[self.padding or "repeat"]:
            expected = (
                "zeros" if self.padding == "zero" else "its newest frame again" if self.padding else "its newest frame again, or zeros"
            )
            raise SettingError(
                f"add: {next(iter(stacks))} starts an episode with a stack of other frames, expected {expected} before the first; "
                "without stack_compress any stack is taken"
            )
