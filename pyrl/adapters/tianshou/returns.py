"""The host's advantages and n-step returns."""

from __future__ import annotations

import operator

import numpy as np
from tianshou.algorithm import algorithm_base

from pyrl import ops
from pyrl.errors import DTypeError, ShapeError


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
    reward, ends = np.asarray(np.take(rew_B, stacked_indices_NI), np.float64), np.take(end_flag_B, stacked_indices_NI)
    if ends.dtype != np.bool_:
        ends = ends > 0
    if width > 1:
        reward, ends = np.repeat(reward, width, 1), np.repeat(ends, width, 1)
    target = np.empty_like(reward)
    target[:] = np.asarray(target_q_IA).reshape(1, -1)
    returns = ops.discounted_return(reward, np.zeros_like(ends), ends, gamma=gamma, next_value=target)
    return returns[0].reshape(count, width)


def install() -> None:
    """From here on the host's algorithms compute advantages and n-step returns by pyrl, in this process."""
    algorithm_base._gae, algorithm_base._nstep_return = gae, nstep_return
