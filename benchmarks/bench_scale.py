"""What workers in processes reach (docs/scale.md), beside bare processes that do nothing but step, copy and receive.

- collection: two collectors under supervision, whose chunks are received and given back; nobody learns. The floor is two processes that
  step the same environments by fixed actions, copy what they saw into shared memory and say so: no policy, no records, no supervision.
- weights: a version from the learner to two collectors that wait for one. The floor copies the same bytes twice.
- learning: one update after the other of a network large enough that two collectors of native environments keep up. The floor has the
  same chunks at once, and no collectors: what is missing to its speed is waiting, and the core that three processes share.
- group: one update of a rollout [64, 64] by one learner and by two (`pyrl.distributed.group`). By the processors' time both count together:
  two pay where they take less than twice the time of one.
- training: whole runs of two workers, and of one process, CartPole-v1 by the ordinary (lean) and by native environments.

All processes may use all cores, whatever ``--threads`` says. Those of a contender are stopped (SIGSTOP) while others are timed.

    python benchmarks/run.py scale                            as every other subject: by the clock
    python benchmarks/bench_scale.py [REGEX] [--rounds 3]     by the processors' time: for a machine that others use too

The second counts the CPU seconds of all processes of a contender; units / (CPU seconds / 2) is what two cores reach that do nothing else,
where the work is spread evenly.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import multiprocessing
import os
import re
import signal
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
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
        {"backend": "vector", "env_steps": 100_000}, 100_000, "env steps", ("pyrl local <= 714286 us",), once=True,  # 140,000 steps/s
    ),
    Case(
        f"collect {ENV}, 2 x {ENVS} native envs", "scale.collect",
        {"backend": "native", "env_steps": 400_000}, 400_000, "env steps", once=True,
    ),
    Case("4 MiB of weights to 2 collectors", "scale.weights", {}, 1, "versions", ("pyrl local <= 5000 us",)),
    Case(
        f"learn with impala, {LARGE[0]}x{LARGE[1]}, collectors keep up", "scale.learn", {"env_steps": 40_000}, 40_000, "env steps",
        ("pyrl local 0.95x floor learner alone",), once=True,
    ),
    *(
        Case(f"update {width}x{width}", "scale.group", {"width": width, "updates": 10}, 10, "updates", once=True)
        for width in (64, 96, 128, 256, 512)
    ),
    *(
        Case(f"train {ENV}, 16 {backend} envs", "scale.train", {"backend": backend, "env_steps": 20_000}, 20_000, "env steps", once=True)
        for backend in ("lean", "native")
    ),
]  # fmt: skip


def offspring(pid: int) -> set[int]:
    """Processes that it started, and theirs: collectors are forked by another."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    children = {int(child) for task in tasks for child in (task / "children").read_text().split()}
    return children.union(*map(offspring, children))


class Processes:
    """Those that a contender has started: they run during its calls only, and end with it."""

    def __init__(self) -> None:
        os.sched_setaffinity(0, range(os.cpu_count() or 1))
        self._before = offspring(os.getpid())
        self._ours = set[int]()

    def started(self, engine: Any = None) -> None:
        """They are there, those of ``engine`` too, which does not wait for its collectors."""
        while engine is not None and any(member.process.is_alive() and member.process.pid is None for member in engine.members):
            time.sleep(0.01)
        self._ours = {
            pid for pid in offspring(os.getpid()) - self._before if b"resource_tracker" not in Path(f"/proc/{pid}/cmdline").read_bytes()
        }

    def during(self, call: Callable[[], None]) -> Callable[[], None]:
        def timed() -> None:
            self._signal(signal.SIGCONT)
            try:
                call()
            finally:
                self._signal(signal.SIGSTOP)

        timed.cpu_seconds = self.cpu_seconds  # type: ignore[attr-defined]
        return timed

    def cpu_seconds(self) -> float:
        """Of this process and of those, so far."""
        ticks = 0
        for child in self._ours:
            ticks += sum(map(int, Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[11:13]))
        return time.process_time() + ticks / os.sysconf("SC_CLK_TCK")

    def __del__(self) -> None:
        self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        for child in self._ours:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, number)


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
    processes.started(engine)

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


@contender("scale.collect", "floor bare processes")
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

    return processes.during(call)


@contender("scale.weights", "pyrl local")
def weights() -> Callable[[], None]:
    from pyrl.agents.actor import Weights
    from pyrl.distributed.shared import SharedWeights

    values = np.random.default_rng(0).normal(size=WEIGHTS // 4).astype(np.float32)
    shared, version = SharedWeights(Weights(0, values)), iter(range(10**9))
    return told_and_answered(reader, shared, lambda: shared.write(Weights(next(version), values)))


@contender("scale.weights", "floor bare processes")
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
    processes.started(engine)

    def step() -> None:
        chunks, release = engine.take(lambda: False)
        rollout = joined(chunks)
        release()
        agent.learn(rollout)
        engine.learner.version += 1
        engine.publish()

    return processes.during(until(lambda: engine.accounts.consumed, step, env_steps))


@contender("scale.learn", "floor learner alone")
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


# -- group -------------------------------------------------------------------------------------------------------------


def register_group(learners: int) -> None:
    @contender("scale.group", f"pyrl {learners} learner{'s' if learners > 1 else ''}")
    def group(width: int, updates: int) -> Callable[[], None]:
        from pyrl.distributed.group import OwnGroup
        from pyrl.distributed.shared import ChunkLayout
        from pyrl.types import Rollout

        processes, (agent, _) = Processes(), agent_and_engine("native", net_arch=(width, width))
        random, shape = np.random.default_rng(0), (64, 64)
        rollout = Rollout(
            random.normal(size=(65, 64, 4)).astype(np.float32), random.integers(0, 2, shape), np.ones(shape, np.float32),
            *(np.zeros(shape, bool) for _ in range(2)), np.ones(shape, bool), np.zeros((65, 64), bool), np.zeros(0, np.int64),
            np.zeros(0, np.int64), np.zeros((0, 4), np.float32), {"log_prob": np.full(shape, np.log(0.5), np.float32)},
        )  # fmt: skip
        learn = agent.learn
        if learners > 1:
            layout = ChunkLayout.of(agent.storage(), 64 // learners, agent.observation_space, agent.action_space, 0)
            learn = OwnGroup(agent, layout, learners).learn
            learn(rollout)
        processes.started()

        def call() -> None:
            for _ in range(updates):
                learn(rollout)

        return processes.during(call)


for _learners in (1, 2):
    register_group(_learners)


# -- training ----------------------------------------------------------------------------------------------------------

TRAINED: dict[str, tuple[str, int, dict[str, Any]]] = {  # algorithm, workers, config
    "pyrl impala 2 workers": ("impala", 2, IMPALA),
    "pyrl impala one process": ("impala", 0, IMPALA),
    "pyrl ppo 2 workers": ("ppo", 2, {"n_steps": 64, "batch_size": 256, "n_epochs": 4}),
    "pyrl ppo one process": ("ppo", 0, {"n_steps": 64, "batch_size": 256, "n_epochs": 4}),
    "pyrl a3c 2 workers": ("a3c", 2, {"n_steps": 64}),
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
        rounds, engine = iter(list[Any]()), None
        if workers and algorithm != "a3c":
            told = {"workers": workers, "worker_engine": "local", "max_policy_lag": None}
            options = {"backend": backend, "env_timeout": None}
            loop = iterate_with_workers(agent, ENV, stepper, told, limits, options)
            rounds = iter(loop)
            engine = loop.engine
        else:
            rounds = iter(pyrl.iterate(agent, stepper, total_steps=10**9))
        next(rounds)
        processes.started(engine)
        return processes.during(until(lambda: agent.env_steps, lambda: next(rounds), env_steps))


for _name in TRAINED:
    register(_name)


def main() -> None:
    from _timing import _makers

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("only", nargs="?", default="", help="cases whose name matches this regular expression")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    for case in CASES:
        if not re.search(options.only, case.name):
            continue
        calls = dict[str, Callable[[], None]]()
        for name, make in _makers[case.op].items():
            try:
                calls[name] = make(**case.params)
                calls[name]()
            except Unsupported as reason:
                print(f"{case.name}: {name}: {reason}")
        rates = {name: list[float]() for name in calls}
        repeat = 1 if case.once else 100
        for _ in range(options.rounds):
            for name, call in calls.items():
                seconds = getattr(call, "cpu_seconds", time.process_time)
                before = seconds()
                for _ in range(repeat):
                    call()
                rates[name].append(2 * repeat * case.units / max(seconds() - before, 1e-3))
        for name, measured in rates.items():
            print(f"{case.name}: {name}: {np.median(measured):,.0f} {case.unit} in a second of two cores", flush=True)
        calls.clear()


if __name__ == "__main__":
    import bench_scale  # what processes import by name

    bench_scale.main()
