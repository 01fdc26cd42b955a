"""Environments that step while the agent learns: the run is the one that a loop without threads and processes makes, one delay later."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from own_networks import batch_norm
from toy_envs import Walk

import pyrl
from pyrl.envs import Stepper, make
from pyrl.errors import EnvError, NonFiniteError, SettingError
from pyrl.loops.base import Limits
from pyrl.loops.off_policy import replay_for
from pyrl.loops.on_policy import rollout_buffer
from pyrl.ops.random import RandomStream
from pyrl.types import PolicyInput, Progress

STEPS = 240
DQN = {"learning_starts": 20, "batch_size": 8, "buffer_size": 500, "net_arch": (16,), "target_update_interval": 30}
CONSTANT = {"exploration_initial_eps": 0.3, "exploration_final_eps": 0.3}
SAC = {"learning_starts": 20, "batch_size": 8, "buffer_size": 500, "net_arch": (16,)}
PPO = {"n_steps": 16, "batch_size": 16, "n_epochs": 2, "net_arch": (16,)}


def agent_for(algo: str, stepper: Stepper, config: dict[str, Any]) -> Any:
    return pyrl.make_agent(
        algo, stepper.single_observation_space, stepper.single_action_space, seed=3, num_envs=stepper.num_envs, **config
    )  # fmt: skip


def bits(agent: Any) -> dict[str, Any]:
    """Weights, targets, optimisers, moments and random streams, by name."""
    found: dict[str, Any] = {}

    def walk(name: str, value: Any) -> None:
        if isinstance(value, Mapping | list | tuple):
            for key, entry in value.items() if isinstance(value, Mapping) else enumerate(value):
                walk(f"{name}/{key}", entry)
        else:
            found[name] = value.detach().numpy().tobytes() if isinstance(value, torch.Tensor) else np.asarray(value).tobytes()

    walk("", agent.state_dict())
    return found


def overlapped(algo: str, env: Any, num_envs: int, backend: str, config: dict[str, Any], steps: int = STEPS) -> Any:
    with make(env, num_envs, backend=backend, seed=3) as stepper:
        agent = agent_for(algo, stepper, config)
        for _ in pyrl.iterate(agent, stepper, steps, overlap=True):
            pass
        return agent


def delayed_off_policy(algo: str, env: Any, num_envs: int, config: dict[str, Any], steps: int = STEPS) -> Any:
    """The definition: choose, then make the updates that the steps before asked for, then step."""
    with make(env, num_envs, backend="lean", seed=3) as stepper:
        agent = agent_for(algo, stepper, config)
        loop: Any = pyrl.iterate(agent, stepper, steps)
        spec, buffer, limits = agent.storage(), replay_for(agent, agent.storage(), stepper), Limits(total_steps=steps)
        loop.reset()
        player, stored, due = agent.player(num_envs, deterministic=False), 0, 0
        while agent.env_steps < steps:
            of_round = 0
            for left in range(spec.train_freq, 0, -1):
                if agent.normalizer.active:
                    agent.normalizer.update(stepper.observation)
                action = np.array(player.choose(stepper.observation, stepper.first).action)
                count = int(np.ceil(due / left))
                due -= count
                for _ in range(count):
                    agent.learn(buffer.sample(spec.batch_size))
                step = stepper.step(action)
                if agent.normalizer.active:
                    agent.normalizer.observe_reward(step.reward, step.terminated | step.truncated)
                buffer.add(step.observation, step.action, step.reward, step.next_observation, step.terminated, step.truncated)
                of_round += num_envs
                agent.progress = Progress(agent.env_steps + num_envs, limits.share(agent.env_steps + num_envs, 0))
                if agent.env_steps >= steps:
                    break
            stored += of_round
            if stored >= spec.learning_begins:
                due += spec.gradient_steps if spec.gradient_steps >= 0 else of_round
        return agent


def delayed_on_policy(algo: str, env: Any, num_envs: int, config: dict[str, Any], steps: int = STEPS) -> Any:
    """The definition: collect by the weights of now, learn from the rollout before."""
    with make(env, num_envs, backend="lean", seed=3) as stepper:
        agent = agent_for(algo, stepper, config)
        loop: Any = pyrl.iterate(agent, stepper, steps)
        loop.reset()
        actor = pickle.loads(pickle.dumps(agent.acting))
        actor.random = RandomStream(3, "overlap")
        waiting = None
        while agent.env_steps < steps:
            actor.load_weights(agent.weights())
            buffer, made = rollout_buffer(agent, num_envs), 0
            while not buffer.full and agent.env_steps + made < steps:
                if actor.normalizer.active:
                    actor.normalizer.update(stepper.observation)
                choice = actor.choose(PolicyInput(stepper.observation, stepper.first))
                step = stepper.step(choice.action)
                if actor.normalizer.active:
                    actor.normalizer.observe_reward(step.reward, step.terminated | step.truncated)
                buffer.add(step, choice.stored)
                made += num_envs
            if waiting is not None:
                agent.learn(waiting)
            agent.normalizer.load_state_dict(actor.normalizer.state_dict())
            agent.progress = Progress(agent.env_steps + made, (agent.env_steps + made) / steps)
            waiting = buffer.take(stepper.observation, stepper.first)
        return agent


@pytest.mark.parametrize("backend", ["processes", "async"])
@pytest.mark.parametrize(
    ("algo", "env", "num_envs", "config"),
    [
        ("dqn", "CartPole-v1", 1, DQN),
        ("dqn", "CartPole-v1", 2, {**DQN, "train_freq": 4, "gradient_steps": 6}),
        ("dqn", Walk, 3, {**DQN, "train_freq": 3, "gradient_steps": -1, "normalize_reward": True}),
        ("sac", "Pendulum-v1", 1, {**SAC, "normalize_observation": True}),
        ("td3", "Pendulum-v1", 2, {**SAC, "engine": "torch"}),
    ],
)
def test_off_policy_is_one_step_late_and_nothing_else(backend: str, algo: str, env: Any, num_envs: int, config: dict[str, Any]) -> None:
    assert bits(overlapped(algo, env, num_envs, backend, config)) == bits(delayed_off_policy(algo, env, num_envs, config))


@pytest.mark.parametrize("backend", ["processes", "async"])
@pytest.mark.parametrize(
    ("algo", "env", "config"),
    [
        ("ppo", "CartPole-v1", PPO),
        ("ppo", "Pendulum-v1", {**PPO, "normalize_observation": True, "normalize_reward": True, "learning_rate": "linear_1e-3"}),
        ("a2c", Walk, {"n_steps": 8, "net_arch": (16,), "engine": "torch"}),
        ("a2c", "CartPole-v1", {"n_steps": 8, "net_arch": (16,), "features_extractor": batch_norm}),
    ],
)
def test_on_policy_is_one_rollout_late_and_nothing_else(backend: str, algo: str, env: Any, config: dict[str, Any]) -> None:
    agent = overlapped(algo, env, 2, backend, config)
    assert agent.updates
    assert bits(agent) == bits(delayed_on_policy(algo, env, 2, config))


@pytest.mark.parametrize(("algo", "env", "config"), [("ppo", "CartPole-v1", PPO), ("dqn", "CartPole-v1", DQN)])
def test_native_environments_step_in_a_thread(algo: str, env: str, config: dict[str, Any]) -> None:
    one, two = (overlapped(algo, env, 2, "native", config, 1000) for _ in range(2))
    assert one.updates
    assert bits(one) == bits(two)


@pytest.mark.parametrize(("algo", "config"), [("dqn", {**DQN, "train_freq": 2, "gradient_steps": 3, **CONSTANT}), ("ppo", PPO)])
def test_a_resumed_run_is_the_one_that_never_stopped(algo: str, config: dict[str, Any], tmp_path: Path) -> None:
    def train(steps: int, **more: Any) -> Any:
        return pyrl.train(algo, Walk, total_steps=steps, **more).agent

    told = dict(backend="processes", overlap=True, num_envs=2, seed=1, curve=False)
    whole = train(256, **told, run_dir=False, **config)
    train(128, **told, run_dir=tmp_path / "run", **config)
    assert bits(train(256, resume=tmp_path / "run", curve=False)) == bits(whole)
    with pytest.raises(SettingError, match=r"overlap is False, but the run in .* has True"):
        train(512, resume=tmp_path / "run", overlap=False)


def test_what_cannot_overlap_is_refused_by_name() -> None:
    with pytest.raises(SettingError, match=r"overlap is True, but CartPole-v1 steps in this process's.*'processes'"):
        pyrl.train("dqn", "CartPole-v1", overlap=True, total_steps=10, run_dir=False)
    with pytest.raises(SettingError, match="overlap is True, but a3c's workers step and learn by themselves"):
        pyrl.train("a3c", "CartPole-v1", overlap=True, total_steps=10, run_dir=False)
    with pytest.raises(SettingError, match="overlap is True, but random has no actor"):
        pyrl.train("random", "CartPole-v1", backend="processes", overlap=True, total_steps=10, run_dir=False)
    with pytest.raises(SettingError, match="overlap is True, but workers is 2"):
        pyrl.train("impala", "CartPole-v1", overlap=True, workers=2, num_envs=2, total_steps=10, run_dir=False)


@pytest.mark.parametrize(("algo", "config"), [("dqn", DQN), ("ppo", PPO)])
def test_an_environment_that_fails_meanwhile_says_so(algo: str, config: dict[str, Any]) -> None:
    with pytest.raises(EnvError, match=r"Walk: environment 0 \(seed \d+, step \d+\): step raised ZeroDivisionError: wheels came off"):
        overlapped(algo, lambda: Walk(fails_at=70), 1, "processes", config)


@pytest.mark.parametrize(("algo", "config"), [("dqn", DQN), ("ppo", PPO)])
def test_an_update_that_fails_leaves_environments_that_can_go_on(algo: str, config: dict[str, Any]) -> None:
    with make(Walk, 2, backend="processes", seed=3) as stepper:
        agent = agent_for(algo, stepper, config)
        loop = pyrl.iterate(agent, stepper, STEPS, overlap=True)
        learn, calls = agent.learn, 0

        def fails(data: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == 3:
                raise NonFiniteError("a test's")
            return learn(data)

        agent.learn = fails
        with pytest.raises(NonFiniteError, match="a test's"):
            for _ in loop:
                pass
        assert not loop.can_continue
        for _ in loop:  # from a reset
            pass
        assert agent.env_steps >= STEPS


def test_send_and_receive_are_step() -> None:
    for backend in ("lean", "sync", "async", "processes", "native"):
        with make("CartPole-v1", 3, backend=backend, seed=1) as one, make("CartPole-v1", 3, backend=backend, seed=1) as other:
            one.reset(), other.reset()
            assert one.overlaps == (backend in ("async", "processes", "native"))
            with pytest.raises(EnvError, match="receive, but no step was sent"):
                one.receive()
            for t in range(60):
                action = np.full(3, t % 2)
                one.send(action)
                with pytest.raises(EnvError, match="send, but the step before was not received"):
                    one.send(action)
                np.testing.assert_array_equal(one.receive().next_observation, other.step(action).next_observation)
            one.send(action)
            one.reset(seed=5)  # nobody wants it
            np.testing.assert_array_equal(one.observation, other.reset(seed=5))
