"""Returns by definition: NumPy float64, one step at a time. This is the specification.

Every function takes ``reward``, ``terminated``, ``truncated``, ``valid`` [T, N] (``valid`` may be None) and
``next_value`` [T, N] = the value after each step, before termination is considered; `next_value_of` makes it from the
other form.
"""

from __future__ import annotations

import numpy as np


def next_value_of(value, terminated, truncated, final_value):
    """``value`` [T+1, N], and ``final_value`` [T, N] at the cuts, as ``next_value`` [T, N]."""
    if final_value is None:
        return value[1:]
    return np.where(truncated & ~terminated, final_value, value[1:])


def _prepare(reward, next_value, terminated, truncated, valid):
    """In float64: reward, bootstrap value (0 if terminated), whether a sum ends with the step, whether it exists."""
    alive = np.ones(reward.shape, bool) if valid is None else valid
    ends = terminated | truncated
    ends[-1:] = True
    ends[:-1] |= ~alive[1:]
    bootstrap = np.where(terminated, 0.0, next_value.astype(np.float64))
    return reward.astype(np.float64), bootstrap, ends, alive


def gae(reward, value, next_value, terminated, truncated, valid, gamma, gae_lambda):
    reward, bootstrap, ends, alive = _prepare(reward, next_value, terminated, truncated, valid)
    value = value.astype(np.float64)
    advantage, later = np.zeros(reward.shape), np.zeros(reward.shape[1])
    for t in reversed(range(len(reward))):
        delta = reward[t] + gamma * bootstrap[t] - value[t]
        later = advantage[t] = np.where(alive[t], delta + np.where(ends[t], 0, gamma * gae_lambda * later), 0)
    return advantage, np.where(alive, advantage + value, 0)


def lambda_return(reward, next_value, terminated, truncated, valid, gamma, lambda_):
    reward, bootstrap, ends, alive = _prepare(reward, next_value, terminated, truncated, valid)
    result, later = np.zeros(reward.shape), np.zeros(reward.shape[1])
    for t in reversed(range(len(reward))):
        future = np.where(ends[t], bootstrap[t], (1 - lambda_) * bootstrap[t] + lambda_ * later)
        later = result[t] = np.where(alive[t], reward[t] + gamma * future, 0)
    return result


def n_step_return(reward, next_value, terminated, truncated, valid, gamma, n):
    """Summed forwards, as the definition reads."""
    reward, bootstrap, ends, alive = _prepare(reward, next_value, terminated, truncated, valid)
    result = np.zeros(reward.shape)
    for t in range(len(reward)):
        running = alive[t].copy()
        for k in range(min(n, len(reward) - t)):
            result[t] += np.where(running, gamma**k * reward[t + k], 0)
            stops = running & (ends[t + k] | (k == n - 1))
            result[t] += np.where(stops, gamma ** (k + 1) * bootstrap[t + k], 0)
            running &= ~stops
    return result


def vtrace(log_prob, behaviour_log_prob, reward, value, next_value, terminated, truncated, valid, *numbers):
    gamma, lambda_, rho_bar, c_bar = numbers
    reward, bootstrap, ends, alive = _prepare(reward, next_value, terminated, truncated, valid)
    value = value.astype(np.float64)
    ratio = np.exp(log_prob.astype(np.float64) - behaviour_log_prob.astype(np.float64))
    rho, c = np.minimum(rho_bar, ratio), lambda_ * np.minimum(c_bar, ratio)
    vs, pg_advantage = np.zeros(reward.shape), np.zeros(reward.shape)
    correction = np.zeros(reward.shape[1])  # vs_{t+1} - value_{t+1}
    for t in reversed(range(len(reward))):
        correction = np.where(ends[t], 0, correction)
        td_error = reward[t] + gamma * bootstrap[t] - value[t]
        pg_advantage[t] = np.where(alive[t], rho[t] * (td_error + gamma * correction), 0)
        correction = np.where(alive[t], rho[t] * td_error + gamma * c[t] * correction, 0)
        vs[t] = np.where(alive[t], value[t] + correction, 0)
    return vs, pg_advantage
