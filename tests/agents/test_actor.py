"""The actor apart from its learner: in another process, with weights that travel as one blob."""

from __future__ import annotations

import multiprocessing
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from test_engines import CASES, batches, make, observations

import pyrl
from pyrl.agents.actor import Actor, Weights
from pyrl.agents.sharing import SharesWeights
from pyrl.errors import NonFiniteError, ShapeError
from pyrl.types import PolicyInput, Progress

CHOSEN = [case for case in CASES if "prioritized" not in case and case not in ("a3c bernoulli", "dqn dueling, one layer")]


def given_to(agent: Any) -> PolicyInput:
    observation = observations(agent.observation_space, np.random.default_rng(0), 16)
    return PolicyInput(observation, np.zeros(16, bool))


@pytest.mark.parametrize("engine", ["native", "torch"])
@pytest.mark.parametrize("case", CHOSEN)
def test_a_pickled_actor_acts_as_its_agent(case: str, engine: str) -> None:
    agent: Any = make(case, engine)
    agent.progress = Progress(1000, 0.5)
    data = batches(agent)
    actor: Actor = pickle.loads(pickle.dumps(agent.acting))
    for _ in range(2):
        for deterministic in (False, True):
            ours, theirs = actor.choose(given_to(agent), deterministic, agent.progress), agent.choose(given_to(agent), deterministic)
            np.testing.assert_array_equal(ours.action, theirs.action)
            assert ours.stored.keys() == theirs.stored.keys()
        if agent.loop == "asynchronous":
            break
        agent.learn(next(data))
        actor.load_weights(agent.weights())
        assert actor.version == agent.updates == agent.weights().version
    assert actor.random.state == agent.random.state


@pytest.mark.parametrize("case", ["ppo gaussian", "dqn", "sac", "td3"])
def test_an_actor_holds_no_learner(case: str) -> None:
    """Neither optimiser state nor other networks travel: the parameters that act, and little else."""
    agent: Any = make(case, "torch")
    for _, data in zip(range(3), batches(agent)):
        agent.learn(data)
    actor = pickle.loads(pickle.dumps(agent.acting))
    assert actor.trainable.arena.optimizer is None
    assert actor.trainable.target is None
    assert len(pickle.dumps(agent.acting)) < 8 * agent.weights().values.nbytes + 60_000
    before = agent.weights().values
    actor.load_weights(Weights(9, np.zeros_like(before)))
    np.testing.assert_array_equal(agent.weights().values, before)


def test_weights_of_another_network_are_refused_and_change_nothing() -> None:
    agent: Any = make("dqn", "native")
    actor = pickle.loads(pickle.dumps(agent.acting))
    before = actor.weights()
    with pytest.raises(ShapeError, match=r"load_weights: values has shape \[3\]"):
        actor.load_weights(Weights(1, np.zeros(3, np.float32)))
    broken = before.values.copy()
    broken[0] = np.nan
    with pytest.raises(NonFiniteError, match="load_weights"):
        actor.load_weights(Weights(1, broken))
    np.testing.assert_array_equal(actor.weights().values, before.values)
    assert actor.version == 0


def test_read_only_weights_and_statistics_are_taken_without_a_warning() -> None:
    """As Ray gives them."""
    agent = pyrl.make_agent("ppo", Box(-1, 1, (3,)), Discrete(2), normalize_observation=True, seed=1)
    agent.normalizer.update(np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32))
    actor, weights = pickle.loads(pickle.dumps(agent.acting)), agent.weights()
    weights.statistics[:] += 1.0
    for array in (weights.values, weights.statistics):
        array.flags.writeable = False
    actor.load_weights(weights)
    np.testing.assert_array_equal(actor.weights().values, weights.values)
    np.testing.assert_array_equal(actor.weights().statistics, weights.statistics)
    assert weights.statistics.size


def _elsewhere(payload: bytes, weights: Weights, given: PolicyInput, pipe: Any) -> None:
    actor = pickle.loads(payload)
    actor.load_weights(weights)
    pipe.send(actor.choose(given, True).action)


def test_acts_in_another_process() -> None:
    agent: Any = make("sac", "native")
    payload = pickle.dumps(agent.acting)
    agent.learn(next(batches(agent)))
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_elsewhere, args=(payload, agent.weights(), given_to(agent), there))
    process.start()
    np.testing.assert_array_equal(here.recv(), agent.choose(given_to(agent), True).action)
    process.join()


def test_copies_of_an_agent_have_actors_of_their_own() -> None:
    agent: Any = make("ppo gaussian", "native")
    agent.choose(given_to(agent))
    other = pickle.loads(pickle.dumps(agent))
    with torch.no_grad():
        for parameter in other.network.parameters():
            parameter.zero_()
    assert (other.choose(given_to(agent), True).action == 0).all()
    assert (agent.choose(given_to(agent), True).action != 0).any()


def test_shared_weights_are_one_blob_with_a_version() -> None:
    agents: list[Any] = [make("a3c", "native") for _ in range(2)]
    assert isinstance(agents[0], SharesWeights)
    assert not isinstance(make("ppo gaussian", "native"), SharesWeights)
    shared, data = agents[0].share(), batches(agents[0])
    for index, agent in enumerate(agents):
        agent.become_worker(index, 0)
        agent.pull(shared)
        agent.gradient(next(data))
        before = shared.values.clone()
        agent.push(shared)
        assert shared.version == index + 1
        assert not torch.equal(before, shared.values)


def test_exploration_survives_saving(tmp_path: Any) -> None:
    """Progress is in the checkpoint: a loaded DQN explores as the saved one, not as at the beginning."""
    run = pyrl.train("dqn", "CartPole-v1", total_steps=200, run_dir=False, learning_starts=150, exploration_fraction=0.5)
    loaded: Any = pyrl.load(run.agent.save(tmp_path / "agent"))
    assert loaded.progress == run.agent.progress == Progress(200, 1.0)
    assert loaded.epsilon == run.agent.epsilon < 0.2  # type: ignore[attr-defined]
