"""Native environments: what one is (`Environment`), N of them (`EnvironmentPool`), and whole rollouts of a native policy in them
(`collect`). `pyrl.envs` puts faces on them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pyrl import _core
from pyrl._core import Environment, EnvironmentPool
from pyrl.ops.acting import Moments
from pyrl.ops.networks import Network
from pyrl.ops.random import RandomStream
from pyrl.types import Array

__all__ = ["Environment", "EnvironmentPool", "NativePolicy", "collect"]


@dataclass(frozen=True)
class NativePolicy:
    """A policy that is one network: its output is the logits of a Discrete action or, with ``log_std`` float32 [A], the mean of a
    Gaussian one. Observations enter as `pyrl.nets.encoder.Encoder` encodes them, without convolutions; ``moments`` normalise them first."""

    network: Network
    parameters: Array  # the arena, float32
    log_std: Array | None
    random: RandomStream  # one draw a step
    moments: Moments | None = None


def collect(
    pool: EnvironmentPool,
    policy: NativePolicy,
    bounds: tuple[np.ndarray | None, np.ndarray | None],
    steps: int,
    observation: np.ndarray,
    returns: np.ndarray,
    columns: tuple[np.ndarray, ...],
    *,
    stop_at_end: bool,
    seconds: float,
) -> tuple[int, Any]:
    """(steps made, None or (environment, what it did that it may not)): ``policy``, which has no moments, acts in ``pool`` for up to
    ``steps`` steps, in one call without the interpreter's lock. It returns early after ``seconds`` and, if ``stop_at_end``, after a step
    that ends an episode.

    bounds: what Box actions are clipped to, float32 [A] each, or None.
    observation [N, ...]: what to act on; then, what to act on next. returns float64 [N]: of unfinished episodes.
    columns: written, [T, N, ...] each: observation; following (the final observation where an episode ended); action, as drawn; float64
        reward; float64 running_return; bool terminated, truncated; float32 log_prob.
    """
    if policy.moments is not None:
        raise ValueError("collect: policy has moments, expected none: observations are not normalised here")
    return _core.collect(  # type: ignore[attr-defined, no-any-return]
        pool, policy.network._core, policy.parameters, policy.log_std, *bounds, policy.random, steps, stop_at_end, seconds,
        observation, returns, columns,
    )  # fmt: skip
