"""What collectors send to the learner, and the books that are kept of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from pyrl.errors import AccountingError
from pyrl.types import Episode, Record, Rollout, map_observation

if TYPE_CHECKING:
    from pyrl.distributed.transitions import Transitions


@dataclass(slots=True, repr=False)
class Chunk(Record):
    """T steps of a collector's environments, by one version of the weights."""

    rollout: Rollout | Transitions  # [T, N], by what the agent stores
    episodes: list[Episode]  # that ended in it
    collector: int
    incarnation: int  # how many processes were this collector before
    sequence: int  # chunks of this incarnation before it
    version: int  # of the weights that acted

    @property
    def first_env(self) -> int:
        """The first of its environments, among those of all collectors."""
        return self.collector * int(self.rollout.reward.shape[1])

    @property
    def steps(self) -> int:
        """Environment steps in it."""
        return int(np.count_nonzero(self.rollout.valid))


def write_episodes(rows: np.ndarray, episodes: Sequence[Episode]) -> None:
    """Into float64 [count, 4]: return, length, environment, success (-1: unknown)."""
    for row, e in zip(rows, episodes):
        row[:] = e.episode_return, e.length, e.env_index, -1.0 if e.success is None else float(e.success)


def read_episodes(rows: np.ndarray, count: int) -> list[Episode]:
    """What `write_episodes` wrote."""
    return [Episode(r, int(length), int(env), None if success < 0 else bool(success)) for r, length, env, success in rows[:count].tolist()]


@dataclass
class Accounts:
    """Environment steps: what collectors made is what was learned from, what was discarded (by reason), and what still waits."""

    collected: int = 0  # as the collectors counted
    consumed: int = 0
    discarded: Counter[str] = field(default_factory=Counter)
    waiting: int = 0

    def discard(self, reason: str, steps: int) -> None:
        if steps:
            self.discarded[reason] += steps

    def check(self) -> None:
        """AccountingError if a step was lost or counted twice."""
        known = self.consumed + sum(self.discarded.values()) + self.waiting
        if known != self.collected:
            reasons = ", ".join(f"{steps} {reason}" for reason, steps in self.discarded.items()) or "none"
            raise AccountingError(
                f"{self.collected} steps were collected, but {known} are accounted for: {self.consumed} consumed, {self.waiting} waiting, "
                f"discarded: {reasons}"
            )


def joined(chunks: Sequence[Chunk]) -> Rollout:
    """The rollouts of chunks of the same T side by side: environments of the first chunk first. Arrays of its own."""
    rollouts = [chunk.rollout for chunk in chunks if isinstance(chunk.rollout, Rollout)]
    first_env = np.cumsum([0, *(r.reward.shape[1] for r in rollouts)])

    def beside(name: str) -> np.ndarray:
        return np.concatenate([getattr(r, name) for r in rollouts], axis=1)

    masks = [r.action_mask for r in rollouts if r.action_mask is not None]
    return Rollout(
        observation=map_observation(lambda *leaves: np.concatenate(leaves, axis=1), *(r.observation for r in rollouts)),
        action=beside("action"),
        reward=beside("reward"),
        terminated=beside("terminated"),
        truncated=beside("truncated"),
        valid=beside("valid"),
        first=beside("first"),
        final_step=np.concatenate([r.final_step for r in rollouts]),
        final_env=np.concatenate([r.final_env + at for r, at in zip(rollouts, first_env)]),
        final_observation=map_observation(lambda *leaves: np.concatenate(leaves), *(r.final_observation for r in rollouts)),
        extra={name: np.concatenate([r.extra[name] for r in rollouts], axis=1) for name in rollouts[0].extra},
        action_mask=np.concatenate(masks, axis=1) if len(masks) == len(rollouts) else None,
    )


def combined(chunks: Sequence[Chunk], collector: int) -> Chunk:
    """Chunks of collectors that keep step, side by side, as the one of ``collector``; a single one shares its arrays."""
    first = chunks[0]
    rollout = first.rollout if len(chunks) == 1 else joined(chunks)
    episodes = [episode for chunk in chunks for episode in chunk.episodes]
    return Chunk(rollout, episodes, collector, first.incarnation, first.sequence, first.version)


def split(rollout: Rollout, parts: int) -> list[Rollout]:
    """What `joined` makes one of: ``parts`` rollouts of N / parts environments each, in arrays of their own."""
    share = rollout.reward.shape[1] // parts
    return [_columns(rollout, at, at + share) for at in range(0, share * parts, share)]


def _columns(rollout: Rollout, begin: int, end: int) -> Rollout:
    def cut(column: Any) -> Any:
        return np.ascontiguousarray(column[:, begin:end])

    inside = (begin <= rollout.final_env) & (rollout.final_env < end)
    mask = rollout.action_mask
    return Rollout(
        observation=map_observation(cut, rollout.observation),
        final_step=rollout.final_step[inside],
        final_env=rollout.final_env[inside] - begin,
        final_observation=map_observation(lambda leaf: leaf[inside], rollout.final_observation),
        extra={name: cut(column) for name, column in rollout.extra.items()},
        action_mask=None if mask is None else cut(mask),
        **{name: cut(getattr(rollout, name)) for name in ("action", "reward", "terminated", "truncated", "valid", "first")},
    )
