"""The host's PrioritizedEpisodeReplayBuffer on the record stream of `pyrl.buffers`."""

from __future__ import annotations

from numbers import Real
from typing import Any

import numpy as np
from ray.rllib.utils.replay_buffers import prioritized_episode_buffer as host

from pyrl import buffers
from pyrl.adapters.columns import share
from pyrl.adapters.rllib.replay import EpisodeReplayBuffer
from pyrl.errors import SettingError, ShapeError
from pyrl.types import Batch


class PrioritizedEpisodeReplayBuffer(EpisodeReplayBuffer, host.PrioritizedEpisodeReplayBuffer):
    """`EpisodeReplayBuffer` that draws by priority (Schaul et al. 2016), for DQN and SAC, which give back |TD error|.

    ``replay_buffer_config``, beside those of `EpisodeReplayBuffer`: ``alpha``, in [0, 1]; ``beta``, which the host hands to `sample`.
    """

    _replay_class = buffers.PrioritizedReplayBuffer

    def __init__(self, capacity: int = 10000, *, alpha: float = 1.0, **options: Any) -> None:
        self._alpha = share(self._name, "alpha", alpha)
        self._drawn: np.ndarray | None = None  # the indices of the last sample, until their priorities come
        super().__init__(capacity, **options)

    def _make(self, **options: Any) -> Any:
        return super()._make(**options, alpha=self._alpha, epsilon=1e-12, weights_over="buffer")  # the host's

    def add(self, episodes: Any, weight: float | None = None) -> None:
        """``weight``: the priority of all these steps; by default a new one gets the largest in the buffer."""
        if weight is not None and (not isinstance(weight, Real) or not 0 <= float(weight) <= 1e150):
            raise ValueError(f"add: weight is {weight!r}, expected a number from 0 to 1e150")
        index = self._store_all(episodes)
        if weight is not None and len(index):
            self.replay.update_priorities(index, np.full(len(index), float(weight)))

    def sample(self, num_items: int | None = None, *, sample_episodes: bool | None = True, **options: Any) -> Any:
        """As `EpisodeReplayBuffer.sample`, by priority; ``beta``, in [0, 1], is the exponent of ``weights``."""
        return super().sample(num_items, sample_episodes=True, **options)

    def _draw(self, size: int, beta: Any) -> tuple[Batch, Any]:
        if beta is None:
            raise SettingError('sample: beta is None, expected a number in [0, 1]; give replay_buffer_config "beta"')
        self.replay.beta = share("sample", "beta", beta)
        batch = self.replay.sample(size)
        self._drawn = batch.index
        return batch, batch.weight

    def update_priorities(self, priorities: Any, module_id: Any = None) -> None:
        """|TD error| [B] of the transitions of the last `sample`, once for each. ValueError, ShapeError or NonFiniteError, and nothing is
        changed, for others."""
        if self._drawn is None:
            raise ValueError("update_priorities: no sample waits for priorities")
        given = np.asarray(priorities, np.float64)
        if given.shape != self._drawn.shape:
            raise ShapeError(
                f"update_priorities: priorities have shape {list(given.shape)}, expected [{len(self._drawn)}], the last sample's"
            )
        self.replay.update_priorities(self._drawn, given)
        self._drawn = None
