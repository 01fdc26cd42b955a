"""Prioritized experience replay (Schaul et al. 2016, arXiv:1511.05952), on the record stream of `pyrl.buffers.replay`."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from pyrl.buffers.layout import check_number
from pyrl.buffers.pickling import pickled
from pyrl.buffers.replay import ReplayBuffer
from pyrl.errors import DTypeError
from pyrl.types import Array, Batch


@pickled
class PrioritizedReplayBuffer(ReplayBuffer):
    """A `ReplayBuffer` that draws record i with probability p_i^alpha / sum of p_k^alpha.

    ``p_i = priority_i + epsilon``, where ``priority`` is what `update_priorities` was given, |td_error| as a rule. A new record
    gets the largest p_i^alpha that was in the buffer before the `add` (1 in an empty one), so that it is drawn soon. Draws are
    stratified. Batches carry ``weight`` (float32 [B]), ``(N P(i))^-beta`` divided by its largest value.

    Args:
        alpha: how much priorities matter, in [0, 1]; 0 draws uniformly.
        beta: how much the weights make up for it, in [0, 1]; may be set at any time, and is usually raised to 1 over a run. A CUDA graph
            keeps the one it was captured with.
        epsilon: added to every priority, positive: nothing becomes impossible to draw.
        weights_over: weights are divided by the largest of the "batch", or of the whole "buffer".
        others: those of `ReplayBuffer`.
    """

    _prioritized = True

    def __init__(
        self,
        *args: Any,
        alpha: float = 0.6,
        beta: float = 0.4,
        epsilon: float = 1e-6,
        weights_over: Literal["batch", "buffer"] = "batch",
        **options: Any,
    ) -> None:
        for name, value in (("alpha", alpha), ("beta", beta), ("epsilon", epsilon)):
            check_number("PrioritizedReplayBuffer", name, value)
        for name, value in (("alpha", alpha), ("beta", beta)):
            if not 0.0 <= value <= 1.0:
                raise ValueError(f"PrioritizedReplayBuffer: {name} is {value}, expected a number in [0, 1]")
        if not 0.0 < epsilon < float("inf"):
            raise ValueError(f"PrioritizedReplayBuffer: epsilon is {epsilon}, expected a positive number")
        if weights_over not in ("batch", "buffer"):
            raise ValueError(f"PrioritizedReplayBuffer: weights_over is {weights_over!r}, expected one of batch, buffer")
        super().__init__(*args, **options)
        self.alpha, self.beta, self.epsilon, self.weights_over = float(alpha), float(beta), float(epsilon), weights_over
        self._core.prioritize(self.alpha, self.epsilon)
        self._options |= {"alpha": self.alpha, "epsilon": self.epsilon}

    @staticmethod
    def _check_replacement(caller: str, replacement: bool) -> None:
        if not isinstance(replacement, bool | np.bool_):
            raise DTypeError(f"{caller}: replacement is {replacement!r}, expected True or False")
        if not replacement:
            raise ValueError(f"{caller}: replacement is False, expected True (prioritized draws are stratified, not distinct)")

    def arguments(self) -> dict[str, Any]:
        return {**super().arguments(), "beta": self.beta, "weights_over": self.weights_over}

    def sample(self, batch_size: int, out: Batch | None = None, *, replacement: bool = True) -> Batch:
        """Draw by priority, with replacement: ``batch_size`` windows with their importance weights.

        ``out`` as in `ReplayBuffer.sample`. ValueError if nothing is stored, or ``replacement`` is False.
        """
        self._check_replacement("sample", replacement)
        over_buffer = self.weights_over == "buffer"
        if out is None:
            return self._batch(*self._core.sample_prioritized(batch_size, self.beta, over_buffer, self._torch, None, None))
        fields = self._fields(out)
        if out.weight is None:
            raise ValueError("sample: out.weight is None, expected a batch that was drawn by priority")
        self._core.sample_prioritized(batch_size, self.beta, over_buffer, self._torch, fields, out.weight)
        return out

    def draw(self, batch_size: int, *, replacement: bool = True) -> Array:
        """The indices of a draw by priority, int64 [B]: those that `sample` would give now; `weight` gives their weights."""
        self._check_replacement("draw", replacement)
        return super().draw(batch_size)

    def weight(self, index: Array) -> Array:
        """float32 [B]: the importance weights of these records (int64 [B]) as one batch, with the present ``beta``.

        ValueError if a record is gone or not drawable, naming the first such element of ``index``."""
        return self._core.weight(index, self.beta, self.weights_over == "buffer", self._torch)

    def update_priorities(self, index: Array, priority: Array) -> None:
        """Give the records ``index`` (``batch.index``, int64 [B]) new priorities [B], float32 or float64, from 0 to 1e150.

        Of a record that comes twice the last counts. Records that are gone are left out, and counted in ``stale_updates``.
        NonFiniteError or ValueError for a bad priority; then nothing is changed. On a GPU both may be tensors there; then nothing waits,
        and a bad priority is left out, and counted in ``refused_updates``.
        """
        self._core.update_priorities(index, priority)

    def priorities(self, index: Array) -> np.ndarray:
        """float64 [B]: p_i^alpha of these records, 0 where they are gone."""
        return self._core.priorities(index)

    @property
    def total_priority(self) -> float:
        """The sum of all p_i^alpha."""
        return self._core.total_priority

    @property
    def stale_updates(self) -> int:
        """How many updates came too late for their record."""
        return self._core.unused_updates[0]

    @property
    def refused_updates(self) -> int:
        """How many priorities that were given as tensors on a GPU were negative or not finite: they change nothing."""
        return self._core.unused_updates[1]
