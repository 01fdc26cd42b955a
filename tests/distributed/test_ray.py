"""What only the engine `ray` promises: whose Ray it is, who can reach it, and what happens when a machine disappears.

test_contract says how to install Ray where it is not.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_contract import OWN, SMALL, pid_of, ray_actors
from test_roles import ACTION, OBSERVATION, SPEC, chunk, same_rollouts

import pyrl
from pyrl.distributed.packing import pack, unpack
from pyrl.distributed.shared import ChunkLayout
from pyrl.errors import SettingError

pytestmark = [OWN, pytest.mark.timeout(240), pytest.mark.filterwarnings("ignore")]


@pytest.mark.parametrize("mask", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_a_chunk_is_unpacked_as_it_was_packed(seed: int, mask: bool) -> None:
    layout = ChunkLayout.of(SPEC, 3, OBSERVATION, ACTION, 5 if mask else 0)
    given = chunk(3, seed, mask, sequence=5, version=2**40)
    blob = pack(layout, given, 2**40 + 1)
    assert blob.nbytes < layout.size
    blob.flags.writeable = False  # as Ray gives it
    got, collected = unpack(layout, blob, 1)
    same_rollouts(got.rollout, given.rollout)
    assert collected == 2**40 + 1
    assert (got.collector, got.incarnation, got.sequence, got.version) == (1, 7, 5, 2**40)
    assert [(e.episode_return, e.length, e.env_index, e.success) for e in got.episodes] == [
        (e.episode_return, e.length, e.env_index, e.success) for e in given.episodes
    ]


def test_a_ray_of_our_own_is_for_this_machine_alone_and_ends(tmp_path: Path) -> None:
    """In a program that has none: tokens on, nothing listens beyond loopback, no process is left."""
    program = tmp_path / "program.py"
    program.write_text("""
import os, re, subprocess, ray, pyrl
from test_contract import offspring

seen = []
def watch(metrics):
    if not seen:
        seen.append(ray.get_runtime_context().gcs_address)
        listening = subprocess.run(["ss", "-ltnpH"], capture_output=True, text=True).stdout.splitlines()
        ours = {os.getpid(), *offspring(os.getpid())}
        print("LISTENING", [line.split()[3] for line in listening if ours & set(map(int, re.findall(r"pid=(\\d+)", line)))])
        print("AUTH", os.environ.get("RAY_AUTH_MODE"))
run = pyrl.train("impala", "CartPole-v1", total_steps=400, workers=2, num_envs=2, worker_engine="ray", run_dir=False, on_metrics=watch)
print("LEFT", ray.is_initialized(), "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER" in os.environ)
""")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    ended = subprocess.run([sys.executable, program], capture_output=True, text=True, env=environment, timeout=200, check=False)
    assert ended.returncode == 0, ended.stderr
    said = dict(line.split(" ", 1) for line in ended.stdout.splitlines() if line.startswith(("LISTENING", "AUTH", "LEFT")))
    addresses = re.findall(r"'([^']+)'", said["LISTENING"])
    assert len(addresses) >= 3
    assert all(re.match(r"(127\.|\[::ffff:127\.|\[::1\])", address) for address in addresses), addresses
    assert said["AUTH"] in ("token", "None")
    assert said["LEFT"] == "False False"


def test_whose_ray_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    options: dict[str, Any] = {"total_steps": 64, "worker_engine": "ray", **SMALL}
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")  # which is what "auto" is then
    for address in ("127.0.0.1:1", "ray://127.0.0.1:1", "auto", "nowhere"):
        begun = time.monotonic()
        with pytest.raises(SettingError, match=f"address is '{address}', but no Ray answers there"):
            pyrl.train("impala", "CartPole-v1", workers=1, address=address, **options)
        assert time.monotonic() - begun < 15
    monkeypatch.delenv("RAY_ADDRESS")
    assert not ray.is_initialized()
    ray.init("local", num_cpus=1, include_dashboard=False, log_to_driver=False)
    try:
        handler = signal.getsignal(signal.SIGTERM)
        with pytest.raises(SettingError, match=r"address is '127\.0\.0\.1:1', but the program is connected to the Ray at"):
            pyrl.train("impala", "CartPole-v1", workers=1, address="127.0.0.1:1", **options)
        with pytest.raises(SettingError, match="workers is 2, but Ray's cluster has 1 CPUs, and each takes one"):
            pyrl.train("impala", "CartPole-v1", workers=2, **options)
        with pytest.raises(SettingError, match=r"have chunks of up to [\d,]+ MiB under way, but the object store has"):
            pyrl.train("impala", "CartPole-v1", workers=1, **options | {"n_steps": 2**24})
        for address in (None, "auto", ray.get_runtime_context().gcs_address):
            run = pyrl.train("impala", "CartPole-v1", workers=1, address=address, **options)
            assert run.agent.env_steps == 64
        assert ray.is_initialized()
        assert signal.getsignal(signal.SIGTERM) == handler
        assert ray_actors() == {}
    finally:
        ray.shutdown()


def test_a_machine_disappears() -> None:
    """Three nodes on loopback, the learner's has no room for collectors: the run goes on, and both collectors are at work at the end."""
    import ray
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    try:
        nodes = [cluster.add_node(num_cpus=2) for _ in range(2)]
        ray.init(cluster.address, log_to_driver=False)
        rows, killed, at_work = list[Any](), list[float](), set[int]()  # environments whose episodes ended since

        def watch(metrics: Any) -> None:
            rows.append((time.monotonic(), dict(metrics)))
            if not killed and metrics["time/env_steps"] > 1000:
                cluster.remove_node(nodes[0], allow_graceful=False)
                killed.append(time.monotonic())
            if metrics["time/restarts"]:
                at_work.update(e.env_index for e in metrics.episodes)
            if len(at_work) == 4:
                raise StopIteration

        with pytest.raises(StopIteration):
            pyrl.train("impala", "CartPole-v1", total_steps=10**8, workers=2, worker_engine="ray", on_metrics=watch, **SMALL)
        times = np.array([at for at, _ in rows])
        print(f"node killed: longest gap {np.diff(times).max():.2f} s, both at work after {times[-1] - killed[0]:.1f} s")
        assert rows[-1][1]["time/restarts"] >= 1
        assert rows[-1][1]["time/env_steps"] > 1000
    finally:
        ray.shutdown()
        cluster.shutdown()


@pytest.fixture
def pools(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """The engine of each run, on a Ray of two CPUs."""
    import ray

    from pyrl.distributed.ray import RayEngine

    seen, start = list[Any](), RayEngine.start
    monkeypatch.setattr(RayEngine, "start", lambda engine, env_steps: (seen.append(engine), start(engine, env_steps)))
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield seen
    assert ray_actors() == {}
    ray.shutdown()


def test_an_actor_stands_by(pools: list[Any]) -> None:
    """It takes the place of who dies and claims no CPU that a collector wants; one that has died itself takes no place."""
    import ray

    def until(condition: Any) -> Iterator[None]:
        while not condition():
            yield

    def story() -> Iterator[None]:
        (pool,) = pools

        def claims() -> float:
            return float(pool.standby.cpus + sum(member.cpus for member in pool.members))

        def killed(role: Any) -> None:
            pid = pid_of(role)
            assert pid is not None
            os.kill(pid, signal.SIGKILL)

        yield from until(lambda: pool.standby is not None and pid_of(pool.standby) is not None)
        assert pool.standby.cpus == 0
        assert [member.cpus for member in pool.members] == [1, 1]
        stood = pool.standby.actor
        yield from until(lambda: pool.members[0].received >= 1000)
        killed(pool.members[0])
        yield from until(lambda: pool.members[0].actor is stood and pool.members[0].received >= 1000)
        yield from until(lambda: pool.standby is not None and pid_of(pool.standby) is not None)
        assert (pool.standby.cpus, claims()) == (1, 2)

        killed(pool.standby)
        yield from until(lambda: ray.wait([pool.standby.death], timeout=0)[0])
        dead = pool.standby.actor
        yield from until(lambda: pool.members[1].received >= 1000)
        killed(pool.members[1])
        yield from until(lambda: pool.supervisor.restarts == 2)
        assert pool.members[1].actor is not dead
        version, put, first = pool.learner.version, pool.queue.put, list[Any]()
        pool.queue.put = lambda chunk, release: (first.append(chunk) if chunk.collector else None, put(chunk, release))
        yield from until(lambda: first)
        assert first[0].version > version  # not those of when it began, which took a process of its own seconds
        yield from until(lambda: pool.standby is not None)
        assert (pool.standby.cpus, claims()) == (1, 2)
        assert pool.supervisor.restarts == 2

    told = story()
    pyrl.train(
        "impala", "CartPole-v1", total_steps=10**8, workers=2, worker_engine="ray", backend="native",
        on_metrics=lambda metrics: next(told, "over") == "over", **SMALL,
    )  # fmt: skip


def test_collectors_work_while_the_learner_draws(pools: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether it waits for a chunk or not, two of each collector are under way or not yet read."""
    from pyrl.distributed.ray import RayEngine

    take, seen = RayEngine.take_ready, list[int]()

    def taken(engine: Any, *asked: Any) -> Any:
        answer = take(engine, *asked)
        seen.extend(len(member.chunks) + engine.held[member.index] for member in engine.members if member.at_work)
        return answer

    monkeypatch.setattr(RayEngine, "take_ready", taken)
    pyrl.train(
        "dqn", "CartPole-v1", total_steps=2000, workers=2, worker_engine="ray", num_envs=4, net_arch=(8,), learning_starts=200,
        buffer_size=1000, batch_size=8, curve=False, run_dir=False,
    )  # fmt: skip
    assert set(seen) == {2}


def test_a_collector_without_a_request_is_no_reason_to_spin(pools: list[Any]) -> None:
    import ray

    from pyrl.distributed.ray import RayEngine, Remote
    from pyrl.distributed.ray_shard import RemoteShards

    engine = RayEngine.__new__(RayEngine)
    engine.shards = RemoteShards()
    never = ray.remote(lambda: time.sleep(60)).remote()
    engine.members = [Remote(0, None, begun_at=0), Remote(1, None, begun_at=0, chunks=deque([never]))]
    begun = time.monotonic()
    engine._wait(0.2)
    assert time.monotonic() - begun > 0.15
    ray.cancel(never, force=True)
