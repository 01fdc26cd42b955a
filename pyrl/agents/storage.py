"""What an agent wants stored, and when it wants to learn: said by `Agent.storage`, done by its loop."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

from pyrl.agents.checks import Amount, BufferDevice, Count, Fraction, GradientSteps, NonNegative, NStep, check_fields, check_range
from pyrl.schedules import linear

Columns: TypeAlias = Mapping[str, tuple[tuple[int, ...], Any]]  # name: (shape of one row, dtype), of what `Choice.stored` holds


@dataclasses.dataclass(frozen=True, kw_only=True)
class RolloutSpec:
    """A rollout [n_steps, num_envs], learned from once it is full."""

    n_steps: Count  # T
    extra: Columns = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        check_fields(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrioritySpec:
    """Prioritized replay (Schaul et al. 2016): drawn by priority^alpha; beta rises from ``beta`` to ``beta_final`` over the run."""

    alpha: Fraction = 0.6
    beta: Fraction = 0.4
    beta_final: Fraction = 1.0

    def __post_init__(self) -> None:
        check_fields(self)

    def beta_at(self, share: float) -> float:
        """beta when ``share`` of the run is done."""
        return linear(self.beta, self.beta_final, share)


@dataclasses.dataclass(frozen=True, kw_only=True)
class HindsightSpec:
    """Hindsight replay (Andrychowicz et al. 2017): ``goals`` achieved ones for each desired one."""

    strategy: Literal["future", "final", "episode"] = "future"
    goals: NonNegative = 4

    def __post_init__(self) -> None:
        check_fields(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReplaySpec:
    """A replay, and a round of learning: train_freq steps of every environment, then gradient_steps batches."""

    capacity: Count  # slots, all environments together
    batch_size: Count
    n_step: NStep = 1  # length of the returns
    gamma: Fraction = 0.99
    device: BufferDevice = "cpu"  # where the replay is
    prioritized: PrioritySpec | None = None  # None: drawn uniformly
    hindsight: HindsightSpec | None = None  # None: goals stay as they were desired
    learning_starts: Amount = 0  # transitions stored before the first batch is drawn
    train_freq: Count = 1
    gradient_steps: GradientSteps = 1  # -1: one per transition stored since the last round
    extra: Columns = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        check_fields(self)
        check_range(self, "batch_size", 1, self.capacity)

    @property
    def learning_begins(self) -> int:
        """Transitions stored before the first batch: at least one batch of them."""
        return max(self.learning_starts, self.batch_size)
