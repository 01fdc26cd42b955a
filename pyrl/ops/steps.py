"""What a stepper keeps of its environments: returns, clocks and time limits, in one object (`StepBook`); calling their step functions
(`StepCalls`), and acting and storing in the same call (`RolloutCalls`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from pyrl._core import RolloutCalls, StepBook, StepCalls
from pyrl.ops.environments import NativePolicy

__all__ = ["RolloutCalls", "StepBook", "StepCalls", "rollout_calls"]


def rollout_calls(
    calls: StepCalls, policy: NativePolicy, actions: tuple[int, int] | Callable[[np.ndarray], list[Any]], columns: tuple[np.ndarray, ...]
) -> RolloutCalls:
    """What makes the steps of a rollout: ``policy`` acts on the observations, float32 or float64, in a buffer of ``calls``, which steps the
    environments.

    actions: what the environments get of a row of actions: a function that makes a list of N, or (start, count) of Discrete ones.
    columns: written, [T, N, ...] each: observation; following; action, as drawn; float64 reward; bool terminated, truncated; float32
        log_prob.

    ``row(t, shown, steps, ended)`` makes step t from the observations in buffer ``shown``, whose successors go into the next one. It
    returns what ``calls.run`` does and fills ``ended`` likewise; row t of following, reward, terminated and truncated is written where
    that is -1 and no episode ended, else it is for the caller, with ``actions``, those of the step. -2: like -1, but a reward is beyond
    float32. ``calls.at`` is -1 where the policy raised. Each step takes a draw, as `pyrl.ops.acting.act` does.
    """
    return RolloutCalls(calls, policy.network._core, policy.parameters, policy.moments, policy.log_std, policy.random, actions, columns)
