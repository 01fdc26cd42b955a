"""Distributed replay: shards, what collectors tell them, runs bit for bit, deaths and books."""

from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from agent_envs import TwoStates
from gymnasium import spaces
from worker_envs import Masked

import pyrl
from pyrl.agents.actor import Weights
from pyrl.agents.storage import PrioritySpec, ReplaySpec
from pyrl.distributed.chunks import Chunk
from pyrl.distributed.engine_loop import EngineLoop
from pyrl.distributed.local import LocalEngine
from pyrl.distributed.replay import ReplayLoop, ladder, parts
from pyrl.distributed.shard import ReplayShard, ShardLost, ShardSpec
from pyrl.distributed.sync import SyncEngine
from pyrl.distributed.transitions import TransitionBuffer, Transitions, TransitionSpec
from pyrl.errors import AccountingError, CheckpointError, SettingError
from pyrl.types import Episode, PolicyInput, StepResult

SPACE, ACTION = spaces.Dict({"a": spaces.Box(-9, 9, (2,), np.float32), "b": spaces.Discrete(5)}), spaces.Discrete(3)
SMALL: dict[str, Any] = {
    "num_envs": 4, "net_arch": (8,), "seed": 3, "curve": False, "learning_starts": 100, "batch_size": 16, "total_steps": 640,
    "workers": 2, "worker_engine": "sync", "replay_shards": 2, "prioritized": True,
}  # fmt: skip
CASES: dict[str, tuple[str, Any, dict[str, Any]]] = {
    "dqn": ("dqn", TwoStates, {"n_step": 3, "double": True}),
    "dqn, torch, uniform": ("dqn", TwoStates, {"engine": "torch", "prioritized": False}),
    "dqn, masks": ("dqn", Masked, {}),
    "ddpg": ("ddpg", "Pendulum-v1", {"noise_type": "ornstein-uhlenbeck", "noise_std": 0.3}),
    "td3": ("td3", "Pendulum-v1", {}),
    "sac": ("sac", "Pendulum-v1", {"noise_std": 0.1}),
    "tqc": ("tqc", "Pendulum-v1", {"total_steps": 320}),
    "crossq": ("crossq", "Pendulum-v1", {"prioritized": False, "total_steps": 320}),
    "sac, normalised": ("sac", "Pendulum-v1", {"normalize_observation": True, "normalize_reward": True, "clip_reward": 10.0}),
    "dqn, masks, normalised": ("dqn", Masked, {"normalize_observation": True, "normalize_reward": True}),
}


def spec_of(window: dict[str, Any], *, masks: bool = False, stacked: bool = False) -> TransitionSpec:
    return TransitionSpec(
        n_steps=9, observation_space=SPACE, action_space=ACTION, stacked=stacked, masks=masks, window=window, prioritized=True,
        rungs=(0.0,) * 8,
    )  # fmt: skip


def some_steps(T: int, N: int, seed: int = 0) -> Transitions:
    random = np.random.default_rng(seed)

    def observations() -> Any:
        return {"a": random.normal(size=(T, N, 2)).astype(np.float32), "b": random.integers(0, 5, (T, N))}

    flags = [random.random((T, N)) < p for p in (0.1, 0.1, 0.9)]
    priority = random.random((T, N)).astype(np.float32) * 3
    return Transitions(
        observations(), random.integers(0, 3, (T, N)), random.normal(size=(T, N)).astype(np.float32), observations(), *flags, {}, priority
    )


def shard_spec(**changes: Any) -> ShardSpec:
    replay = ReplaySpec(capacity=4000, batch_size=8, learning_starts=64, prioritized=PrioritySpec())
    options: dict[str, Any] = {
        "replay": replay, "index": 0, "shards": 2, "envs": 4, "space": SPACE, "action_space": ACTION, "window": {"n_step": 1},
        "seed": 0, "samples_per_insert": 4.0, "insert_size": 36, "batches": 4,
    }  # fmt: skip
    return ShardSpec(**{**options, **changes})


# -- what collectors send ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 3, 20])
@pytest.mark.parametrize("seed", range(4))
def test_initial_priorities_are_the_td_errors_of_the_windows_that_a_replay_draws(n: int, seed: int) -> None:
    """By hand, step by step: the sum of discounted rewards up to n steps, the episode's end or the chunk's, and V of what follows."""
    random, N, gamma = np.random.default_rng(seed), 3, 0.9
    given = some_steps(9, N, seed)
    given.truncated &= ~given.terminated
    value_of = {}

    def value(asked: PolicyInput) -> np.ndarray:
        return np.array([value_of.setdefault(row.tobytes(), random.normal()) for row in asked.observation["a"]], np.float32)

    buffer = TransitionBuffer(spec_of({"n_step": n, "gamma": gamma}), N, value)
    q = random.normal(size=(9, N)).astype(np.float32)
    ended = given.terminated | given.truncated
    for t in range(1, 9):  # what follows a step is what comes next, but at an end
        for leaf in ("a", "b"):
            given.next_observation[leaf][t - 1][~ended[t - 1]] = given.observation[leaf][t][~ended[t - 1]]
    given.valid[:] = True
    for t in range(9):
        at = {name: {k: x[t] for k, x in getattr(given, name).items()} for name in ("observation", "next_observation")}
        step = StepResult(
            at["observation"], given.action[t], given.reward[t].astype(float), at["next_observation"], given.terminated[t],
            given.truncated[t], given.valid[t], first=np.zeros(N, bool),
        )  # fmt: skip
        buffer.add(step, {"q": q[t], "value": value(PolicyInput(at["observation"], step.first))})
    got = buffer.take({}, np.zeros(N, bool))
    expected = np.zeros((9, N))
    for t in range(9):
        for i in range(N):
            total, k = 0.0, 0
            while True:
                total += gamma**k * given.reward[t + k, i]
                k += 1
                if k == n or t + k == 9 or ended[t + k - 1, i]:
                    break
            if not given.terminated[t + k - 1, i]:
                total += gamma**k * value_of[given.next_observation["a"][t + k - 1, i].tobytes()]
            expected[t, i] = abs(total - q[t, i])
    np.testing.assert_allclose(got.priority, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(got.next_observation["a"], given.next_observation["a"])
    np.testing.assert_array_equal(got.observation["b"], given.observation["b"])


@pytest.mark.parametrize("priority", [True, False])
def test_a_chunk_comes_out_of_a_slot_as_it_went_in(priority: bool) -> None:
    layout = spec_of({"n_step": 1, "gamma": 0.9}).layout(4)
    slots = layout.slots(2).numpy()
    slots[:] = 0xEE
    given = some_steps(9, 4)
    given.priority = given.priority if priority else None
    chunk = Chunk(given, [Episode(1.5, 3, 4, None), Episode(2.5, 9, 1, True)], 1, 7, 5, 2**40)
    layout.write(slots[1], chunk)
    assert (slots[0] == 0xEE).all()
    got = layout.read(slots[1], 1)
    assert (got.collector, got.incarnation, got.sequence, got.version, got.steps) == (1, 7, 5, 2**40, chunk.steps)
    assert str(got.episodes) == str(chunk.episodes)
    assert isinstance(got.rollout, Transitions)
    assert str(got.rollout) == str(given)
    for name in ("observation", "action", "reward", "next_observation", "terminated", "truncated", "valid", "priority"):
        np.testing.assert_equal(getattr(got.rollout, name), getattr(given, name))


@pytest.mark.parametrize(("count", "collector", "expected"), [(1, 5, [(2, 1)]), (6, 0, [(0, 0), (1, 0), (2, 0)]), (3, 1, [(1, 1), (2, 0)])])
def test_every_environment_has_its_shard(count: int, collector: int, expected: list[tuple[int, int]]) -> None:
    """Two environments a shard."""
    given = some_steps(9, count)
    got = list(parts(Chunk(given, [], collector, 0, 0, 0), 2))
    assert [(k, first) for k, _, first in got] == expected
    assert sum(steps.steps for _, steps, _ in got) == given.steps
    np.testing.assert_array_equal(np.concatenate([steps.observation["a"] for _, steps, _ in got], axis=1), given.observation["a"])
    np.testing.assert_array_equal(np.concatenate([steps.priority for _, steps, _ in got], axis=1), given.priority)


def test_every_shard_has_careful_and_bold_environments() -> None:
    assert ladder(1, 1) == (0.0,)
    assert ladder(4, 1) == (0.0, 1 / 3, 2 / 3, 1.0)
    assert ladder(6, 2) == (0.0, 0.4, 0.8, 0.2, 0.6, 1.0)


def test_the_ladder_is_that_of_the_paper() -> None:
    """Horgan et al. 2018, appendix D: epsilon_i = 0.4^(1 + 7 i / (N - 1)); actions are random as often."""
    agent = pyrl.make_agent(
        "dqn",
        spaces.Box(-1, 1, (2,), np.float32),
        spaces.Discrete(1000),
        num_envs=3,
        exploration_initial_eps=0.4,
        exploration_final_eps=0.4,
    )
    actor, given = agent.acting, PolicyInput(np.zeros((3, 2), np.float32), np.zeros(3, bool))
    actor.explore_by(agent.random, None, np.array([0.0, 0.5, 1.0]))
    greedy = actor.choose(given, deterministic=True).action
    share = np.mean([actor.choose(given).action != greedy for _ in range(3000)], axis=0)
    np.testing.assert_allclose(share, 0.4 ** np.array([1.0, 4.5, 8.0]), atol=0.03)
    noisy = pyrl.make_agent("td3", spaces.Box(-1, 1, (2,), np.float32), spaces.Box(-1, 1, (1,), np.float32), num_envs=3, noise_std=0.1)
    actor = noisy.acting
    actor.random_steps = 0
    actor.explore_by(noisy.random, actor.own_noise(noisy.random), np.array([0.0, 0.5, 1.0]))
    mean = actor.choose(given, deterministic=True).action
    std = np.std([actor.choose(given).action - mean for _ in range(1500)], axis=0)[:, 0]
    np.testing.assert_allclose(std, 0.1 * 0.4 ** np.array([0.0, 3.5, 7.0]), rtol=0.15)


def test_weights_bring_their_progress() -> None:
    agent = pyrl.make_agent("dqn", spaces.Box(-1, 1, (2,), np.float32), spaces.Discrete(2), exploration_decay=0.01)
    agent.updates, agent.progress = 50, pyrl.types.Progress(1000, 0.25)
    weights = agent.weights()
    assert weights == Weights(50, weights.values, pyrl.types.Progress(1000, 0.25), 50)
    other = pyrl.make_agent("dqn", spaces.Box(-1, 1, (2,), np.float32), spaces.Discrete(2), seed=1).acting
    other.load_weights(weights._replace(version=7))
    assert (other.version, other.updates, other.progress) == (7, 50, (1000, 0.25))


# -- a shard ----------------------------------------------------------------------------------------------------------


def test_a_shard_stores_draws_and_says_no() -> None:
    shard = ReplayShard(shard_spec())
    assert shard.sample() is None
    given = [some_steps(9, 4, seed) for seed in range(40)]
    stored = 0
    while shard.insert(given[stored]):
        stored += 1
    inserted = sum(steps.steps for steps in given[:stored])
    assert shard.counts == (inserted, 0)
    assert inserted >= 32  # 64 of two shards, and the buffer of the limiter
    batches = shard.sample(beta=1.0)
    assert batches is not None
    assert [batch.reward.shape for batch in batches] == [(8,)] * 4
    assert shard.counts == (inserted, 32)
    new = [np.full(8, 5.0, np.float32)] * 4
    shard.update_priorities([batch.index for batch in batches], new)
    np.testing.assert_allclose(shard.buffer.priorities(batches[0].index), 5.0**0.6, rtol=1e-5)
    while shard.can_sample():
        assert shard.sample() is not None
    assert shard.sample() is None
    assert shard.insert(given[stored])
    shard.stop()
    assert not shard.insert(given[0])
    assert not shard.can_sample()
    shard.resume()


def test_initial_priorities_are_in_the_shard() -> None:
    shard, given = ReplayShard(shard_spec(envs=2)), some_steps(9, 2)
    given.priority = np.arange(18, dtype=np.float32).reshape(9, 2)
    assert shard.insert(given)
    index = shard.buffer.indices()
    reward = shard.buffer.column("reward", index)
    for i, r in zip(index, reward):
        (t,), (env,) = np.nonzero(given.reward == r)
        assert shard.buffer.priorities(np.array([i]))[0] == pytest.approx((given.priority[t, env] + 1e-6) ** 0.6)


def test_a_refused_insert_leaves_no_reservation() -> None:
    shard, bad = ReplayShard(shard_spec()), some_steps(9, 4)
    bad.reward[bad.valid.nonzero()[0][0], bad.valid.nonzero()[1][0]] = np.nan
    with pytest.raises(ValueError, match="reward of step"):
        shard.insert(bad)
    assert shard.counts == (0, 0)
    shard.limiter.load_state_dict({"inserts": 0, "samples": 0})  # refused while something is reserved


def test_a_shard_goes_on_from_its_state() -> None:
    one, other = ReplayShard(shard_spec()), ReplayShard(shard_spec())
    for seed in range(2):
        assert one.insert(some_steps(9, 4, seed))
    one.sample()
    other.load_state_dict(one.state_dict())
    assert one.counts == other.counts
    for a, b in zip(one.sample() or (), other.sample() or (), strict=True):
        np.testing.assert_array_equal(a.index, b.index)
        np.testing.assert_array_equal(a.weight, b.weight)


# -- runs -------------------------------------------------------------------------------------------------------------


def trained(case: str, **more: Any) -> pyrl.experiment.train.Run:
    algo, env, options = CASES[case]
    return pyrl.train(algo, env, **{**SMALL, "run_dir": False, **options, **more})


def state(run: Any) -> list[torch.Tensor]:
    return [trainable.arena.values.clone() for trainable in run.agent.trainables.values()]


def same(a: Any, b: Any) -> bool:
    return all(torch.equal(x, y) for x, y in zip(state(a), state(b), strict=True))


@pytest.fixture
def books(monkeypatch: pytest.MonkeyPatch) -> list[ReplayLoop]:
    """Every loop that was closed; its books are compared then."""
    seen, close = [], EngineLoop.close

    def closing(loop: EngineLoop) -> None:
        assert isinstance(loop, ReplayLoop)
        loop.check_books()
        close(loop)
        seen.append(loop)

    monkeypatch.setattr(EngineLoop, "close", closing)
    return seen


@pytest.mark.parametrize("case", CASES)
def test_any_number_of_workers_is_the_same_run(case: str, books: list[ReplayLoop]) -> None:
    one, *more = (trained(case, workers=workers) for workers in (1, 2, 4))
    assert one.agent.updates >= 32
    for other in more:
        assert same(one, other)
        assert [{k: v for k, v in m.items() if "time/" not in k} for m in one.metrics] == [
            {k: v for k, v in m.items() if "time/" not in k} for m in other.metrics
        ]
    assert not same(one, trained(case, seed=4))
    assert books[0].stored == one.agent.env_steps == sum(shard.counts[0] for shard in books[0].shards)


@pytest.mark.parametrize("case", ["dqn", "ddpg"])
def test_a_run_that_was_stopped_goes_on_as_if_it_never_was(case: str, tmp_path: Path) -> None:
    algo, env, _ = CASES[case]
    env = "CartPole-v1" if case == "dqn" else env
    options = {**SMALL, **CASES[case][2], "total_steps": 960, "backend": "native"}  # whose state can be had
    whole = pyrl.train(algo, env, run_dir=False, **options)
    stops, folder = sorted(np.random.default_rng(7).choice(np.arange(192, 900, 64), 3, replace=False).tolist()), tmp_path / "run"
    pyrl.train(algo, env, run_dir=folder, on_metrics=lambda m: m["time/env_steps"] >= stops[0], **options)
    assert {path.name for path in (folder / "checkpoints/last").iterdir()} >= {"replay-0.safetensors", "replay-1.safetensors"}
    for stop in [*stops[1:], 10**9]:
        part = pyrl.train(algo, env, resume=folder, curve=False, on_metrics=lambda m, stop=stop: m["time/env_steps"] >= stop)
    assert part.agent.env_steps == whole.agent.env_steps == 960
    assert part.agent.updates == whole.agent.updates
    assert same(part, whole)


def test_updates_keep_their_ratio_and_see_steps_pass_one_by_one() -> None:
    """An update for every four transitions, as without workers, and a target update at every 40th environment step."""
    seen, run = [], None

    def watch(metrics: Any) -> None:
        seen.append(metrics["time/updates"])

    run = trained("dqn", total_steps=3000, train_freq=4, on_metrics=watch, target_update_interval=40)
    assert run.agent.updates == pytest.approx((run.agent.env_steps - 100) / 4, abs=40)
    assert run.metrics[-1]["replay/samples_per_insert"] == pytest.approx(4.0, rel=0.1)
    assert run.agent.last_target_update == pytest.approx(run.agent.env_steps, abs=80)
    halved = trained("dqn", total_steps=3000, samples_per_insert=2.0)
    assert halved.agent.updates == pytest.approx((halved.agent.env_steps - 100) / 8, abs=40)


class Fragile(ReplayShard):
    """Gone when it is told to be."""

    gone = False

    def insert(self, *arguments: Any, **options: Any) -> bool:
        if self.gone:
            raise ShardLost
        return super().insert(*arguments, **options)

    def can_sample(self, beta: float | None = None) -> bool:
        if self.gone:
            raise ShardLost
        return super().can_sample(beta)


def test_a_lost_shard_begins_empty_and_its_loss_is_told(monkeypatch: pytest.MonkeyPatch, books: list[ReplayLoop]) -> None:
    made = list[Fragile]()

    def make(engine: SyncEngine, spec: ShardSpec) -> Fragile:
        made.append(Fragile(spec))
        return made[-1]

    monkeypatch.setattr(SyncEngine, "make_shard", make)

    def watch(metrics: Any) -> None:
        if metrics["time/env_steps"] >= 300 and len(made) == 2:
            made[1].gone = True

    run = trained("dqn", total_steps=2000, on_metrics=watch)
    (loop,) = books
    assert [shard.spec.index for shard in made] == [0, 1, 1]
    assert loop.lost == made[1].counts[0] > 0
    assert run.metrics[-1]["replay/lost"] == loop.lost
    assert made[2].counts[0] > 500
    assert run.agent.env_steps == made[0].counts[0] + made[2].counts[0] + loop.lost
    assert all(np.isfinite(list(m.values())).all() for m in run.metrics)


def test_a_step_that_is_lost_or_comes_twice_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    insert = ReplayShard.insert
    monkeypatch.setattr(ReplayShard, "insert", lambda shard, steps, *more: insert(shard, steps, *more) and insert(shard, steps, *more))
    with pytest.raises(AccountingError, match=r"shard 0 has stored \d+ transitions, expected \d+"):
        trained("dqn", total_steps=300)


def test_a_state_of_other_shards_is_refused(tmp_path: Path) -> None:
    trained("dqn", run_dir=tmp_path / "run")
    last = tmp_path / "run/checkpoints/last"
    tree, about = pyrl.checkpoint.load(last)
    tree["replay-1"]["limiter"]["inserts"] = -3
    pyrl.checkpoint.save(last, tree, about)
    with pytest.raises(CheckpointError, match="loop/buffer/shards/1: RateLimiter: the state is"):
        pyrl.train("dqn", TwoStates, resume=tmp_path / "run", total_steps=1000)
    del tree["replay-1"]
    pyrl.checkpoint.save(last, tree, about)
    with pytest.raises(CheckpointError, match="loop/buffer is not of 2 shards"):
        pyrl.train("dqn", TwoStates, resume=tmp_path / "run", total_steps=1000)


def test_in_processes_collectors_are_killed_and_the_books_agree(
    books: list[ReplayLoop], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two of them, at work; the run goes on, is saved, and goes on from there with what the shards hold."""
    engines, start = list[Any](), LocalEngine.start
    monkeypatch.setattr(LocalEngine, "start", lambda engine, steps: engines.append(engine) or start(engine, steps))
    rows, killed, seen = list[Any](), list[int](), set[int]()
    options = {**SMALL, "worker_engine": "local", "backend": "native"}

    def watch(metrics: Any) -> bool:
        rows.append(dict(metrics))
        if metrics["time/env_steps"] > 400 and len(killed) == metrics["time/restarts"] < 2:
            index = len(killed) % 2
            process = engines[0].members[index].process
            if process.is_alive():
                os.kill(process.pid, signal.SIGKILL)
                killed.append(index)
        seen.update(episode.env_index for episode in metrics.episodes)
        everyone = len(seen) == 4 or metrics["time/env_steps"] > 50_000
        return bool(metrics["time/restarts"] >= 2 and metrics["time/updates"] > 100 and everyone)

    run = pyrl.train("dqn", "CartPole-v1", **{**options, "total_steps": 10**7, "run_dir": tmp_path / "run", "on_metrics": watch})
    (loop,) = books
    assert not multiprocessing.active_children()
    accounts = loop.engine.accounts
    assert accounts.consumed == loop.stored == run.agent.env_steps == sum(shard.counts[0] for shard in loop.shards)
    assert accounts.collected == accounts.consumed + sum(accounts.discarded.values())
    assert accounts.waiting == 0
    assert max(row["train/policy_lag"] for row in rows if "train/policy_lag" in row) > 0  # a round without chunks has none
    assert all(np.isfinite(list(row.values())).all() for row in rows)
    assert {e.env_index for m in run.metrics for e in m.episodes} == {0, 1, 2, 3}
    more = pyrl.train("dqn", "CartPole-v1", resume=tmp_path / "run", total_steps=run.agent.env_steps + 300, curve=False)
    assert more.agent.env_steps >= run.agent.env_steps + 300
    assert books[1].stored == more.agent.env_steps == sum(shard.counts[0] for shard in books[1].shards)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"replay_shards": 3}, "replay_shards is 3, expected a divisor of num_envs = 4"),
        ({"workers": 3}, "workers is 3, expected a divisor of num_envs = 4"),
        ({"samples_per_insert": 0.0}, "samples_per_insert is 0.0, expected a positive number"),
        ({"workers": None, "worker_engine": None}, "replay_shards is 2, but there are no workers"),
        ({"max_policy_lag": 5}, "max_policy_lag is 5, but dqn learns from a replay"),
        ({"learners": 2}, "learners is 2, but dqn learns from batches"),
        ({"gradient_steps": 0}, "gradient_steps is 0, but without updates nothing is drawn"),
        ({"buffer_size": 80}, r"buffer_size is 80, 40 a shard, expected at least \d+ a shard"),
    ],
)
def test_what_shards_cannot_do_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingError, match=words):
        trained("dqn", **options)


def test_moments_of_stacked_frames_are_refused() -> None:
    def stacked() -> gym.Env[Any, Any]:
        return gym.wrappers.FrameStackObservation(gym.make("CartPole-v1"), 4)

    with pytest.raises(SettingError, match="normalize_observation is True, but shards store single frames"):
        pyrl.train("dqn", stacked, **{**SMALL, "normalize_observation": True, "run_dir": False})


def test_the_presets_environments_are_rounded_up() -> None:
    options = {name: value for name, value in SMALL.items() if name != "num_envs"}
    run = pyrl.train("dqn", TwoStates, **{**options, "workers": 3, "run_dir": False})
    assert run.agent.num_envs == 6
