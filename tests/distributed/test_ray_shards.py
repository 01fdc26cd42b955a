"""Shards of a distributed replay as actors of Ray: what a shard does, deaths, books, checkpoints, room.

test_contract says how to install Ray where it is not.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kills
import numpy as np
import pytest
from agent_envs import TwoStates
from test_contract import OWN, ray_actors, shared_memory
from test_replay_shards import shard_spec, some_steps

import pyrl
from pyrl.distributed.replay import ReplayLoop
from pyrl.distributed.shard import ReplayShard, ShardLost
from pyrl.errors import SettingError
from pyrl.trees import leaves

pytestmark = [OWN, pytest.mark.timeout(300), pytest.mark.filterwarnings("ignore")]
SMALL: dict[str, Any] = {
    "num_envs": 4, "net_arch": (8,), "seed": 3, "curve": False, "learning_starts": 100, "batch_size": 16, "buffer_size": 4000,
    "prioritized": True, "backend": "native", "workers": 2, "worker_engine": "ray", "replay_shards": 2, "remote_shards": True,
}  # fmt: skip


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    import ray

    ray.init("local", num_cpus=4, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture
def nothing_is_left(cluster: None) -> Iterator[None]:
    before = shared_memory()
    yield
    assert ray_actors() == {}
    assert shared_memory() <= before


@pytest.fixture
def shards(nothing_is_left: None) -> Iterator[Any]:
    from pyrl.distributed.ray_shard import RemoteShards

    made = RemoteShards()
    yield made
    made.close()


@pytest.fixture
def loops(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Of every run; its books are checked once it has ended."""
    seen, begin, close = list[Any](), ReplayLoop.__init__, ReplayLoop.close

    def beginning(loop: ReplayLoop, *arguments: Any) -> None:
        begin(loop, *arguments)
        seen.append(loop)

    def closing(loop: ReplayLoop) -> None:
        kills.check_shards(loop)
        close(loop)

    monkeypatch.setattr(ReplayLoop, "__init__", beginning)
    monkeypatch.setattr(ReplayLoop, "close", closing)
    return seen


def until(true: Any) -> Any:
    deadline = time.monotonic() + 60
    while not (answer := true()):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    return answer


def same(one: Any, other: Any) -> bool:
    pairs = [*zip(leaves(one), leaves(other), strict=True)]
    return all(np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b or (not a and not b) for a, b in pairs)


def test_it_does_what_a_shard_does(shards: Any) -> None:
    """To the bit: what it takes and refuses, draws, weights, priorities and its state."""
    here, there, n = ReplayShard(shard_spec()), shards.make(shard_spec()), 0
    assert not there.insert(some_steps(9, 4))  # it has not begun
    until(lambda: there.can_insert(some_steps(9, 4)))
    random = np.random.default_rng(0)
    for turn in range(40):
        while here.insert(steps := some_steps(9, 4, seed=n)):
            assert until(lambda: there.insert(steps))
            n += 1
        there.stored()
        assert not there.insert(steps)
        beta = 0.4 + turn / 100
        assert here.can_sample()
        ours, theirs = here.sample(beta), until(lambda: there.sample(beta))  # noqa: B023
        assert ours is not None
        for a, b in zip(ours, theirs, strict=True):
            assert same(a, b)
        priority = [random.random(8).astype(np.float32) for _ in ours]
        here.update_priorities([batch.index for batch in ours], priority)
        there.update_priorities([batch.index for batch in theirs], priority)
    while here.can_sample():
        assert here.sample()
        assert until(lambda: there.sample())
    assert not there.can_sample()
    assert here.counts == there.counts
    assert here.stored() == there.stored() == there.confirmed
    assert same(here.state_dict(), there.state_dict())
    assert n > 10


def test_a_state_goes_in_and_comes_out_in_parts(shards: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyrl.distributed.ray_shard.PART", 1000)
    here, there = ReplayShard(shard_spec()), shards.make(shard_spec())
    for seed in range(2):
        assert here.insert(some_steps(9, 4, seed))
    there.load_state_dict(here.state_dict())
    assert there.counts == here.counts
    assert not there.can_insert(some_steps(9, 4))  # before it is all there
    assert there.stored() == here.stored()
    there.load_state_dict(here.state_dict())  # into one that has begun
    assert there.stored() == here.stored()
    assert same(here.state_dict()["buffer"], there.state_dict()["buffer"])
    there.can_sample(0.5)  # a draw that nobody has used is not in a state
    assert there.state_dict()["limiter"] == {"inserts": here.stored(), "samples": 0}


def test_what_it_raises_comes_with_its_traceback(shards: Any) -> None:
    there, bad = shards.make(shard_spec()), some_steps(9, 4)
    bad.reward[bad.valid] = np.nan
    assert until(lambda: there.insert(bad))
    with pytest.raises(ValueError, match=r"(?s)shard\.py.*extend_some.*reward of step"):
        there.stored()


def test_one_that_does_not_answer_is_lost(shards: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyrl.distributed.ray_shard.ANSWER_SECONDS", 1.0)
    there = shards.make(shard_spec())
    there.stored()
    pid = kills.pid_of_shard(there)
    os.kill(pid, signal.SIGSTOP)
    assert there.insert(some_steps(9, 4))
    with pytest.raises(ShardLost, match="its actor did not answer within 1 s"):
        until(lambda: there.can_sample())
    again = shards.make(shard_spec())
    assert again.stored() == 0
    until(lambda: not Path(f"/proc/{pid}").exists())


def test_losses_in_a_row_end_with_the_first(shards: Any) -> None:
    for kill in range(3):
        there = shards.make(shard_spec())
        there.stored()
        os.kill(kills.pid_of_shard(there), signal.SIGKILL)
        with pytest.raises(ShardLost, match="its actor died"):
            until(lambda: there.insert(some_steps(9, 4)) and False)  # noqa: B023
        there.loss = f"{there.loss} in round {kill}"
    with pytest.raises(ShardLost, match=r"shard 0: its actor died .* in round 0\nso did 2 that replaced it, each before it had stored"):
        shards.make(shard_spec())


def test_killed_in_a_run(nothing_is_left: None, loops: list[Any], tmp_path: Path) -> None:
    """The run goes on; the loss is told; what the last checkpoint has of the shard is back."""
    rows, killed, last = list[Any](), list[int](), tmp_path / "run/checkpoints/last"

    def watch(metrics: Any) -> bool:
        rows.append(dict(metrics))
        loop = loops[0]
        if not killed and sum(loop.inserted) > 1000 and pyrl.checkpoint.read_metadata(last)["replay_env_steps"] > 200:
            os.kill(kills.pid_of_shard(loop.shards[1]), signal.SIGKILL)
            killed.append(loop.inserted[1])
        return bool(killed and loop.lost and loop.shards[1].confirmed > 200)

    run = pyrl.train("dqn", "CartPole-v1", total_steps=10**7, run_dir=tmp_path / "run", on_metrics=watch, **SMALL)
    loop = loops[0]
    assert 0 < rows[-1]["replay/lost"] == loop.lost < killed[0]
    assert run.agent.env_steps == loop.stored + loop.engine.accounts.discarded["lost with a shard"]
    assert all(np.isfinite(list(row.values())).all() for row in rows)


def test_a_run_that_was_stopped_goes_on_with_what_its_shards_held(nothing_is_left: None, loops: list[Any], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run = pyrl.train("dqn", "CartPole-v1", total_steps=1000, run_dir=folder, **SMALL)
    last = folder / "checkpoints/last"
    assert {path.name for path in last.iterdir()} >= {"replay-0.safetensors", "replay-1.safetensors"}
    tree, _ = pyrl.checkpoint.load(last)
    assert sum(tree[f"replay-{k}"]["limiter"]["inserts"] for k in range(2)) == run.agent.env_steps >= 1000
    held = list[Any]()

    def first(metrics: Any) -> None:
        held.append(loops[1].stored)

    load = ReplayLoop.load_state_dict

    def loading(loop: ReplayLoop, state: Any) -> None:
        load(loop, state)
        held.extend(shard.state_dict()["buffer"] for shard in loop.shards)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ReplayLoop, "load_state_dict", loading)
        more = pyrl.train("dqn", "CartPole-v1", resume=folder, total_steps=run.agent.env_steps + 500, on_metrics=first, curve=False)
    for k in range(2):
        saved = tree[f"replay-{k}"]["buffer"]
        assert held[k].keys() == saved.keys()
        assert all(same(held[k][name], saved[name]) for name in saved if name not in ("options", "random"))
    assert more.agent.env_steps == loops[1].stored >= run.agent.env_steps + 500
    assert more.agent.updates > run.agent.updates


def test_random_kills(nothing_is_left: None) -> None:
    """`tests/distributed/kills.py` with few kills; docs/scale.md says what a hundred of them cost."""
    told = kills.of_shards(4, np.random.default_rng(0))
    assert told["collected"] == told["stored"] + sum(told["discarded"].values())
    assert told["stored"] == told["in shards"] + told["lost"]


def test_room(nothing_is_left: None) -> None:
    with pytest.raises(SettingError, match="workers is 2 and replay_shards is 4, but Ray's cluster has 4 CPUs, and each takes one"):
        pyrl.train("dqn", TwoStates, run_dir=False, total_steps=100, **{**SMALL, "backend": "auto", "replay_shards": 4})
    large = {"batch_size": 2**26, "buffer_size": 2**29, "learning_starts": 0, "backend": "auto"}
    with pytest.raises(SettingError, match=r"2 shards have draws and inserts of up to [\d,]+ MiB under way, but the object store has"):
        pyrl.train("dqn", TwoStates, run_dir=False, total_steps=100, **{**SMALL, **large})


def test_a_machine_disappears(loops: list[Any]) -> None:
    """Three nodes on loopback beside the learner's, which has no room: the shard of one that is lost is back on another."""
    import ray
    from ray.cluster_utils import Cluster

    if ray.is_initialized():
        ray.shutdown()
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    try:
        nodes = [cluster.add_node(num_cpus=2) for _ in range(3)]
        ray.init(cluster.address, log_to_driver=False)
        times, state = list[float](), dict[str, float]()

        def node_of(actor: Any) -> str:
            return str(ray._private.state.actors(actor._actor_id.hex())["Address"]["NodeID"])

        def watch(metrics: Any) -> bool:
            times.append(time.monotonic())
            loop = loops[0]
            if not state and min(loop.inserted) > 1000:
                where = node_of(loop.shards[0].actor)
                state["collectors"] = sum(node_of(member.actor) == where for member in loop.engine.members)
                cluster.remove_node(next(node for node in nodes if node.node_id == where), allow_graceful=False)
                state["killed"] = time.monotonic()
            if loop.lost and loop.shards[0].confirmed > 100 and "back" not in state:
                state["back"] = time.monotonic()
            return "back" in state

        run = pyrl.train("dqn", "CartPole-v1", total_steps=10**8, run_dir=False, on_metrics=watch, **SMALL)
        gap, back = np.diff(times).max(), state["back"] - state["killed"]
        print(
            f"node killed with a shard and {state['collectors']} collectors: longest gap {gap:.2f} s, the shard stores again after "
            f"{back:.1f} s, {loops[0].lost:,} transitions lost"
        )
        assert run.metrics[-1]["replay/lost"] == loops[0].lost
    finally:
        ray.shutdown()
        cluster.shutdown()
