"""The engine ``ray``: collectors as actors of Ray (Moritz et al. 2018), on one machine or many; the learner in this process.

A collector has two requests for a chunk under way, so it is never further ahead of the learner than that. A request carries the version
of the latest weights and a reference to them, one flat blob a version that only the learner puts into Ray's object store; the collector
pulls it before its chunk and, where it does not come in time, acts by what it has: the chunk says so. A chunk comes back as one
contiguous array. Ray restarts nothing and repeats no call: the supervisor begins another actor, as in ``local``.

A process of Ray needs seconds to start and to import torch, so one actor that has done so stands by: it takes the place of the next
collector that dies, and another stands by then. It claims no CPU of the cluster as long as all collectors have theirs.

Signs of life (phase, beats, steps made) are asked for, since no memory is shared: of a collector that is killed, the steps since its
latest sign are unknown to everybody but the dead.
"""

from __future__ import annotations

import contextlib
import pickle
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import ray
import torch
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pyrl.agents.actor import Weights
from pyrl.distributed.chunks import Chunk
from pyrl.distributed.collector import Collector, InStep
from pyrl.distributed.learner import Learner
from pyrl.distributed.nursery import import_all, modules_of_program
from pyrl.distributed.packing import pack, unpack
from pyrl.distributed.pool import Incoming, Member, Pool, Task, collecting, failure_of
from pyrl.distributed.ray_cluster import connect
from pyrl.distributed.ray_shard import RemoteShards
from pyrl.distributed.shard import Shard, ShardSpec
from pyrl.distributed.supervisor import STARTING, STEPPING, Failure, Vital, Vitals
from pyrl.errors import SettingError

PULL_SECONDS = 1.0  # that a collector waits for weights
SIGN_SECONDS = 0.5  # between two signs of life
NONE = np.zeros(0, np.float32)
SILENT_SECONDS = 2.0  # without an answer: as if it were in its environments


class CollectorActor:
    """A collector's side. `begin` and `collect` run in one thread; what must be answered meanwhile in another."""

    def __init__(self, path: list[str], modules: list[str], payload: bytes) -> None:
        """Imports what a collector by ``payload`` needs; the place that it takes is that of `begin`."""
        sys.path += [entry for entry in path if entry not in sys.path]  # where the program found its modules, as `multiprocessing` does it
        import_all(modules)
        with contextlib.suppress(Exception):  # which `begin` tells of
            pickle.loads(payload)
        torch.set_num_threads(1)
        self._vitals, self._leaving, self._needed = Vitals.shared(1), False, threading.Event()
        self._vital = Vital(self._vitals, 0)
        self._collecting: Any = None
        self._collector: Collector | InStep | None = None

    def begin(self, payload: bytes) -> Failure | None:
        """Become the collector of a `Task`, ready to collect."""
        self._needed.set()
        self._vital.at(STARTING)
        try:
            self._task: Task = pickle.loads(payload)
            self._collecting = collecting(self._task, self._vital)
            self._collector = self._collecting.__enter__()
        except BaseException as error:
            self._leaving = True
            return failure_of(error)
        return None

    def collect(self, weights: Weights, values: list[Any]) -> np.ndarray | Failure | None:
        """The next chunk, by ``weights``, whose values are elsewhere, if they come in time; None where it was told to leave."""
        if self._leaving:
            return None
        try:
            assert self._collector is not None
            self._pull(self._collector, weights, values[0])
            chunk = self._collector.collect(lambda: self._leaving)
            return None if chunk is None else pack(self._task.layout, chunk, int(self._vitals.collected[0]))
        except BaseException as error:
            self._leaving = True
            return failure_of(error)

    def _pull(self, collector: Collector | InStep, weights: Weights, values: Any) -> None:
        if weights.version == collector.actor.version:
            return
        try:  # where all wait for each other, there is nothing better to do than wait
            got = ray.get(values, timeout=None if self._task.in_step else PULL_SECONDS)
        except RayError:  # late or lost: the next request has newer ones
            return
        collector.actor.load_weights(weights._replace(values=got))

    @ray.method(concurrency_group="signs")
    def signs(self) -> tuple[int, int, int]:
        """Phase, beats and environment steps, as `Vitals` has them."""
        vitals = self._vitals
        return int(vitals.phase[0]), int(vitals.beats[0]), int(vitals.collected[0])

    @ray.method(concurrency_group="standby")
    def stand_by(self) -> None:
        """Until `begin`: an answer before means that it died."""
        self._needed.wait()

    @ray.method(concurrency_group="signs")
    def leave(self) -> None:
        self._leaving = True

    def close(self) -> tuple[int, int, int]:
        """After the last chunk: close the environments. The last signs."""
        if self._collector is not None:
            self._collecting.__exit__(None, None, None)
        return self.signs()


@dataclass
class Remote(Member):
    """An actor, as the engine sees it."""

    index: int
    actor: Any
    cpus: float = 0.0  # of the cluster, that its actor claims
    at_work: bool = False  # it has answered `begin`
    chunks: deque[Any] = field(default_factory=deque)  # that were asked for, in this order, after the answer to `begin`
    signs: Any = None  # that were asked for
    asked: float = -1.0  # when
    answered: bool = False  # a sign ever came
    silent: bool = False  # an answer is late
    closing: Any = None
    death: str | None = None


@dataclass
class Standby:
    """An actor without a place."""

    actor: Any
    cpus: float
    death: Any = None  # what `stand_by` answers when it is dead


OPTIONS: dict[str, Any] = {"num_cpus": 1, "max_restarts": 0, "max_task_retries": 0, "scheduling_strategy": "SPREAD"}  # of the actors


class RayEngine(Pool[Remote]):
    """See the module. ``address``: of a cluster; None: the Ray that the program has initialised, else one of our own on this machine.
    ``remote_shards``: the shards of a replay are actors too (`pyrl.distributed.ray_shard`)."""

    def __init__(self, learner: Learner, *roles: Any, address: str | None = None, remote_shards: bool = False) -> None:
        super().__init__(learner, *roles)
        self.address, self.ours, self.remote_shards = address, False, remote_shards
        self.shards = RemoteShards()
        self.bytes_received = self.bytes_published = 0

    def _open(self) -> None:
        self._connect(len(self.shards))
        self.held = [0] * self.workers  # chunks that wait to be read
        self.ready: set[Any] = set()
        self.blob: tuple[Weights, Any] | None = None
        self.remote = ray.remote(concurrency_groups={"signs": 1, "standby": 1}, **OPTIONS)(CollectorActor)
        self.standby: Standby | None = None
        self.wanted = False  # somebody who stands by
        self._check_room()

    def make_shard(self, spec: ShardSpec) -> Shard:
        """In the learner's process, unless shards are actors."""
        if not self.remote_shards:
            return super().make_shard(spec)
        self._connect(spec.shards)
        return self.shards.make(spec)

    def _connect(self, shards: int) -> None:
        """SettingError where the cluster never has a CPU for every actor."""
        if not self.ours:
            self.ours = connect(self.address, self.workers + shards)
        cpus = ray.cluster_resources().get("CPU", 0)
        if OPTIONS["num_cpus"] * self.workers + shards > cpus:
            beside = f" and replay_shards is {shards}" if shards else ""
            raise SettingError(f"train: workers is {self.workers}{beside}, but Ray's cluster has {cpus:g} CPUs, and each takes one")

    def _check_room(self) -> None:
        """SettingError for what the object store never has room for."""
        store, needed = ray.cluster_resources().get("object_store_memory", 0.0), self.workers * self.ahead * self.layout.size
        of_shards = self.shards.bytes_under_way()
        if needed + of_shards > store / 2 and of_shards > needed:
            raise SettingError(
                f"train: {len(self.shards)} shards have draws and inserts of up to {of_shards / 2**20:.0f} MiB under way, but the object "
                f"store has {store / 2**20:.0f} MiB; take a smaller batch_size, or start Ray with a larger object_store_memory"
            )
        if needed + of_shards > store / 2:  # else Ray writes chunks to the disk, without a word
            raise SettingError(
                f"train: {self.workers} workers have chunks of up to {needed / 2**20:.0f} MiB under way, but the object store has "
                f"{store / 2**20:.0f} MiB; take a smaller n_steps or num_envs, or start Ray with a larger object_store_memory"
            )

    def publish(self) -> None:
        """Whoever is asked for a chunk from here on gets them."""
        self.blob = None

    def take(self, stopped: Callable[[], bool]) -> tuple[list[Chunk], Callable[[], None]] | None:
        self._ask(self.members)
        return super().take(stopped)

    def stop(self) -> None:
        if self.running and self.standby is not None:
            ray.kill(self.standby.actor)
            self.standby = None
        super().stop()
        self.blob = None

    def close(self) -> None:
        super().close()
        self.shards.close()
        if self.ours:
            self.ours = False
            ray.shutdown()

    def metrics(self) -> dict[str, float]:
        told = super().metrics()
        seconds = 0.0 if self.begun is None else time.monotonic() - self.begun
        if seconds > 0.0:
            told["time/bytes_per_second"] = (self.bytes_received + self.bytes_published) / seconds
        return told

    def _pickled(self, value: Any) -> bytes:
        """By value what the program itself defines: the workers of Ray do not import it."""
        pickled: bytes = ray.cloudpickle.dumps(value)
        return pickled

    def _begin(self, index: int, task: bytes, begun_at: int) -> Remote:
        standby, self.standby = self.standby, None
        if standby is None or ray.wait([standby.death], timeout=0)[0]:
            standby = self._actor(task)
        self.task, self.wanted = task, True
        member = Remote(index, standby.actor, standby.cpus, begun_at=begun_at)
        member.chunks.append(member.actor.begin.remote(task))
        return member

    def _actor(self, task: bytes) -> Standby:
        """All together claim a CPU for each collector: a new one what is left of that."""
        each = OPTIONS["num_cpus"]
        options = {**OPTIONS, "num_cpus": min(each, each * self.workers - sum(member.cpus for member in self.members if not member.ended))}
        if options["num_cpus"] == 0:  # which Ray would find room for where collectors must not be
            node = max(ray.nodes(), key=lambda node: node["Alive"] * node["Resources"].get("CPU", 0))
            options["scheduling_strategy"] = NodeAffinitySchedulingStrategy(node["NodeID"], soft=True)
        return Standby(self.remote.options(**options).remote(sys.path, modules_of_program(), task), options["num_cpus"])

    def _stand_by(self) -> None:
        """Once all collectors are at work, somebody for the next that dies; one that dies itself has no successor until then."""
        if self.wanted and all(member.at_work for member in self.members):
            self.standby, self.wanted = self._actor(self.task), False
            self.standby.death = self.standby.actor.stand_by.remote()

    def _ask(self, members: Iterable[Remote]) -> None:
        """As many chunks as each may have under way, by the weights of now."""
        for member in members:
            while member.at_work and member.death is None and len(member.chunks) + self.held[member.index] < self.ahead:
                if self.blob is None:
                    weights = self.learner.weights()
                    self.blob = weights._replace(values=NONE), ray.put(weights.values)
                    self.bytes_published += weights.values.nbytes
                about, values = self.blob
                member.chunks.append(member.actor.collect.remote(about, [values]))

    def _wait(self, seconds: float) -> None:
        self._ask(self.members)
        if heads := [member.chunks[0] for member in self.members if member.chunks] + self.shards.awaited():
            ray.wait(heads, num_returns=1, timeout=seconds)

    def _look(self) -> None:
        heads = [member.chunks[0] for member in self.members if member.chunks]
        self.ready = set(ray.wait(heads, num_returns=len(heads), timeout=0)[0]) if heads else set()
        for member in self.members:
            self._read_signs(member)
        super()._look()
        self._ask(self.members)
        self._stand_by()

    def _read_signs(self, member: Remote) -> None:
        now = time.monotonic()
        if member.signs is None:
            if now - member.asked >= SIGN_SECONDS:
                member.signs, member.asked = member.actor.signs.remote(), now
        elif ray.wait([member.signs], timeout=0)[0]:
            self._signs(member, member.signs)
            member.signs, member.answered, member.silent = None, True, False
        elif member.answered and not member.silent and now - member.asked > SILENT_SECONDS:
            member.silent = True
            self.vitals.phase[member.index] = STEPPING
            self.vitals.beats[member.index] += 1

    def _signs(self, member: Remote, reference: Any) -> None:
        try:
            self.vitals.phase[member.index], self.vitals.beats[member.index], collected = ray.get(reference)
        except RayError as error:
            self._died(member, error)
            return
        self._count(member, collected)

    def _count(self, member: Remote, collected: int) -> None:
        """What it says that it has collected. Signs and chunks may overtake each other."""
        self.vitals.collected[member.index] = max(int(self.vitals.collected[member.index]), member.begun_at + collected)

    def _alive(self, member: Remote) -> bool:
        if member.closing is not None and ray.wait([member.closing], timeout=0)[0]:
            self._signs(member, member.closing)
            member.closing, member.death = None, "its actor left"
        return member.death is None

    def _death(self, member: Remote) -> str:
        return str(member.death)

    def _incoming(self, index: int, member: Remote) -> Incoming:
        while member.chunks and (member.chunks[0] in self.ready or ray.wait([member.chunks[0]], timeout=0)[0]):
            reference = member.chunks.popleft()
            try:
                told = ray.get(reference)
            except RayError as error:
                self._died(member, error)
                return
            if isinstance(told, Failure):
                member.failure, member.death = told, told.text
                self.look_at = 0.0
            elif told is None:  # it has begun, or leaves
                member.at_work = True
            else:
                chunk, collected = unpack(self.layout, told, index)
                self._count(member, collected)
                self.bytes_received += told.nbytes
                self.held[index] += 1
                yield chunk, partial(self._release, index)

    def _died(self, member: Remote, error: RayError) -> None:
        member.death = member.death or _in_words(error)
        member.chunks.clear()
        self.look_at = 0.0

    def _release(self, index: int) -> None:
        self.held[index] -= 1

    def _dismiss(self, members: list[Remote]) -> None:
        for member in members:
            member.actor.leave.remote()
            member.closing = member.actor.close.remote()

    def _kill(self, member: Remote) -> None:
        ray.kill(member.actor, no_restart=True)


def _in_words(error: RayError) -> str:
    """Of a collector's end."""
    if isinstance(error, RayTaskError):
        return f"its actor raised\n{error}"
    text = " ".join(str(error).split())
    return f"its actor died ({type(error).__name__}: {text})"
