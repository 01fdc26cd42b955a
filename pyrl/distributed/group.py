"""Learners side by side: data parallelism by torch.distributed.

Each learner (rank) has all weights and learns from its share of an update's environments. Between gradient and optimiser step stands one
sum over all ranks of the flat gradient, each weighted by its share of the steps: the gradient of the mean over the whole rollout. So the
ranks make the same step from the same weights, and stay the same, which is compared every CHECK updates.

Rank 0 is the program: it has the loop, the collectors and the checkpoints, and sends the others their columns. They are processes that it
starts itself, on this machine (`OwnGroup`), or those that torchrun started with it, on any (`TorchrunGroup`).
"""

from __future__ import annotations

import contextlib
import os
import pickle
import traceback
import zlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from typing import Any

import numpy as np
import torch
import torch.multiprocessing
from torch import Tensor
from torch import distributed as dist

from pyrl.agents.base import Agent
from pyrl.agents.registry import Blueprint
from pyrl.distributed import nursery
from pyrl.distributed.chunks import Chunk, split
from pyrl.distributed.nursery import Nursery
from pyrl.distributed.shared import ChunkLayout
from pyrl.envs.processes import enter_worker, exit_in_words
from pyrl.errors import LearnerError
from pyrl.loops.supervision import DEATHS, ENOUGH, START_SECONDS
from pyrl.torchrun import torchrun_rank
from pyrl.types import Learned, Progress, Rollout

CHECK = 100  # updates between two comparisons of the weights of all ranks
LATE = 60.0  # seconds that the others get to answer the first one
FOREVER = 365 * 86400.0  # seconds that the others wait for it: they end with it
PATIENCE = 5.0  # seconds that a learner gets to leave by itself
NOTHING = "it said nothing"


class LearnerLost(Exception):
    """Another rank did not answer."""


class Exchange:
    """What the ranks say to each other, by a process group of torch.distributed."""

    def __init__(self, group: Any, rank: int, size: int) -> None:
        self.group, self.rank, self.size = group, rank, size

    def send(self, tensor: Tensor, to: int) -> None:
        self._wait(lambda: self.group.send([tensor], to, 0))

    def receive(self, tensor: Tensor) -> None:
        """From rank 0."""
        self._wait(lambda: self.group.recv([tensor], 0, 0))

    def broadcast(self, tensor: Tensor) -> None:
        """That of rank 0, to all."""
        self._wait(lambda: self.group.broadcast([tensor]))

    def sum(self, tensor: Tensor) -> None:
        """Over all ranks, in place: the same bits everywhere."""
        self._wait(lambda: self.group.allreduce([tensor]))

    def require_same(self, values: Tensor, updates: int) -> None:
        """LearnerError, at every rank, unless all have the same bits in ``values``."""
        checksum = zlib.crc32(values.detach().cpu().numpy().data)
        every = torch.zeros(self.size, dtype=torch.int64)
        every[self.rank] = checksum
        self.sum(every)
        if differing := [rank for rank in range(self.size) if every[rank] != every[0]]:
            raise LearnerError(f"learners: after {updates} updates the weights of {differing} are not those of learner 0")

    @staticmethod
    def _wait(begin: Any) -> None:
        try:
            begin().wait()
        except RuntimeError as error:  # what torch raises where a peer is gone or late
            raise LearnerLost(str(error).partition("\n")[0]) from error


@dataclass(frozen=True)
class Order:
    """What rank 0 tells the others before an update."""

    goes_on: bool  # else the rest means nothing, and the group ends
    env_steps: int
    share: float  # of the run that is done
    weight: float  # of this rank's gradient
    compare: bool  # all weights, after it

    def packed(self) -> Tensor:
        return torch.tensor([self.goes_on, self.env_steps, self.share, self.weight, self.compare], dtype=torch.float64)

    @classmethod
    def received(cls, exchange: Exchange) -> Order:
        numbers = torch.zeros(5, dtype=torch.float64)
        exchange.receive(numbers)
        goes_on, env_steps, share, weight, compare = numbers.tolist()
        return cls(bool(goes_on), int(env_steps), share, weight, bool(compare))


END = Order(False, 0, 0.0, 0.0, False)


def share_state(agent: Any, exchange: Exchange) -> None:
    """Weights and optimiser state of rank 0, to all."""
    agent.arena.sync()
    with torch.no_grad():
        for tensor in (agent.arena.values, *agent.statistics().values()):
            exchange.broadcast(tensor)


def learn_together(agent: Any, exchange: Exchange, rollout: Rollout, order: Order) -> Learned:
    """``agent.learn`` with the gradient of all ranks."""

    def all_gradients(gradients: Tensor) -> None:
        gradients.mul_(order.weight)
        exchange.sum(gradients)

    agent.step.reduce = all_gradients
    try:
        learned: Learned = agent.learn(rollout)
    finally:
        agent.step.reduce = None
    if order.compare:
        exchange.require_same(agent.arena.values, agent.updates)
    return learned


def follow(agent: Agent, exchange: Exchange, layout: ChunkLayout) -> None:
    """The life of a rank that is not the first."""
    share_state(agent, exchange)
    slot = torch.zeros(layout.size, dtype=torch.uint8)
    while (order := Order.received(exchange)).goes_on:
        exchange.receive(slot)
        agent.progress = Progress(order.env_steps, order.share)
        rollout = layout.read(slot.numpy(), exchange.rank).rollout
        assert isinstance(rollout, Rollout)
        learn_together(agent, exchange, rollout, order)


@dataclass
class Follower:
    """The process of a rank, as the first one sees it."""

    process: Any
    pipe: Connection  # it says that it has started, None, or why it ended

    def said(self) -> str | None:
        """The next that it says, without waiting; "nothing" if that is all."""
        try:
            return self.pipe.recv() if self.pipe.poll() else NOTHING
        except (EOFError, OSError):
            return NOTHING


class LearnerGroup(ABC):
    """The first rank's side."""

    def __init__(self, agent: Any, layout: ChunkLayout, learners: int) -> None:
        self.agent, self.layout, self.learners = agent, layout, learners
        self.exchange: Exchange | None = None  # None: nobody is there as yet
        self.restarts = 0
        self._slot = torch.zeros(layout.size, dtype=torch.uint8)

    def learn(self, rollout: Rollout) -> Learned:
        """One update of all ranks by their shares of ``rollout`` [T, N]: the columns of each lie side by side. The report is of the first
        rank's share."""
        while True:
            try:
                if self.exchange is None:
                    self.exchange = self._meet()
                    share_state(self.agent, self.exchange)
                return self._learn(self.exchange, rollout)
            except LearnerLost as lost:
                self.exchange = None
                self._failed(lost)

    def stop(self) -> None:
        """No rank waits for another update."""
        exchange, self.exchange = self.exchange, None
        if exchange is not None:
            with contextlib.suppress(LearnerLost):
                for rank in range(1, self.learners):
                    exchange.send(END.packed(), rank)

    def _learn(self, exchange: Exchange, rollout: Rollout) -> Learned:
        agent, shares = self.agent, split(rollout, self.learners)
        steps = [int(np.count_nonzero(share.valid)) for share in shares]
        compare = agent.updates % CHECK == 0
        orders = [Order(True, agent.env_steps, agent.progress.share, count / sum(steps), compare) for count in steps]
        for rank in range(1, self.learners):
            self.layout.write(self._slot.numpy(), Chunk(shares[rank], [], rank, 0, 0, 0))
            exchange.send(orders[rank].packed(), rank)
            exchange.send(self._slot, rank)
        return learn_together(agent, exchange, shares[0], orders[0])

    @abstractmethod
    def _meet(self) -> Exchange:
        """With all other ranks, which then wait for `share_state`."""

    @abstractmethod
    def _failed(self, lost: LearnerLost) -> None:
        """LearnerError unless `_meet` helps; the update has moved no weight."""


class TorchrunGroup(LearnerGroup):
    """With the ranks of torchrun, which ends them all where one fails; it may start them again (``--max-restarts``), to resume."""

    def _meet(self) -> Exchange:
        return torchrun_exchange()

    def _failed(self, lost: LearnerLost) -> None:
        raise LearnerError(
            f"{self.agent.name}: another learner is gone ({lost}); the run goes on from its last checkpoint with --resume"
        ) from lost


def torchrun_exchange() -> Exchange:
    """With the other ranks: tensors of the CPU by gloo, those of GPUs by NCCL."""
    if not dist.is_initialized():
        late = LATE if torchrun_rank() == 0 else FOREVER
        dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=timedelta(seconds=late))
    return Exchange(dist.group.WORLD, dist.get_rank(), dist.get_world_size())


class OwnGroup(LearnerGroup):
    """With processes of its own on this machine, which speak over loopback only.

    A rank that dies or hangs ends the update, which has moved no weight then: all others are started anew from the weights and optimiser
    state of the first, and the update is made again. DEATHS in a row, each within ENOUGH updates, end the run with the first one's words.
    """

    def __init__(self, agent: Any, layout: ChunkLayout, learners: int) -> None:
        super().__init__(agent, layout, learners)
        self.followers: list[Follower] = []
        self._failures, self._met_at, self._first = 0, agent.updates, ""
        self._place: int | None = None  # file descriptor
        self.nursery: Nursery | None = None

    def stop(self) -> None:
        """No other process is left."""
        super().stop()
        self._end(PATIENCE)
        if self.nursery is not None:
            self.nursery.end()
            self.nursery = None

    def _meet(self) -> Exchange:
        self._place = os.memfd_create("pyrl-learners")  # where the ranks find each other; memory without a name: nothing is left of it
        self._met_at = self.agent.updates
        agent, path = self.agent, f"/proc/{os.getpid()}/fd/{self._place}"
        try:
            about = pickle.dumps((agent.blueprint(), agent.num_envs, self.layout, path, self.learners))
        except Exception as error:
            what = agent.blueprint().unpicklable() or "a space"
            raise ValueError(
                f"{agent.name}: learners is {self.learners}, but {what} cannot be sent to another process ({error})"
            ) from error
        context, name = torch.multiprocessing.get_context("spawn"), f"{agent.name}-learner"
        if self.nursery is None and nursery.possible():
            self.nursery = Nursery(_life, list(range(self.learners)), name)
        for rank in range(1, self.learners):
            here, there = context.Pipe(duplex=False)
            if self.nursery is not None and self.nursery.ready():
                process: Any = self.nursery.begin(rank, about, there)
            else:
                process = context.Process(target=_life, args=(about, rank, there), name=f"{name}-{rank}")
                process.start()
            self.followers.append(Follower(process, here))
            there.close()
        for follower in self.followers:
            wait([follower.pipe], START_SECONDS)  # which ends with the process
            if (trouble := follower.said()) is not None:
                raise LearnerLost(trouble)
        try:
            return Exchange(_group(path, 0, self.learners, LATE), 0, self.learners)
        except RuntimeError as error:
            raise LearnerLost(str(error).partition("\n")[0]) from error

    def _failed(self, lost: LearnerLost) -> None:
        words = self._end(0.5) or str(lost)
        if self.agent.updates - self._met_at >= ENOUGH:
            self._failures = 0
        self._first = self._first if self._failures else words
        self._failures += 1
        self.restarts += 1
        if self._failures >= DEATHS:
            beside = f"\nso did {DEATHS - 1} groups after it, each within {ENOUGH:,} updates"
            raise LearnerError(f"{self.agent.name}: {self._first}{beside}") from lost

    def _end(self, patience: float) -> str:
        """Every other process, and what the first that failed said."""
        said = ""
        followers, self.followers = self.followers, []
        for rank, follower in enumerate(followers, 1):
            follower.process.join(patience)
            died = not follower.process.is_alive()
            if not died:
                follower.process.kill()
                follower.process.join()
            told = follower.said() or follower.said()  # beside that it has started
            follower.pipe.close()
            if not said and told != NOTHING:
                said = f"learner {rank}: {told}"
            elif not said and died and follower.process.exitcode != 0:
                said = f"learner {rank}: its process {exit_in_words(follower.process.exitcode)}"
        if self._place is not None:
            os.close(self._place)
            self._place = None
        return said


def _group(path: str, rank: int, size: int, seconds: float) -> Any:
    """A gloo group of this machine, apart from any that the program may have."""
    options = dist.ProcessGroupGloo._Options()  # type: ignore[attr-defined]
    options._devices = [dist.ProcessGroupGloo.create_device(hostname="127.0.0.1")]
    options._timeout = timedelta(seconds=seconds)
    return dist.ProcessGroupGloo(dist.FileStore(path, size), rank, size, options)


def _life(about: bytes, rank: int, pipe: Connection) -> None:
    """Of a process."""
    blueprint: Blueprint
    enter_worker(os.getppid())
    blueprint, num_envs, layout, path, size = pickle.loads(about)
    torch.set_num_threads(1)
    try:
        agent = blueprint.make(num_envs)
        pipe.send(None)
        follow(agent, Exchange(_group(path, rank, size, FOREVER), rank, size), layout)
    except LearnerLost:
        pass  # the first one has more to say
    except BaseException as error:
        with contextlib.suppress(OSError):
            pipe.send(f"{error}\n{traceback.format_exc()}")
