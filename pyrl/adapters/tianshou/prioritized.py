"""The host's prioritized buffers (Schaul et al. 2016)."""

from __future__ import annotations

from typing import Any

import numpy as np
from tianshou import data as host

from pyrl.adapters.columns import count, flag
from pyrl.adapters.tianshou.replay import Columns, check_options, subbuffers
from pyrl.adapters.tianshou.tree import SegmentTree
from pyrl.errors import DTypeError, NonFiniteError, SettingError, ShapeError


class _Prioritized:
    """Weights on `SegmentTree`; the same seed of NumPy's global stream draws the same positions as the host's."""

    maxsize: int  # and other attributes of the host
    weight: Any
    init_weight: Any
    _weight_norm: bool

    @staticmethod
    def _check_options(caller: str, alpha: Any, beta: Any) -> None:
        for name, value, least in (("alpha", alpha, "a positive number"), ("beta", beta, "a number of at least 0")):
            if isinstance(value, bool) or not isinstance(value, int | float | np.number):
                raise DTypeError(f"{caller}: {name} is {value!r}, expected {least}")
            if not 0 <= value < np.inf or (name == "alpha" and value == 0):
                raise SettingError(f"{caller}: {name} is {value!r}, expected {least}")

    def _advance(self, *step: Any) -> Any:
        found = super()._advance(*step)  # type: ignore[misc]
        self.init_weight(found[0])  # type: ignore[attr-defined]
        return found

    def _taken(self, index: Any) -> Any:
        batch = super()._taken(index)  # type: ignore[misc]
        if batch is not None:
            weight = self.get_weight(index)  # type: ignore[attr-defined]
            batch.__dict__["weight"] = weight / weight.max() if self._weight_norm and len(weight) else weight  # type: ignore[attr-defined]
        return batch

    def _draw(self, size: int) -> Any:
        tree = self.weight  # type: ignore[attr-defined]
        return tree.get_prefix_sum_idx(np.random.rand(size) * tree.reduce())  # noqa: NPY002

    def set_beta(self, beta: float) -> None:
        self._check_options("set_beta", 1.0, beta)
        super().set_beta(beta)  # type: ignore[misc]

    def get_weight(self, index: Any) -> Any:
        """Importance weights, not yet divided by the largest; positions below 0 count from the end."""
        return super().get_weight(np.asarray(index)[()] % self.maxsize)  # type: ignore[misc]

    def update_weight(self, index: Any, new_weight: Any) -> None:
        """New priorities [B], of either sign as |td_error|, at positions [B]. ShapeError or NonFiniteError, and nothing is changed."""
        weight = np.asarray(new_weight.detach().cpu() if hasattr(new_weight, "detach") else new_weight)
        if weight.dtype.kind not in "iuf":
            raise DTypeError(f"update_weight: new_weight is {new_weight!r}, expected numbers")
        if np.size(weight) != np.size(index):
            raise ShapeError(f"update_weight: new_weight has {np.size(weight)} elements, index has {np.size(index)}")
        if not np.isfinite(weight).all():
            raise NonFiniteError(f"update_weight: new_weight has {weight[~np.isfinite(weight)].flat[0]}, expected finite numbers")
        if np.size(index):
            super().update_weight(index, weight.reshape(np.shape(index)))  # type: ignore[misc]


class PrioritizedReplayBuffer(_Prioritized, Columns, host.PrioritizedReplayBuffer):  # type: ignore[misc]
    """The host's PrioritizedReplayBuffer, by its arguments."""

    def __init__(self, size: int, alpha: float, beta: float, weight_norm: bool = True, *, random_seed: int = 42, **options: Any) -> None:
        name = type(self).__name__
        self._check_options(name, alpha, beta)
        check_options(name, options)
        flag(name, "weight_norm", weight_norm)
        host.PrioritizedReplayBuffer.__init__(
            self, count(name, "size", size, 0), alpha, beta, weight_norm, random_seed=random_seed, **options
        )
        self._start(random_seed)
        if size:
            self.weight = SegmentTree(size)


class PrioritizedVectorReplayBuffer(_Prioritized, Columns, host.PrioritizedVectorReplayBuffer):  # type: ignore[misc]
    """The host's PrioritizedVectorReplayBuffer: one tree over all subbuffers."""

    def __init__(self, total_size: int, buffer_num: int, **options: Any) -> None:
        name = type(self).__name__
        self._check_options(name, options.get("alpha"), options.get("beta"))
        made = subbuffers(name, PrioritizedReplayBuffer, total_size, buffer_num, options)
        host.PrioritizedReplayBufferManager.__init__(self, made)
        self._start(options.get("random_seed", 42))
        self.weight, self._weight_norm = SegmentTree(self.maxsize), options.get("weight_norm", True)  # which the host loses
