"""Asynchronous training: workers in processes of their own, on parameters in shared memory.

Nothing is locked, so nothing waits for a worker that died. A worker whose environment or agent raises ends the run with its
traceback; one that is killed is replaced. Workers leave when they are told to, or when their parent is gone.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any

import torch
import torch.multiprocessing
from torch import Tensor

from pyrl.agents.base import Agent
from pyrl.agents.registry import config_to_json, make_agent
from pyrl.buffers import RolloutBuffer
from pyrl.envs import Stepper, make
from pyrl.errors import EnvError
from pyrl.loops.base import Limits, Loop
from pyrl.seeding import stream_seed
from pyrl.types import Episode, Metrics

REPORT_SECONDS = 0.05  # between two messages of a worker
PATIENCE = 5.0  # seconds a worker gets to leave by itself


@dataclass
class Shared:
    """What workers and parent see the same memory of. Each worker writes its own element of the counters."""

    learned: dict[str, Tensor]  # what the agent shares: parameters, and the optimiser's statistics
    steps: Tensor  # int64 [workers]
    episodes: Tensor  # int64 [workers]
    stop: Tensor  # bool []


@dataclass
class Task:
    """What a worker must know; sent by pickle."""

    algo: str
    config: dict[str, Any]
    observation_space: Any
    action_space: Any
    seed: int
    index: int
    generation: int  # how many were here before it
    factory: Callable[[], Any]
    parent: int  # process id
    limits: Limits


@dataclass
class Report:
    """A worker's message: what happened since the last one."""

    episodes: list[Episode] = field(default_factory=list)
    losses: dict[str, float] = field(default_factory=dict)
    updates: int = 0
    failure: str | None = None  # a traceback


class AsynchronousLoop(Loop):
    """One round = what the workers did in a twentieth of a second or more."""

    def __init__(self, agent: Agent, stepper: Stepper, limits: Limits) -> None:
        super().__init__(agent, stepper, limits)
        if stepper.factory is None:
            raise ValueError(f"{agent.name}: the environment is a vector environment, expected an id or a callable that makes one")
        self.restarts = 0
        self._workers: list[tuple[Any, Connection]] = []

    def __iter__(self) -> Iterator[Metrics]:
        try:
            yield from super().__iter__()
        finally:
            self._stop()

    def begin(self) -> None:
        agent: Any = self.agent
        steps, episodes = (torch.zeros(agent.num_envs, dtype=torch.int64).share_memory_() for _ in range(2))
        self.shared = Shared(agent.share(), steps, episodes, torch.zeros((), dtype=torch.bool).share_memory_())
        self.shared.steps[0], self.shared.episodes[0] = agent.env_steps, self.episodes
        self._workers = [self._start(i, 0) for i in range(agent.num_envs)]

    def round(self) -> dict[str, float]:
        reports: list[Report] = []
        while not reports:
            wait([pipe for _, pipe in self._workers] + [process.sentinel for process, _ in self._workers], timeout=1.0)
            for index, (process, pipe) in enumerate(self._workers):
                alive = process.is_alive()  # asked first, so that what it sent before it died is read
                reports += self._receive(pipe)
                if not alive and not self._done():
                    self.restarts += 1
                    self._workers[index] = self._start(index, self.restarts)
            if self._done() and not any(process.is_alive() for process, _ in self._workers):
                reports += [report for _, pipe in self._workers for report in self._receive(pipe)]
                break
        for report in reports:
            if report.failure is not None:
                raise EnvError(f"{self.agent.name}: a worker failed:\n{report.failure}")
            self.agent.updates += report.updates
            self._count(report.episodes)
        if self.goal_reached:
            self._stop()
        done = self._done() and not any(process.is_alive() for process, _ in self._workers)
        steps = int(self.shared.steps.sum())
        # The run is finished when the workers have left, not before: they may still be writing.
        self.agent.env_steps = steps if done else int(min(steps, self.limits.first_step + self.limits.total_steps - 1))
        self._update_progress()
        losses = [report.losses for report in reports if report.losses]
        means = {key: sum(loss[key] for loss in losses) / len(losses) for key in (losses[0] if losses else {})}
        return {**means, "time/restarts": self.restarts}

    def _done(self) -> bool:
        steps, episodes = int(self.shared.steps.sum()), int(self.shared.episodes.sum())
        return self.limits.share(steps, episodes) >= 1.0 or bool(self.shared.stop)

    def _start(self, index: int, generation: int) -> tuple[Any, Connection]:
        agent = self.agent
        task = Task(
            agent.name, config_to_json(agent.config), agent.observation_space, agent.action_space, agent.seed, index, generation,
            self.stepper.factory, os.getpid(), self.limits,  # type: ignore[arg-type]
        )  # fmt: skip
        try:
            pickle.dumps(task)
        except Exception as error:
            raise ValueError(
                f"{agent.name}: the environment cannot be sent to another process ({error}); pass an id, or a callable of a module"
            ) from error
        context = torch.multiprocessing.get_context("spawn")
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=_work, args=(task, self.shared, sender), daemon=True, name=f"{agent.name}-{index}")
        process.start()
        sender.close()
        return process, receiver

    @staticmethod
    def _receive(pipe: Connection) -> list[Report]:
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
                self._receive(pipe)  # a full pipe would hold it up
                process.join(0.02)
            if process.is_alive():
                process.kill()
                process.join()
            pipe.close()


def _work(task: Task, shared: Shared, pipe: Connection) -> None:
    """The life of a worker."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's affair
    torch.set_num_threads(1)
    try:
        _train(task, shared, pipe)
    except (BrokenPipeError, ConnectionResetError):
        pass  # nobody listens any more
    except Exception:
        with contextlib.suppress(OSError):
            pipe.send(Report(failure=traceback.format_exc()))


def _train(task: Task, shared: Shared, pipe: Connection) -> None:
    agent: Any = make_agent(task.algo, task.observation_space, task.action_space, seed=task.seed, num_envs=1, **task.config)
    agent.become_worker(task.index, task.generation)
    buffer = RolloutBuffer(agent.config.n_steps, 1, task.observation_space, task.action_space)
    report, sent, limits = Report(), time.monotonic(), task.limits
    with make(task.factory, 1) as stepper:
        stepper.reset(seed=stream_seed(task.seed, "worker", task.index, task.generation))
        while not shared.stop and os.getppid() == task.parent:
            done = int(shared.steps.sum()), int(shared.episodes.sum())
            agent.progress = limits.share(*done)
            if agent.progress >= 1.0:
                break
            agent.pull(shared.learned)
            while not buffer.full:
                choice = agent.policy(stepper.observation)
                step = stepper.step(choice.pop("action"))
                buffer.add(step, choice)
                if step.episodes:
                    report.episodes += [Episode(e.episode_return, e.length, task.index, e.success) for e in step.episodes]
                    break
            shared.steps[task.index] += len(buffer)
            shared.episodes[task.index] += len(step.episodes)
            report.losses = agent.gradient(buffer.take(stepper.observation))
            agent.push(shared.learned)
            report.updates += 1
            if time.monotonic() - sent > REPORT_SECONDS:
                pipe.send(report)
                report, sent = Report(), time.monotonic()
    pipe.send(report)
