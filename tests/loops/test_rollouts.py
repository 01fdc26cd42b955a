"""A whole rollout in one call: the bits of stepping one by one, the same limits, and a way out."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

import pyrl
from pyrl.agents.actor_critic import ActorCriticActor, ActorCriticAgent
from pyrl.agents.ppo import PPO
from pyrl.distributed.collector import Collector
from pyrl.envs import Stepper, make, rows
from pyrl.envs.inline import LeanStepper
from pyrl.envs.native_stepper import NativeStepper
from pyrl.errors import DTypeError, EnvError, NonFiniteError
from pyrl.loops import iterate
from pyrl.loops.base import Limits
from pyrl.loops.on_policy import OnPolicyLoop
from pyrl.ops.random import RandomStream
from pyrl.types import map_observation

LIMITS: list[dict[str, Any]] = [{"total_steps": 803}, {"total_episodes": 31}, {"total_steps": 2_000, "stop_at_return": -100.0}]
SMALL: dict[str, dict[str, Any]] = {"ppo": {"n_steps": 37, "batch_size": 64, "n_epochs": 2}, "a2c": {"n_steps": 11}}


class Odd(gym.Env):
    """Returns what is right in other ways than the usual one, now and then: each of them at some step. Ends at random."""

    def __init__(self, space: gym.Space, shape: tuple[int, ...] = (3,), dtype: Any = np.float32) -> None:
        self.observation_space = gym.spaces.Box(-10, 10, shape, dtype)
        self.action_space = space

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.t = 0
        return np.zeros(self.observation_space.shape, self.observation_space.dtype), {}

    def step(self, action: Any) -> Any:
        assert self.action_space.contains(np.int64(action) if type(action) is int else action), action
        self.t += 1
        kind, number = self.np_random.integers(12), float(np.sum(action))
        observation: Any = self.np_random.normal(size=self.observation_space.shape).astype(self.observation_space.dtype)
        observation = [observation.tolist(), observation.astype(np.float64)][kind] if kind < 2 else observation
        reward = [np.float32(number), np.int64(3), True, np.array(number)][kind - 2] if 2 <= kind < 6 else number
        over, cut = bool(self.np_random.random() < 0.05), bool(self.np_random.random() < 0.05)
        if kind == 6:
            over, cut = np.bool_(over), int(cut)  # type: ignore[assignment]
        info = {"is_success": True} if over and self.t % 2 else {}
        result = observation, reward, over, cut, info
        return list(result) if kind == 7 else result


MOVES: dict[str, gym.Space] = {
    "discrete": gym.spaces.Discrete(3, start=-1),
    "box": gym.spaces.Box(-0.5, 0.5, (2,)),
    "float64": gym.spaces.Box(-0.5, 0.5, (2, 1), np.float64),
    "scalar": gym.spaces.Box(-1, 1, ()),
    "unbounded": gym.spaces.Box(-np.inf, np.inf, (2,)),
    "whole": gym.spaces.Box(-2, 2, (2,), np.int64),
}
NATIVE = ["CartPole-v1", "Pendulum-v1", "FrozenLake-v1", "MountainCarContinuous-v0"]
SHOWN: dict[str, tuple[tuple[int, ...], Any]] = {
    "double": ((3,), np.float64),
    "table": ((3, 2), np.float32),
    "double table": ((1, 3), np.float64),
}
LEAN = ["CartPole-v1", "Pendulum-v1", *MOVES, *SHOWN]
CASES = [*(("native", env) for env in NATIVE), *(("lean", env) for env in LEAN)]
OBSERVATIONS = {"normalize_observation": True, "clip_observation": 1.5}
REWARDS = {"normalize_reward": True, "clip_reward": 2.0}


def source(env: str) -> Any:
    if env in SHOWN:
        return lambda: Odd(MOVES["box"], *SHOWN[env])
    return (lambda: Odd(MOVES[env])) if env in MOVES else env


def trained(
    algo: str, backend: str, env: str, *, one_by_one: bool, num_envs: int = 5, config: dict[str, Any] | None = None, **limits: Any
) -> tuple[Any, ...]:
    """(agent, metrics, observation at the end, state of the book)"""
    calls = []
    with pytest.MonkeyPatch.context() as patch:
        for kind in (NativeStepper, LeanStepper):
            patch.setattr(kind, "rollout", lambda *args, rollout=kind.rollout, **named: calls.append(1) or rollout(*args, **named))
        if one_by_one:
            patch.setattr(ActorCriticAgent, "native_policy", lambda self, normalizes=False: None)
        with make(source(env), num_envs, backend=backend, seed=3, max_episode_steps=29) as stepper:
            agent = agent_for(stepper, algo, **(config or {}))
            metrics = [
                ({k: v for k, v in record.items() if not k.startswith("time/") or k == "time/env_steps"}, repr(record.episodes))
                for record in iterate(agent, stepper, **limits)
            ]
            observation = map_observation(np.copy, stepper.observation)
            book = stepper._book.state()
    assert bool(calls) != one_by_one
    return agent, metrics, observation, book


@pytest.mark.parametrize("algo", ["ppo", "a2c"])
@pytest.mark.parametrize(("backend", "env"), CASES)
@pytest.mark.parametrize("limits", LIMITS, ids=str)
def test_same_bits_as_stepping_one_by_one(algo: str, backend: str, env: str, limits: dict[str, Any]) -> None:
    compare(*(trained(algo, backend, env, one_by_one=one_by_one, **limits) for one_by_one in (True, False)))


@pytest.mark.parametrize("env", ["CartPole-v1", "discrete", "box", "double"])
@pytest.mark.parametrize("num_envs", [1, 3])
@pytest.mark.parametrize("config", [OBSERVATIONS, REWARDS, {**OBSERVATIONS, **REWARDS}], ids=str)
def test_same_bits_where_it_normalizes(env: str, num_envs: int, config: dict[str, Any]) -> None:
    limits = {"config": config, "num_envs": num_envs, "total_steps": 400}
    compare(*(trained("a2c", "lean", env, one_by_one=one_by_one, **limits) for one_by_one in (True, False)))


def compare(one: tuple[Any, ...], many: tuple[Any, ...]) -> None:
    assert many[1] == one[1]
    np.testing.assert_array_equal(many[2], one[2])
    assert many[3] == one[3]
    assert many[0].random.state == one[0].random.state
    assert (many[0].env_steps, many[0].updates) == (one[0].env_steps, one[0].updates)
    for a, b in zip(many[0].network.parameters(), one[0].network.parameters()):
        assert torch.equal(a, b)
    for c, d in zip(many[0].normalizer.moments_in_use(), one[0].normalizer.moments_in_use()):
        np.testing.assert_array_equal(c, d)
    np.testing.assert_array_equal(many[0].normalizer._running_return, one[0].normalizer._running_return)


@pytest.mark.parametrize("backend", ["native", "lean"])
@pytest.mark.parametrize("short", ["time", "memory"])
def test_calls_of_any_length_make_the_same_rollout(backend: str, short: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = trained("ppo", backend, "CartPole-v1", one_by_one=False, total_steps=800)
    if short == "time":
        monkeypatch.setattr(Stepper, "at_once", 0.0)  # one step a call
    else:
        monkeypatch.setattr(rows, "_COLUMN_BYTES", 500)  # three
    pieces = trained("ppo", backend, "CartPole-v1", one_by_one=False, total_steps=800)
    assert whole[1] == pieces[1]
    np.testing.assert_array_equal(whole[2], pieces[2])


class Fails(Odd):
    """The second one that is made does something in its 50th step."""

    def __init__(self, what: Callable[[], Any], made: list[Any]) -> None:
        super().__init__(MOVES["discrete"])
        made.append(self)
        self.what, self.steps = what, -50 if len(made) == 2 else 1

    def step(self, action: Any) -> Any:
        self.steps += 1
        result = super().step(action)
        return (self.what() if self.steps == 0 else None) or result


def raises(error: BaseException) -> Any:
    raise error


FAILURES: dict[str, tuple[Callable[[], Any], type[BaseException]]] = {
    "raises": (lambda: raises(KeyError("wheels")), EnvError),
    "wrong": (lambda: (np.zeros(3, np.float32), "much", False, False, {}), EnvError),
    "nan": (lambda: (np.full(3, np.nan, np.float32), 0.0, False, False, {}), EnvError),
    "short": (lambda: (np.zeros(3, np.float32), 0.0), EnvError),
    "huge": (lambda: (np.zeros(3, np.float32), 1e300, False, False, {}), NonFiniteError),
    "interrupt": (lambda: raises(KeyboardInterrupt()), KeyboardInterrupt),
}


@pytest.mark.parametrize("what", FAILURES)
def test_steps_before_an_error_count(what: str) -> None:
    """The same steps, episodes and words as one by one; and the loop can go on."""
    found = []
    for one_by_one in (True, False):
        with pytest.MonkeyPatch.context() as patch:
            if one_by_one:
                patch.setattr(ActorCriticAgent, "native_policy", lambda self, normalizes=False: None)
            act, kind = FAILURES[what]
            made: list[Any] = []
            with make(lambda act=act, made=made: Fails(act, made), 3, backend="lean", seed=5) as stepper:
                agent = agent_for(stepper, n_steps=70)
                loop = OnPolicyLoop(agent, stepper, Limits(total_steps=10_000))
                with pytest.raises(kind) as error:
                    list(loop)
                rest = loop.rest()
                assert rest is not None
                cause = error.value.__cause__
                found.append((str(error.value), repr(cause), agent.env_steps, repr(rest.episodes), stepper.observation is None))
                assert len(loop.buffer) >= (0 if what == "huge" else 48)  # a whole call's are refused together
                next(iter(loop))
                assert agent.env_steps > found[-1][2]
    assert found[0] == found[1]


@pytest.mark.parametrize("n_steps", [16, 60])
def test_a_collector_counts_the_steps_before_an_error(n_steps: int) -> None:
    found = []
    for one_by_one in (True, False):
        with pytest.MonkeyPatch.context() as patch:
            if one_by_one:
                patch.setattr(ActorCriticActor, "native_policy", lambda self, normalizes=False: None)
            made: list[Any] = [None]
            with make(lambda made=made: Fails(FAILURES["raises"][0], made), 1, backend="lean", seed=5) as stepper:
                agent, seen = agent_for(stepper, n_steps=n_steps, batch_size=8), list[int]()
                stepper.reset()
                collector = Collector(agent.acting, stepper, agent.storage(), RandomStream(0), after=seen.append)
                with pytest.raises(EnvError, match="wheels"):
                    all(collector.collect() for _ in range(10))
                found.append((collector.collected, sum(seen), len(collector.buffer)))
    assert found[0] == found[1] == (49, 49, 49 % n_steps)


@pytest.mark.parametrize(("limit", "ended"), [(151, 153), (10_000, 150)])
def test_it_ends_after_the_step_under_way(limit: int, ended: int) -> None:
    loops, made = list[OnPolicyLoop](), list[Any]()
    with make(lambda: Fails(lambda: loops[0].stop() if limit > 151 else None, made), 3, backend="lean", seed=5) as stepper:
        loops.append(OnPolicyLoop(agent_for(stepper, n_steps=70), stepper, Limits(total_steps=limit)))
        assert [int(record["time/env_steps"]) for record in loops[0]] == [ended]


class Masked(Odd):
    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        return super().reset(seed=seed)[0], {"action_mask": np.ones(3, np.int8)}


def test_a_step_of_somebody_else_is_not_passed_by() -> None:
    seen = []
    with make("CartPole-v1", 2, backend="lean") as stepper:
        assert stepper.rolls_out
        step = stepper.step
        stepper.step = lambda action: seen.append(action) or step(action)  # type: ignore[method-assign, func-returns-value]
        assert not stepper.rolls_out
        list(iterate(agent_for(stepper), stepper, total_steps=20))
        assert len(seen) == 10
    masked = lambda: Masked(MOVES["discrete"])  # noqa: E731
    with make("CartPole-v1", 2, backend="lean") as stepper:
        agent, counted = agent_for(stepper, n_steps=10, batch_size=8), []
        loop = OnPolicyLoop(agent, stepper, Limits(total_steps=20))
        step_envs = loop.step_envs
        loop.step_envs = lambda: counted.append(1) or step_envs()  # type: ignore[assignment, method-assign, func-returns-value]
        list(loop)
        assert len(counted) == 10
    for env, rolls_out in (("CartPole-v1", True), (source("box"), True), (masked, False), ("FrozenLake-v1", False)):
        with make(env, 2, backend="lean") as stepper:
            stepper.reset()
            assert stepper.rolls_out == rolls_out
    with make("CartPole-v1", 2, backend="sync") as stepper:
        assert not stepper.rolls_out
        with pytest.raises(EnvError, match=r"CartPole-v1: \w+ makes no rollouts; see rolls_out"):
            stepper.rollout(None, 3)  # type: ignore[arg-type]


def agent_for(stepper: Any, algo: str = "ppo", **config: Any) -> Any:
    config = {**SMALL.get(algo, {}), **config}
    return pyrl.make_agent(algo, stepper.single_observation_space, stepper.single_action_space, seed=1, num_envs=stepper.num_envs, **config)


def test_who_acts_otherwise_steps_one_by_one() -> None:
    class Mine(PPO):
        def choose(self, given: Any, deterministic: bool = False) -> Any:
            return super().choose(given, deterministic)

    with make("CartPole-v1", 2, backend="native") as stepper:
        assert agent_for(stepper).native_policy() is not None
        for config in (OBSERVATIONS, REWARDS):
            assert agent_for(stepper, **config).native_policy() is None
            assert agent_for(stepper, **config).native_policy(normalizes=True) is not None
        assert agent_for(stepper, clip_observation=1.0).native_policy(normalizes=True) is None
        assert agent_for(stepper, engine="torch").native_policy() is None
        assert agent_for(stepper, "dqn").native_policy() is None
        agent = agent_for(stepper)
        assert Mine(agent.observation_space, agent.action_space, agent.config, 0, 2).native_policy() is None
        agent.network.double()
        assert agent.native_policy() is None
        agent = agent_for(stepper)
        agent.choose = agent.choose
        assert agent.native_policy() is None


class Table(gym.Env):
    """Its step is no Python: signals are answered when the call that runs it returns."""

    observation_space, action_space = gym.spaces.Box(-1, 1, (64,)), gym.spaces.Discrete(2)

    def __init__(self) -> None:
        self.step = dict.fromkeys((0, 1), (np.zeros(64, np.float32), 1.0, False, False, {})).__getitem__  # type: ignore[method-assign, assignment]

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        return np.zeros(64, np.float32), {}


@pytest.mark.parametrize("one_by_one", [True, False])
def test_what_a_signals_handler_raises_is_no_error_of_an_environment(one_by_one: bool) -> None:
    """And who has not seen what the environments made of the step does not go on from before it."""

    class Alarm(Exception):
        pass

    def handler(number: int, frame: Any) -> None:
        raise Alarm("time is over")

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        with make(Table, 1, backend="lean") as stepper:
            policy, unknown = agent_for(stepper, net_arch=(256, 256), batch_size=8).native_policy(), list[bool]()

            def steps() -> None:
                while True:
                    error = stepper.step(np.zeros(1, np.int64)) and None if one_by_one else stepper.rollout(policy, 100).error
                    if error is not None:
                        raise error

            for _ in range(10):
                stepper.reset()
                timer = threading.Timer(0.01, lambda: signal.raise_signal(signal.SIGUSR1))
                timer.start()
                with pytest.raises(Alarm, match="time is over"):
                    steps()
                timer.join()
                unknown.append(stepper.observation is None)
            assert one_by_one or any(unknown)  # where it came between two calls, the observation is the right one
    finally:
        signal.signal(signal.SIGUSR1, before)


@pytest.mark.parametrize("backend", ["native", "lean"])
def test_no_steps_are_refused(backend: str) -> None:
    with make("CartPole-v1", 2, backend=backend) as stepper:
        stepper.reset()
        for steps in (0, -3):
            with pytest.raises(ValueError, match=f"rollout: steps is {steps}, expected at least 1"):
                stepper.rollout(agent_for(stepper).native_policy(), steps)
        for odd in (2.5, True, "3"):
            with pytest.raises(DTypeError, match=f"rollout: steps is {odd!r}, expected an integer"):
                stepper.rollout(agent_for(stepper).native_policy(), odd)  # type: ignore[arg-type]
        with pytest.raises(DTypeError, match="rollout: policy is NoneType, expected a NativePolicy; where agent"):
            stepper.rollout(agent_for(stepper, engine="torch").native_policy(), 3)  # type: ignore[arg-type]
        assert stepper.observation is not None


def test_what_cannot_normalize_says_so() -> None:
    with make(source("table"), 2, backend="lean") as stepper:
        assert agent_for(stepper).native_policy(normalizes=True) is not None
        assert agent_for(stepper, **OBSERVATIONS).native_policy(normalizes=True) is None  # its moments are a table
    with make("CartPole-v1", 2, backend="native") as stepper:
        agent = agent_for(stepper, **OBSERVATIONS)
        policy = agent.native_policy(normalizes=True)
        stepper.reset()
        with pytest.raises(EnvError, match="normalizer is given, but native environments show their steps to none"):
            stepper.rollout(policy, 3, normalizer=agent.normalizer)
        with pytest.raises(ValueError, match="collect: policy has moments, expected none"):
            stepper.rollout(policy, 3)


def test_logits_that_are_not_finite_are_named_and_take_no_draw() -> None:
    with make("CartPole-v1", 2, backend="native") as stepper:
        agent = agent_for(stepper)
        with torch.no_grad():
            for parameter in agent.network.parameters():
                parameter.fill_(float("nan"))
        stepper.reset()
        before = agent.random.state
        with pytest.raises(ValueError, match="logits"):
            stepper.rollout(agent.native_policy(), 10)
        assert agent.random.state == before
        assert stepper.observation is None  # what the environments show is not known


def test_a_signal_ends_a_long_rollout(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stop(Exception):
        pass

    def handler(number: int, frame: Any) -> None:
        raise Stop

    monkeypatch.setattr(Stepper, "at_once", 600.0)
    monkeypatch.setattr(rows, "_COLUMN_BYTES", 1 << 30)
    with make("CartPole-v1", 4, backend="native") as stepper:
        agent = agent_for(stepper)
        stepper.reset()
        before = signal.signal(signal.SIGUSR1, handler)
        timer = threading.Timer(0.3, lambda: signal.raise_signal(signal.SIGUSR1))
        try:
            timer.start()
            started = time.monotonic()
            with pytest.raises(Stop):
                stepper.rollout(agent.native_policy(), 500_000)
            assert time.monotonic() - started < 60
        finally:
            timer.cancel()
            signal.signal(signal.SIGUSR1, before)
        assert stepper.observation is None
        stepper.reset()
        assert len(stepper.rollout(agent.native_policy(), 3).reward) == 3


def test_other_threads_run_during_a_rollout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Stepper, "at_once", 0.5)
    monkeypatch.setattr(rows, "_COLUMN_BYTES", 1 << 30)
    with make("CartPole-v1", 64, backend="native") as stepper:
        agent = agent_for(stepper)
        stepper.reset()
        ticks: list[float] = []
        done = threading.Event()

        def count() -> None:
            while not done.is_set():
                ticks.append(time.monotonic())
                time.sleep(0.001)

        thread = threading.Thread(target=count)
        thread.start()
        before = time.monotonic()
        stepper.rollout(agent.native_policy(), 20_000)
        after = time.monotonic()
        done.set()
        thread.join()
        assert sum(before < tick < after for tick in ticks) > 5
