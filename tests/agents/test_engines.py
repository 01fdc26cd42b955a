"""Both engines take the same steps: the same weights, the same batches, a hundred updates."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from agent_envs import advance, given
from gymnasium import spaces

import pyrl
from pyrl import ops
from pyrl.agents.base import Agent
from pyrl.engine.arena import Arena
from pyrl.engine.native import Native
from pyrl.errors import NonFiniteError
from pyrl.types import Batch, Rollout

UPDATES = 100
VECTOR = spaces.Box(-1, 1, (5,), np.float32)
ON_POLICY = dict(n_steps=16, num_envs=4, net_arch=(32, 17))
CASES: dict[str, tuple[str, spaces.Space, spaces.Space, dict[str, Any]]] = {
    "ppo categorical": ("ppo", VECTOR, spaces.Discrete(3), dict(batch_size=32, n_epochs=4, ent_coef=0.01, **ON_POLICY)),
    "ppo multi-categorical": ("ppo", VECTOR, spaces.MultiDiscrete([2, 3]), dict(batch_size=32, n_epochs=4, ent_coef=0.01, **ON_POLICY)),
    "ppo bernoulli": ("ppo", VECTOR, spaces.MultiBinary(3), dict(batch_size=32, n_epochs=4, ent_coef=0.01, **ON_POLICY)),
    "a3c bernoulli": ("a3c", VECTOR, spaces.MultiBinary((2, 2)), dict(**ON_POLICY)),
    "ppo gaussian": ("ppo", VECTOR, spaces.Box(-1, 1, (2,)), dict(batch_size=32, n_epochs=4, ent_coef=0.01, **ON_POLICY)),
    "ppo value clip": ("ppo", VECTOR, spaces.Discrete(2), dict(batch_size=24, n_epochs=4, clip_range_vf=0.2, **ON_POLICY)),
    "ppo one-hot": ("ppo", spaces.Discrete(6), spaces.Discrete(2), dict(batch_size=32, n_epochs=4, **ON_POLICY)),
    "a2c categorical": ("a2c", VECTOR, spaces.Discrete(3), dict(ent_coef=0.01, **ON_POLICY)),
    "impala": ("impala", VECTOR, spaces.Discrete(3), dict(rho_bar=2.0, **ON_POLICY)),
    "impala gaussian adam": ("impala", VECTOR, spaces.Box(-1, 1, (2,)), dict(use_rms_prop=False, gae_lambda=0.9, **ON_POLICY)),
    "appo": ("appo", VECTOR, spaces.Discrete(3), dict(batch_size=32, n_epochs=4, rho_bar=2.0, **ON_POLICY)),
    "appo gaussian": ("appo", VECTOR, spaces.Box(-1, 1, (2,)), dict(batch_size=32, n_epochs=4, ent_coef=0.01, **ON_POLICY)),
    "a3c": ("a3c", VECTOR, spaces.Discrete(3), dict(use_rms_prop=True, **ON_POLICY)),
    "a2c gaussian adam": ("a2c", VECTOR, spaces.Box(-1, 1, (2,)), dict(use_rms_prop=False, normalize_advantage=True, **ON_POLICY)),
    "dqn": ("dqn", VECTOR, spaces.Discrete(3), dict(batch_size=32, net_arch=(32, 16), learning_rate=1e-3)),
    "dqn double soft mse": (
        "dqn", VECTOR, spaces.Discrete(3),
        dict(
            batch_size=32, net_arch=(32, 16), learning_rate=1e-3, double=True, tau=0.01, target_update_interval=1,
            loss="mse", max_grad_norm=None,
        ),
    ),
    "dqn dueling": ("dqn", VECTOR, spaces.Discrete(3), dict(batch_size=32, net_arch=(32, 16), learning_rate=1e-3, dueling=True)),
    "dqn dueling, one layer": ("dqn", VECTOR, spaces.Discrete(3), dict(batch_size=32, net_arch=(32,), learning_rate=1e-3, dueling=True)),
}  # fmt: skip
CONTINUOUS: dict[str, dict[str, Any]] = {
    "ddpg": {},
    "td3": {},
    "sac": {},
    "sac fixed temperature": {"ent_coef": 0.2},
    "svg": {},
}
PRIORITIZED: dict[str, dict[str, Any]] = {f"{name} prioritized": {"prioritized": True} for name in ("ddpg", "td3", "sac", "svg")}
BOX = spaces.Box(np.float32([-1, -3]), np.float32([1, 2]))
for _name, _options in {**CONTINUOUS, **PRIORITIZED}.items():
    _shared = dict(batch_size=32, net_arch=(32, 16), learning_rate=1e-3, learning_starts=0, tau=0.01)
    CASES[_name] = (_name.split()[0], VECTOR, BOX, {**_shared, **_options})
TORCH_ONLY: dict[str, tuple[str, spaces.Space, spaces.Space, dict[str, Any]]] = {  # what has no native form
    _name: (_name.split()[0], VECTOR, BOX, dict(batch_size=32, net_arch=(32, 16), learning_starts=0, prioritized="prioritized" in _name))
    for _name in ("tqc", "tqc prioritized", "crossq", "crossq prioritized")
}


def make(case: str, engine: str) -> Agent:
    name, observation_space, action_space, options = {**CASES, **TORCH_ONLY}[case]
    return pyrl.make_agent(name, observation_space, action_space, seed=3, engine=engine, **options)


def observations(space: spaces.Space, random: np.random.Generator, *leading: int) -> np.ndarray:
    if isinstance(space, spaces.Discrete):
        return random.integers(0, int(space.n), leading)
    return random.normal(size=(*leading, *space.shape)).astype(np.float32)


def actions(space: spaces.Space, random: np.random.Generator, *leading: int) -> np.ndarray:
    if isinstance(space, spaces.Discrete):
        return random.integers(0, int(space.n), leading)
    if isinstance(space, spaces.MultiDiscrete):
        return random.integers(0, space.nvec, (*leading, len(space.nvec)))
    if isinstance(space, spaces.MultiBinary):
        return random.integers(0, 2, (*leading, int(np.prod(space.shape))))
    return random.normal(size=(*leading, *space.shape)).astype(np.float32)


def batches(agent: Agent) -> Iterator[Any]:
    """What `learn` takes, for ever; the same for every agent of a case."""
    random = np.random.default_rng(0)
    observation_space, action_space, config = agent.observation_space, agent.action_space, agent.config
    while True:
        if agent.loop == "off_policy":
            B = config.batch_size
            terminated = random.random(B) < 0.1
            yield Batch(
                observations(observation_space, random, B), actions(action_space, random, B), random.normal(size=B).astype(np.float32),
                observations(observation_space, random, B), terminated, np.where(terminated, 0, 0.99).astype(np.float32),
                np.arange(B), random.random(B).astype(np.float32) if config.prioritized or agent.name == "dqn" else None,
            )  # fmt: skip
            continue
        T, N = config.n_steps, agent.num_envs
        terminated, truncated = random.random((2, T, N)) < 0.05
        final_step, final_env = np.nonzero(truncated)
        yield Rollout(
            observations(observation_space, random, T + 1, N), actions(action_space, random, T, N),
            random.normal(size=(T, N)).astype(np.float32), terminated, truncated, random.random((T, N)) < 0.95,
            random.random((T + 1, N)) < 0.05,
            final_step, final_env, observations(observation_space, random, len(final_step)),
            {"log_prob": random.normal(-1, 0.2, (T, N)).astype(np.float32)},
        )  # fmt: skip


def weights(agent: Agent) -> torch.Tensor:
    return torch.cat([p.detach().double().flatten().clone() for _, m in sorted(agent.modules().items()) for p in m.parameters()])


def learned(case: str, engine: str, double: bool = False) -> tuple[torch.Tensor, torch.Tensor, list[dict[str, float]]]:
    """(weights before, weights after, reports) of a hundred updates."""
    agent = make(case, engine)
    if double:
        for module in agent.modules().values():
            module.double()
    before, reports, data = weights(agent), [], batches(agent)
    while agent.updates < UPDATES:
        advance(agent, 4)
        reports.append(agent.learn(next(data)).metrics)
    return before, weights(agent), reports


@pytest.mark.parametrize("case", CASES)
def test_float32_engines_stay_together(case: str) -> None:
    before, native, native_reports = learned(case, "native")
    _, expected, reports = learned(case, "torch")
    travelled = (expected - before).norm()
    assert travelled > 0.01
    assert (native - expected).norm() <= 1e-3 * travelled
    for ours, theirs in zip(native_reports, reports, strict=True):
        assert ours == pytest.approx(theirs, rel=2e-3, abs=2e-3)


@pytest.mark.parametrize("case", CASES)
def test_float64_engines_agree(case: str) -> None:
    _, native, _ = learned(case, "native", double=True)
    _, expected, _ = learned(case, "torch", double=True)
    assert (native - expected).abs().max() <= 1e-9


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["deepcopy", "pickle"])
@pytest.mark.parametrize(
    ("case", "engine"),
    [
        *((case, engine) for case in ("ppo gaussian", "a2c categorical", "dqn dueling", *CONTINUOUS) for engine in ("native", "torch")),
        *((case, "torch") for case in TORCH_ONLY),
    ],
)
def test_copies_are_whole_and_independent(case: str, engine: str, duplicate: Any) -> None:
    """Optimisers, target networks and random numbers too: a copy learns as the original does, which stays as it was."""
    original = make(case, engine)
    data = batches(original)
    first, second = next(data), next(data)
    original.learn(first)
    before = weights(original)
    copied = duplicate(original)
    report = copied.learn(second).metrics
    assert copied.engine == engine
    assert torch.equal(weights(original), before)
    assert not torch.equal(weights(copied), before)
    assert original.learn(second).metrics == report
    assert torch.equal(weights(copied), weights(original))


@pytest.mark.parametrize("case", ["ppo categorical", "dqn dueling"])
def test_threads_change_nothing(case: str) -> None:
    results = []
    for count in (1, 2, 4):
        ops.set_num_threads(count)
        results.append(learned(case, "native")[1])
    ops.set_num_threads(0)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


def learned_state(agent: Agent) -> dict[str, torch.Tensor]:
    """Copies of all weights and of all that the optimisers hold."""
    state = agent.state_dict()
    parts = {"model": state["model"], **state["optimizer"]}
    return {f"{part}.{name}": torch.as_tensor(value).clone() for part, values in parts.items() for name, value in values.items()}


@pytest.mark.parametrize("engine", ["native", "torch"])
@pytest.mark.parametrize("case", CASES)
def test_a_loss_that_is_not_finite_is_caught_and_changes_nothing(case: str, engine: str) -> None:
    agent = make(case, engine)
    data = next(batches(agent))
    data.reward[0] = np.nan
    before = weights(agent)
    with pytest.raises(NonFiniteError):
        agent.learn(data)
    assert torch.equal(weights(agent), before)
    assert agent.updates == 0


@pytest.mark.parametrize("engine", ["native", "torch"])
@pytest.mark.parametrize(
    ("case", "late"),
    [("ddpg", "actor"), ("td3", "actor"), ("sac", "actor"), ("sac", "temperature"), ("sac fixed temperature", "actor"), ("svg", "actor")],
)
def test_a_late_step_that_fails_undoes_the_earlier_ones(case: str, late: str, engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The critic's step is made when the actor's gradient turns out not to be finite."""
    agent: Any = make(case, engine)
    data = batches(agent)
    agent.learn(next(data))  # td3's actor learns at every second update
    poisoned = agent.trainables[late].arena
    steps: list[Arena] = []

    def spoil(kind: Any, arena_of: Any) -> None:
        step = kind.step

        def spoiled(self: Any, max_grad_norm: float | None = None) -> float:
            steps.append(arena_of(self))
            if steps[-1] is poisoned:
                poisoned.gradients[0] = float("inf")
            return step(self, max_grad_norm)

        monkeypatch.setattr(kind, "step", spoiled)

    spoil(Arena, lambda arena: arena)
    spoil(Native, lambda native: native.arena)
    before = learned_state(agent)
    with pytest.raises(NonFiniteError):
        agent.learn(next(data))
    assert steps[0] is agent.trainables["critic"].arena
    assert steps[-1] is poisoned
    after = learned_state(agent)
    assert all(torch.equal(after[name], value) for name, value in before.items())
    monkeypatch.undo()
    agent.learn(next(data))
    assert not torch.equal(learned_state(agent)["model.critic.networks.0.0.weight"], after["model.critic.networks.0.0.weight"])


def test_acting_is_the_same() -> None:
    """The same random numbers choose the same actions (but where a logit lies on the edge)."""
    for case in CASES:
        native, expected = make(case, "native"), make(case, "torch")
        observation = observations(native.observation_space, np.random.default_rng(0), 64)
        ours, theirs = native.choose(given(observation)), expected.choose(given(observation))
        np.testing.assert_allclose(ours.action, theirs.action, atol=1e-5)
        assert ours.action.dtype == theirs.action.dtype
        assert ours.stored.keys() == theirs.stored.keys()
        if "log_prob" in ours.stored:
            np.testing.assert_allclose(ours.stored["log_prob"], theirs.stored["log_prob"], atol=1e-5)


def test_engine_is_chosen() -> None:
    assert make("dqn", "auto").engine == "native"
    assert make("ppo gaussian", "auto").engine == "native"
    with pytest.raises(ValueError, match="engine is 'nativ', expected one of auto, native, torch, compile"):
        make("dqn", "nativ")


@pytest.mark.parametrize("case", ["ppo gaussian", "dqn"])
def test_frozen_weights_are_left_to_torch(case: str) -> None:
    agent = make(case, "native")
    first = next(next(iter(agent.modules().values())).parameters())
    first.requires_grad_(False)
    before, all_before = first.clone(), weights(agent)
    agent.learn(next(batches(agent)))
    assert torch.equal(first, before)
    assert not torch.equal(weights(agent), all_before)


@pytest.mark.parametrize("case", ["ppo gaussian", "dqn"])
def test_engines_can_alternate(case: str) -> None:
    """One set of weights and one optimiser state: every other update on the other engine ends where one engine does."""
    agent = make(case, "native")
    data = batches(agent)
    while agent.updates < UPDATES:
        advance(agent, 4)
        agent.updater.engine = "torch" if agent.engine == "native" else "native"
        agent.learn(next(data))
    before, expected, _ = learned(case, "torch")
    assert (weights(agent) - expected).norm() <= 1e-3 * (expected - before).norm()
