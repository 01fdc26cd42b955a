"""Distributed replay (Horgan et al. 2018, Ape-X): collectors fill shards, the learner draws from whichever is ready.

Each environment has its shard, where its steps stay one stream, and a place on a ladder of exploration (`pyrl.agents.actor.LADDER`); every
shard has careful environments and bold ones. A draw is BATCHES batches of one shard, learned from one after the other; their priorities go
back at once.
"""

from __future__ import annotations

import math
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import numpy as np

from pyrl.agents.base import Agent
from pyrl.agents.checks import MOST
from pyrl.agents.storage import ReplaySpec
from pyrl.distributed.chunks import Chunk
from pyrl.distributed.engine_loop import Engine, EngineLoop
from pyrl.distributed.learner import Learner
from pyrl.distributed.shard import Shard, ShardLost, ShardSpec
from pyrl.distributed.transitions import Transitions, TransitionSpec
from pyrl.envs import Stepper
from pyrl.errors import AccountingError, CheckpointError
from pyrl.loops.base import Limits
from pyrl.loops.off_policy import without_masks
from pyrl.types import Progress

CHUNK = 16  # steps of each environment that a collector sends at a time
BATCHES = 16  # of one draw
T = TypeVar("T")
Part: TypeAlias = tuple[int, Transitions, int]  # shard, its steps of a chunk, which of its environments they begin with


@dataclass
class Waiting:
    """What of a chunk is in no shard yet, and what to call when all of it is."""

    release: Callable[[], None]
    parts: list[Part]


class ReplayLoop(EngineLoop):
    """One round = whatever chunks are there, into the shards, and one draw of a shard that is ready. Where no shard is, the round waits for
    a chunk (``sync``: collects one of every environment). A shard elsewhere may be busy, or not there yet: then chunks wait for it, which
    holds back the collectors they are from, and nobody else.

    The clock of an update is the environment step whose share of updates it is: what target networks and schedules see, as if updates and
    steps alternated one by one.
    """

    def __init__(
        self, agent: Agent, stepper: Stepper, limits: Limits, spec: ReplaySpec, shards: list[ShardSpec],
        make_engine: Callable[[Learner, TransitionSpec], Engine],
    ) -> None:  # fmt: skip
        super().__init__(agent, stepper, limits)
        self.spec, self.specs = spec, shards
        self.masks = agent.honours_masks and stepper.action_mask is not None
        self.stacked = stepper.frames is not None
        collected = TransitionSpec(
            n_steps=CHUNK, observation_space=shards[0].space, action_space=agent.actions.stored, stacked=self.stacked, masks=self.masks,
            window=shards[0].window, prioritized=spec.prioritized is not None, rungs=ladder(agent.num_envs, len(shards)), extra=spec.extra,
        )  # fmt: skip
        self.learner = Learner(agent)
        self.engine = make_engine(self.learner, collected)
        self.waiting: list[Waiting] = []
        try:
            self.shards: list[Shard] = [self.engine.make_shard(each) for each in shards]
        except BaseException:
            self.engine.close()
            raise
        self.inserted = [0] * len(shards)  # transitions that each has said to have stored, those of its snapshot included
        self.stored = self.lost = 0  # transitions stored by all, in all runs; of these, those that were lost with a shard
        self.begun = 0  # of ``stored``, those of before the collectors began
        self.clock = 0.0
        self._updates_at: deque[tuple[int, int]] = deque(maxlen=4096)  # version of the weights, updates that made them
        self._next = 0  # shard to draw from
        self._since: tuple[float, int, int] | None = None  # seconds, and counts of all shards, when there was something to draw first

    def reset(self) -> None:
        self.begun, self.waiting = self.stored, []
        super().reset()

    def round(self) -> dict[str, float]:
        taken = self.engine.take_ready(lambda: self.stopped, self._idle)
        told = self._lag([chunk for chunk, _ in taken])
        losses = self._store(taken)
        if not (self.stopped or self.goal_reached):  # by these parameters
            losses = self._learn_next() or losses
        if taken or losses:
            self.learner.version += 1
            self._updates_at.append((self.learner.version, self.agent.updates))
            self.engine.publish()
        return {**losses, **told, **self.engine.metrics(), **self._rates()}

    def check_books(self) -> None:
        """As of collectors; and every transition that was consumed is in a shard, or was, or is lost with one. What waits for a shard is
        discarded."""
        for waiting in self.waiting:
            for _, steps, _ in waiting.parts:
                self._discard("left over at the end", steps)
        self.waiting = []
        super().check_books()
        consumed = self.engine.accounts.consumed
        if self.stored - self.begun != consumed:
            raise AccountingError(f"{consumed} steps went to the shards, but {self.stored - self.begun} were stored")
        for k in range(len(self.shards)):
            said = self._ask(k, lambda shard: shard.stored(), None)
            if said not in (None, self.inserted[k]):
                raise AccountingError(f"shard {k} has stored {said} transitions, expected {self.inserted[k]}")

    def _observe(self, chunk: Chunk) -> None:
        """Into the normaliser's moments."""
        observation: Any = chunk.rollout.observation
        self.agent.normalizer.update(observation["observation"] if self.masks else observation)
        self.learner.observe_rewards([chunk])

    # -- storing -------------------------------------------------------------------------------------------------------

    def _store(self, taken: list[tuple[Chunk, Callable[[], None]]]) -> dict[str, float]:
        """What waits and what was ``taken``, into the shards; what was learned until they took it, which they do when enough was drawn."""
        losses: dict[str, float] = {}
        busy = set[int]()  # shards for which something waits: what comes later of the same environments waits too

        def chunks() -> Iterator[Waiting]:
            yield from self.waiting
            for chunk, release in taken:
                self._count(chunk.episodes)
                if self.agent.normalizer.active:
                    self._observe(chunk)
                yield Waiting(release, [*parts(chunk, self.specs[0].envs)])

        def goes_in(part: Part) -> bool:
            if part[0] in busy:
                return False
            gone, learned = self._insert(*part)
            losses.update(learned)
            if not gone:
                busy.add(part[0])
            return gone

        left = list[Waiting]()
        for waiting in chunks():
            waiting.parts = [part for part in waiting.parts if not goes_in(part)]
            if waiting.parts:
                left.append(waiting)
            else:
                waiting.release()
        self.waiting = left
        return losses

    def _insert(self, k: int, steps: Transitions, first_env: int) -> tuple[bool, dict[str, float]]:
        """Whether they need not wait for shard ``k``, which has them or is lost, and what was learned."""
        agent, losses = self.agent, dict[str, float]()
        before, env_steps = agent.progress, agent.env_steps + steps.steps
        agent.progress = Progress(env_steps, self.limits.share(env_steps, self.episodes))
        while not (taken := self._ask(k, lambda shard: shard.insert(steps, first_env), None)):
            if taken is None or self.goal_reached:
                self._discard("lost with a shard" if taken is None else "left over at the end", steps)
                return True, losses
            if not self._can_sample(k):  # elsewhere, and busy
                agent.progress = before
                return False, losses
            losses = self._learn(k) or losses
        self.inserted[k] += steps.steps
        self.stored += steps.steps
        return True, losses

    def _discard(self, reason: str, steps: Transitions) -> None:
        self.engine.accounts.consumed -= steps.steps
        self.engine.accounts.discard(reason, steps.steps)

    def _idle(self) -> bool:
        """Whether there is nothing to do until somebody sends something."""
        if any([self._can_sample(k) for k in range(len(self.shards))]):  # all are asked
            return False
        heads = {k: steps for waiting in reversed(self.waiting) for k, steps, _ in reversed(waiting.parts)}  # the first of each shard
        return not any(self._ask(k, lambda shard: shard.can_insert(steps), True) for k, steps in heads.items())  # noqa: B023

    # -- learning ------------------------------------------------------------------------------------------------------

    def _can_sample(self, k: int) -> bool:
        return self._ask(k, lambda shard: shard.can_sample(self._beta), False)

    @property
    def _beta(self) -> float | None:
        priorities = self.spec.prioritized
        return None if priorities is None else priorities.beta_at(self.agent.progress.share)

    def _learn_next(self) -> dict[str, float]:
        """From the next shard that is ready, in turn."""
        count = len(self.shards)
        for k in (*range(self._next, count), *range(self._next)):
            if self._can_sample(k):
                self._next = (k + 1) % count
                return self._learn(k)
        return {}

    def _learn(self, k: int) -> dict[str, float]:
        agent, priorities = self.agent, self.spec.prioritized
        now = agent.progress
        batches = self._ask(k, lambda shard: shard.sample(self._beta), None)
        if batches is None:
            return {}
        if self._since is None:
            self._since = (time.monotonic(), *self._counts())
        self.clock = self.clock or float(now.env_steps)  # it begins with the updates
        a_step = self.spec.batch_size / self.specs[k].samples_per_insert  # environment steps that an update stands for
        losses: dict[str, float] = {}
        index, priority = list[np.ndarray](), list[np.ndarray]()
        try:
            for batch in batches:
                self.clock = min(float(now.env_steps), self.clock + a_step)
                agent.progress = Progress(int(self.clock), now.share)
                learned = self.learn(without_masks(batch, self.stacked) if self.masks else batch)
                losses = learned.metrics
                if priorities is not None:
                    if learned.priority is None:
                        raise TypeError(f"{agent.name}: learn returned no priority, which prioritized replay needs")
                    index.append(batch.index)
                    priority.append(learned.priority)
        finally:
            agent.progress = now
        if priorities is not None:
            self._ask(k, lambda shard: shard.update_priorities(index, priority), None)
        return losses

    # -- shards --------------------------------------------------------------------------------------------------------

    def _ask(self, k: int, question: Callable[[Shard], T], otherwise: T) -> T:
        """The answer of shard ``k``; ``otherwise``, and a new one in its place, if it is lost."""
        try:
            return question(self.shards[k])
        except ShardLost:
            self.shards[k] = self.engine.make_shard(self.specs[k])
            self._restore(k)
            kept = self.shards[k].counts[0]
            self.lost += self.inserted[k] - kept
            self.inserted[k] = kept
            return otherwise

    def _restore(self, k: int) -> None:
        """What the last checkpoint of this run has of shard ``k``, where there is one, into the new shard."""
        if self.saved_replay is None:
            return
        try:
            self.shards[k].load_state_dict(self.saved_replay(str(k)))
        except (OSError, CheckpointError) as error:
            warnings.warn(f"shard {k} was lost and begins empty, as the checkpoint does not have it: {error}", RuntimeWarning, stacklevel=2)

    def _state_of(self, k: int) -> dict[str, Any]:
        while (state := self._ask(k, lambda shard: shard.state_dict(), None)) is None:
            pass  # the one that took its place
        return state

    def _counts(self) -> tuple[int, int]:
        """(transitions stored, transitions drawn), by all shards."""
        counts = [self._ask(k, lambda shard: shard.counts, (0, 0)) for k in range(len(self.shards))]
        return sum(stored for stored, _ in counts), sum(drawn for _, drawn in counts)

    # -- what is told --------------------------------------------------------------------------------------------------

    def _lag(self, chunks: list[Chunk]) -> dict[str, float]:
        """Updates since the weights that ``chunks`` were made by."""
        updates = dict(self._updates_at)
        lags = [self.agent.updates - updates[chunk.version] for chunk in chunks if chunk.version in updates]
        return {"train/policy_lag": sum(lags) / len(lags)} if lags else {}

    def _rates(self) -> dict[str, float]:
        stored, drawn = self._counts()
        told: dict[str, float] = {"replay/lost": self.lost} if self.lost else {}
        if stored and drawn:
            told["replay/samples_per_insert"] = drawn / stored
        if self._since is not None and (seconds := time.monotonic() - self._since[0]) > 0.0:
            told["time/inserts_per_second"] = (stored - self._since[1]) / seconds
            told["time/samples_per_second"] = (drawn - self._since[2]) / seconds
        return told

    # -- state ---------------------------------------------------------------------------------------------------------

    def state_dict(self, replay: bool = True) -> dict[str, Any]:
        """Of the shards all that was stored. Chunks under way are none of it; neither are they in the agent's environment steps."""
        shards: dict[str, Any] = {}
        if replay:
            for shard in self.shards:
                shard.stop()
            try:
                shards = {str(k): self._state_of(k) for k in range(len(self.shards))}
            finally:
                for shard in self.shards:
                    shard.resume()
        state = {**super().state_dict(replay), "stored": self.stored, "clock": self.clock, "lost": self.lost, "next": self._next}
        return {**state, "buffer": {"shards": shards}} if replay else state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        rest = dict(state)
        buffer, stored, clock, lost, following = (rest.pop(name, None) for name in ("buffer", "stored", "clock", "lost", "next"))
        shards = buffer.get("shards") if isinstance(buffer, Mapping) else None
        if not isinstance(shards, Mapping) or shards.keys() != {str(k) for k in range(len(self.shards))}:
            raise CheckpointError(f"loop/buffer is not of {len(self.shards)} shards")
        for name, value in (("stored", stored), ("lost", lost), ("next", following)):
            if type(value) is not int or not 0 <= value <= MOST:
                raise CheckpointError(f"loop/{name} is {value!r}, expected a count")
        if type(clock) not in (int, float) or not 0 <= clock < math.inf:
            raise CheckpointError(f"loop/clock is {clock!r}, expected a count")
        for k, shard in enumerate(self.shards):
            try:
                shard.load_state_dict(shards[str(k)])
                self.inserted[k] = shard.stored()
            except (ValueError, TypeError, LookupError) as error:
                raise CheckpointError(f"loop/buffer/shards/{k}: {error}") from error
        self.stored, self.clock, self.lost, self._next = stored, float(clock), lost, following % len(self.shards)
        self.begun = stored
        super().load_state_dict(rest)


def ladder(num_envs: int, shards: int) -> tuple[float, ...]:
    """The place of each environment in [0, 1]: those of a shard, neighbours, are spread over all of it."""
    each = num_envs // shards
    return tuple((env % each * shards + env // each) / max(1, num_envs - 1) for env in range(num_envs))


def parts(chunk: Chunk, envs: int) -> Iterator[Part]:
    """What goes to which shard, where each shard has ``envs`` environments."""
    steps = chunk.rollout
    assert isinstance(steps, Transitions)
    count = steps.reward.shape[1]
    first = chunk.first_env
    for k in range(first // envs, (first + count - 1) // envs + 1):
        begin, end = max(first, k * envs), min(first + count, (k + 1) * envs)
        yield k, steps.of(begin - first, end - first), begin - k * envs
