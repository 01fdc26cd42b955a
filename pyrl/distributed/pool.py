"""What engines with collectors elsewhere share: chunks come in, who fails is replaced, and the books are kept.

How chunks and weights travel, and what a collector runs in, is the engine's own (`pyrl.distributed.local`, `pyrl.distributed.ray`). One
that is killed, hangs or raises is replaced (`pyrl.distributed.supervisor`): what it had sent is learned from, its half chunk is discarded
and counted.
"""

from __future__ import annotations

import pickle
import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Generic, TypeAlias, TypeVar

from pyrl.agents.actor import Actor
from pyrl.agents.storage import RolloutSpec
from pyrl.distributed.chunks import Accounts, Chunk
from pyrl.distributed.collector import Collector, InStep, collector_seed
from pyrl.distributed.learner import Learner, RolloutQueue
from pyrl.distributed.shard import ReplayShard, Shard, ShardSpec
from pyrl.distributed.shared import ChunkLayout, Slots
from pyrl.distributed.supervisor import STEPPING, WAITING, Failure, Supervisor, Vital, Vitals
from pyrl.distributed.sync import Environments, make_collector
from pyrl.distributed.transitions import TransitionSpec
from pyrl.envs.guard import described
from pyrl.errors import EnvError

SLOTS = 2  # chunks of a collector that may be under way where weights may lag
PATIENCE = 5.0  # seconds a collector gets to leave by itself
TICK = 0.1  # seconds between two looks at who hangs, and at whether the run was stopped

Incoming: TypeAlias = Iterator[tuple[Chunk, Callable[[], None]]]  # chunks, and what to call when their arrays have been read


@dataclass
class Task:
    """What a collector must know."""

    actor: bytes  # its pickle: as an object, its tensors would travel in shared memory of their own
    spec: RolloutSpec | TransitionSpec
    layout: Slots
    environments: Environments
    num_envs: int  # of this collector
    in_step: bool
    index: int
    incarnation: int
    seed: int  # of the run
    env_steps: int  # of the agent when the collectors began


@dataclass(kw_only=True)
class Member:
    """A collector, as the engine sees it."""

    begun_at: int  # environment steps of earlier incarnations
    received: int = field(default=0, init=False)  # environment steps in its chunks
    failure: Failure | None = field(default=None, init=False)
    ended: bool = field(default=False, init=False)


M = TypeVar("M", bound=Member)


class Pool(ABC, Generic[M]):
    """See the module.

    max_policy_lag: in updates; 0: the collectors keep step. Each makes one chunk by every version of the weights, the learner waits for all
    of them, and the run is the one of `SyncEngine`, bit for bit, as long as nobody dies.
    """

    exact = False

    def __init__(
        self, learner: Learner, environments: Environments, spec: RolloutSpec | TransitionSpec, workers: int, mask_size: int,
        max_policy_lag: int,
    ) -> None:  # fmt: skip
        self.learner, self.environments, self.spec, self.workers = learner, environments, spec, workers
        self.mask_size, self.max_policy_lag, self.in_step = mask_size, max_policy_lag, max_policy_lag == 0
        self.ahead = 1 if self.in_step else SLOTS  # chunks of a collector that may be under way
        self.timeout: float | None = environments.options.get("env_timeout")
        self.accounts = Accounts()
        self.members: list[M] = []
        self.waited = 0.0  # seconds for chunks and draws, since the first chunks came
        self.begun: float | None = None
        self._early = (0, 0, 0)  # what `_done` was then
        self.chunks = 0  # that came
        self.look_at = 0.0  # when somebody may have died; an engine that knows it sets the time to 0

    @property
    def running(self) -> bool:
        return bool(self.members)

    def start(self, env_steps: int) -> None:
        """New collectors, and new episodes everywhere."""
        self.accounts, self.env_steps = Accounts(), env_steps
        self.queue = RolloutQueue(self.accounts, self.max_policy_lag)
        self.layout = self._layout()
        self.vitals = Vitals.shared(self.workers)
        self.supervisor = Supervisor(self.vitals, self.timeout)
        self.waited, self.begun, self.chunks = 0.0, None, 0
        self.weight_bytes = self.learner.weights().values.nbytes
        self._open()
        self.publish()
        for index in range(self.workers):
            self.members.append(self._start(index))

    def take(self, stopped: Callable[[], bool]) -> tuple[list[Chunk], Callable[[], None]] | None:
        """The next chunks, one for every worker but whoever made them, in the order of collectors, and what to call when others may take
        the place of their arrays: where collectors keep step, when the next weights are published. None where the run was ``stopped``.
        EnvError where collectors fail again and again."""
        began = time.monotonic()
        while not stopped():
            for index, member in enumerate(self.members):
                self._receive(index, member)
            if time.monotonic() >= self.look_at:
                self._look()
            self.queue.drop_old(self.learner.lag)
            if len(self.queue) >= self.workers:
                self._came(began)
                chunks, release = self.queue.take(self.workers)
                return sorted(chunks, key=lambda chunk: chunk.collector), release
            self._wait(TICK)
        return None

    def take_ready(self, stopped: Callable[[], bool], idle: Callable[[], bool]) -> list[tuple[Chunk, Callable[[], None]]]:
        """All chunks that are there, in order of arrival, each with what to call when its arrays have been read; at least one, unless
        ``stopped`` or no longer ``idle``. EnvError as of `take`."""
        began = time.monotonic()
        self._look()
        while not len(self.queue) and idle() and not stopped():
            self._wait(TICK)
            self._look()
        if len(self.queue) or self.begun is not None:
            self._came(began)
        return [(chunk, release) for (chunk,), release in (self.queue.take(1) for _ in range(len(self.queue)))]

    def make_shard(self, spec: ShardSpec) -> Shard:
        """In the learner's process: chunks go into it from where they are."""
        return ReplayShard(spec)

    def _came(self, began: float) -> None:
        """Something came; since ``began`` it was waited for."""
        if self.begun is None:  # processes take seconds to start, which would hide how fast they are
            self.begun, self._early = time.monotonic(), self._done()
        else:
            self.waited += time.monotonic() - began

    def _layout(self) -> Slots:
        agent = self.learner.agent
        num_envs = agent.num_envs // self.workers
        if isinstance(self.spec, TransitionSpec):
            return self.spec.layout(num_envs)
        return ChunkLayout.of(self.spec, num_envs, agent.observation_space, agent.action_space, self.mask_size)

    def state_dict(self) -> dict[str, Any]:
        """Nothing: a run that is resumed begins new episodes."""
        return {}

    def load_state_dict(self, states: Any, env_steps: int) -> None:
        """See `state_dict`."""

    def metrics(self) -> dict[str, float]:
        told: dict[str, float] = {
            "time/queue_depth": len(self.queue),
            "time/restarts": self.supervisor.restarts,
            "time/discarded_steps": sum(self.accounts.discarded.values()),
        }
        seconds = 0.0 if self.begun is None else time.monotonic() - self.begun
        if seconds > 0.0:  # else there are no data, which is said by saying nothing
            collected, updates, chunks = (now - early for now, early in zip(self._done(), self._early))
            told["time/collected_per_second"] = collected / seconds
            told["time/updates_per_second"] = updates / seconds
            told["time/bytes_per_second"] = (chunks * self.layout.size + updates * self.weight_bytes) / seconds
            told["time/learner_waits"] = self.waited / seconds
        return told

    def _done(self) -> tuple[int, int, int]:
        """(steps collected, updates, chunks) so far."""
        return self.supervisor.collected(), self.learner.version, self.chunks

    def stop(self) -> None:
        """No collector is left, and every step is accounted for."""
        members, self.members = self.members, []
        if not members:
            return
        self._dismiss(members)
        deadline = time.monotonic() + PATIENCE
        for index, member in enumerate(members):
            while not member.ended and self._alive(member) and time.monotonic() < deadline:
                self._receive(index, member)
                time.sleep(0.02)
            self._end(index, member)
        self.queue.clear("left over at the end")
        self.accounts.collected = self.supervisor.collected()

    def close(self) -> None:
        """As `stop`, and nothing else is left either."""
        self.stop()

    def _look(self) -> None:
        """Replace who died or hangs."""
        self.look_at = time.monotonic() + TICK
        for index, member in enumerate(self.members):
            alive = self._alive(member)  # asked first, so that what it sent before it died is read
            self._receive(index, member)
            late = self.supervisor.late(index) if alive else None
            if alive and late is None:
                continue
            self._end(index, member)
            failure = member.failure or Failure(self._where(index, late or self._death(member)))
            self.supervisor.failed(index, failure)
            self.members[index] = self._start(index)

    def _start(self, index: int) -> M:
        agent, incarnation = self.learner.agent, self.supervisor.begin(index)
        num_envs, begun_at = agent.num_envs // self.workers, self.supervisor.collected(index)
        try:
            actor = self._pickled(agent.acting)
            task = Task(
                actor, self.spec, self.layout, self.environments, num_envs, self.in_step, index, incarnation, agent.seed, self.env_steps
            )
            payload = self._pickled(task)
        except Exception as error:
            what = agent.blueprint().unpicklable() or "the environment"
            raise ValueError(
                f"{agent.name}: {what} cannot be sent to another process ({error}); pass an id, or a callable of a module"
            ) from error
        return self._begin(index, payload, begun_at)

    def _receive(self, index: int, member: M) -> None:
        """What a collector sent, into the queue."""
        for chunk, release in self._incoming(index, member):
            member.received += chunk.steps
            self.chunks += 1
            self.queue.put(chunk, release)

    def _end(self, index: int, member: M) -> None:
        """The collector is gone, and what it had begun is discarded."""
        if member.ended:
            return
        member.ended = True
        self._kill(member)
        self._receive(index, member)
        self._close(member)
        self.accounts.discard("unfinished", self.supervisor.collected(index) - member.begun_at - member.received)

    def _where(self, index: int, what: str) -> str:
        agent = self.learner.agent
        share = agent.num_envs // self.workers
        seed = collector_seed(agent.seed, index, self.supervisor.incarnation[index], self.env_steps)
        return f"{agent.name}: collector {index} (environments {index * share} to {(index + 1) * share - 1}, seed {seed}): {what}"

    # -- what an engine adds -------------------------------------------------------------------------------------------

    @abstractmethod
    def publish(self) -> None:
        """The learner's weights, to whoever asks for some."""

    @abstractmethod
    def _open(self) -> None:
        """What all collectors need, before the first begins."""

    def _pickled(self, value: Any) -> bytes:
        return pickle.dumps(value)

    @abstractmethod
    def _begin(self, index: int, task: bytes, begun_at: int) -> M:
        """A new collector, by its pickled `Task`."""

    @abstractmethod
    def _alive(self, member: M) -> bool: ...

    @abstractmethod
    def _death(self, member: M) -> str:
        """How one that is not alive ended, in words."""

    @abstractmethod
    def _incoming(self, index: int, member: M) -> Incoming:
        """What it has sent, without waiting; a `Failure` becomes ``member.failure``."""

    @abstractmethod
    def _wait(self, seconds: float) -> None:
        """Until somebody has sent something, for so long at most."""

    @abstractmethod
    def _dismiss(self, members: list[M]) -> None:
        """Ask all to leave."""

    @abstractmethod
    def _kill(self, member: M) -> None:
        """Unless it has left."""

    def _close(self, member: M) -> None:
        """Nothing more is read from it."""


@contextmanager
def collecting(task: Task, vital: Vital) -> Iterator[Collector | InStep]:
    """A collector's side: the role, with its environments, ready to collect."""
    actor: Actor = pickle.loads(task.actor)
    actor.version = -1
    seen, about = (actor, task.environments, task.spec), (task.seed, task.env_steps, task.incarnation)
    each = 1 if task.in_step else task.num_envs
    count = task.num_envs // each
    made = [make_collector(*seen, each, task.index * count + i, *about, lambda: vital.at(STEPPING), vital.made) for i in range(count)]
    with ExitStack() as held:
        for collector in made:
            held.enter_context(collector.stepper)
            collector.stepper.reset()
        vital.at(WAITING)
        yield InStep(made, task.index) if task.in_step else made[0]


def failure_of(error: BaseException) -> Failure:
    """Words of it and its traceback, which can be sent wherever the error itself cannot."""
    text = str(error) if isinstance(error, EnvError) else described(error)
    trace: Any = "".join(traceback.format_exception(error))
    return Failure(f"{text}\n{trace}", getattr(error, "index", None), getattr(error, "seed", None))
