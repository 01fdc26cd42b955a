"""The engine ``local``: collectors in processes of their own on this machine, the learner in this one (Espeholt et al. 2018, figure 1).

Chunks come through slots in shared memory, weights go through shared memory, the right to a slot goes over a pipe
(`pyrl.distributed.shared`). A collector has `Pool.ahead` slots, so it is never further ahead of the learner than that. Processes are forked
by one that has imported what they need (`pyrl.distributed.nursery`), where that is possible.
"""

from __future__ import annotations

import contextlib
import os
import pickle
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection, wait
from typing import Any

import numpy as np
import torch
import torch.multiprocessing
from torch import Tensor

from pyrl.distributed import nursery
from pyrl.distributed.nursery import Nursery
from pyrl.distributed.pool import TICK, Incoming, Member, Pool, Task, collecting, failure_of
from pyrl.distributed.shared import SharedWeights
from pyrl.distributed.supervisor import Vital, Vitals
from pyrl.envs.processes import enter_worker, exit_in_words
from pyrl.errors import EnvError

UNGUARDED = "before its first step; workers import the program, which must start them under if __name__ == '__main__': only"


@dataclass
class Shared:
    """What both sides see the same memory of."""

    weights: SharedWeights
    slots: Tensor  # uint8 [SLOTS, size], of this collector
    vitals: Vitals
    stop: Tensor  # bool []


@dataclass
class Process(Member):
    """A collector's process, as the parent sees it."""

    process: Any
    free: Connection  # the parent sends numbers of slots that may be filled, a byte each
    filled: Connection  # the collector sends numbers of slots that are, and the pickle of a `Failure`


class LocalEngine(Pool[Process]):
    """See the module."""

    nursery: Nursery | None = None

    def _open(self) -> None:
        self.memory = [self.layout.slots(self.ahead) for _ in range(self.workers)]
        self.slots = [memory.numpy() for memory in self.memory]
        self.held: list[set[int]] = [set() for _ in range(self.workers)]  # slots that wait to be read
        self.stop_flag = torch.zeros((), dtype=torch.bool).share_memory_()
        self.weights = SharedWeights(self.learner.weights())
        self.shared = [Shared(self.weights, memory, self.vitals, self.stop_flag) for memory in self.memory]
        name = f"{self.learner.agent.name}-collector"
        self.nursery = Nursery(_work, self.shared, name) if nursery.possible() else None

    def stop(self) -> None:
        try:
            super().stop()
        finally:
            if self.nursery is not None:
                self.nursery.end()

    def publish(self) -> None:
        self.weights.write(self.learner.weights())

    def _begin(self, index: int, task: bytes, begun_at: int) -> Process:
        context = torch.multiprocessing.get_context("spawn")
        (slots_there, free), (filled, slots_back) = context.Pipe(duplex=False), context.Pipe(duplex=False)
        if self.nursery is not None and self.nursery.ready():
            process: Any = self.nursery.begin(index, task, slots_there, slots_back)
        elif self.nursery is not None and self.nursery.exitcode == 1:
            raise EnvError(self._where(index, f"its process {exit_in_words(1)} {UNGUARDED}"))
        else:
            name = f"{self.learner.agent.name}-collector-{index}"
            process = context.Process(target=_work, args=(task, self.shared[index], slots_there, slots_back), daemon=False, name=name)
            process.start()
        slots_there.close()
        slots_back.close()
        for slot in set(range(self.ahead)) - self.held[index]:
            free.send_bytes(bytes([slot]))
        return Process(process, free, filled, begun_at=begun_at)

    def _alive(self, member: Process) -> bool:
        return bool(member.process.is_alive())

    def _death(self, member: Process) -> str:
        words = f"its process {exit_in_words(member.process.exitcode)}"
        if member.process.exitcode != 1 or member.received:
            return words
        return f"{words} {UNGUARDED}"

    def _incoming(self, index: int, member: Process) -> Incoming:
        try:
            while member.filled.poll():
                told = member.filled.recv_bytes()
                if len(told) > 1:
                    member.failure = pickle.loads(told)
                    continue
                (slot,) = told
                self.held[index].add(slot)
                yield self.layout.read(self.slots[index][slot], index), partial(self._release, index, slot)
        except (EOFError, OSError):
            self.look_at = 0.0  # it is gone

    def _release(self, index: int, slot: int) -> None:
        """Give a slot back to who is collector ``index`` now."""
        self.held[index].discard(slot)
        if index < len(self.members):
            with contextlib.suppress(OSError):  # it died: who takes its place gets all slots
                self.members[index].free.send_bytes(bytes([slot]))

    def _wait(self, seconds: float) -> None:
        wait([member.filled for member in self.members], seconds)

    def _dismiss(self, members: list[Process]) -> None:
        self.stop_flag.fill_(True)

    def _kill(self, member: Process) -> None:
        if member.process.is_alive():
            member.process.kill()
        member.process.join()

    def _close(self, member: Process) -> None:
        member.free.close()
        member.filled.close()


def _work(payload: bytes, shared: Shared, free: Connection, filled: Connection) -> None:
    """The life of a collector."""
    enter_worker(os.getppid())
    np.random.seed()  # noqa: NPY002 - environments may draw from this global stream
    torch.set_num_threads(1)
    try:
        _collect(pickle.loads(payload), shared, free, filled)
    except (BrokenPipeError, ConnectionResetError, EOFError):
        pass  # the parent is gone
    except BaseException as error:
        with contextlib.suppress(OSError):
            filled.send_bytes(pickle.dumps(failure_of(error)))


def _collect(task: Task, shared: Shared, free: Connection, filled: Connection) -> None:
    stop, slots = shared.stop.numpy(), shared.slots.numpy()

    def stopped() -> bool:
        return bool(stop)

    with collecting(task, Vital(shared.vitals, task.index)) as collector:
        while not stopped():
            if not free.poll(TICK):
                continue
            (slot,) = free.recv_bytes()
            if (weights := shared.weights.read(collector.actor.version)) is not None:
                collector.actor.load_weights(weights)
            chunk = collector.collect(stopped)
            if chunk is None:
                break
            task.layout.write(slots[slot], chunk)
            filled.send_bytes(bytes([slot]))
