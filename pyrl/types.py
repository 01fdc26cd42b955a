"""The records that flow between environments, storage and agents.

Dimensions: T steps, N environments, B batch, A action, D observation. An *observation* is an array, or a (nested) dict or
tuple of arrays as the space says; every leaf has the leading dimensions stated here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np

from pyrl.trees import Record, map_tree

if TYPE_CHECKING:
    from torch import Tensor

    Observation: TypeAlias = np.ndarray | Tensor | Mapping[Any, "Observation"] | tuple["Observation", ...]
else:
    Observation = Any
Array: TypeAlias = Any  # a NumPy array or a torch tensor, in kernels, losses and a `Batch`; elsewhere data are NumPy arrays
map_observation: Callable[..., Observation] = map_tree


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
    first: np.ndarray  # bool [N]
    action_mask: np.ndarray | None = None  # bool [N, M], M = the sum of the choices of all components: what may be chosen; None: anything
    state: Any = None


@dataclass(slots=True, repr=False)
class Choice(Record):
    """What an agent chose: actions of its own units (`pyrl.spaces.actions`), and what it wants to get back."""

    action: np.ndarray  # [N, ...]; discrete actions count from zero
    state: Any = None  # for the next `PolicyInput`
    stored: dict[str, np.ndarray] = field(default_factory=dict)  # [N, ...] each: for `Rollout.extra` or `Batch.extra`


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
    action: np.ndarray  # [N, ...]
    reward: np.ndarray  # float64 [N], as the environment gave it
    next_observation: Observation  # [N, ...] the final observation where the episode ended
    terminated: np.ndarray  # bool [N]: the MDP ended; no future value
    truncated: np.ndarray  # bool [N]: cut from outside; the future has value
    valid: np.ndarray  # bool [N]: False marks the dead step of NEXT_STEP autoreset, which is not a transition
    first: np.ndarray = field(kw_only=True)  # bool [N]: ``observation`` starts an episode
    episodes: list[Episode] = field(default_factory=list)  # those that ended in this step
    action_mask: np.ndarray | None = None  # bool [N, M]: what could be chosen at ``observation``
    next_action_mask: np.ndarray | None = None  # bool [N, M]: at ``next_observation``


@dataclass(slots=True, repr=False)
class StepRows(Record):
    """T consecutive steps of N environments, all of them transitions, as `StepResult` has one. The arrays are valid until the next call."""

    observation: np.ndarray  # [T, N, ...]
    action: np.ndarray  # [T, N, ...] as the policy drew it
    reward: np.ndarray  # float64 [T, N]
    next_observation: np.ndarray  # [T, N, ...] the final observation where an episode ended
    terminated: np.ndarray  # bool [T, N]
    truncated: np.ndarray  # bool [T, N]
    first: np.ndarray  # bool [T, N]: the observation starts an episode
    extra: dict[str, np.ndarray]  # [T, N, ...] each: what the agent wants stored beside it
    episodes: list[Episode]
    error: BaseException | None = None  # what ended them: `RolloutBuffer.extend` raises it when it has stored them


@dataclass(slots=True, repr=False)
class Rollout(Record):
    """T consecutive steps of N environments, time first, for on-policy agents.

    ``final_*`` hold the K observations after which episodes were truncated (``final_step``, ``final_env``: int64 [K]), where
    row t+1 of ``observation`` may already belong to the next episode; a critic values only these and row T.
    """

    observation: Observation  # [T+1, N, ...]; row T follows the last step
    action: np.ndarray  # [T, N, ...]
    reward: np.ndarray  # float32 [T, N]
    terminated: np.ndarray  # bool [T, N]
    truncated: np.ndarray  # bool [T, N]
    valid: np.ndarray  # bool [T, N]
    first: np.ndarray  # bool [T+1, N]: the observation starts an episode
    final_step: np.ndarray  # int64 [K]
    final_env: np.ndarray  # int64 [K]
    final_observation: Observation  # [K, ...]
    extra: dict[str, np.ndarray]  # what the agent asked to keep (`Choice.stored`): log_prob [T, N]
    action_mask: np.ndarray | None = None  # bool [T, N, M]: what could be chosen; None where the environments give no masks


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
    index: Array  # int64 [B]: record indices, for update_priorities
    weight: Array | None = None  # float32 [B], importance weights of prioritized replay
    extra: dict[str, Array] = field(default_factory=dict)  # what the agent asked to keep (`Choice.stored`)
    next_action_mask: Array | None = None  # bool [B, M]: what may be chosen at ``next_observation``; None: anything
