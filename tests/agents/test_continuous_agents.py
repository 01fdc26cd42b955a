"""What the off-policy agents for continuous actions share: spaces, scaling, warm-up, learning, the two flags, exact resume."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from agent_envs import BOXES, CONTINUOUS, OBSERVATION_SPACES, StayOrGo, TwoTargets, given, prepared, random_env
from gymnasium import spaces

import pyrl
from pyrl.agents.continuous_actors import DeterministicActor
from pyrl.agents.entropy import EntropyAgent
from pyrl.agents.registry import agent_class
from pyrl.errors import SpaceError
from pyrl.experiment.presets import preset
from pyrl.types import PolicyInput, Progress

SMALL: dict[str, Any] = {"buffer_size": 2000, "learning_starts": 16, "batch_size": 16, "net_arch": (8,)}
QUICK: dict[str, Any] = {**SMALL, "batch_size": 64, "net_arch": (32,), "tau": 0.05, "learning_rate": 3e-3, "random_steps": 300}
# What an agent needs to learn tiny problems: little entropy, little smoothing.
TUNED: dict[str, dict[str, Any]] = {"td3": {"target_policy_noise": 0.05}, "tqc": {"n_quantiles": 5}}
AGENTS: dict[str, dict[str, Any]] = {
    name: {**TUNED.get(name, {}), **({"ent_coef": 0.01} if issubclass(agent_class(name), EntropyAgent) else {})} for name in CONTINUOUS
}
everyone = pytest.mark.parametrize("algo", AGENTS)


def known(algo: str, options: dict[str, Any]) -> dict[str, Any]:
    """Those of ``options`` that the agent has."""
    fields = agent_class(algo).Config.__dataclass_fields__
    return {name: value for name, value in options.items() if name in fields}


def run(agent: pyrl.Agent, env: Any, steps: int) -> dict[str, float]:
    *_, last = pyrl.iterate(agent, env, total_steps=steps)
    return last


def weights(agent: pyrl.Agent) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for m in agent.modules().values() for p in m.parameters()])


# -- spaces and scaling --------------------------------------------------------------------------------------------------


@everyone
@pytest.mark.parametrize(
    ("observation", "box", "num_envs"),
    [*((o, "asymmetric", 2) for o in OBSERVATION_SPACES), *(("box", b, n) for b in BOXES for n in (1, 3))],
)
def test_every_space(algo: str, observation: str, box: str, num_envs: int) -> None:
    space = BOXES[box]
    env = random_env(OBSERVATION_SPACES[observation], space)  # which checks that actions are of the space
    agent = pyrl.make_agent(algo, OBSERVATION_SPACES[observation], space, num_envs=num_envs, **{**SMALL, "n_step": num_envs})
    for metrics in pyrl.iterate(agent, env, total_steps=20 * num_envs):
        assert all(math.isfinite(v) for v in metrics.values())
    assert agent.updates > 0
    one, _ = env().reset(seed=0)
    assert space.contains(np.asarray(agent.act(one)))
    assert pyrl.evaluate(agent, env, episodes=3).lengths.tolist() == [7, 7, 7]


@everyone
def test_actions_fill_an_asymmetric_box(algo: str) -> None:
    """Uniform while random_steps last; then the policy's, whose bounds are the Box's."""
    space = spaces.Box(np.float32([-1, 10]), np.float32([3, 11]))
    agent = pyrl.make_agent(algo, spaces.Discrete(2), space, num_envs=2000, random_steps=100)
    observation = np.zeros(2000, np.int64)
    warm_up = agent.choose(given(observation)).action
    np.testing.assert_allclose(warm_up.mean(0), [1, 10.5], atol=0.1)
    np.testing.assert_allclose([warm_up.min(0), warm_up.max(0)], [[-1, 10], [3, 11]], atol=0.01)
    assert np.ptp(agent.choose(given(observation), deterministic=True).action) < np.ptp(warm_up)  # no warm-up there
    agent.progress = Progress(100)
    for sign, bound in ((1.0, space.high), (-1.0, space.low)):
        with torch.no_grad():
            last = [layer for layer in agent.actor.network if isinstance(layer, torch.nn.Linear)][-1]
            last.weight.zero_()
            last.bias.fill_(20.0 * sign)
        np.testing.assert_allclose(agent.choose(given(observation), deterministic=True).action, np.tile(bound, (2000, 1)), rtol=1e-6)
        assert all(space.contains(a) for a in agent.choose(given(observation)).action[:50])


@everyone
def test_warm_up_lasts_as_long_as_learning_starts(algo: str) -> None:
    agent = pyrl.make_agent(algo, spaces.Discrete(2), spaces.Box(-1, 1, (1,)), learning_starts=70)
    assert agent.random_steps == 70
    agent = pyrl.make_agent(algo, spaces.Discrete(2), spaces.Box(-1, 1, (1,)), learning_starts=70, random_steps=0)
    assert agent.random_steps == 0


@everyone
def test_spaces_that_are_refused(algo: str) -> None:
    for space, expected in (
        (spaces.Discrete(2), "expected a Box of floats"),
        (spaces.Box(-3, 3, (1,), np.int32), "expected a Box of floats"),
        (spaces.Box(-np.inf, 1, (1,)), "expected finite bounds"),
        (spaces.Box(np.finfo(np.float32).min, np.finfo(np.float32).max, (1,)), "expected finite bounds"),
    ):
        with pytest.raises(SpaceError, match=rf"{algo}: action_space is .*{expected}"):
            pyrl.make_agent(algo, spaces.Discrete(2), space)


@everyone
@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("tau", 0.0, r"tau is 0.0, expected a number in \(0, 1\]"),
        ("batch_size", 2001, r"batch_size is 2001, expected a value in \[1, 2000\]"),
        ("gradient_steps", -2, "gradient_steps is -2"),
        ("random_steps", -1, "random_steps is -1"),
        ("learning_rate", -1.0, "learning_rate is -1.0, expected a positive number"),
        ("net_arch", (0,), r"net_arch is \(0,\)"),
    ],
)
def test_bad_options(algo: str, option: str, value: Any, message: str) -> None:
    message = message if known(algo, {option: value}) else f"{algo} has no option '{option}'"
    with pytest.raises(ValueError, match=message):
        pyrl.make_agent(algo, spaces.Discrete(2), spaces.Box(-1, 1, (1,)), **{**SMALL, option: value})


# -- learning ------------------------------------------------------------------------------------------------------------


@everyone
@pytest.mark.parametrize("num_envs", [1, 4])
def test_learns_two_targets(algo: str, num_envs: int) -> None:
    agent = pyrl.make_agent(
        algo, TwoTargets.observation_space, TwoTargets.action_space, seed=1, num_envs=num_envs,
        **{**known(algo, QUICK), "gamma": 0.5, "gradient_steps": -1, **AGENTS[algo]},
    )  # fmt: skip
    run(agent, TwoTargets, 1200)
    np.testing.assert_allclose([agent.act(0)[0], agent.act(1)[0]], TwoTargets.targets, atol=0.3)


@pytest.mark.parametrize(("algo", "n_step"), [*((algo, 1) for algo in AGENTS), ("sac", 3)])
def test_tells_truncation_from_termination(algo: str, n_step: int) -> None:
    steps = 3000 if algo == "crossq" else 1500  # after 1500 its values differ by 0.4 between seeds, as batches normalise them
    options = {**known(algo, QUICK), "gamma": 0.8, "n_step": n_step, "random_steps": steps, "learning_starts": 64, **AGENTS[algo]}
    agent = pyrl.make_agent(algo, StayOrGo.observation_space, StayOrGo.action_space, seed=1, **options)
    run(agent, StayOrGo, steps)
    assert agent.act(0)[0] > 0.0
    q = agent.critic(torch.tensor([0, 0, 1]), torch.tensor([[-1.0], [1.0], [0.0]])).detach()
    q = (q if q.ndim == 2 else q.mean(2)).mean(0)
    np.testing.assert_allclose(q, [1.0, 3.0, 5.0], rtol=0.2)


@everyone
def test_updates_follow_train_freq_and_gradient_steps(algo: str) -> None:
    for train_freq, gradient_steps, expected in ((1, 1, 40), (4, 2, 20), (4, -1, 80)):
        options = {**SMALL, "learning_starts": 0, "batch_size": 1, "train_freq": train_freq, "gradient_steps": gradient_steps}
        agent = pyrl.make_agent(algo, TwoTargets.observation_space, TwoTargets.action_space, num_envs=2, **options)
        run(agent, TwoTargets, 80)
        assert agent.updates == expected


@everyone
def test_the_actors_gradient_is_its_own(algo: str) -> None:
    """The actor's loss runs through the critic; the gradient of the critic's weights is not computed."""
    agent = pyrl.make_agent(algo, TwoTargets.observation_space, TwoTargets.action_space, engine="torch", **SMALL)
    run(agent, TwoTargets, 30)
    data = torch.zeros(2, 1), torch.tensor([0.1])  # noise, temperature
    data = data if isinstance(agent, EntropyAgent) else data[: algo == "svg"]
    agent.trainables["critic"].arena.zero_grad()
    agent.actor_step(prepared(torch.tensor([0, 1])), *data)
    assert agent.trainables["actor"].arena.gradients.abs().sum() > 0
    assert agent.trainables["critic"].arena.gradients.abs().sum() == 0


# -- the same run again --------------------------------------------------------------------------------------------------


@everyone
def test_same_seed_same_run(algo: str) -> None:
    def final(seed: int) -> torch.Tensor:
        agent = pyrl.make_agent(algo, TwoTargets.observation_space, TwoTargets.action_space, seed=seed, num_envs=2, **SMALL)
        run(agent, TwoTargets, 80)
        return weights(agent)

    assert torch.equal(final(1), final(1))
    assert not torch.equal(final(1), final(2))


@pytest.mark.parametrize(
    ("algo", "options"),
    [
        ("ddpg", {}),
        ("ddpg", {"noise_type": "ornstein-uhlenbeck"}),
        ("td3", {"normalize_observation": True, "normalize_reward": True}),
        ("sac", {}),
        ("sac", {"ent_coef": 0.1, "noise_type": "ornstein-uhlenbeck", "noise_std": 0.5}),
        ("svg", {"n_step": 3}),
        ("tqc", {"n_step": 3, "prioritized": True}),
        ("crossq", {"normalize_observation": True, "prioritized": True}),
    ],
)
def test_going_on_is_exact(algo: str, options: dict[str, Any], tmp_path: Path) -> None:
    """Stopping at N and resuming from the files equals a reset at N in the same process, bit for bit; evaluations change nothing."""
    options = {**SMALL, **options}
    spaces_ = (space := pyrl.envs.make("Pendulum-v1", 2)).single_observation_space, space.single_action_space
    agent = pyrl.make_agent(algo, *spaces_, num_envs=2, **{**dict(preset(algo, "Pendulum-v1").config), **options})
    loop = pyrl.iterate(agent, "Pendulum-v1", 160)
    for metrics in loop:
        if metrics["time/env_steps"] >= 80:
            break
    loop.reset()
    pyrl.evaluate(agent, "Pendulum-v1", episodes=1, deterministic=False, max_episode_steps=5)
    for _ in loop:
        pass
    pyrl.train(
        algo, "Pendulum-v1", total_steps=160, num_envs=2, run_dir=tmp_path / "run",
        on_metrics=lambda m: m["time/env_steps"] >= 80, **options,
    )  # fmt: skip
    resumed = pyrl.train(algo, "Pendulum-v1", resume=tmp_path / "run").agent
    assert resumed.env_steps == agent.env_steps == 160
    assert torch.equal(weights(resumed), weights(agent))
    assert {n: s.state for n, s in resumed.streams().items()} == {n: s.state for n, s in agent.streams().items()}


# -- acting in one call --------------------------------------------------------------------------------------------------


NOISES = [{}, {"noise_std": 0.3}, {"noise_std": 0.2, "noise_type": "ornstein-uhlenbeck"}, {"noise_std": 0.1, "normalize_observation": True}]


@pytest.mark.parametrize("rungs", [None, np.linspace(0.0, 1.0, 3)])
@pytest.mark.parametrize("options", NOISES)
@pytest.mark.parametrize("box", BOXES)
@pytest.mark.parametrize("algo", ["ddpg", "sac", "svg", "td3"])
def test_acting_in_one_call_is_acting_in_parts(algo: str, box: str, options: dict[str, Any], rungs: np.ndarray | None) -> None:
    spaces_ = OBSERVATION_SPACES["box"], BOXES[box]
    one, parts = (pyrl.make_agent(algo, *spaces_, num_envs=3, seed=1, net_arch=(8,), random_steps=0, **options) for _ in range(2))
    parts.acting._at_once = False
    rng = np.random.default_rng(0)
    for agent in (one, parts):
        agent.acting.rungs = rungs
    for step in range(6):
        observation = rng.standard_normal((3, *spaces_[0].shape)).astype(np.float32)
        chosen = []
        for agent in (one, parts):
            agent.normalizer.update(observation)
            chosen.append(agent.choose(PolicyInput(observation, np.zeros(3, bool)), deterministic=step % 3 == 2).action)
        assert (chosen[0].dtype, chosen[0].shape) == (chosen[1].dtype, chosen[1].shape)
        np.testing.assert_array_equal(*chosen)
    ours, theirs = ({name: stream.state for name, stream in agent.streams().items()} for agent in (one, parts))
    assert ours == theirs


def test_an_actor_with_an_action_of_its_own_is_asked_for_it() -> None:
    class Halved(DeterministicActor):
        def native_actor_action(self, native: Any, observation: np.ndarray, deterministic: bool) -> np.ndarray:
            return 0.5 * super().native_actor_action(native, observation, deterministic)

    agent = pyrl.make_agent("td3", OBSERVATION_SPACES["box"], BOXES["asymmetric"], seed=1, net_arch=(8,))
    given = PolicyInput(np.ones((1, *OBSERVATION_SPACES["box"].shape), np.float32), np.zeros(1, bool))
    usual = agent.scale.to_unit(agent.choose(given, deterministic=True).action)
    halved = agent.scale.to_unit(Halved(agent).choose(given, deterministic=True).action)
    np.testing.assert_allclose(halved, 0.5 * usual, rtol=1e-5, atol=1e-6)
