"""A whole rollout in one call: the bits of stepping one by one, the same limits, and a way out."""

from __future__ import annotations

import signal
import threading
import time
from typing import Any

import numpy as np
import pytest
import torch

import pyrl
from pyrl.agents.actor_critic import ActorCriticAgent
from pyrl.agents.ppo import PPO
from pyrl.envs import make, native_stepper
from pyrl.loops import iterate
from pyrl.types import map_observation

LIMITS: list[dict[str, Any]] = [{"total_steps": 803}, {"total_episodes": 31}, {"total_steps": 2_000, "stop_at_return": -100.0}]
SMALL = {"ppo": {"n_steps": 37, "batch_size": 64, "n_epochs": 2}, "a2c": {"n_steps": 11}}


def trained(algo: str, env: str, *, one_by_one: bool, monkeypatch: pytest.MonkeyPatch, num_envs: int = 5, **limits: Any) -> tuple[Any, ...]:
    """(agent, metrics, episodes, observation at the end)"""
    calls = []
    with monkeypatch.context() as patch:
        rollout = native_stepper.NativeStepper.rollout
        patch.setattr(native_stepper.NativeStepper, "rollout", lambda *args, **named: calls.append(1) or rollout(*args, **named))
        if one_by_one:
            patch.setattr(ActorCriticAgent, "native_policy", lambda self: None)
        with make(env, num_envs, backend="native", seed=3, max_episode_steps=29) as stepper:
            agent = pyrl.make_agent(
                algo, stepper.single_observation_space, stepper.single_action_space, seed=1, num_envs=num_envs, **SMALL[algo]
            )
            metrics = [
                ({k: v for k, v in record.items() if not k.startswith("time/") or k == "time/env_steps"}, repr(record.episodes))
                for record in iterate(agent, stepper, **limits)
            ]
            observation = map_observation(np.copy, stepper.observation)
    assert bool(calls) != one_by_one
    return agent, metrics, observation


@pytest.mark.parametrize("algo", ["ppo", "a2c"])
@pytest.mark.parametrize("env", ["CartPole-v1", "Pendulum-v1", "FrozenLake-v1", "MountainCarContinuous-v0"])
@pytest.mark.parametrize(
    "limits", [{"total_steps": 803}, {"total_episodes": 31}, {"total_steps": 2_000, "stop_at_return": -100.0}], ids=str
)
def test_same_bits_as_stepping_one_by_one(algo: str, env: str, limits: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    one = trained(algo, env, one_by_one=True, monkeypatch=monkeypatch, **limits)
    many = trained(algo, env, one_by_one=False, monkeypatch=monkeypatch, **limits)
    assert many[1] == one[1]
    np.testing.assert_array_equal(many[2], one[2])
    assert many[0].random.state == one[0].random.state
    assert (many[0].env_steps, many[0].updates) == (one[0].env_steps, one[0].updates)
    for a, b in zip(many[0].network.parameters(), one[0].network.parameters()):
        assert torch.equal(a, b)


def test_calls_of_any_length_make_the_same_rollout(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = trained("ppo", "CartPole-v1", one_by_one=False, monkeypatch=monkeypatch, total_steps=800)
    monkeypatch.setattr(native_stepper, "_AT_ONCE", 0.0)  # one step a call
    pieces = trained("ppo", "CartPole-v1", one_by_one=False, monkeypatch=monkeypatch, total_steps=800)
    assert whole[1] == pieces[1]
    np.testing.assert_array_equal(whole[2], pieces[2])


def agent_for(stepper: Any, algo: str = "ppo", **config: Any) -> Any:
    config = {**SMALL.get(algo, {}), **config}
    return pyrl.make_agent(algo, stepper.single_observation_space, stepper.single_action_space, seed=1, num_envs=stepper.num_envs, **config)


def test_who_acts_otherwise_steps_one_by_one() -> None:
    class Mine(PPO):
        def choose(self, given: Any, deterministic: bool = False) -> Any:
            return super().choose(given, deterministic)

    with make("CartPole-v1", 2, backend="native") as stepper:
        assert agent_for(stepper).native_policy() is not None
        assert agent_for(stepper, normalize_observation=True).native_policy() is None
        assert agent_for(stepper, engine="torch").native_policy() is None
        assert agent_for(stepper, "dqn").native_policy() is None
        agent = agent_for(stepper)
        assert Mine(agent.observation_space, agent.action_space, agent.config, 0, 2).native_policy() is None
        agent.network.double()
        assert agent.native_policy() is None
        agent = agent_for(stepper)
        agent.choose = agent.choose
        assert agent.native_policy() is None


def test_logits_that_are_not_finite_are_named_and_take_no_draw() -> None:
    with make("CartPole-v1", 2, backend="native") as stepper:
        agent = agent_for(stepper)
        with torch.no_grad():
            for parameter in agent.network.parameters():
                parameter.fill_(float("nan"))
        stepper.reset()
        before = agent.random.state
        with pytest.raises(ValueError, match="logits"):
            stepper.rollout(agent.native_policy(), 10, False)  # type: ignore[attr-defined]
        assert agent.random.state == before
        assert stepper.observation is None  # what the environments show is not known


def test_a_signal_ends_a_long_rollout(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stop(Exception):
        pass

    def handler(number: int, frame: Any) -> None:
        raise Stop

    monkeypatch.setattr(native_stepper, "_AT_ONCE", 600.0)
    with make("CartPole-v1", 4, backend="native") as stepper:
        agent = agent_for(stepper)
        stepper.reset()
        before = signal.signal(signal.SIGUSR1, handler)
        timer = threading.Timer(0.3, lambda: signal.raise_signal(signal.SIGUSR1))
        try:
            timer.start()
            started = time.monotonic()
            with pytest.raises(Stop):
                stepper.rollout(agent.native_policy(), 500_000, False)  # type: ignore[attr-defined]
            assert time.monotonic() - started < 60
        finally:
            timer.cancel()
            signal.signal(signal.SIGUSR1, before)
        assert stepper.observation is None
        stepper.reset()
        assert len(stepper.rollout(agent.native_policy(), 3, False).reward) == 3  # type: ignore[attr-defined]


def test_other_threads_run_during_a_rollout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native_stepper, "_AT_ONCE", 0.5)
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
        stepper.rollout(agent.native_policy(), 20_000, False)  # type: ignore[attr-defined]
        after = time.monotonic()
        done.set()
        thread.join()
        assert sum(before < tick < after for tick in ticks) > 5
