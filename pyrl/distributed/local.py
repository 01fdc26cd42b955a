"""The engine ``local``: collectors in processes of their own on this machine, the learner in this one (Espeholt et al. 2018, figure 1).

Chunks come through slots in shared memory, weights go through shared memory, the right to a slot goes over a pipe
(`pyrl.distributed.shared`). A collector has SLOTS slots, so it is never further ahead of the learner than that. One that is killed, hangs
or raises is replaced (`pyrl.distributed.supervisor`): what it had sent is learned from, its half chunk is discarded and counted.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection, wait
from typing import Any

import torch
import torch.multiprocessing
from torch import Tensor

from pyrl.agents.actor import Actor
from pyrl.agents.storage import RolloutSpec
from pyrl.distributed.chunks import Accounts, Chunk
from pyrl.distributed.collector import Collector, collector_seed, collector_stream
from pyrl.distributed.learner import Learner, RolloutQueue
from pyrl.distributed.shared import ChunkLayout, SharedWeights
from pyrl.distributed.supervisor import STEPPING, WAITING, Failure, Supervisor, Vital, Vitals
from pyrl.distributed.sync import Environments
from pyrl.envs.guard import described
from pyrl.envs.processes import enter_worker, exit_in_words
from pyrl.errors import EnvError

SLOTS = 2  # chunks of a collector that may be under way
PATIENCE = 5.0  # seconds a collector gets to leave by itself
TICK = 0.1  # seconds between two looks at who hangs, and at whether the run was stopped


@dataclass
class Shared:
    """What both sides see the same memory of."""

    weights: SharedWeights
    slots: Tensor  # uint8 [SLOTS, size], of this collector
    vitals: Vitals
    stop: Tensor  # bool []


@dataclass
class Task:
    """What a collector must know."""

    actor: bytes  # its pickle: as an object, its tensors would travel in shared memory of their own
    spec: RolloutSpec
    layout: ChunkLayout
    environments: Environments
    num_envs: int  # of this collector
    index: int
    incarnation: int
    seed: int  # of the run
    env_steps: int  # of the agent when the collectors began
    parent: int  # process id


@dataclass
class Member:
    """A collector's process, as the parent sees it."""

    process: Any
    free: Connection  # the parent sends numbers of slots that may be filled
    filled: Connection  # the collector sends numbers of slots that are, and a `Failure`
    begun_at: int  # environment steps of earlier incarnations
    received: int = 0  # environment steps in its chunks
    failure: Failure | None = None
    ended: bool = False


class LocalEngine:
    """See the module."""

    def __init__(
        self, learner: Learner, environments: Environments, spec: RolloutSpec, workers: int, mask_size: int, max_policy_lag: int
    ) -> None:
        self.learner, self.environments, self.spec, self.workers = learner, environments, spec, workers
        self.mask_size, self.max_policy_lag = mask_size, max_policy_lag
        self.timeout: float | None = environments.options.get("env_timeout")
        self.accounts = Accounts()
        self.members: list[Member] = []
        self.waited = 0.0  # seconds for chunks, since the first ones came
        self.begun: float | None = None
        self._early = 0  # steps collected before that

    @property
    def running(self) -> bool:
        return bool(self.members)

    def start(self, env_steps: int) -> None:
        """New processes, and new episodes everywhere."""
        agent = self.learner.agent
        self.accounts, self.env_steps = Accounts(), env_steps
        self.queue = RolloutQueue(self.accounts, self.max_policy_lag)
        spaces = agent.observation_space, agent.action_space
        self.layout = ChunkLayout.of(self.spec, agent.num_envs // self.workers, *spaces, self.mask_size)
        self.slots = [self.layout.slots(SLOTS) for _ in range(self.workers)]
        self.held: list[set[int]] = [set() for _ in range(self.workers)]  # slots that wait to be read
        self.vitals, self.stop_flag = Vitals.shared(self.workers), torch.zeros((), dtype=torch.bool).share_memory_()
        weights = self.learner.weights()
        self.weights = SharedWeights(weights.values)
        self.weights.write(weights)
        self.supervisor = Supervisor(self.vitals, self.timeout)
        self.waited, self.begun = 0.0, None
        for index in range(self.workers):
            self.members.append(self._start(index))

    def take(self, stopped: Callable[[], bool]) -> tuple[list[Chunk], Callable[[], None]] | None:
        """The next chunks, one for every worker but whoever made them, and what to call when their arrays have been read; None where the
        run was ``stopped``. EnvError where collectors fail again and again."""
        began = time.monotonic()
        while not stopped():
            self._look()
            self.queue.drop_old(self.learner.lag)
            if len(self.queue) >= self.workers:
                if self.begun is None:  # processes take seconds to start, which would hide how fast they are
                    self.begun, self._early = time.monotonic(), int(self.vitals.collected.sum())
                else:
                    self.waited += time.monotonic() - began
                return self.queue.take(self.workers)
            wait([member.filled for member in self.members], TICK)
        return None

    def publish(self) -> None:
        self.weights.write(self.learner.weights())

    def metrics(self) -> dict[str, float]:
        told: dict[str, float] = {
            "time/queue_depth": len(self.queue),
            "time/restarts": self.supervisor.restarts,
            "time/discarded_steps": sum(self.accounts.discarded.values()),
        }
        seconds = 0.0 if self.begun is None else time.monotonic() - self.begun
        if seconds > 0.0:  # else there are no data, which is said by saying nothing
            told["time/collected_per_second"] = (int(self.vitals.collected.sum()) - self._early) / seconds
            told["time/learner_waits"] = self.waited / seconds
        return told

    def stop(self) -> None:
        """No process is left, and every step is accounted for."""
        members, self.members = self.members, []
        if not members:
            return
        self.stop_flag.fill_(True)
        deadline = time.monotonic() + PATIENCE
        for index, member in enumerate(members):
            while not member.ended and member.process.is_alive() and time.monotonic() < deadline:
                self._receive(index, member)
                member.process.join(0.02)
            self._end(index, member)
        self.queue.clear("left over at the end")
        self.accounts.collected = int(self.vitals.collected.sum())

    def _look(self) -> None:
        """Receive what is there, and replace who died or hangs."""
        for index, member in enumerate(self.members):
            alive = member.process.is_alive()  # asked first, so that what it sent before it died is read
            self._receive(index, member)
            late = self.supervisor.late(index) if alive else None
            if alive and late is None:
                continue
            self._end(index, member)
            failure = member.failure or Failure(self._where(index, late or self._death(member)))
            self.supervisor.failed(index, failure)
            self.members[index] = self._start(index)

    @staticmethod
    def _death(member: Member) -> str:
        words = f"its process {exit_in_words(member.process.exitcode)}"
        if member.process.exitcode != 1 or member.received:
            return words
        return f"{words} before its first step; workers import the program, which must start them under if __name__ == '__main__': only"

    def _start(self, index: int) -> Member:
        agent, incarnation = self.learner.agent, self.supervisor.begin(index)
        num_envs = agent.num_envs // self.workers
        try:
            task = Task(
                pickle.dumps(agent.acting),
                self.spec,
                self.layout,
                self.environments,
                num_envs,
                index,
                incarnation,
                agent.seed,
                self.env_steps,
                os.getpid(),
            )
            pickle.dumps(task)
        except Exception as error:
            what = agent.blueprint().unpicklable() or "the environment"
            raise ValueError(
                f"{agent.name}: {what} cannot be sent to another process ({error}); pass an id, or a callable of a module"
            ) from error
        context = torch.multiprocessing.get_context("spawn")
        (slots_there, free), (filled, slots_back) = context.Pipe(duplex=False), context.Pipe(duplex=False)
        shared = Shared(self.weights, self.slots[index], self.vitals, self.stop_flag)
        process = context.Process(
            target=_work, args=(task, shared, slots_there, slots_back), daemon=False, name=f"{agent.name}-collector-{index}"
        )
        member = Member(process, free, filled, int(self.vitals.collected[index]))
        process.start()
        slots_there.close()
        slots_back.close()
        for slot in set(range(SLOTS)) - self.held[index]:
            free.send(slot)
        return member

    def _receive(self, index: int, member: Member) -> None:
        """What a collector sent, into the queue."""
        with contextlib.suppress(EOFError, OSError):
            while member.filled.poll():
                told = member.filled.recv()
                if isinstance(told, Failure):
                    member.failure = told
                    continue
                chunk = self.layout.read(self.slots[index][told].numpy(), index)
                member.received += chunk.steps
                self.held[index].add(told)
                self.queue.put(chunk, partial(self._release, index, told))

    def _release(self, index: int, slot: int) -> None:
        """Give a slot back to who is collector ``index`` now."""
        self.held[index].discard(slot)
        if index < len(self.members):
            with contextlib.suppress(OSError):  # it died: who takes its place gets all slots
                self.members[index].free.send(slot)

    def _end(self, index: int, member: Member) -> None:
        """The process is gone, and what it had begun is discarded."""
        if member.ended:
            return
        member.ended = True
        if member.process.is_alive():
            member.process.kill()
        member.process.join()
        self._receive(index, member)
        member.free.close()
        member.filled.close()
        self.accounts.discard("unfinished", int(self.vitals.collected[index]) - member.begun_at - member.received)

    def _where(self, index: int, what: str) -> str:
        agent = self.learner.agent
        share = agent.num_envs // self.workers
        seed = collector_seed(agent.seed, index, self.supervisor.incarnation[index], self.env_steps)
        return f"{agent.name}: collector {index} (environments {index * share} to {(index + 1) * share - 1}, seed {seed}): {what}"


def _work(task: Task, shared: Shared, free: Connection, filled: Connection) -> None:
    """The life of a collector."""
    enter_worker(task.parent)
    torch.set_num_threads(1)
    try:
        _collect(task, shared, free, filled)
    except (BrokenPipeError, ConnectionResetError, EOFError):
        pass  # the parent is gone
    except BaseException as error:
        text = str(error) if isinstance(error, EnvError) else described(error)
        failure = Failure(f"{text}\n{traceback.format_exc()}", getattr(error, "index", None), getattr(error, "seed", None))
        with contextlib.suppress(OSError):
            filled.send(failure)


def _collect(task: Task, shared: Shared, free: Connection, filled: Connection) -> None:
    index, vital, stop = task.index, Vital(shared.vitals, task.index), shared.stop.numpy()

    def stopped() -> bool:
        return bool(stop)

    seed = collector_seed(task.seed, index, task.incarnation, task.env_steps)
    with task.environments.make(task.num_envs, seed) as stepper:
        stepper.first_index = index * task.num_envs
        stepper.reset(seed=seed)
        vital.at(WAITING)
        random = collector_stream(task.seed, index, task.incarnation, task.env_steps)
        actor: Actor = pickle.loads(task.actor)
        actor.version = -1
        collector = Collector(actor, stepper, task.spec, random, index, task.incarnation, lambda: vital.at(STEPPING), vital.made)
        slots = shared.slots.numpy()
        while not stopped():
            if not free.poll(TICK):
                continue
            slot = free.recv()
            if (weights := shared.weights.read(actor.version)) is not None:
                actor.load_weights(weights)
            chunk = collector.collect(stopped)
            if chunk is None:
                break
            task.layout.write(slots[slot], chunk)
            filled.send(slot)
