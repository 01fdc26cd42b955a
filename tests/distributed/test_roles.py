"""Chunks, their books, the queue, and what lies in shared memory, against the obvious."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from pyrl import make_agent
from pyrl.agents.actor import Weights
from pyrl.agents.storage import RolloutSpec
from pyrl.distributed.chunks import Accounts, Chunk, joined
from pyrl.distributed.learner import Learner, RolloutQueue
from pyrl.distributed.shared import ChunkLayout, SharedWeights
from pyrl.distributed.supervisor import STEPPING, WAITING, Failure, Supervisor, Vital, Vitals
from pyrl.errors import AccountingError, EnvError
from pyrl.loops.supervision import DEATHS, ENOUGH, START_SECONDS
from pyrl.types import Episode, Progress, Rollout, map_observation

T = 5
OBSERVATION = spaces.Dict(
    {"a": spaces.Box(-1, 1, (2,), np.float32), "b": spaces.Tuple((spaces.Discrete(3), spaces.Box(0, 255, (2, 2), np.uint8)))}
)
ACTION = spaces.MultiDiscrete([2, 3])
SPEC = RolloutSpec(n_steps=T, extra={"log_prob": ((), "float32"), "memory": ((3,), "float64")})


def chunk(N: int, seed: int = 0, mask: bool = True, sequence: int = 0, version: int = 0, collector: int = 1) -> Chunk:
    random = np.random.default_rng(seed)

    def observations(*leading: int) -> Any:
        return {
            "a": random.normal(size=(*leading, 2)).astype(np.float32),
            "b": (random.integers(0, 3, leading), random.integers(0, 256, (*leading, 2, 2)).astype(np.uint8)),
        }

    truncated = random.random((T, N)) < 0.3
    step, env = np.nonzero(truncated)
    rollout = Rollout(
        observations(T + 1, N), random.integers(0, 2, (T, N, 2)), random.normal(size=(T, N)).astype(np.float32),
        random.random((T, N)) < 0.2, truncated, random.random((T, N)) < 0.9, random.random((T + 1, N)) < 0.2, step, env,
        observations(len(step)), {"log_prob": random.normal(size=(T, N)).astype(np.float32), "memory": random.normal(size=(T, N, 3))},
        random.random((T, N, 5)) < 0.5 if mask else None,
    )  # fmt: skip
    episodes = [Episode(1.5, 3, 4, None), Episode(-0.1, 1, 0, True), Episode(float(seed), 2, 1, False)][: seed % 4]
    return Chunk(rollout, episodes, collector, 7, sequence, version)


def same(a: Any, b: Any) -> None:
    assert a.dtype == b.dtype
    np.testing.assert_array_equal(a, b)


def same_rollouts(a: Rollout, b: Rollout) -> None:
    map_observation(same, a.observation, b.observation)
    map_observation(same, a.final_observation, b.final_observation)
    for name in ("action", "reward", "terminated", "truncated", "valid", "first", "final_step", "final_env"):
        same(getattr(a, name), getattr(b, name))
    for name in a.extra.keys() | b.extra.keys():
        same(a.extra[name], b.extra[name])
    assert (a.action_mask is None) == (b.action_mask is None)
    if a.action_mask is not None:
        same(a.action_mask, b.action_mask)


def test_joined_rollouts_lie_side_by_side() -> None:
    chunks = [chunk(2, 1), chunk(1, 2), chunk(3, 3)]
    whole = joined(chunks)
    at = 0
    for part in (c.rollout for c in chunks):
        N = part.reward.shape[1]
        own = (whole.final_env >= at) & (whole.final_env < at + N)
        cut = Rollout(
            map_observation(lambda x: x[:, at : at + N], whole.observation),  # noqa: B023
            *(getattr(whole, name)[:, at : at + N] for name in ("action", "reward", "terminated", "truncated", "valid", "first")),
            whole.final_step[own], whole.final_env[own] - at, map_observation(lambda x: x[own], whole.final_observation),  # noqa: B023
            {name: column[:, at : at + N] for name, column in whole.extra.items()}, whole.action_mask[:, at : at + N],
        )  # fmt: skip
        same_rollouts(cut, part)
        at += N


@pytest.mark.parametrize("mask", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_a_chunk_comes_out_of_a_slot_as_it_went_in(seed: int, mask: bool) -> None:
    layout = ChunkLayout.of(SPEC, 3, OBSERVATION, ACTION, 5 if mask else 0)
    slots = layout.slots(2).numpy()
    slots[:] = 0xEE  # what an older chunk left
    slots[:, :48] = 0
    given = chunk(3, seed, mask, sequence=5, version=2**40)
    layout.write(slots[1], given)
    assert (slots[0][48:] == 0xEE).all()
    got = layout.read(slots[1], 1)
    same_rollouts(got.rollout, given.rollout)
    assert (got.collector, got.incarnation, got.sequence, got.version) == (1, 7, 5, 2**40)
    assert [(e.episode_return, e.length, e.env_index, e.success) for e in got.episodes] == [
        (e.episode_return, e.length, e.env_index, e.success) for e in given.episodes
    ]


def test_every_chunk_is_consumed_or_discarded_once() -> None:
    accounts, released = Accounts(), list[int]()
    queue = RolloutQueue(accounts, max_policy_lag=2)
    chunks = [chunk(2, seed, sequence=seed, version=seed) for seed in range(6)]
    for i, one in enumerate(chunks):
        queue.put(one, lambda i=i: released.append(i))
    accounts.collected = sum(one.steps for one in chunks)
    accounts.check()
    queue.drop_old(lambda one: 4 - one.version)  # 0 and 1 lag 4 and 3 behind
    assert released == [0, 1]
    taken, release = queue.take(2)
    assert [one.sequence for one in taken] == [2, 3]
    assert released == [0, 1]  # their arrays are being read
    release()
    assert released == [0, 1, 2, 3]
    accounts.check()
    queue.clear("at the end")
    assert released == [0, 1, 2, 3, 4, 5]
    accounts.check()
    assert accounts.waiting == 0
    assert accounts.discarded == {"over max_policy_lag": chunks[0].steps + chunks[1].steps, "at the end": chunks[4].steps + chunks[5].steps}
    accounts.collected += 1
    with pytest.raises(AccountingError, match=r"steps were collected, but \d+ are accounted for"):
        accounts.check()


def test_running_returns_go_on_from_chunk_to_chunk_and_no_further() -> None:
    """Of collector 1, which has environments 2 and 3 of four: its chunk 1 follows; 3 does not follow 1, and another incarnation none."""
    agent: Any = make_agent("a2c", spaces.Box(-1, 1, (2,)), spaces.Discrete(2), num_envs=4, normalize_reward=True, gamma=0.5)
    learner, expected = Learner(agent), np.zeros(4)
    told = list[np.ndarray]()
    for incarnation, sequence, anew in ((0, 0, False), (0, 1, False), (0, 3, True), (1, 0, True), (1, 1, False)):
        chunks = [chunk(2, seed=sequence, mask=False, sequence=sequence, collector=collector) for collector in (0, 1)]
        chunks[1].incarnation, chunks[0].incarnation, chunks[0].sequence = incarnation, 0, len(told) // T
        learner.observe_rewards(chunks)
        expected[2:] *= not anew
        rollout = joined(chunks)
        for t in range(T):
            valid = rollout.valid[t]
            expected[valid] = expected[valid] / 2 + rollout.reward[t, valid]
            told.append(expected[valid])
            expected[rollout.terminated[t] | rollout.truncated[t]] = 0.0
    state = agent.normalizer.state_dict()["reward"]
    np.testing.assert_allclose(state["running_return"], expected, rtol=1e-12)
    every = np.concatenate(told)
    assert state["count"] == len(every)
    np.testing.assert_allclose([state["mean"], state["m2"] / len(every)], [every.mean(), every.var()], rtol=1e-12)


@pytest.mark.parametrize("sequence", [0, 2])
def test_a_chunk_that_comes_twice_or_never_is_noticed(sequence: int) -> None:
    queue = RolloutQueue(Accounts(), 1)
    queue.put(chunk(1, sequence=0))
    queue.put(chunk(1, sequence=0, collector=2))
    with pytest.raises(ValueError, match=rf"chunk {sequence} of collector \(1, 7\) came, expected 1"):
        queue.put(chunk(1, sequence=sequence))


def test_weights_are_read_whole_or_not_at_all() -> None:
    values = np.arange(7, dtype=np.float32)
    shared = SharedWeights(Weights(0, values, statistics=np.zeros(2)))
    assert shared.read(known=-1) is None
    for version in range(5):
        shared.write(Weights(version, values + version, Progress(version, 0.5), 2 * version, np.array([0.25, version])))
        got = shared.read(known=version - 1)
        assert got is not None
        assert got.version == version
        same(got.values, values + np.float32(version))
        same(got.statistics, np.array([0.25, version]))
        assert (got.progress, got.updates) == (Progress(version, 0.5), 2 * version)
        assert shared.read(known=version) is None
    shared._values[4 % 2, 3] += 1  # half written
    assert shared.read(known=3) is None


def test_the_supervisor_knows_a_hang_and_a_crash_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [10.0]
    monkeypatch.setattr("pyrl.distributed.supervisor.time.monotonic", lambda: now[0])
    vitals = Vitals.shared(2)
    supervisor = Supervisor(vitals, timeout=5.0)
    assert [supervisor.begin(0), supervisor.begin(1)] == [0, 0]
    assert supervisor.late(0) is None
    now[0] += START_SECONDS + 5.1
    assert supervisor.late(0) == "start did not return within 5 s (env_timeout)"
    Vital(vitals, 1).at(STEPPING)
    assert supervisor.late(1) is None
    now[0] += 4.9
    assert supervisor.late(1) is None
    now[0] += 0.2
    assert supervisor.late(1) == "step did not return within 5 s (env_timeout)"
    Vital(vitals, 1).at(WAITING)
    assert supervisor.late(1) is None
    now[0] += 1e6
    assert supervisor.late(1) is None  # the learner takes what it takes
    for failure in range(20):  # each got somewhere
        Vital(vitals, 1).made(ENOUGH)
        supervisor.failed(1, Failure(f"failure {failure}"))
        supervisor.begin(1)
    assert supervisor.restarts == 20
    for failure in range(DEATHS - 2):
        supervisor.failed(1, Failure(f"later {failure}"))
        supervisor.begin(1)
    with pytest.raises(EnvError, match=f"failure 19\nso did {DEATHS - 1} that replaced it"):
        supervisor.failed(1, Failure("the last"))
