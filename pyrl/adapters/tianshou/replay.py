"""The host's buffers: its columns, written without copies of the batch and drawn by one call for all of them."""

from __future__ import annotations

from typing import Any

import numpy as np
from tianshou import data as host
from tianshou.data import Batch

from pyrl import ops
from pyrl.adapters.columns import count, flag
from pyrl.adapters.tianshou.following import Following, row
from pyrl.adapters.tianshou.nested import check_shapes, is_batch, leaves, matched, nested
from pyrl.errors import DTypeError, NonFiniteError, SettingError, ShapeError

_SAMPLED = ("obs", "act", "rew", "terminated", "truncated", "done", "obs_next", "info", "policy")  # what every sample has
_FLAGS = ("ignore_obs_next", "save_only_last_obs", "sample_avail")
_REQUIRED = ("obs", "act", "rew", "terminated", "truncated")


class Columns:
    """What the four buffers share, before the host's class in their bases. Whatever the columns are (nested, objects, tensors), it is
    honoured: what the quick ways do not know goes to the host's own methods.

    With ``ignore_obs_next`` the observations that do not follow from the next row are kept beside: the last one of each episode, of each
    subbuffer, and of a stream that was broken off. So an ``obs_next`` is what was added, where the host repeats ``obs``.
    """

    maxsize: int  # and other attributes of the host
    options: dict[str, Any]
    stack_num: int
    buffers: Any
    buffer_num: int
    last_index: Any
    _meta: Any
    _indices: Any
    _size: int
    _lengths: Any
    _offset: Any
    _extend_offset: Any
    _save_obs_next: bool
    _save_only_last_obs: bool
    _sample_avail: bool
    _reserved_keys: Any
    __len__: Any

    def _start(self, seed: int) -> None:
        self._stream = ops.RandomStream(seed, "tianshou")
        self._following = Following(self.maxsize)

    def _compile(self) -> None:
        """The host compiles its search for neighbours here, for seconds; ours is NumPy."""

    # -- writing ----------------------------------------------------------------------------------------------------------

    def add(self, batch: Any, buffer_ids: Any = None) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """A step of each subbuffer in ``buffer_ids``, rows [K, ...]; of the single buffer without it: no leading dimension.

        Returns the positions, and of episodes that ended here returns and lengths, and where episodes began. ShapeError, DTypeError and
        ValueError name the column; then nothing is stored.
        """
        given, ids = self._given(batch, buffer_ids)
        following = given.pop("obs_next", None) if self._ignoring else None
        pairs = matched(self._meta.__dict__, given)
        if pairs is not None:
            check_shapes(pairs, () if ids is None else (len(ids),))
            before = self.last_index[0:1].copy() if ids is None else self.last_index[ids]
            found = self._advance(given["rew"], given["done"], ids)
            position = found[0][0] if ids is None else found[0]
            for _, column, value in pairs:
                column[position] = value
        else:  # the first rows, or further columns
            found = super().add(batch, buffer_ids)  # type: ignore[misc]
            before = found[0]
        if self._ignoring:
            self._follow(found[0], before, given["obs"], following, ids is None)
        return found

    def _follow(self, position: np.ndarray, before: np.ndarray, obs: Any, following: Any, single: bool) -> None:
        """Of each row the next observation is kept, until a row comes behind it that has it."""
        done = self._meta.__dict__["done"]
        for number, (now, earlier) in enumerate(zip(position.tolist(), before.tolist())):
            if earlier != now and not done[earlier] and self._following.is_row(earlier, obs if single else row(obs, number)):
                self._following.drop(earlier)
            if following is None:
                self._following.drop(now)
            else:
                self._following.keep(now, following if single else row(following, number))

    @property
    def _ignoring(self) -> bool:
        return not self._save_obs_next

    def _given(self, batch: Any, buffer_ids: Any) -> tuple[dict[str, Any], Any]:
        """The columns as they are to be stored, and the subbuffers; None of a single buffer whose rows have no leading dimension."""
        if not is_batch(batch):
            raise DTypeError(f"add: batch is a {type(batch).__name__}, expected a tianshou.data.Batch")
        given = dict(batch.__dict__)
        if missing := [name for name in _REQUIRED if name not in given]:
            raise ValueError(f"add: batch has no {missing[0]}, expected {', '.join(_REQUIRED)}")
        reward = given["rew"]
        if isinstance(reward, np.ndarray | float | np.floating) and not np.isfinite(reward).all():
            raise NonFiniteError(f"add: rew is {reward}, expected finite numbers")
        if buffer_ids is None and not isinstance(self, host.ReplayBufferManager) and np.ndim(given["terminated"]):
            name, shape = type(self).__name__, list(np.shape(given["terminated"]))
            raise ShapeError(f"add: terminated has shape {shape}, expected one flag: {name} is a single buffer; give buffer_ids=[0]")
        given["done"] = np.logical_or(given["terminated"], given["truncated"])
        ids = self._subbuffers(buffer_ids)
        if ids is not None:
            if not isinstance(self, host.ReplayBufferManager):
                ids = np.zeros(1, np.int64)
            else:
                given = {name: given[name] for name in given if name in self._reserved_keys}  # as the host
            for name in ("rew", "terminated", "truncated"):
                if np.shape(given[name])[:1] != (len(ids),):
                    raise ShapeError(
                        f"add: {name} has shape {list(np.shape(given[name]))}, expected [{len(ids)}], a row for each of buffer_ids"
                    )
        if self._save_only_last_obs:
            newest = (-1,) if ids is None else (slice(None), -1)
            for name in {"obs", "obs_next"} & given.keys():
                given[name] = given[name][newest]
        return given, ids

    def _subbuffers(self, buffer_ids: Any) -> Any:
        if not isinstance(self, host.ReplayBufferManager):
            if buffer_ids is not None and list(buffer_ids) != [0]:
                raise ValueError(f"add: buffer_ids is {buffer_ids!r}, expected None or [0]: {type(self).__name__} is a single buffer")
            return buffer_ids
        if buffer_ids is None:
            return np.arange(self.buffer_num)
        ids = np.asarray(buffer_ids)
        if ids.dtype.kind not in "iu" or ids.ndim != 1:
            raise DTypeError(f"add: buffer_ids is {buffer_ids!r}, expected a list of integers")
        if len(ids) and not (ids.min() >= 0 and ids.max() < self.buffer_num):
            raise ValueError(f"add: buffer_ids is {ids.tolist()}, expected 0 to {self.buffer_num - 1}")
        if len(set(ids.tolist())) != len(ids):
            raise ValueError(f"add: buffer_ids is {ids.tolist()}, expected each subbuffer once")
        return ids

    def _advance(self, reward: Any, done: Any, ids: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """The result of `add`, and the counts behind it."""
        if ids is None:
            reward, done = [reward], [done]
        elif type(reward) is np.ndarray and reward.ndim == 1:
            reward = reward.tolist()
        if not isinstance(self, host.ReplayBufferManager):
            found = [advanced(self.__dict__, reward[0], bool(done[0]))]
        else:
            found, offsets, subbuffers = [], self._offset.tolist(), self.buffers
            for row, number in enumerate(ids.tolist()):
                state, offset = subbuffers[number].__dict__, offsets[number]
                position, total, length, start = advanced(state, reward[row], bool(done[row]))
                found.append((position + offset, total, length, start + offset))
                self.last_index[number], self._lengths[number] = position + offset, state["_size"]
        positions, totals, lengths, starts = zip(*found) if found else ((),) * 4
        return np.array(positions, np.int64), np.array(totals), np.array(lengths, np.int64), np.array(starts, np.int64)

    # -- reading ----------------------------------------------------------------------------------------------------------

    def __getitem__(self, index: Any) -> Any:
        """The transitions at these positions. IndexError for one outside of the buffer."""
        if isinstance(index, slice):  # as the host: [:] is all that is stored, in order
            index = self.sample_indices(0) if index == slice(None) else self._indices[: len(self)][index]
        found = self._taken(index) if self.stack_num == 1 else None
        if found is None:
            found = super().__getitem__(index)  # type: ignore[misc]
        if self._following:
            self._following.put_into(found, index, self.stack_num > 1)
        return found

    def _taken(self, index: Any) -> Any:
        """All columns by one call; None where the host's way is needed: objects, tensors, negative positions."""
        if type(index) is not np.ndarray or index.dtype != np.int64 or index.ndim != 1:
            return None
        columns = self._meta.__dict__
        arrays = tuple(leaves(columns))
        if not arrays or not all(type(array) is np.ndarray and array.dtype.kind in "biuf" for array in arrays):
            return None
        try:
            rows = iter(ops.take_rows(arrays, index))
            found = nested(columns, rows).__dict__
            if self._ignoring:
                obs = columns["obs"]
                following = ops.take_rows(tuple(leaves({"obs": obs})), self.next(index))
                found["obs_next"] = nested({"obs": obs}, iter(following)).__dict__["obs"]
        except (ValueError, TypeError):  # positions that NumPy counts from the end, or refuses; columns that are views
            return None
        batch = Batch()
        ordered = batch.__dict__
        for name in _SAMPLED:
            ordered[name] = found.pop(name) if name in found else Batch()
        ordered.update(found)
        return batch

    def sample_indices(self, batch_size: int | None) -> np.ndarray:
        """Positions drawn uniformly from all that is stored; 0: all of them, in order; None: as many as there are.

        ValueError if nothing is stored. With ``sample_avail`` and stacks, and for 0 and less, the host's own.
        """
        if batch_size is None:
            batch_size = len(self)
        size = count("sample_indices", "batch_size", batch_size, -(2**62))
        if size <= 0 or (self.stack_num > 1 and self._sample_avail):
            return super().sample_indices(size)  # type: ignore[misc]
        if len(self) == 0:
            raise ValueError(f"sample_indices: batch_size is {size}, and nothing is stored")
        return self._draw(size)

    def _draw(self, size: int) -> np.ndarray:
        stored = len(self)
        drawn = ops.uniform_indices(size, stored, self._stream)
        if stored == self.maxsize or not isinstance(self, host.ReplayBufferManager):
            return drawn
        ends = np.cumsum(self._lengths)
        number = np.searchsorted(ends, drawn, side="right")
        return drawn + (self._offset - ends + self._lengths)[number]

    def prev(self, index: Any) -> Any:
        """The position before, the same at an episode's first step."""
        index, number, start, length = self._places(index)
        before = (index - start - 1) % length
        stays = self._meta.__dict__["done"][before + start] | (before + start == self.last_index[number])
        return (before + stays) % length + start

    def next(self, index: Any) -> Any:
        """The position after, the same at an episode's last step and at the newest."""
        index, number, start, length = self._places(index)
        stays = self._meta.__dict__["done"][index] | (index == self.last_index[number])
        return (index - start + 1 - stays) % length + start

    def _places(self, index: Any) -> tuple[Any, Any, Any, Any]:
        """Positions, and of each the subbuffer, its first position and how many it holds."""
        index = np.asarray(index)[()]
        if not isinstance(self, host.ReplayBufferManager):
            size = max(1, self._size)
            return index % size, 0, 0, size
        index = index % self.maxsize
        number = np.searchsorted(self._extend_offset, index, side="right") - 1
        return index, number, self._offset[number], np.maximum(1, self._lengths)[number]

    # -- everything at once -------------------------------------------------------------------------------------------------

    def reset(self, keep_statistics: bool = False) -> None:
        super().reset(keep_statistics)  # type: ignore[misc]
        self._following.clear()

    def set_batch(self, batch: Any) -> None:
        super().set_batch(batch)  # type: ignore[misc]
        self._following.clear()

    def update(self, buffer: Any) -> np.ndarray:
        positions = super().update(buffer)  # type: ignore[misc]
        for position in positions.tolist():  # another buffer's rows
            self._following.drop(position)
        return positions


class ReplayBuffer(Columns, host.ReplayBuffer):  # type: ignore[misc]
    """The host's ReplayBuffer, by its arguments. Draws are a stream of pyrl's, seeded by ``random_seed``."""

    def __init__(self, size: int, *args: Any, random_seed: int = 42, **options: Any) -> None:
        size = count(type(self).__name__, "size", size, 0)
        check_options(type(self).__name__, options)
        super().__init__(size, *args, random_seed=random_seed, **options)
        self._start(random_seed)


class VectorReplayBuffer(Columns, host.VectorReplayBuffer):  # type: ignore[misc]
    """The host's VectorReplayBuffer: ``buffer_num`` subbuffers of ``total_size`` positions together."""

    def __init__(self, total_size: int, buffer_num: int, **options: Any) -> None:
        host.ReplayBufferManager.__init__(self, subbuffers(type(self).__name__, ReplayBuffer, total_size, buffer_num, options))
        self._start(options.get("random_seed", 42))


def check_options(caller: str, options: dict[str, Any]) -> None:
    """SettingError for what the host would ignore, DTypeError for values of another type."""
    for name, value in options.items():
        if name in _FLAGS:
            flag(caller, name, value)
        elif name == "stack_num":
            count(caller, name, value)
        else:
            raise SettingError(f"{caller}: {name} is given, expected {', '.join((*_FLAGS, 'stack_num', 'random_seed'))}")


def subbuffers(caller: str, made: Any, total_size: Any, buffer_num: Any, options: dict[str, Any]) -> list[Any]:
    number = count(caller, "buffer_num", buffer_num)
    size = -(-count(caller, "total_size", total_size, number) // number)
    return [made(size, **options) for _ in range(number)]


def advanced(state: dict[str, Any], reward: Any, done: bool) -> tuple[int, Any, int, int]:
    """The attributes of a single buffer after a step: its position, and of an episode that ends here return and length, and its start."""
    position = state["_insertion_idx"]
    state["last_index"][0] = position
    following = state["_insertion_idx"] = (position + 1) % state["maxsize"]
    state["_size"] = min(state["_size"] + 1, state["maxsize"])
    total, length, start = state["_ep_return"] + reward, state["_ep_len"] + 1, state["_ep_start_idx"]
    if done:
        state["_ep_return"], state["_ep_len"], state["_ep_start_idx"] = 0.0, 0, following
        return position, total, length, start
    state["_ep_return"], state["_ep_len"] = total, length
    return position, np.zeros_like(total) if isinstance(total, np.ndarray) else 0.0, 0, start
