"""The engine ``ray`` on this machine: transitions and weights a second, and what a learner with many collectors has to bear.

python benchmarks/bench_ray.py throughput     chunks of 8,192 transitions of 17 numbers, into the queue and into the learner's rollout
python benchmarks/bench_ray.py weights        4 MB of weights, from the learner into two collectors
python benchmarks/bench_ray.py crowd          64 to 512 simulated collectors on one learner (docs/scale.md has the arithmetic)
python benchmarks/bench_ray.py kills          100 kill -9 of collectors at random moments of a training, up to 20 s apart
python benchmarks/bench_ray.py more_kills     30 within a second of each other: another standby is not there yet
python benchmarks/bench_ray.py shards         a replay's shards as actors beside one in the learner's process: inserts and draws

Actors, object store, packing, queue and books are the engine's own; the environments are not there: a chunk is made once and sent again
under the next number. Printed: medians, and the processor's time of the learner's process, which a busy machine does not stretch.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import pickle
import signal
import statistics
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import ray
from gymnasium import spaces

import pyrl.distributed.ray as engine_of_ray
from pyrl.agents.actor import Weights
from pyrl.agents.storage import RolloutSpec
from pyrl.distributed.chunks import Chunk, joined
from pyrl.distributed.packing import pack
from pyrl.distributed.pool import PATIENCE, Task
from pyrl.distributed.ray import RayEngine, Remote
from pyrl.distributed.shared import ChunkLayout
from pyrl.distributed.supervisor import WAITING
from pyrl.distributed.sync import Environments
from pyrl.types import Rollout

OBSERVATION = spaces.Box(-np.inf, np.inf, (17,), np.float32)
ACTION = spaces.Box(-1.0, 1.0, (6,), np.float32)


def made_up(T: int, N: int) -> Chunk:
    """Random numbers, an episode's end every 250 steps."""
    random = np.random.default_rng(0)
    truncated = np.zeros((T, N), bool)
    truncated[249::250] = True
    step, env = np.nonzero(truncated)

    def normal(*shape: int) -> Any:
        return random.normal(size=shape).astype(np.float32)

    rollout = Rollout(
        normal(T + 1, N, 17), normal(T, N, 6), normal(T, N), np.zeros((T, N), bool), truncated, np.ones((T, N), bool),
        np.zeros((T + 1, N), bool), step, env, normal(len(step), 17), {"log_prob": normal(T, N)},
    )  # fmt: skip
    return Chunk(rollout, [], 0, 0, 0, 0)


class Producer:
    """In the place of `CollectorActor`: packs the same chunk again and again, by weights that it loads."""

    def __init__(self, path: list[str], modules: list[str], payload: bytes) -> None:
        self.version, self.collected, self.weights = -1, 0, np.zeros(0, np.float32)
        self.needed = threading.Event()

    def begin(self, payload: bytes) -> None:
        self.needed.set()
        self.task: Task = pickle.loads(payload)
        self.chunk = made_up(self.task.spec.n_steps, self.task.num_envs)

    @ray.method(concurrency_group="standby")
    def stand_by(self) -> None:
        self.needed.wait()

    def collect(self, weights: Weights, values: list[Any]) -> np.ndarray:
        self.pull(weights.version, values)
        self.chunk.collector, self.chunk.incarnation, self.chunk.version = self.task.index, self.task.incarnation, self.version
        self.collected += self.chunk.steps
        blob = pack(self.task.layout, self.chunk, self.collected)
        self.chunk.sequence += 1
        return blob

    def pull(self, version: int, values: list[Any]) -> None:
        if version != self.version:
            self.weights, self.version = np.array(ray.get(values[0])), version

    @ray.method(concurrency_group="signs")
    def signs(self) -> tuple[int, int, int]:
        return WAITING, 0, 0

    @ray.method(concurrency_group="signs")
    def leave(self) -> None:
        pass

    def close(self) -> tuple[int, int, int]:
        return WAITING, 0, self.collected


class Host:
    """Many simulated collectors in one process: each makes a chunk in ``seconds``, as if it stepped environments meanwhile."""

    def __init__(self, layout: ChunkLayout, chunk: Chunk, seconds: float) -> None:
        self.layout, self.chunk, self.seconds = layout, chunk, seconds
        self.sequence, self.due = dict[int, int](), dict[int, float]()

    async def collect(self, index: int, incarnation: int, sequence: int, weights: Weights, values: list[Any]) -> np.ndarray:
        self.sequence[index] = max(sequence, self.sequence.get(index, -1))
        now = time.monotonic()
        due = self.due[index] = max(now, self.due.get(index, now + self.seconds * index / 512)) + self.seconds
        await asyncio.sleep(due - now)
        await values[0]
        self.chunk.collector, self.chunk.incarnation, self.chunk.sequence, self.chunk.version = (
            index,
            incarnation,
            sequence,
            weights.version,
        )
        return pack(self.layout, self.chunk, self.chunk.steps * (sequence + 1))

    async def signs(self, index: int) -> tuple[int, int, int]:
        return WAITING, 0, self.chunk.steps * (self.sequence.get(index, -1) + 1)


class Learner:
    """Publishes weights of ``size`` bytes; learns nothing."""

    def __init__(self, num_envs: int, size: int) -> None:
        self.version, self.values = 0, np.zeros(size // 4, np.float32)
        self.agent: Any = type("NoAgent", (), {})()
        self.agent.num_envs, self.agent.seed, self.agent.name, self.agent.acting = num_envs, 0, "none", None
        self.agent.observation_space, self.agent.action_space = OBSERVATION, ACTION

    def weights(self) -> Weights:
        return Weights(self.version, self.values)

    def lag(self, chunk: Chunk) -> int:
        return self.version - chunk.version


def engine(kind: Any, workers: int, T: int, N: int, size: int) -> Any:
    learner: Any = Learner(workers * N, size)
    spec = RolloutSpec(n_steps=T, extra={"log_prob": ((), "float32")})
    return kind(learner, Environments("none", {}), spec, workers, 0, 10**9)


class ProducerEngine(RayEngine):
    def _open(self) -> None:
        super()._open()
        self.remote = ray.remote(concurrency_groups={"signs": 1, "standby": 1}, **engine_of_ray.OPTIONS)(Producer)


class CrowdEngine(RayEngine):
    """Its collectors are guests of a few hosts."""

    HOSTS, SECONDS = 2, 1.0

    def _open(self) -> None:
        super()._open()
        chunk = made_up(self.spec.n_steps, self.learner.agent.num_envs // self.workers)
        host = ray.remote(num_cpus=0, max_concurrency=4 * self.workers)(Host)
        self.hosts = [host.remote(self.layout, chunk, self.SECONDS) for _ in range(self.HOSTS)]

    def _begin(self, index: int, task: bytes, begun_at: int) -> Remote:
        host, incarnation, number = self.hosts[index % self.HOSTS], self.supervisor.incarnation[index], itertools.count()
        guest = SimpleNamespace(
            collect=SimpleNamespace(remote=lambda weights, values: host.collect.remote(index, incarnation, next(number), weights, values)),
            signs=SimpleNamespace(remote=lambda: host.signs.remote(index)),
        )
        return Remote(index, guest, at_work=True, begun_at=begun_at)

    def _dismiss(self, members: list[Remote]) -> None:
        """Until everybody's chunk is there, or for as long as collectors get."""
        left = [reference for member in members for reference in member.chunks]
        ray.wait(left, num_returns=len(left), timeout=PATIENCE)
        for member in members:
            member.death = "dismissed"

    def _kill(self, member: Remote) -> None:
        pass

    def stop(self) -> None:
        super().stop()
        for host in self.hosts:
            ray.kill(host)


def throughput(seconds: float = 5.0) -> None:
    for workers in (1, 2):
        for size in (1024, 8192):
            pool = engine(ProducerEngine, workers, size // 8, 8, 20_000)
            pool.start(0)
            for join in (False, True):
                rates = []
                for _ in range(3):
                    began, before, steps = time.perf_counter(), time.process_time(), 0
                    while time.perf_counter() - began < seconds:
                        chunks, release = pool.take(lambda: False)
                        if join:
                            joined(chunks)
                        steps += sum(chunk.steps for chunk in chunks)
                        release()
                    rates.append((steps / (time.perf_counter() - began), steps / (time.process_time() - before)))
                rate, own = (statistics.median(column) for column in zip(*rates))
                where = "into a rollout" if join else "into the queue"
                print(f"{workers} collectors, chunks of {size:,}, {where}: {rate / 1e6:.2f} M/s; {own / 1e6:.2f} M a CPU second")
            pool.stop()
            pool.accounts.check()


def weights(size: int = 4_000_000) -> None:
    pool = engine(ProducerEngine, 2, 8, 1, size)
    pool.start(0)
    actors = [member.actor for member in pool.members]
    values, taken = np.zeros(size // 4, np.float32), []
    for version in range(120):
        values[:] = version
        began = time.perf_counter()
        reference = ray.put(values)
        ray.get([actor.pull.remote(version, [reference]) for actor in actors])
        taken.append(1e3 * (time.perf_counter() - began))
    taken = sorted(taken[20:])
    pool.stop()
    print(f"{size / 1e6:g} MB of weights into 2 collectors, there and loaded: {taken[50]:.2f} ms, 90 % within {taken[90]:.2f} ms")


def crowd(seconds: float = 8.0) -> None:
    """Each collector makes a chunk of 1,000 transitions a second; the learner takes as many as there are collectors for an update."""
    engine_of_ray.OPTIONS["num_cpus"] = 0
    ray.init("local", num_cpus=2, include_dashboard=False)  # Ray starts a process for each CPU
    for workers in (64, 128, 256, 512):
        pool = engine(CrowdEngine, workers, 125, 8, 100_000)
        pool.start(0)
        pool.take(lambda: False)[1]()
        began, before, chunks, updates, received, lag = time.perf_counter(), time.process_time(), 0, 0, pool.bytes_received, 0
        while time.perf_counter() - began < seconds:
            taken, release = pool.take(lambda: False)
            lag += sum(map(pool.learner.lag, taken))
            release()
            chunks, updates = chunks + len(taken), updates + 1
            pool.learner.version += 1
            pool.publish()
        wall, own = time.perf_counter() - began, time.process_time() - before
        print(
            f"{workers} collectors: {chunks / wall:,.0f} chunks/s of {workers} wanted, "
            f"{(pool.bytes_received - received) / wall / 1e6:.1f} MB/s, "
            f"{updates / wall:.2f} updates/s, lag {lag / chunks:.1f}, {1e6 * own / chunks:.0f} us of the learner a chunk "
            f"({100 * own / wall:.0f} % of a core)",
            flush=True,
        )
        pool.stop()


def more_kills() -> None:
    kills(30, 1.0)


def ran_and_waited(pid: int) -> np.ndarray:
    """Seconds that a process has been on a processor and waited for one: the first by all threads, both by its main thread; else zeros."""
    try:
        each = {task: (Path(f"/proc/{pid}/task/{task}/schedstat")).read_text().split() for task in os.listdir(f"/proc/{pid}/task")}
        return np.array([sum(int(ran) for ran, *_ in each.values()), *map(int, each[str(pid)][:2])]) / 1e9
    except (OSError, LookupError):
        return np.zeros(3)


def kills(count: int = 100, apart: float = 20.0) -> None:
    from bench_scale import offspring

    import pyrl
    from pyrl.distributed.engine_loop import EngineLoop

    before = offspring(os.getpid())
    loops, reset = list[Any](), EngineLoop.reset

    def beginning(loop: Any) -> None:
        loops.append(loop)
        reset(loop)

    EngineLoop.reset = beginning  # type: ignore[method-assign]
    random = np.random.default_rng(0)
    pids: dict[str, int] = {}  # of actors that have started

    def pid_of(actor: Any) -> int | None:
        name = actor._actor_id.hex()
        if name not in pids:
            told = ray._private.state.actors(name)
            if told.get("State") != "ALIVE" or not told["Pid"]:
                return None
            pids[name] = int(told["Pid"])
        return pids[name]

    times, waited = list[float](), list[list[np.ndarray]]()  # at each update; waited: of the learner and of both collectors
    killed: dict[int, tuple[float, int, float | None]] = {}  # collector: when, its incarnation, the CPU seconds of who stood by
    back: dict[bool, list[float]] = {True: [], False: []}  # seconds, by whether somebody stood by
    spent = list[float]()  # CPU seconds of who stood by, until its first chunk
    state: dict[str, Any] = {"due": 0.0, "done": 0}

    def watch(metrics: Any) -> bool:
        now, pool = time.monotonic(), loops[0].engine
        times.append(now)
        collectors = [(pid_of(member.actor) or 0) if member.received else 0 for member in pool.members]
        waited.append([ran_and_waited(pid) for pid in (os.getpid(), *collectors)])
        for index, (at, incarnation, stood) in list(killed.items()):
            if pool.members[index].received and pool.supervisor.incarnation[index] > incarnation:
                back[stood is not None].append(now - at)
                if stood is not None:
                    spent.append(ran_and_waited(collectors[index])[0] - stood)
                del killed[index]
                state["due"] = now + apart * random.random()
                if state["done"] % 10 == 0:
                    print(f"   {state['done']} kills, load {os.getloadavg()[0]:.0f}, longest gap {np.diff(times).max():.2f} s", flush=True)
        if state["done"] < count and now > state["due"] and not killed:
            index = int(random.integers(2))
            if pool.members[index].received > 1000 and (pid := pid_of(pool.members[index].actor)) is not None:
                ready = None if pool.standby is None else pid_of(pool.standby.actor)
                os.kill(pid, signal.SIGKILL)
                killed[index] = now, pool.supervisor.incarnation[index], None if ready is None else ran_and_waited(ready)[0]
                state["done"] += 1
        return state["done"] >= count and not killed

    run = pyrl.train(
        "impala", "CartPole-v1", total_steps=10**9, workers=2, worker_engine="ray", backend="native", run_dir=False, on_metrics=watch
    )
    books, gaps = loops[0].engine.accounts, np.diff(times)
    print(f"{state['done']} kills: longest gap between two updates {gaps.max():.2f} s (99.99 %: {np.quantile(gaps, 0.9999):.3f} s)")
    for at in np.argsort(gaps)[:-4:-1]:
        who = zip(("learner", "collector 0", "collector 1"), waited[at], waited[at + 1])
        parts = [f"{name} ran {(b - a)[1]:.2f}, waited {(b - a)[2]:.2f}" for name, a, b in who if a.any() and b.any()]
        print(f"   {gaps[at]:.2f} s: for a processor, {'; '.join(parts)}")
    for who, these in {"all": back[True] + back[False], "where somebody stood by": back[True], "where nobody did yet": back[False]}.items():
        if these:
            q = np.quantile(these, [0.5, 0.95, 1.0])
            print(f"the next chunk from that place, {who} ({len(these)}): {q[0]:.2f} s (median), {q[1]:.2f} s (95 %), {q[2]:.2f} s (worst)")
    if spent:
        print(f"CPU of who stood by, until then: {1e3 * np.median(spent):.0f} ms (median), {1e3 * max(spent):.0f} ms (worst)")
    print(f"load {os.getloadavg()[0]:.0f}; processes left: {sorted(offspring(os.getpid()) - before)}")
    print(f"books: {books.collected:,} collected = {books.consumed:,} consumed + {dict(books.discarded)}; {run.agent.updates:,} updates")


def shards(seconds: float = 3.0) -> None:
    """By the clock, and by the processor's time of the learner's process."""
    from bench_shards import ENVS, shard_spec, spec_and_chunk

    from pyrl.distributed.ray_shard import RemoteShards
    from pyrl.distributed.shard import ReplayShard
    from pyrl.distributed.transitions import Transitions

    ray.init("local", num_cpus=2, include_dashboard=False, logging_level="ERROR")
    spec, chunk = spec_and_chunk()
    many, whole = RemoteShards(), chunk.rollout
    assert isinstance(whole, Transitions)
    few = Transitions(whole.observation[:16], whole.action[:16], whole.reward[:16], whole.next_observation[:16], whole.terminated[:16],
                      whole.truncated[:16], whole.valid[:16], priority=whole.priority[:16])  # fmt: skip

    def rates(what: str, size: int, call: Any) -> None:
        told = []
        for _ in range(3):
            began, before, count = time.perf_counter(), time.process_time(), 0
            while time.perf_counter() - began < seconds:
                if done := call():
                    count += 1
                elif awaited := many.awaited():
                    ray.wait(awaited, timeout=0.1)
                assert done or awaited
            told.append((size * count / (time.perf_counter() - began), 1e6 * (time.process_time() - before) / count))
        rate, own = (statistics.median(column) for column in zip(*told))
        print(f"{what}: {rate / 1e6:.2f} M transitions/s, {own:.0f} us of the learner each", flush=True)

    def draw(targets: list[Any], work: float) -> bool:
        for target in targets:
            if target.can_sample(0.4):
                batches = target.sample(0.4)
                until = time.process_time() + work
                while time.process_time() < until:
                    pass
                target.update_priorities([batch.index for batch in batches], priority)
                return True
        return False

    priority = [np.random.default_rng(0).random(256).astype(np.float32)] * 16
    for name, count, make in (("in the learner", 1, ReplayShard), ("an actor", 1, many.make), ("two actors", 2, many.make)):
        targets = [make(shard_spec(spec, True, index, count)) for index in range(count)]
        turn = itertools.cycle(targets)
        for target in targets:
            target.stored()  # it has started
        for steps in (few, whole):
            rates(f"{name}: inserts of {16 * ENVS if steps is few else 128 * ENVS:,}", steps.steps, lambda: next(turn).insert(steps))  # noqa: B023
        while targets[0].stored() < 2**20:
            targets[0].insert(whole)
        state = {**targets[0].state_dict(), "limiter": {"inserts": 2**52, "samples": 0}}  # as many draws as one likes
        many.close()
        targets = [make(replace(target.spec, samples_per_insert=1.0)) for target in targets]
        for target in targets:
            target.load_state_dict(state)
            target.stored()
        for work in (0.0, 0.01):
            rates(f"{name}: 16 batches of 256, {1e3 * work:g} ms of learning each", 16 * 256, lambda: draw(targets, work))  # noqa: B023
        many.close()


if __name__ == "__main__":
    subjects = {
        "throughput": throughput, "weights": weights, "crowd": crowd, "kills": kills, "more_kills": more_kills, "shards": shards,
    }  # fmt: skip
    for name in sys.argv[1:] or subjects:
        print(f"-- {name}", flush=True)
        subjects[name]()
        ray.shutdown()
