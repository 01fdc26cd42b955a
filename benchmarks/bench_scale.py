"""What workers in processes reach (docs/scale.md), beside bare processes that do nothing but step, copy and receive.

- collection: two collectors under supervision, whose chunks are received and given back; nobody learns. "bare" are two processes that step
  the same environments by fixed actions, copy what they saw into shared memory and say so: no policy, no records, no supervision.
- weights: a version from the learner to two collectors that wait for one. "bare" copies the same bytes twice.
- learning: one update after the other of a network large enough that two collectors of native environments keep up. "learner alone" has the
  same chunks at once, and no collectors: what is missing to its speed is waiting, and the core that three processes share.
- training: whole runs of two workers, and of one process, CartPole-v1 by the ordinary (lean) and by native environments.

All processes may use all cores, whatever ``--threads`` says. Those of a contender are stopped (SIGSTOP) while others are timed.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from _timing import Case, Unsupported, contender

ENV, WORKERS = "CartPole-v1", 2
WEIGHTS = 4 << 20  # bytes
ENVS, STEPS = 64, 64  # of a collector, of a chunk
LARGE = (512, 512)
IMPALA = dict(n_steps=64, net_arch=(64, 64), learning_rate=1e-3)

CASES = [
    Case(
        f"collect {ENV}, 2 x {ENVS} envs by the NumPy entry point", "scale.collect",
        {"backend": "vector", "env_steps": 400_000}, 400_000, "env steps", ("pyrl local <= 2857143 us",), once=True,  # 140,000 steps/s
    ),
    Case(f"collect {ENV}, 2 x {ENVS} native envs", "scale.collect", {"backend": "native", "env_steps": 1_600_000}, 1_600_000, "env steps", once=True),
    Case("4 MiB of weights to 2 collectors", "scale.weights", {}, 1, "versions", ("pyrl local <= 5000 us",)),
    Case(
        f"learn with impala, {LARGE[0]}x{LARGE[1]}, collectors keep up", "scale.learn", {"env_steps": 160_000}, 160_000, "env steps",
        ("pyrl local 0.95x learner alone",), once=True,
    ),
    *(
        Case(f"train {ENV}, 16 {backend} envs", "scale.train", {"backend": backend, "env_steps": 60_000}, 60_000, "env steps", once=True)
        for backend in ("lean", "native")
    ),
]  # fmt: skip


class Processes:
    """Those that a contender has started: they run during its calls only, and end with it."""

    def __init__(self) -> None:
        os.sched_setaffinity(0, range(os.cpu_count() or 1))
        self._before = set(multiprocessing.active_children())
        self._ours: list[Any] = []

    def started(self) -> None:
        self._ours = [child for child in multiprocessing.active_children() if child not in self._before]

    def during(self, call: Callable[[], None]) -> Callable[[], None]:
        def timed() -> None:
            self._signal(signal.SIGCONT)
            try:
                call()
            finally:
                self._signal(signal.SIGSTOP)

        return timed

    def __del__(self) -> None:
        self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        for child in self._ours:
            if child.is_alive():
                os.kill(child.pid, number)


def until(mark: Callable[[], int], step: Callable[[], object], each: int) -> Callable[[], None]:
    """A call that goes on by ``each``: from mark to mark, so that what one went too far is not done twice."""
    goal = 0

    def call() -> None:
        nonlocal goal
        goal += each
        while mark() < goal:
            step()

    return call


def agent_and_engine(backend: str, **config: Any) -> tuple[Any, Any]:
    from pyrl import make_agent
    from pyrl.distributed.learner import Learner
    from pyrl.distributed.local import LocalEngine
    from pyrl.distributed.sync import Environments
    from pyrl.envs import make

    with make(ENV, 1) as example:
        spaces = example.single_observation_space, example.single_action_space
    agent = make_agent("impala", *spaces, seed=0, num_envs=WORKERS * ENVS, **{**IMPALA, **config})
    options = {"backend": backend, "env_timeout": None}
    return agent, LocalEngine(Learner(agent), Environments(ENV, options), agent.storage(), WORKERS, 0, 10**9)


# -- collection --------------------------------------------------------------------------------------------------------


@contender("scale.collect", "pyrl local")
def collect(backend: str, env_steps: int) -> Callable[[], None]:
    processes, (_, engine) = Processes(), agent_and_engine(backend, n_steps=STEPS)
    engine.start(0)
    processes.started()

    def step() -> None:
        _, release = engine.take(lambda: False)
        release()

    return processes.during(until(lambda: engine.accounts.consumed, step, env_steps))


def bare_collector(memory: Any, free: Connection, filled: Connection) -> None:
    import gymnasium

    columns = np.frombuffer(memory, np.float32).reshape(2, STEPS, ENVS, 8)
    envs = gymnasium.make_vec(ENV, ENVS, vectorization_mode="vector_entry_point")
    envs.reset(seed=0)
    actions = np.random.default_rng(0).integers(0, 2, (STEPS, ENVS))
    while True:
        chunk = columns[free.recv()]
        for row, action in zip(chunk, actions):
            observation, reward, terminated, truncated, _ = envs.step(action)
            row[:, :4], row[:, 4], row[:, 5], row[:, 6], row[:, 7] = observation, action, reward, terminated, truncated
        filled.send(None)


@contender("scale.collect", "bare processes")
def bare_collect(backend: str, env_steps: int) -> Callable[[], None]:
    if backend != "vector":
        raise Unsupported("native environments step in one kernel with the policy")
    processes, context, pipes = Processes(), multiprocessing.get_context("spawn"), []
    for _ in range(WORKERS):
        memory = context.RawArray("f", 2 * STEPS * ENVS * 8)
        (there, free), (filled, back) = context.Pipe(duplex=False), context.Pipe(duplex=False)
        context.Process(target=bare_collector, args=(memory, there, back), daemon=True).start()
        free.send(0)
        free.send(1)
        pipes.append((free, filled, memory))
    processes.started()
    received = [0, 0]

    def step() -> None:
        for free, filled, _ in pipes:
            filled.recv()
            received[0] += STEPS * ENVS
            free.send(received[1] % 2)
        received[1] += 1

    return processes.during(until(lambda: received[0], step, env_steps))


# -- weights -----------------------------------------------------------------------------------------------------------


def reader(shared: Any, asked: Connection, answer: Connection) -> None:
    known = -1
    while asked.recv():
        known = shared.read(known).version
        answer.send(known)


def bare_reader(shared: Any, asked: Connection, answer: Connection) -> None:
    source = shared.numpy()
    own = np.empty_like(source)
    while asked.recv():
        np.copyto(own, source)
        answer.send(0)


def told_and_answered(target: Any, shared: Any, write: Callable[[], None]) -> Callable[[], None]:
    import torch.multiprocessing

    processes, context, pipes = Processes(), torch.multiprocessing.get_context("spawn"), []
    for _ in range(WORKERS):
        (there, asked), (answers, back) = context.Pipe(duplex=False), context.Pipe(duplex=False)
        context.Process(target=target, args=(shared, there, back), daemon=True).start()
        pipes.append((asked, answers))
    processes.started()

    def call() -> None:
        write()
        for asked, _ in pipes:
            asked.send(True)
        for _, answers in pipes:
            answers.recv()

    return call


@contender("scale.weights", "pyrl local")
def weights() -> Callable[[], None]:
    from pyrl.agents.actor import Weights
    from pyrl.distributed.shared import SharedWeights

    values = np.random.default_rng(0).normal(size=WEIGHTS // 4).astype(np.float32)
    shared, version = SharedWeights(values), iter(range(10**9))
    return told_and_answered(reader, shared, lambda: shared.write(Weights(next(version), values)))


@contender("scale.weights", "bare processes")
def bare_weights() -> Callable[[], None]:
    import torch

    values = np.random.default_rng(0).normal(size=WEIGHTS // 4).astype(np.float32)
    shared = torch.zeros(WEIGHTS // 4).share_memory_()
    return told_and_answered(bare_reader, shared, lambda: np.copyto(shared.numpy(), values))


# -- learning ----------------------------------------------------------------------------------------------------------


@contender("scale.learn", "pyrl local")
def learn(env_steps: int) -> Callable[[], None]:
    from pyrl.distributed.chunks import joined

    processes, (agent, engine) = Processes(), agent_and_engine("native", net_arch=LARGE)
    engine.start(0)
    processes.started()

    def step() -> None:
        chunks, release = engine.take(lambda: False)
        rollout = joined(chunks)
        release()
        agent.learn(rollout)
        engine.learner.version += 1
        engine.publish()

    return processes.during(until(lambda: engine.accounts.consumed, step, env_steps))


@contender("scale.learn", "learner alone")
def learn_alone(env_steps: int) -> Callable[[], None]:
    from pyrl.distributed.chunks import joined

    agent, engine = agent_and_engine("native", net_arch=LARGE)
    engine.start(0)
    chunks, release = engine.take(lambda: False)
    chunks = [dataclasses.replace(chunk, rollout=joined([chunk])) for chunk in chunks]  # what they read of stays theirs
    release()
    engine.stop()
    learned = [0]

    def step() -> None:
        agent.learn(joined(chunks))
        agent.weights()
        learned[0] += sum(chunk.steps for chunk in chunks)

    return until(lambda: learned[0], step, env_steps)


# -- training ----------------------------------------------------------------------------------------------------------

TRAINED: dict[str, tuple[str, int, dict[str, Any]]] = {  # algorithm, workers, config
    "impala 2 workers": ("impala", 2, IMPALA),
    "impala one process": ("impala", 0, IMPALA),
    "ppo 2 workers": ("ppo", 2, {"n_steps": 64, "batch_size": 256, "n_epochs": 4}),
    "ppo one process": ("ppo", 0, {"n_steps": 64, "batch_size": 256, "n_epochs": 4}),
    "a3c 2 workers": ("a3c", 2, {"n_steps": 64}),
}


def register(name: str) -> None:
    @contender("scale.train", name)
    def make(backend: str, env_steps: int) -> Callable[[], None]:
        import pyrl
        from pyrl.distributed.loop import iterate_with_workers

        algorithm, workers, config = TRAINED[name]
        processes, num_envs = Processes(), 2 if algorithm == "a3c" else 16
        if algorithm == "a3c" and backend == "native":
            raise Unsupported("a3c steps environments one by one")
        stepper = pyrl.envs.make(ENV, 1 if workers and algorithm != "a3c" else num_envs, backend=backend, seed=0)
        spaces = stepper.single_observation_space, stepper.single_action_space
        agent = pyrl.make_agent(algorithm, *spaces, seed=0, num_envs=num_envs, **config)
        limits = {"total_steps": 10**9, "total_episodes": None, "stop_at_return": None, "stop_window": None}
        rounds: Iterator[Any]
        if workers and algorithm != "a3c":
            told = {"workers": workers, "worker_engine": "local", "max_policy_lag": None}
            options = {"backend": backend, "env_timeout": None}
            rounds = iter(iterate_with_workers(agent, ENV, stepper, told, limits, options))
        else:
            rounds = iter(pyrl.iterate(agent, stepper, total_steps=10**9))
        next(rounds)
        processes.started()
        return processes.during(until(lambda: agent.env_steps, lambda: next(rounds), env_steps))


for _name in TRAINED:
    register(_name)
