"""How learners in several processes share what they learn: one flat blob of weights in shared memory, with a version."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from pyrl.types import Rollout


@dataclass
class SharedWeights:
    """theta and what its optimiser keeps of it, in shared memory. Nothing is locked: a reader may see a step half done."""

    values: Tensor  # [size], as `pyrl.engine.arena` lays them out
    statistics: dict[str, Tensor]  # of the optimiser, by name: [size], and counts []
    steps: Tensor  # int64 [workers]: gradient steps of each worker, written by it alone

    @property
    def version(self) -> int:
        """Gradient steps that made the values."""
        return int(self.steps.sum())


@runtime_checkable
class SharesWeights(Protocol):
    """An agent whose copies in other processes learn on the same weights."""

    def share(self) -> SharedWeights:
        """Its weights and its optimiser's statistics, moved into shared memory; it keeps using them there."""
        ...

    def become_worker(self, index: int, generation: int) -> None:
        """Choose actions of its own; ``generation`` counts the workers that were here before."""
        ...

    def pull(self, shared: SharedWeights) -> None:
        """Act, and compute gradients, by the shared weights of now."""
        ...

    def gradient(self, rollout: Rollout) -> dict[str, Any]:
        """Compute the gradient of a rollout, and report."""
        ...

    def push(self, shared: SharedWeights) -> None:
        """One step of the optimiser on the shared weights, by the gradient computed last."""
        ...
