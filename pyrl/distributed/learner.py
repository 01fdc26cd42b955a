"""The role that learns, and the queue that it learns from."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

import numpy as np

from pyrl.agents.actor import Weights
from pyrl.agents.base import Agent
from pyrl.distributed.chunks import Accounts, Chunk
from pyrl.distributed.group import LearnerGroup
from pyrl.types import Learned, Rollout


class Learner:
    """Learns from chunks in the order in which it gets them. Its version counts the updates that it was told of: what its weights are
    published under."""

    def __init__(self, agent: Agent, group: LearnerGroup | None = None) -> None:
        self.agent, self.group = agent, group
        self.version = 0
        self._expected: dict[int, tuple[int, int]] = {}  # of each collector: incarnation and sequence of the chunk that follows the latest

    def learn(self, rollout: Rollout) -> Learned:
        """One update, of all learners if it is the first of a group."""
        return self.agent.learn(rollout) if self.group is None else self.group.learn(rollout)

    def observe_rewards(self, chunks: Sequence[Chunk]) -> None:
        """Show the normaliser the rewards of chunks of different collectors. The running return of an environment goes on from chunk to
        chunk, and anew where a chunk is missing or another incarnation begins."""
        normalizer, rollouts = self.agent.normalizer, [chunk.rollout for chunk in chunks]
        for chunk in chunks:
            name = chunk.incarnation, chunk.sequence
            if name not in ((0, 0), self._expected.get(chunk.collector)):
                normalizer.begin(slice(chunk.first_env, chunk.first_env + chunk.rollout.reward.shape[1]))
            self._expected[chunk.collector] = chunk.incarnation, chunk.sequence + 1
        reward, terminated, truncated, valid = (
            np.concatenate([getattr(rollout, name) for rollout in rollouts], axis=1)
            for name in ("reward", "terminated", "truncated", "valid")
        )
        normalizer.observe_reward(reward, terminated | truncated, valid, chunks[0].first_env)

    def weights(self) -> Weights:
        """What collectors are to act by."""
        return self.agent.weights()._replace(version=self.version)

    def lag(self, chunk: Chunk) -> int:
        """Updates since the weights that ``chunk`` was made by."""
        return self.version - chunk.version


class RolloutQueue:
    """First in, first out: each chunk is consumed once, or discarded once for a reason that the accounts name.

    max_policy_lag: a chunk by weights of more updates ago is discarded when its turn comes.
    """

    def __init__(self, accounts: Accounts, max_policy_lag: int) -> None:
        self.accounts, self.max_policy_lag = accounts, max_policy_lag
        self._waiting: deque[tuple[Chunk, Callable[[], None]]] = deque()
        self._expected: dict[tuple[int, int], int] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, chunk: Chunk, release: Callable[[], None] = lambda: None) -> None:
        """``release`` is called when the chunk's arrays are not needed any more. ValueError for a chunk that came before, or whose
        predecessor never came."""
        name = chunk.collector, chunk.incarnation
        if chunk.sequence != self._expected.get(name, 0):
            raise ValueError(f"RolloutQueue: chunk {chunk.sequence} of collector {name} came, expected {self._expected.get(name, 0)}")
        self._expected[name] = chunk.sequence + 1
        self.accounts.waiting += chunk.steps
        self._waiting.append((chunk, release))

    def drop_old(self, lag: Callable[[Chunk], int]) -> None:
        """Discard what is over the cap."""
        kept = deque[tuple[Chunk, Callable[[], None]]]()
        for chunk, release in self._waiting:
            if lag(chunk) > self.max_policy_lag:
                self._leave(chunk, release, "over max_policy_lag")
            else:
                kept.append((chunk, release))
        self._waiting = kept

    def take(self, count: int) -> tuple[list[Chunk], Callable[[], None]]:
        """The oldest ``count`` chunks, and what to call when their arrays have been read."""
        taken = [self._waiting.popleft() for _ in range(count)]
        for chunk, _ in taken:
            self.accounts.waiting -= chunk.steps
            self.accounts.consumed += chunk.steps

        def release() -> None:
            for _, each in taken:
                each()

        return [chunk for chunk, _ in taken], release

    def clear(self, reason: str) -> None:
        """Discard everything that waits."""
        while self._waiting:
            self._leave(*self._waiting.popleft(), reason)

    def _leave(self, chunk: Chunk, release: Callable[[], None], reason: str) -> None:
        self.accounts.waiting -= chunk.steps
        self.accounts.discard(reason, chunk.steps)
        release()
