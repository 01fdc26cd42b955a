"""The role that steps environments: an actor, a stepper, and the chunks they make."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from pyrl.agents.actor import Actor
from pyrl.agents.storage import RolloutSpec
from pyrl.buffers import RolloutBuffer
from pyrl.distributed.chunks import Chunk, combined
from pyrl.distributed.transitions import TransitionBuffer, TransitionSpec
from pyrl.envs import Stepper
from pyrl.errors import SettingError
from pyrl.ops.random import RandomStream
from pyrl.seeding import stream_seed
from pyrl.types import Episode, PolicyInput


def collector_stream(seed: int, collector: int, incarnation: int, env_steps: int) -> RandomStream:
    """What a collector draws its actions by. ``env_steps``: of the agent when the collectors began."""
    return RandomStream(seed, "collector", collector, incarnation, env_steps)


def collector_seed(seed: int, collector: int, incarnation: int, env_steps: int) -> int:
    """Of a collector's environments: each incarnation sees episodes of its own, and so does a resumed run."""
    return stream_seed(seed, "collector's environments", collector, incarnation, env_steps)


class Collector:
    """Acts by ``actor``, whose weights others may replace between chunks, and by a random stream of its own.

    ``before`` is called before each step, or the steps of `pyrl.envs.Stepper.rollout`, and ``after`` afterwards with how many steps were
    made: so somebody outside can see where it is.
    """

    def __init__(
        self, actor: Actor, stepper: Stepper, spec: RolloutSpec | TransitionSpec, random: RandomStream, index: int = 0,
        incarnation: int = 0,
        before: Callable[[], None] = lambda: None, after: Callable[[int], None] = lambda steps: None,
    ) -> None:  # fmt: skip
        self.actor, self.stepper, self.random, self.index, self.incarnation = actor, stepper, random, index, incarnation
        self.sequence = self.collected = 0  # chunks and environment steps made
        self.before, self.after = before, after
        self.noise, self.rungs = actor.own_noise(random), None
        self.buffer: RolloutBuffer | TransitionBuffer
        if isinstance(spec, TransitionSpec):
            self.buffer, self.rungs = spec.prepare(actor, stepper), spec.rungs_of(stepper)
        else:
            spaces = stepper.single_observation_space, stepper.single_action_space
            self.buffer = RolloutBuffer(spec.n_steps, stepper.num_envs, *spaces, extra=spec.extra)

    def collect(self, stopped: Callable[[], bool] = lambda: False) -> Chunk | None:
        """The next chunk, whose arrays are valid until the next call; None where it was ``stopped`` before it was whole."""
        version, episodes = self.actor.version, list[Episode]()
        while not self.buffer.full:
            if stopped():
                return None
            self.before()
            ended = self._step(stopped)
            first = self.stepper.first_index
            episodes += [Episode(e.episode_return, e.length, first + e.env_index, e.success) for e in ended]
        rollout = self.buffer.take(self.stepper.observation, self.stepper.first)
        chunk = Chunk(rollout, episodes, self.index, self.incarnation, self.sequence, version)
        self.sequence += 1
        return chunk

    @property
    def state(self) -> tuple[Any, ...]:
        """Of its random stream, and of its noise, which draws from the stream."""
        return self.random.state if self.noise is None else self.noise.state

    @state.setter
    def state(self, state: tuple[Any, ...]) -> None:
        (self.random if self.noise is None else self.noise).state = state

    def _step(self, stopped: Callable[[], bool]) -> list[Episode]:
        """A step, or as many at once as the stepper can; the episodes that ended in them."""
        actor, stepper, buffer = self.actor, self.stepper, self.buffer
        actor.explore_by(self.random, self.noise, self.rungs)
        policy = actor.native_policy(stepper.normalizes) if stepper.rolls_out and isinstance(buffer, RolloutBuffer) else None
        if policy is not None and isinstance(buffer, RolloutBuffer):
            rows = stepper.rollout(policy, buffer.num_steps - len(buffer), stopped=stopped)
            self._count(rows.reward.size)
            buffer.extend(rows)
            return rows.episodes
        choice = actor.choose(PolicyInput(stepper.observation, stepper.first, stepper.action_mask), progress=actor.progress)
        if choice.state is not None:
            raise SettingError(f"{actor.name}: workers is set, but the agent has a memory, which collectors do not keep; leave it out")
        step = stepper.step(choice.action)
        buffer.add(step, choice.stored)
        self._count(int(np.count_nonzero(step.valid)))
        return step.episodes

    def _count(self, steps: int) -> None:
        self.collected += steps
        self.after(steps)


class InStep:
    """Collectors of one environment each, which make their chunks by the same weights: the chunk of collector ``index`` is all of them side
    by side. So it does not depend on how many environments are here and how many elsewhere."""

    def __init__(self, collectors: list[Collector], index: int) -> None:
        self.collectors, self.index, self.actor = collectors, index, collectors[0].actor

    def collect(self, stopped: Callable[[], bool] = lambda: False) -> Chunk | None:
        """As `Collector.collect`."""
        chunks = [chunk for collector in self.collectors if (chunk := collector.collect(stopped)) is not None]
        return combined(chunks, self.index) if len(chunks) == len(self.collectors) else None
