"""The records that flow between environments, storage and agents.

Dimensions: T steps, N environments, B batch, A action, D observation. An *observation* is an array, or a (nested) dict or
tuple of arrays as the space says; every leaf has the leading dimensions stated here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple, TypeAlias

import numpy as np

Array: TypeAlias = Any  # a NumPy array or a torch tensor
Observation: TypeAlias = Any  # an Array, or a dict or tuple of observations


def _describe(value: Any) -> str:
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{k}: {_describe(v)}" for k, v in value.items()) + "}"
    if isinstance(value, tuple):
        return "(" + ", ".join(_describe(v) for v in value) + ")"
    return repr(value)


class Record:
    """Prints shapes and dtypes instead of data."""

    def __repr__(self) -> str:
        body = ", ".join(f"{f.name}={_describe(getattr(self, f.name))}" for f in fields(self))  # type: ignore[arg-type]
        return f"{type(self).__name__}({body})"


@dataclass(slots=True, repr=False)
class Episode(Record):
    """One finished episode. ``success`` is None where the environment says nothing about success."""

    episode_return: float
    length: int
    env_index: int
    success: bool | None = None


class Progress(NamedTuple):
    """How far the training of an agent has come: what schedules read. One object, replaced as a whole."""

    env_steps: int = 0  # environment steps that the agent has learned from, over all its runs
    share: float = 0.0  # of the run that is done, in [0, 1]


class Metrics(dict[str, float]):
    """What a loop yields: numbers under keys with units (``"time/env_steps_per_second"``, ``"loss/policy"``,
    ``"episode/return_mean"``), and the episodes that ended since the last record."""

    def __init__(self, values: Mapping[str, float], episodes: list[Episode]) -> None:
        super().__init__(values)
        self.episodes = episodes


@dataclass(slots=True, repr=False)
class PolicyInput(Record):
    """What an agent chooses from. Arrays are valid until the environments' next step.

    ``first`` marks rows whose episode starts here: an agent with memory forgets what it knows of them. ``state`` is the ``state`` of the
    agent's last `Choice`; None before the first, and of agents without memory.
    """

    observation: Observation  # [N, ...]
    first: Array  # bool [N]
    action_mask: Array | None = None  # bool [N, M], M = the sum of the choices of all components: what may be chosen; None: anything
    state: Any = None


@dataclass(slots=True, repr=False)
class Choice(Record):
    """What an agent chose: actions of its own units (`pyrl.spaces.actions`), and what it wants to get back."""

    action: Array  # [N, ...]; discrete actions count from zero
    state: Any = None  # for the next `PolicyInput`
    stored: dict[str, Array] = field(default_factory=dict)  # [N, ...] each: for `Rollout.extra` or `Batch.extra`


@dataclass(slots=True, repr=False)
class Learned(Record):
    """What an agent says of an update."""

    metrics: dict[str, float]
    priority: Array | None = None  # [B], not negative: what prioritized replay draws the learned batch by from now on


@dataclass(slots=True, repr=False)
class StepResult(Record):
    """One step of N environments, the same for every autoreset mode (`pyrl.envs.stepper`).

    The arrays may be the stepper's own: they are valid until the next call of ``step``. The masks are None where the environments
    give none.
    """

    observation: Observation  # [N, ...] what the action answered
    action: Array  # [N, ...]
    reward: Array  # float64 [N], as the environment gave it
    next_observation: Observation  # [N, ...] the final observation where the episode ended
    terminated: Array  # bool [N]: the MDP ended; no future value
    truncated: Array  # bool [N]: cut from outside; the future has value
    valid: Array  # bool [N]: False marks the dead step of NEXT_STEP autoreset, which is no transition
    first: Array = field(kw_only=True)  # bool [N]: ``observation`` starts an episode
    episodes: list[Episode] = field(default_factory=list)  # those that ended in this step
    action_mask: Array | None = None  # bool [N, M]: what could be chosen at ``observation``
    next_action_mask: Array | None = None  # bool [N, M]: at ``next_observation``


@dataclass(slots=True, repr=False)
class Rollout(Record):
    """T consecutive steps of N environments, time first, for on-policy agents.

    ``final_*`` hold the K observations after which episodes were truncated (``final_step``, ``final_env``: int64 [K]), where
    row t+1 of ``observation`` may already belong to the next episode; a critic values only these and row T.
    """

    observation: Observation  # [T+1, N, ...]; row T follows the last step
    action: Array  # [T, N, ...]
    reward: Array  # float32 [T, N]
    terminated: Array  # bool [T, N]
    truncated: Array  # bool [T, N]
    valid: Array  # bool [T, N]
    first: Array  # bool [T+1, N]: the observation starts an episode
    final_step: Array  # int64 [K]
    final_env: Array  # int64 [K]
    final_observation: Observation  # [K, ...]
    extra: dict[str, Array]  # what the agent asked to keep (`Choice.stored`): log_prob [T, N]
    action_mask: Array | None = None  # bool [T, N, M]: what could be chosen; None where the environments give no masks


@dataclass(slots=True, repr=False)
class Batch(Record):
    """B windows drawn from a replay buffer: transitions, or n-step transitions with k <= n steps each.

    ``discount = gamma^k (1 - terminated)`` multiplies the value of ``next_observation``; ``reward`` is the sum of gamma^i r_i.
    """

    observation: Observation  # [B, ...]
    action: Array  # [B, ...]
    reward: Array  # float32 [B]
    next_observation: Observation  # [B, ...]
    terminated: Array  # bool [B]
    discount: Array  # float32 [B]
    index: Array  # int64 [B]: record names, for update_priorities
    weight: Array | None = None  # float32 [B], importance weights of prioritized replay
    extra: dict[str, Array] = field(default_factory=dict)  # what the agent asked to keep (`Choice.stored`)
    next_action_mask: Array | None = None  # bool [B, M]: what may be chosen at ``next_observation``; None: anything


def map_observation(function: Any, observation: Observation, *others: Observation) -> Observation:
    """Apply ``function`` to every leaf (and the matching leaves of ``others``), keeping dicts and tuples."""
    if isinstance(observation, Mapping):
        return {k: map_observation(function, v, *(o[k] for o in others)) for k, v in observation.items()}
    if isinstance(observation, tuple):
        return tuple(map_observation(function, v, *(o[i] for o in others)) for i, v in enumerate(observation))
    return function(observation, *others)


def first_leaf(observation: Observation) -> Array:
    """Any one leaf; all share their leading dimensions."""
    while isinstance(observation, (Mapping, tuple)):
        observation = next(iter(observation.values())) if isinstance(observation, Mapping) else observation[0]
    return observation


def zeros_for(space: Any, *leading: int) -> Observation:
    """Zero arrays for a Gymnasium space with leading dimensions: dtype and shape as the space says."""
    from gymnasium import spaces

    if isinstance(space, spaces.Dict):
        return {k: zeros_for(s, *leading) for k, s in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(zeros_for(s, *leading) for s in space.spaces)
    return np.zeros((*leading, *(space.shape or ())), dtype=space.dtype)
