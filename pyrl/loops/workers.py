"""Asynchronous training: workers in processes of their own, on parameters in shared memory.

Nothing is locked, so nothing waits for a worker that died. A worker whose environment or agent raises ends the run with its
traceback, and so does one whose environment hangs; one that is killed is replaced, unless that helps nothing
(`pyrl.loops.supervision`). Workers end when they are asked to, or when their parent has ended.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any

import torch
import torch.multiprocessing
from torch import Tensor

from pyrl.agents.base import Agent
from pyrl.agents.registry import Blueprint
from pyrl.agents.sharing import SharedWeights, SharesWeights
from pyrl.envs import Stepper, make
from pyrl.envs.guard import described
from pyrl.envs.processes import enter_worker
from pyrl.errors import EnvError
from pyrl.loops.base import Limits, Loop
from pyrl.loops.on_policy import rollout_buffer
from pyrl.loops.supervision import Pulse, Pulses, Pulsing, Watch, env_seed, worker_seed
from pyrl.types import Episode, Metrics, Progress

REPORT_SECONDS = 0.05  # between two messages of a worker
PATIENCE = 5.0  # seconds a worker gets to end by itself


@dataclass
class Shared:
    """Memory shared by workers and parent. Each worker writes its own element of the counters."""

    learned: SharedWeights
    steps: Tensor  # int64 [workers]
    episodes: Tensor  # int64 [workers]
    pulses: Pulses
    stop: Tensor  # bool []


@dataclass
class Task:
    """What a worker must know; sent by pickle."""

    blueprint: Blueprint
    index: int
    generation: int  # how many workers it replaces
    factory: Any  # makes the environment, and names it in ``which``
    parent: int  # process id
    limits: Limits


@dataclass
class WorkerReport:
    """A worker's message: what happened since the last one."""

    episodes: list[Episode] = field(default_factory=list)
    losses: dict[str, float] = field(default_factory=dict)
    updates: int = 0
    failure: str | None = None  # words and a traceback
    last: bool = False  # the worker ends


class AsynchronousLoop(Loop):
    """One round = what the workers did in a twentieth of a second or more."""

    def __init__(self, agent: Agent, stepper: Stepper, limits: Limits) -> None:
        super().__init__(agent, stepper, limits)
        if stepper.factory is None:
            raise ValueError(f"{agent.name}: the environment is a vector environment, expected an id or a callable that makes one")
        if not isinstance(agent, SharesWeights):
            raise TypeError(f"{agent.name}: its loop is asynchronous, expected the methods of pyrl.agents.sharing.SharesWeights")
        self.learner: SharesWeights = agent
        self.restarts = 0
        self._workers: list[tuple[Any, Connection]] = []

    def __iter__(self) -> Iterator[Metrics]:
        try:
            yield from super().__iter__()
        finally:
            self._stop()

    @property
    def can_continue(self) -> bool:
        """Workers end with the iteration; the next one starts new ones."""
        return False

    def reset(self) -> None:
        """Start the workers, which step environments of their own; those of the stepper are never used."""
        agent = self.agent
        steps, episodes = (torch.zeros(agent.num_envs, dtype=torch.int64).share_memory_() for _ in range(2))
        pulses, stop = Pulses.shared(agent.num_envs), torch.zeros((), dtype=torch.bool).share_memory_()
        self.shared = Shared(self.learner.share(), steps, episodes, pulses, stop)
        self.shared.steps[0], self.shared.episodes[0] = agent.env_steps, self.episodes
        self._watch = Watch(pulses, self.stepper.name, agent.seed, self.stepper.env_timeout)
        self._left = [False] * agent.num_envs
        self._workers = []
        for index in range(agent.num_envs):
            self._workers.append(self._start(index, 0))

    def round(self) -> dict[str, float]:
        reports: list[WorkerReport] = []
        while not reports and not self.stopped:
            alive = [(process, pipe, left) for (process, pipe), left in zip(self._workers, self._left) if process.is_alive()]
            news = [pipe for _, pipe, left in alive if not left] + [process.sentinel for process, _, _ in alive]
            wait(news, timeout=min(1.0, self._watch.timeout) if len(alive) == len(self._workers) or self._done() else 0.0)
            for index in range(len(self._workers)):
                reports += self._look_after(index)
            if self._done() and not any(process.is_alive() for process, _ in self._workers):
                for index in range(len(self._workers)):
                    reports += self._look_after(index)
                break
        for report in reports:
            self.agent.updates += report.updates
            self._count(report.episodes)
        if self.goal_reached:
            self._stop()
        done = self._done() and not any(process.is_alive() for process, _ in self._workers)
        steps = int(self.shared.steps.sum())
        # The run is finished only when the workers have ended: until then they may be writing.
        env_steps = steps if done else int(min(steps, self.limits.first_step + self.limits.total_steps - 1))
        self.agent.progress = Progress(env_steps, self.limits.share(env_steps, self.episodes))
        losses = [report.losses for report in reports if report.losses]
        means = {key: sum(loss[key] for loss in losses) / len(losses) for key in (losses[0] if losses else {})}
        return {**means, "time/restarts": self.restarts}

    def _look_after(self, index: int) -> list[WorkerReport]:
        """What worker ``index`` sent; it is replaced if it died. EnvError if its environment failed or hangs."""
        process, pipe = self._workers[index]
        alive = process.is_alive()  # asked first, so that what it sent before it died is read
        reports = self._receive(pipe)
        for report in reports:
            if report.failure is not None:
                raise EnvError(f"{self.agent.name}: a worker failed:\n{report.failure}")
            self._left[index] |= report.last
        if alive:
            self._watch.check(index)
        elif not self._left[index]:
            self._watch.died(index, process.exitcode, int(self.shared.steps[index]), self._done())
            if self._done():
                self._left[index] = True
            else:
                self.restarts += 1
                pipe.close()
                self._workers[index] = self._start(index, self.restarts)
        return reports

    def _done(self) -> bool:
        steps, episodes = int(self.shared.steps.sum()), int(self.shared.episodes.sum())
        return self.stopped or self.limits.share(steps, episodes) >= 1.0 or bool(self.shared.stop)

    def _start(self, index: int, generation: int) -> tuple[Any, Connection]:
        agent = self.agent
        task = Task(agent.blueprint(), index, generation, self.stepper.factory, os.getpid(), self.limits)
        try:
            pickle.dumps(task)
        except Exception as error:
            what = task.blueprint.unpicklable() or "the environment"
            raise ValueError(
                f"{agent.name}: {what} cannot be sent to another process ({error}); pass an id, or a callable of a module"
            ) from error
        context = torch.multiprocessing.get_context("spawn")
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=_work, args=(task, self.shared, sender), daemon=True, name=f"{agent.name}-{index}")
        self._watch.begin(index, generation, int(self.shared.steps[index]))
        process.start()
        sender.close()
        return process, receiver

    @staticmethod
    def _receive(pipe: Connection) -> list[WorkerReport]:
        reports = []
        with contextlib.suppress(EOFError, OSError):
            while pipe.poll():
                reports.append(pipe.recv())
        return reports

    def _stop(self) -> None:
        workers, self._workers = self._workers, []
        if workers:
            self.shared.stop.fill_(True)
        deadline = time.monotonic() + PATIENCE
        for process, pipe in workers:
            while process.is_alive() and time.monotonic() < deadline:
                self._receive(pipe)  # a full pipe would block it
                process.join(0.02)
            if process.is_alive():
                process.kill()
                process.join()
            pipe.close()


def _work(task: Task, shared: Shared, pipe: Connection) -> None:
    """The main function of a worker."""
    enter_worker(task.parent)
    torch.set_num_threads(1)
    try:
        _train(task, shared, pipe)
    except (BrokenPipeError, ConnectionResetError):
        pass  # the parent no longer listens
    except BaseException as error:
        text = str(error) if isinstance(error, EnvError) else described(error)
        with contextlib.suppress(OSError):
            pipe.send(WorkerReport(failure=f"{text}\n{traceback.format_exc()}"))


def _train(task: Task, shared: Shared, pipe: Connection) -> None:
    agent = task.blueprint.make(num_envs=1)
    assert isinstance(agent, SharesWeights)
    seed = task.blueprint.seed
    agent.become_worker(task.index, task.generation)
    player = agent.player(1, deterministic=False)
    buffer = rollout_buffer(agent, 1)
    report, sent, limits = WorkerReport(), time.monotonic(), task.limits
    pulse = Pulse(shared.pulses, task.index)
    pulse.at("make")
    task.factory.which = f"environment {task.index} (seed {env_seed(seed, task.index, task.generation)})"
    with make(lambda: Pulsing(task.factory(), pulse), 1) as stepper:
        stepper.first_index = task.index
        stepper.reset(seed=worker_seed(seed, task.index, task.generation))
        while not shared.stop and os.getppid() == task.parent:
            done = int(shared.steps.sum()), int(shared.episodes.sum())
            agent.progress = Progress(done[0], limits.share(*done))
            if agent.progress.share >= 1.0:
                break
            agent.pull(shared.learned)
            episodes: list[Episode] = []
            while not (buffer.full or episodes):
                policy = agent.native_policy(stepper.normalizes) if stepper.rolls_out else None
                if policy is None:
                    choice = player.choose(stepper.observation, stepper.first, stepper.action_mask)
                    step = stepper.step(choice.action)
                    buffer.add(step, choice.stored)
                    episodes = step.episodes
                else:
                    rows = stepper.rollout(policy, buffer.num_steps - len(buffer), stop_at_end=True)
                    buffer.extend(rows)
                    episodes = rows.episodes
            report.episodes += [Episode(e.episode_return, e.length, task.index, e.success) for e in episodes]
            shared.steps[task.index] += len(buffer)
            shared.episodes[task.index] += len(episodes)
            report.losses = agent.gradient(buffer.take(stepper.observation, stepper.first))
            agent.push(shared.learned)
            report.updates += 1
            if time.monotonic() - sent > REPORT_SECONDS:
                pipe.send(report)
                report, sent = WorkerReport(), time.monotonic()
    report.last = True
    pipe.send(report)
