"""The role that keeps experience: a replay behind a rate limiter (Horgan et al. 2018; the limiter: Cassirer et al. 2021).

`ReplayShard` is a plain object: in the learner's process, or in one of its own behind whatever speaks to it from here (`RemoteShard` of
`pyrl.distributed.ray_shard`). The learner sees a `Shard`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from pyrl.agents.storage import ReplaySpec
from pyrl.buffers import PrioritizedReplayBuffer
from pyrl.distributed.transitions import Transitions
from pyrl.loops.off_policy import make_replay
from pyrl.ops import RateLimiter
from pyrl.seeding import stream_key
from pyrl.types import Batch


class ShardLost(Exception):
    """A shard elsewhere is gone, with what it held."""


class Shard(Protocol):
    """What the learner sees of a shard. It alone speaks to it. Methods of one that is elsewhere raise ShardLost when it is gone, and do not
    wait for it but where that is said; its own errors come with the next call of any."""

    spec: ShardSpec

    def can_insert(self, steps: Transitions) -> bool: ...

    def insert(self, steps: Transitions, first_env: int = 0) -> bool:
        """Store the steps of the environments from ``first_env`` on, counted in this shard, with their initial priorities, where they have
        some. False, and nothing is stored, if it would have to wait."""

    def can_sample(self, beta: float | None = None) -> bool:
        """Whether `sample` has a draw now. ``beta``: of its importance weights; one that is elsewhere is asked for the draw here."""

    def sample(self, beta: float | None = None) -> list[Batch] | None:
        """``spec.batches`` batches; None if it would have to wait for them."""

    def update_priorities(self, index: Sequence[np.ndarray], priority: Sequence[np.ndarray]) -> None:
        """Of the batches of one draw, at once; of a transition that comes twice the last counts."""

    def stop(self) -> None:
        """Nothing goes in or out until `resume`: the barrier of a checkpoint."""

    def resume(self) -> None: ...

    @property
    def counts(self) -> tuple[int, int]:
        """(transitions inserted, transitions drawn), as the learner knows."""

    def stored(self) -> int:
        """Transitions inserted, as the shard itself has counted, after all that it was told. Waits."""

    def state_dict(self) -> dict[str, Any]:
        """After all that it was told. Waits."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


@dataclass(frozen=True, kw_only=True)
class ShardSpec:
    """One shard of several; all of it can be pickled."""

    replay: ReplaySpec  # of all shards together; its capacity and learning_begins are shared out
    index: int
    shards: int
    envs: int  # environments of this shard, neighbours
    space: Any  # observations as they are stored
    action_space: Any
    window: Mapping[str, Any]
    seed: int  # of the run
    samples_per_insert: float
    insert_size: int  # the most transitions of one insert
    batches: int  # the most of one draw

    @property
    def sample_size(self) -> int:
        """The most transitions of one draw."""
        return self.batches * self.replay.batch_size

    @property
    def min_size(self) -> int:
        """Transitions before the first draw."""
        return -(-self.replay.learning_begins // self.shards)

    def limiter(self) -> RateLimiter:
        return RateLimiter(self.samples_per_insert, min_size=self.min_size, insert_size=self.insert_size, sample_size=self.sample_size)


class ReplayShard:
    """Transitions of some environments; `insert` and `sample` say no where the limiter wants them to wait.

    Threads may share it. What was inserted is counted as inserted for ever, also when it was overwritten meanwhile.
    """

    def __init__(self, spec: ShardSpec) -> None:
        self.spec = spec
        self.buffer = make_replay(
            spec.replay, spec.replay.capacity // spec.shards, spec.space, spec.action_space, num_envs=spec.envs,
            seed=stream_key(spec.seed, "replay shard", spec.index) >> 1, **spec.window,
        )  # fmt: skip
        self.limiter = spec.limiter()

    def __len__(self) -> int:
        """Transitions that can be drawn."""
        return len(self.buffer)

    def can_insert(self, steps: Transitions) -> bool:
        return self.limiter.can_insert(steps.steps)

    def insert(self, steps: Transitions, first_env: int = 0, timeout: float = 0.0) -> bool:
        """As of `Shard`; False if the limiter did not allow it for ``timeout`` seconds. Errors as of `ReplayBuffer.extend`."""
        count = steps.steps
        if not self.limiter.begin_insert(count, timeout):
            return False
        stored = False
        try:
            columns = steps.action, steps.reward, steps.next_observation, steps.terminated, steps.truncated, steps.valid
            index = self.buffer.extend_some(first_env, steps.observation, *columns, **steps.extra)
            stored = True
            if steps.priority is not None and isinstance(self.buffer, PrioritizedReplayBuffer):
                self.buffer.update_priorities(index[steps.valid], steps.priority[steps.valid])
        finally:
            self.limiter.end_insert(count, stored)
        return True

    def can_sample(self, beta: float | None = None) -> bool:
        return self.limiter.can_sample(self.spec.sample_size)

    def sample(self, beta: float | None = None, timeout: float = 0.0) -> list[Batch] | None:
        """As of `Shard`; None if the limiter did not allow it for ``timeout`` seconds."""
        if not self.limiter.sample(self.spec.sample_size, timeout):
            return None
        if beta is not None and isinstance(self.buffer, PrioritizedReplayBuffer):
            self.buffer.beta = beta
        return [self.buffer.sample(self.spec.replay.batch_size) for _ in range(self.spec.batches)]

    def update_priorities(self, index: Sequence[np.ndarray], priority: Sequence[np.ndarray]) -> None:
        assert isinstance(self.buffer, PrioritizedReplayBuffer)
        self.buffer.update_priorities(np.concatenate(index), np.concatenate(priority))

    def stop(self) -> None:
        self.limiter.stop()

    def resume(self) -> None:
        self.limiter.resume()

    @property
    def counts(self) -> tuple[int, int]:
        return self.limiter.inserts, self.limiter.samples

    def stored(self) -> int:
        return self.limiter.inserts

    def state_dict(self) -> dict[str, Any]:
        return {"limiter": self.limiter.state_dict(), "buffer": self.buffer.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Errors as of the buffer and the limiter."""
        self.buffer.load_state_dict(state["buffer"])
        self.limiter.load_state_dict(state["limiter"])
