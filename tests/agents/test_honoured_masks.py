"""Agents choose what `info["action_mask"]` allows, and learn as if nothing else existed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces

import pyrl
from pyrl.agents.dqn import q_target
from pyrl.envs import make
from pyrl.errors import ShapeError
from pyrl.loops.iterate import iterate
from pyrl.nets.distributions import distribution_for, masked
from pyrl.types import Batch, PolicyInput, Rollout

SPACES = {"discrete": spaces.Discrete(5), "multi": spaces.MultiDiscrete([2, 3])}
MASKING = ("ppo", "a2c", "a3c", "impala", "appo", "dqn", "random")
SMALL: dict[str, dict[str, Any]] = {
    "ppo": {"n_steps": 16, "batch_size": 16},
    "a2c": {},
    "a3c": {},
    "impala": {"n_steps": 5},
    "appo": {"n_steps": 16, "batch_size": 16},
    "dqn": {"learning_starts": 20, "batch_size": 16, "train_freq": 1, "buffer_size": 400},
    "random": {},
}


def allowed(kind: str, place: np.ndarray) -> np.ndarray:
    """bool [..., 5]: of a Discrete of 5, or of the components of 2 and 3 side by side."""
    sizes = [5] if kind == "discrete" else [2, 3]
    place = np.asarray(place)[..., None]
    parts = [((place + np.arange(n)) % 3 == 0) | (np.arange(n) == place % n) for n in sizes]
    return np.concatenate(parts, axis=-1)


class Strict(gym.Env[np.ndarray, Any]):
    """Walks over 12 places, twelve steps an episode; what a place does not allow raises. Choosing high pays."""

    observation_space = spaces.Box(0, 11, (1,), np.float32)

    def __init__(self, kind: str = "discrete") -> None:
        self.kind, self.action_space = kind, SPACES[kind]
        self.place, self.steps = 0, 0

    def given(self) -> tuple[np.ndarray, dict[str, Any]]:
        return np.array([self.place], np.float32), {"action_mask": allowed(self.kind, np.array(self.place)).astype(np.int8)}

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.place, self.steps = int(self.np_random.integers(12)), 0
        return self.given()

    def step(self, action: Any) -> Any:
        chosen = [int(action)] if self.kind == "discrete" else [int(action[0]), 2 + int(action[1])]
        if not allowed(self.kind, np.array(self.place))[chosen].all():
            raise RuntimeError(f"{action} is not allowed at {self.place}")
        self.steps += 1
        self.place = (self.place + 1 + sum(chosen)) % 12
        observation, info = self.given()
        return observation, float(sum(chosen)), self.place == 0, self.steps == 12, info


def weights(agent: Any) -> np.ndarray:
    return np.concatenate([p.detach().numpy().ravel() for t in agent.trainables.values() for p in t.network.parameters()])


def cases() -> Iterator[tuple[str, str, str, str]]:
    for algo in MASKING:
        for kind in {"dqn": ("discrete",), "a3c": ("multi",)}.get(algo, tuple(SPACES)):
            for engine in ("native", "torch") if algo in ("ppo", "a2c", "impala", "appo", "dqn") else ("auto",):
                for backend in ("lean", "sync") if algo != "a3c" else ("auto",):
                    yield algo, kind, engine, backend


@pytest.mark.parametrize(("algo", "kind", "engine", "backend"), list(cases()))
def test_what_is_forbidden_is_never_chosen(algo: str, kind: str, engine: str, backend: str) -> None:
    options = {**SMALL[algo], "engine": engine} | ({"exploration_final_eps": 0.5} if algo == "dqn" else {})
    made = {"env_kwargs": {"kind": kind}, "backend": backend}
    run = pyrl.train(algo, Strict, total_steps=300, num_envs=2, run_dir=False, **made, **options)
    assert run.agent.env_steps >= 300
    for deterministic in (True, False):
        assert len(pyrl.evaluate(run.agent, lambda: Strict(kind), 3, deterministic=deterministic).returns) == 3


@pytest.mark.parametrize("kind", SPACES)
def test_probabilities_by_their_definition(kind: str) -> None:
    space, sizes = SPACES[kind], [5] if kind == "discrete" else [2, 3]
    distribution, r = distribution_for(space), np.random.default_rng(0)
    logits, mask = r.normal(size=(40, 5)).astype(np.float32), allowed(kind, np.arange(40))
    action = np.array([[r.choice(np.flatnonzero(part)) for part in np.split(row, np.cumsum(sizes)[:-1])] for row in mask])
    output = torch.tensor(logits, requires_grad=True)
    given = torch.as_tensor(action if kind == "multi" else action[:, 0])
    log_prob, entropy = distribution.log_prob_and_entropy(masked(output, mask), torch.zeros(0), given)
    (log_prob.sum() + entropy.sum()).backward()
    for row in range(40):
        expected, spread, at = 0.0, 0.0, 0
        for component, n in enumerate(sizes):
            legal = np.flatnonzero(mask[row, at : at + n])
            p = np.exp(logits[row, at + legal].astype(np.float64))
            p /= p.sum()
            expected += np.log(p[list(legal).index(action[row, component])])
            spread -= float((p * np.log(p)).sum())
            at += n
        assert log_prob[row].item() == pytest.approx(expected, abs=1e-5)
        assert entropy[row].item() == pytest.approx(spread, abs=1e-5)
    assert output.grad is not None
    assert (output.grad.numpy()[~mask] == 0).all()
    assert (output.grad.numpy()[mask] != 0).any()


def collected(algo: str, kind: str, monkeypatch: pytest.MonkeyPatch, **options: Any) -> list[Any]:
    """What an agent was given to learn from in 200 steps."""
    agent = pyrl.make_agent(algo, Strict.observation_space, SPACES[kind], num_envs=2, **{**SMALL[algo], "engine": "torch", **options})
    seen: list[Any] = []
    learn = type(agent).learn

    def spy(self: Any, data: Any) -> Any:
        names = ("observation", "next_observation", "next_action_mask", "action_mask")
        seen.append(({name: np.array(getattr(data, name)) for name in names if getattr(data, name, None) is not None}, data))
        return learn(self, data)

    monkeypatch.setattr(type(agent), "learn", spy)
    list(pyrl.iterate(agent, lambda: Strict(kind), 200))
    return seen


@pytest.mark.parametrize("options", [{}, {"n_step": 3}, {"prioritized": True}], ids=str)
def test_next_masks_are_those_of_the_next_observations(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    seen = collected("dqn", "discrete", monkeypatch, **options)
    assert len(seen) > 50
    for kept, batch in seen:
        assert isinstance(batch, Batch)
        assert kept["next_action_mask"].dtype == bool
        np.testing.assert_array_equal(kept["next_action_mask"], allowed("discrete", kept["next_observation"][:, 0].astype(int)))


@pytest.mark.parametrize("kind", SPACES)
def test_rollouts_carry_the_masks_of_their_observations(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for kept, rollout in collected("ppo", kind, monkeypatch):
        assert isinstance(rollout, Rollout)
        np.testing.assert_array_equal(kept["action_mask"], allowed(kind, kept["observation"][:-1, :, 0].astype(int)))


@pytest.mark.parametrize(("algo", "kind"), [(a, k) for a in ("ppo", "a2c", "dqn") for k in SPACES if (a, k) != ("dqn", "multi")])
def test_both_engines_make_the_same_of_masks(algo: str, kind: str) -> None:
    plain = {"optimizer": "adam", "optimizer_kwargs": {"eps": 1.0}, "learning_rate": 0.05}  # a small eps makes much of little differences
    options = SMALL[algo] | plain | ({"double": True} if algo == "dqn" else {"ent_coef": 0.01})
    pair = [pyrl.make_agent(algo, Strict.observation_space, SPACES[kind], num_envs=2, engine=e, **options) for e in ("native", "torch")]
    with make(lambda: Strict(kind), 2) as stepper:
        loop = iterate(pair[0], stepper, total_steps=96)
        learn = type(pair[0]).learn
        pair[0].learn = lambda data: next(iter([learn(agent, data) for agent in pair]))  # type: ignore[method-assign]
        list(loop)
    np.testing.assert_allclose(weights(pair[0]), weights(pair[1]), atol=1e-4)
    untrained = pyrl.make_agent(algo, Strict.observation_space, SPACES[kind], num_envs=2, **options)
    assert abs(weights(pair[0]) - weights(untrained)).max() > 3e-3


@pytest.mark.parametrize("double", [False, True])
def test_targets_leave_out_what_is_forbidden(double: bool) -> None:
    next_q, next_target = torch.tensor([[9.0, 1.0, 2.0]]), torch.tensor([[8.0, 4.0, 3.0]])
    mask = torch.tensor([[False, True, True]])
    target = q_target(torch.ones(1), torch.full((1,), 0.5), next_q, next_target, double, mask)
    assert target.item() == 1.0 + 0.5 * (3.0 if double else 4.0)
    assert q_target(torch.ones(1), torch.full((1,), 0.5), next_q, next_target, double).item() == 5.0


@pytest.mark.parametrize("engine", ["native", "torch"])
def test_dqn_learns_the_values_of_what_may_be_chosen(engine: str) -> None:
    """One place, two choices: 0 pays 1 and goes on, 1 is never allowed. Q(0) = 1 / (1 - 0.5) = 2, whatever Q(1) is."""

    class Narrow(gym.Env[np.ndarray, Any]):
        observation_space, action_space = spaces.Box(1, 1, (1,), np.float32), spaces.Discrete(2)
        info = {"action_mask": np.array([1, 0], np.int8)}  # noqa: RUF012

        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            return np.ones(1, np.float32), self.info

        def step(self, action: Any) -> Any:
            return np.ones(1, np.float32), 1.0, False, False, self.info

    agent = pyrl.make_agent(
        "dqn", Narrow.observation_space, Narrow.action_space, engine=engine, gamma=0.5, learning_rate=1e-2, learning_starts=10,
        train_freq=1, target_update_interval=20, buffer_size=100,
    )  # fmt: skip
    with torch.no_grad():  # 1 looks good for ever, as nothing that is learned is about it
        list(agent.q_network.parameters())[-1][1] = 50.0
    list(pyrl.iterate(agent, Narrow, 500))
    q = agent.q_network(torch.ones(1, 1))[0].detach()
    assert q[1] > 10
    assert q[0].item() == pytest.approx(2.0, abs=0.1)
    assert agent.act(np.ones(1, np.float32)) == 1
    assert agent.act(np.ones(1, np.float32), action_mask=[1, 0]) == 0


@pytest.mark.parametrize("algo", ["ppo", "dqn"])
def test_a_run_with_masks_is_resumed_bit_for_bit(algo: str, tmp_path: Path) -> None:
    constant = {"exploration_fraction": 0.0} if algo == "dqn" else {"learning_rate": 1e-3, "clip_range": 0.2}  # of total_steps
    options: dict[str, Any] = SMALL[algo] | constant | {"num_envs": 1, "seed": 3, "net_arch": (16,)}
    pyrl.train(algo, Strict, total_steps=96, run_dir=tmp_path / "run", curve=False, **options)
    resumed = pyrl.train(algo, Strict, total_steps=192, resume=tmp_path / "run", curve=False).agent
    whole = type(resumed)(Strict.observation_space, SPACES["discrete"], resumed.config, 3, 1)
    loop = pyrl.iterate(whole, Strict, 192)
    for _ in loop:
        if whole.env_steps == 96:
            loop.reset()  # cut mode
    np.testing.assert_array_equal(weights(whole), weights(resumed))


def test_act_takes_masks_and_names_wrong_ones() -> None:
    agent = pyrl.make_agent("ppo", Strict.observation_space, SPACES["multi"])
    one, three = np.zeros(1, np.float32), np.zeros((3, 1), np.float32)
    mask = np.array([[0, 1, 0, 0, 1], [1, 0, 0, 1, 0], [0, 1, 1, 0, 0]])
    np.testing.assert_array_equal(agent.act(one, action_mask=mask[0]), [1, 2])
    np.testing.assert_array_equal(agent.act(three, action_mask=mask), [[1, 2], [0, 1], [1, 0]])
    np.testing.assert_array_equal(agent.player(3).act(three, action_mask=mask), [[1, 2], [0, 1], [1, 0]])
    with pytest.raises(ShapeError, match="act: action_mask has 2 rows, expected 3, as observation has"):
        agent.act(three, action_mask=mask[:2])
    for wrong in ([1, 1, 1], [2, 0, 0, 1, 1], "mask"):
        with pytest.raises(ValueError, match=r"act: action_mask is .*, expected 5 numbers, each 0 or 1"):
            agent.act(one, action_mask=wrong)
    box = pyrl.make_agent("ppo", Strict.observation_space, spaces.Box(-1, 1, (2,)))
    with pytest.raises(ValueError, match="act: action_mask is given, expected None: masks of Box"):
        box.act(one, action_mask=[1, 1])
    sac = pyrl.make_agent("sac", Strict.observation_space, spaces.Box(-1, 1, (2,)))
    with pytest.raises(ValueError, match="act: action_mask is given, but sac does not honour masks, expected None"):
        sac.act(one, action_mask=[1, 1])


@pytest.mark.parametrize("kind", SPACES)
def test_the_random_agent_is_uniform_over_what_is_allowed(kind: str) -> None:
    agent = pyrl.make_agent("random", Strict.observation_space, SPACES[kind], num_envs=6000)
    place = np.full((6000, 1), 4, np.float32)
    mask = np.tile(allowed(kind, np.array(4)), (6000, 1))
    action = agent.choose(PolicyInput(place, np.ones(6000, bool), mask)).action.reshape(6000, -1)
    at = 0
    for component, n in enumerate([5] if kind == "discrete" else [2, 3]):
        counts, legal = np.bincount(action[:, component], minlength=n), mask[0, at : at + n]
        assert (counts[~legal] == 0).all()
        np.testing.assert_allclose(counts[legal] / 6000, 1 / legal.sum(), atol=0.03)
        at += n
