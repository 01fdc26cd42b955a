"""The inputs that all contenders of a case share: the same shapes, dtypes and values, from fixed seeds. NumPy only."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import numpy as np

EPISODE = 200  # steps


class Kind(NamedTuple):
    """A kind of transition, and how many of them fill a buffer in these benchmarks.

    10^6 where the full buffers of all contenders fit into memory side by side (they are timed in turns, so all are held
    at once), else fewer, but always many times the caches.
    """

    shape: tuple[int, ...]
    dtype: str
    actions: int  # 0: one discrete action, int64; n: float32 [n]
    capacity: int


KINDS = {
    "obs4": Kind((4,), "float32", 0, 1_000_000),
    "obs17": Kind((17,), "float32", 6, 1_000_000),
    "obs376": Kind((376,), "float32", 6, 250_000),
    "img4x84x84": Kind((4, 84, 84), "uint8", 0, 20_000),
    "img84x84": Kind((84, 84), "uint8", 0, 50_000),  # single frames, to be stacked
}


class Steps(NamedTuple):
    """B transitions, one of each environment: what one `add` stores. Flags are bool [B], reward is float32 [B]."""

    observation: np.ndarray
    action: np.ndarray
    reward: np.ndarray
    next_observation: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray


def spaces(kind: str) -> tuple[Any, Any]:
    """Gymnasium spaces (observation, action) of a kind."""
    from gymnasium.spaces import Box, Discrete

    shape, dtype, actions, _ = KINDS[kind]
    high = 255 if dtype == "uint8" else np.inf
    box = Box(0 if dtype == "uint8" else -np.inf, high, shape, np.dtype(dtype).type)
    return box, Box(-1.0, 1.0, (actions,), np.float32) if actions else Discrete(4)


def observations(kind: str, count: int, seed: int = 0) -> np.ndarray:
    shape, dtype, _, _ = KINDS[kind]
    rng = np.random.default_rng(seed)
    if dtype == "uint8":
        return np.frombuffer(rng.bytes(count * int(np.prod(shape))), np.uint8).reshape(count, *shape)
    return rng.standard_normal((count, *shape), np.float32)


def actions(kind: str, count: int, seed: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    size = KINDS[kind].actions
    return rng.uniform(-1.0, 1.0, (count, size)).astype(np.float32) if size else rng.integers(0, 4, count)


def rewards(count: int, seed: int = 2) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(count, np.float32)


def stream(kind: str, batch: int) -> list[Steps]:
    """One episode length of steps of ``batch`` environments, to be cycled through: add step 0, 1, ..., 199, 0, ...

    A stream as an environment gives it: the observation of a step is the next observation of the step before. Every
    environment terminates every 200 steps, not all at once. The arrays repeat soon, so that they are in cache as fresh
    observations are.
    """
    period = 2 if KINDS[kind].dtype == "uint8" else 4
    observation = observations(kind, period * batch).reshape(period, batch, *KINDS[kind].shape)
    action, reward = actions(kind, batch), rewards(batch)
    never = np.zeros(batch, bool)
    phase = (np.arange(batch) * 37) % EPISODE
    return [
        Steps(
            observation[t % period],
            action,
            reward,
            observation[(t + 1) % period],
            (t + phase) % EPISODE == EPISODE - 1,
            never,
        )
        for t in range(EPISODE)
    ]


class Rollout(NamedTuple):
    """[T, N], float32 and bool; ``last_value`` [N] follows the last step. 1 % of the steps terminate. No step is truncated
    and ``next_value[t]`` is ``value[t + 1]``: all libraries, whatever they make of truncation, have the same answer."""

    reward: np.ndarray
    value: np.ndarray
    next_value: np.ndarray
    last_value: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray


def rollout(T: int, N: int) -> Rollout:
    rng = np.random.default_rng(T * 100_003 + N)
    value = rng.standard_normal((T + 1, N), np.float32)
    reward, terminated = rng.standard_normal((T, N), np.float32), rng.random((T, N), np.float32) < 0.01
    next_value, last_value = np.ascontiguousarray(value[1:]), value[-1].copy()
    return Rollout(reward, np.ascontiguousarray(value[:-1]), next_value, last_value, terminated, np.zeros((T, N), bool))


class VtraceRollout(NamedTuple):
    """What V-trace reads: [T, N] float32; log_prob of the target policy and of the behaviour policy."""

    log_prob: np.ndarray
    behaviour_log_prob: np.ndarray
    reward: np.ndarray
    value: np.ndarray
    next_value: np.ndarray
    last_value: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray


def vtrace_rollout(T: int, N: int) -> VtraceRollout:
    rng = np.random.default_rng(T * 100_019 + N)
    behaviour = -np.abs(rng.standard_normal((T, N), np.float32))
    target = behaviour + np.float32(0.2) * rng.standard_normal((T, N), np.float32)
    return VtraceRollout(target, behaviour, *rollout(T, N))


def logits(batch: int, count: int = 4) -> np.ndarray:
    """Categorical policies, float32 [batch, count]."""
    return np.random.default_rng(batch).standard_normal((batch, count), np.float32)


def gaussians(batch: int, size: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """Gaussian policies: mean float32 [batch, size] and log standard deviation float32 [size]."""
    return np.random.default_rng(batch).standard_normal((batch, size), np.float32), np.full(size, -0.5, np.float32)


def copying(moved: int) -> Any:
    """A call that moves so many bytes, half of them read and half written: the floor of work on memory."""
    source = np.ones(moved // 2, np.uint8)
    return partial(np.copyto, np.ones_like(source), source)


def priorities(batch: int) -> list[np.ndarray]:
    """Batches of |td_error|."""
    return list(np.random.default_rng(1).exponential(size=(64, batch)).astype(np.float32))
