"""The engine ``sync``: every role in one process, one after the other. The same run, bit for bit, for any number of workers."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pyrl.agents.actor import Actor
from pyrl.agents.storage import RolloutSpec
from pyrl.distributed.chunks import Accounts, Chunk
from pyrl.distributed.collector import Collector, collector_seed, collector_stream
from pyrl.distributed.learner import Learner, RolloutQueue
from pyrl.distributed.shard import ReplayShard, ShardSpec
from pyrl.distributed.transitions import TransitionSpec
from pyrl.envs import EnvSource, Stepper, make
from pyrl.errors import CheckpointError, EnvError


@dataclass(frozen=True)
class Environments:
    """What `pyrl.envs.make` takes, but for the number and the seed."""

    source: EnvSource
    options: Mapping[str, Any]

    def make(self, num_envs: int, seed: int) -> Stepper:
        return make(self.source, num_envs, seed=seed, **self.options)


def make_collector(
    actor: Actor, environments: Environments, spec: RolloutSpec | TransitionSpec, num_envs: int, index: int, seed: int, env_steps: int,
    incarnation: int = 0, *watch: Any,
) -> Collector:  # fmt: skip
    """The collector ``index`` of ``num_envs`` environments, whose episodes and actions depend on that, ``seed`` (of the run) and
    ``env_steps`` only, and not on who else ``actor`` acts for. ``watch``: before and after of `Collector`."""
    stepper = environments.make(num_envs, collector_seed(seed, index, incarnation, env_steps))
    stepper.first_index = index * num_envs
    return Collector(actor, stepper, spec, collector_stream(seed, index, incarnation, env_steps), index, incarnation, *watch)


class SyncEngine:
    """Each environment has a collector of its own, with its own random stream; the workers are actors that share them out. A round is one
    chunk of every collector by the latest weights, in the order of the collectors: so nothing depends on who carries which."""

    exact = in_step = True

    def __init__(self, learner: Learner, environments: Environments, spec: RolloutSpec | TransitionSpec, workers: int) -> None:
        self.learner, self.environments, self.spec, self.workers = learner, environments, spec, workers
        self.accounts = Accounts()
        self.queue = RolloutQueue(self.accounts, 0)
        self.collectors: list[Collector] = []

    @property
    def running(self) -> bool:
        return bool(self.collectors)

    def start(self, env_steps: int, states: Mapping[str, Any] | None = None) -> None:
        """New episodes everywhere; or those of ``states``."""
        self.stop()
        agent = self.learner.agent
        self.accounts = Accounts()
        self.queue = RolloutQueue(self.accounts, 0)
        payload = pickle.dumps(agent.acting)
        share = agent.num_envs // self.workers
        for worker in range(self.workers):
            indices, actor = range(worker * share, (worker + 1) * share), pickle.loads(payload)
            for index in indices:
                collector = make_collector(actor, self.environments, self.spec, 1, index, agent.seed, env_steps)
                self.collectors.append(collector)
                state = {} if states is None else states[str(index)]
                if states is not None:
                    collector.state = state["random"]
                if "stepper" in state:
                    collector.stepper.load_state_dict(state["stepper"])
                else:
                    collector.stepper.reset()

    def take(self, stopped: Callable[[], bool]) -> tuple[list[Chunk], Callable[[], None]] | None:
        """A chunk of every collector, and what to call when their arrays have been read. A round is never broken off: a run that is
        stopped and goes on is the run that was never stopped."""
        weights = self.learner.weights()
        for actor in {id(c.actor): c.actor for c in self.collectors}.values():
            actor.load_weights(weights)
        for collector in self.collectors:
            before = collector.collected
            chunk = collector.collect()
            assert chunk is not None
            self.accounts.collected += collector.collected - before
            self.queue.put(chunk)
        return self.queue.take(len(self.collectors))

    def take_ready(self, stopped: Callable[[], bool], idle: Callable[[], bool]) -> list[tuple[Chunk, Callable[[], None]]]:
        """A round of `take`; nothing, unless ``idle``."""
        taken = self.take(stopped) if idle() else None
        return [] if taken is None else [(chunk, lambda: None) for chunk in taken[0]]

    def make_shard(self, spec: ShardSpec) -> ReplayShard:
        return ReplayShard(spec)

    def publish(self) -> None:
        """The next round reads the weights itself."""

    def state_dict(self) -> dict[str, Any]:
        """Of every collector: its random stream and, where it can be had, the state of its environment."""
        states: dict[str, Any] = {str(c.index): {"random": list(c.state)} for c in self.collectors}
        try:
            steppers = [c.stepper.state_dict() for c in self.collectors]
        except EnvError:
            return states
        for collector, stepper in zip(self.collectors, steppers):
            states[str(collector.index)]["stepper"] = stepper
        return states

    def load_state_dict(self, states: Any, env_steps: int) -> None:
        expected = {str(index) for index in range(self.learner.agent.num_envs)}
        if not isinstance(states, Mapping) or states.keys() != expected or not all("random" in state for state in states.values()):
            raise CheckpointError(f"loop/collectors is not of {len(expected)} collectors")
        try:
            self.start(env_steps, states)
        except (ValueError, TypeError, KeyError) as error:
            self.stop()
            raise CheckpointError(f"loop/collectors: {error}") from error

    def stop(self) -> None:
        for collector in self.collectors:
            collector.stepper.close()
        self.collectors = []

    def close(self) -> None:
        self.stop()

    def metrics(self) -> dict[str, float]:
        return {}
