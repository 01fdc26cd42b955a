"""Tianshou's (2.0) sum tree, prioritized buffers, advantages and n-step returns on pyrl's kernels.

- `PrioritizedReplayBuffer` and `PrioritizedVectorReplayBuffer` are the host's, with `SegmentTree` for their weights.
- `install()` puts `gae` and `nstep_return` into the place of the host's ``_gae`` and ``_nstep_return``, which its algorithms call.

docs/coming_from/tianshou.md has what differs.
"""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
from tianshou import data as host
from tianshou.algorithm import algorithm_base

from pyrl import ops
from pyrl.errors import DTypeError, ShapeError

__all__ = ["PrioritizedReplayBuffer", "PrioritizedVectorReplayBuffer", "SegmentTree", "gae", "install", "nstep_return"]


class SegmentTree:
    """The host's SegmentTree: ``size`` weights (float64, not negative), their sums, and where a running sum falls.

    An index is an integer or an int64 array of any shape. Errors name the argument: ValueError, DTypeError, ShapeError.
    """

    def __init__(self, size: int) -> None:
        self._tree = ops.SumTree(size)

    def __len__(self) -> int:
        return len(self._tree)

    def __getitem__(self, index: Any) -> Any:
        """The weight, or an array of weights."""
        at = _index(index)
        found = self._tree.get(at.ravel()).reshape(at.shape)
        return found.item() if np.ndim(index) == 0 else found

    def __setitem__(self, index: Any, value: Any) -> None:
        """Of an element that comes twice the last counts."""
        at, weight = _index(index).ravel(), np.asarray(value, np.float64).ravel()
        if weight.size == 1 < at.size:
            weight = np.full(at.size, weight[0])
        self._tree.set(at, weight)

    def reduce(self, start: int = 0, end: int | None = None) -> float:
        """The sum of the elements start, ..., end - 1; a negative ``end`` counts from the size."""
        if start == 0 and end is None:
            return self._tree.total
        return self._tree.sum(start, end + len(self) if end is not None and end < 0 else end)

    def get_prefix_sum_idx(self, value: Any) -> Any:
        """Of each value, from 0 to below the total, the first element whose running sum exceeds it; never one of weight zero."""
        values = np.asarray(value, np.float64)
        found = self._tree.find(values.ravel()).reshape(values.shape)
        return found.item() if values.ndim == 0 else found


def _index(index: Any) -> np.ndarray:
    at = np.asarray(index)
    if at.dtype.kind not in "iu":
        raise DTypeError(f"SegmentTree: index is {index!r}, expected an integer or an array of integers")
    return at.astype(np.int64, copy=False)


class PrioritizedReplayBuffer(host.PrioritizedReplayBuffer):
    """The host's PrioritizedReplayBuffer on `SegmentTree`."""

    def __init__(self, size: int, alpha: float, beta: float, weight_norm: bool = True, **kwargs: Any) -> None:
        super().__init__(size, alpha, beta, weight_norm, **kwargs)
        self.weight = SegmentTree(size)


class PrioritizedVectorReplayBuffer(host.PrioritizedVectorReplayBuffer):
    """The host's PrioritizedVectorReplayBuffer on `SegmentTree`."""

    def __init__(self, total_size: int, buffer_num: int, **kwargs: Any) -> None:
        super().__init__(total_size, buffer_num, **kwargs)
        self.weight = SegmentTree(self.maxsize)


def gae(v_s: np.ndarray, v_s_: np.ndarray, rew: np.ndarray, end_flag: np.ndarray, gamma: float, gae_lambda: float) -> np.ndarray:
    """The host's ``_gae``: advantages, float64 [T], of steps in their order.

    ``v_s_`` is 0 where a step terminated; ``end_flag`` ends the sums there and where a step was cut, whose ``v_s_`` counts. ShapeError,
    DTypeError, ValueError name the argument.
    """
    columns = {"v_s": v_s, "v_s_": v_s_, "rew": rew, "end_flag": end_flag}
    for name, column in columns.items():
        if np.shape(column) != np.shape(rew) or np.ndim(rew) != 1:
            raise ShapeError(f"gae: {name} has shape {list(np.shape(column))}, expected [T], that of rew")
    value, following, reward = (np.ascontiguousarray(column, np.float64)[:, None] for column in (v_s, v_s_, rew))
    ends = np.ascontiguousarray(end_flag, np.bool_)[:, None]
    return ops.gae(reward, value, following, np.zeros_like(ends), ends, gamma=gamma, gae_lambda=gae_lambda)[0][:, 0]


def nstep_return(
    rew_B: np.ndarray,
    end_flag_B: np.ndarray,
    target_q_IA: np.ndarray,
    stacked_indices_NI: np.ndarray,
    gamma: float,
    n_step: int,
) -> np.ndarray:
    """The host's ``_nstep_return``: float64 [I, A].

    ``sum of gamma^i rew_B[stacked_indices_NI[i]]`` up to the first end, k <= n steps, ``+ gamma^k target_q_IA``. ``end_flag_B`` marks
    terminated, truncated and newest steps; a terminated one has a target of 0. ShapeError, DTypeError, ValueError name the argument.
    """
    if np.ndim(target_q_IA) != 2:
        raise ShapeError(f"nstep_return: target_q_IA has shape {list(np.shape(target_q_IA))}, expected [I, A]")
    count, width = target_q_IA.shape
    try:
        steps = operator.index(n_step)
    except TypeError:
        raise DTypeError(f"nstep_return: n_step is {n_step!r}, expected an integer") from None
    if np.shape(stacked_indices_NI) != (steps, count):
        shape = list(np.shape(stacked_indices_NI))
        raise ShapeError(f"nstep_return: stacked_indices_NI has shape {shape}, expected [n_step, I] = [{steps}, {count}]")
    reward, ends = np.asarray(rew_B[stacked_indices_NI], np.float64), end_flag_B[stacked_indices_NI] > 0
    if width > 1:
        reward, ends = np.repeat(reward, width, 1), np.repeat(ends, width, 1)
    target = np.empty_like(reward)
    target[:] = np.asarray(target_q_IA).reshape(1, -1)
    returns = ops.discounted_return(reward, np.zeros_like(ends), ends, gamma=gamma, next_value=target)
    return returns[0].reshape(count, width)


def install() -> None:
    """From here on the host's algorithms compute advantages and n-step returns by pyrl, in this process."""
    algorithm_base._gae, algorithm_base._nstep_return = gae, nstep_return
