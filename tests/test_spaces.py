"""What spaces mean: actions that lie in theirs, observations whose numbers nothing changes in silence."""

from __future__ import annotations

import itertools
import re
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st

import pyrl
from pyrl.agents.random import UniformActions
from pyrl.errors import EnvError, NonFiniteError
from pyrl.nets.distributions import distribution_for
from pyrl.nets.normalizer import Normalizer
from pyrl.ops import RandomStream, policy_loss
from pyrl.spaces.actions import Actions

INTEGERS = [np.dtype(f"{sign}int{bits}") for sign in ("", "u") for bits in (8, 16, 32, 64)]

# -- actions -------------------------------------------------------------------------------------------------------------


@given(data=st.data(), dtype=st.sampled_from(INTEGERS), given_dtype=st.sampled_from(["float32", "float64", "int64", "uint8"]))
def test_an_integer_box_gets_the_nearest_integers(data: st.DataObject, dtype: np.dtype, given_dtype: str) -> None:
    limits = st.integers(int(np.iinfo(dtype).min), int(np.iinfo(dtype).max))
    low, high = sorted((data.draw(limits), data.draw(limits)))
    space = spaces.Box(np.array([low], dtype), np.array([high], dtype), dtype=dtype.type)
    kind = np.dtype(given_dtype)
    numbers = (
        st.floats(allow_nan=False, allow_infinity=False, width=32 if given_dtype == "float32" else 64)
        | st.integers(-9, 9).map(lambda i: i / 2)
        if kind.kind == "f"
        else st.integers(int(np.iinfo(kind).min), int(np.iinfo(kind).max))
    )
    number = data.draw(numbers)
    result = Actions(space, "test").batch(np.array([[number]], kind))
    assert result.dtype == dtype
    assert result.item() == min(max(round(number), low), high)


@given(bits=st.integers(1, 5), rows=st.integers(1, 4), seed=st.integers(0, 2**32))
def test_multi_binary_is_independent_bernoullis(bits: int, rows: int, seed: int) -> None:
    """Against the list of all 2^bits actions; the kernels' gradient against torch's."""
    distribution = distribution_for(spaces.MultiBinary(bits))
    output = np.random.default_rng(seed).normal(0, 3, (rows, bits))
    p = 1 / (1 + np.exp(-output))
    every = np.array(list(itertools.product((0, 1), repeat=bits)))
    chance = np.where(every[:, None], p, 1 - p).prod(2)  # [2^bits, rows]
    x = torch.tensor(output, requires_grad=True)
    for action, expected in zip(every, chance):
        log_prob, entropy = distribution.log_prob_and_entropy(x, torch.zeros(0), torch.tensor(action).expand(rows, bits))
        np.testing.assert_allclose(log_prob.detach(), np.log(expected), atol=1e-9)
        np.testing.assert_allclose(entropy.detach(), -(chance * np.log(chance)).sum(0), atol=1e-9)
    action = np.random.default_rng(seed + 1).integers(0, 2, (rows, bits))
    advantage = np.linspace(-1, 2, rows)
    log_prob, entropy = distribution.log_prob_and_entropy(x, torch.zeros(0), torch.tensor(action))
    (-(torch.tensor(advantage) * log_prob).mean() - 0.1 * entropy.mean()).backward()
    gradient = policy_loss(distribution.logits(output), action, advantage, nvec=distribution.nvec, ent_coef=0.1)[4]
    assert x.grad is not None
    np.testing.assert_allclose(distribution.by_output(gradient), x.grad, atol=1e-7)
    logits = np.float32(output)
    drawn, log_prob_drawn = distribution.sample(logits, None, RandomStream(seed, "test"), False)
    np.testing.assert_allclose(
        log_prob_drawn, distribution.log_prob_and_entropy(torch.tensor(logits), None, torch.tensor(drawn))[0], atol=1e-4, rtol=1e-4
    )
    np.testing.assert_array_equal(distribution.sample(logits, None, RandomStream(seed, "test"), True)[0], output > 0)


class CopyTheBits(gym.Env):
    """The reward is the share of the bits that the action copies from the observation; eight steps an episode."""

    observation_space = spaces.MultiBinary((2, 2))
    action_space = spaces.MultiBinary((2, 2))

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.t, self.bits = 0, self.np_random.integers(0, 2, (2, 2), np.int8)
        return self.bits, {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        assert self.action_space.contains(action)
        reward = float((action == self.bits).mean())
        self.t, self.bits = self.t + 1, self.np_random.integers(0, 2, (2, 2), np.int8)
        return self.bits, reward, False, self.t == 8, {}


@pytest.mark.parametrize("engine", ["auto", "torch"])
@pytest.mark.parametrize(("name", "options"), [("ppo", {"n_steps": 32, "batch_size": 64}), ("a2c", {"n_steps": 8, "use_rms_prop": False})])
def test_multi_binary_actions_are_learned(name: str, options: dict[str, Any], engine: str) -> None:
    spaces_ = CopyTheBits.observation_space, CopyTheBits.action_space
    agent = pyrl.make_agent(name, *spaces_, num_envs=8, engine=engine, learning_rate=0.01, gamma=0.0, net_arch=(32,), **options)
    for _ in pyrl.iterate(agent, CopyTheBits, 2000):
        pass
    every = np.array(list(itertools.product((0, 1), repeat=4)), np.int8).reshape(-1, 2, 2)
    assert (agent.act(every) == every).mean() > 0.95


UNIFORM = {
    "two": (spaces.Box(0, 1, (), np.int32), [range(2)]),
    "around zero": (spaces.Box(-2, 2, (1,), np.int8), [range(-2, 3)]),
    "bool": (spaces.Box(0, 1, (2,), bool), [range(2)] * 2),
    "each its own": (spaces.Box(np.array([[0, -1], [250, 3]]), np.array([[3, 1], [255, 3]]), dtype=np.int16),
                     [range(4), range(-1, 2), range(250, 256), range(3, 4)]),
    "multi-binary": (spaces.MultiBinary((1, 2)), [range(2)] * 2),
    "multi-discrete of rank 2": (spaces.MultiDiscrete([[2, 3]]), [range(2), range(3)]),
}  # fmt: skip


@pytest.mark.parametrize("kind", UNIFORM)
def test_random_integers_are_uniform(kind: str) -> None:
    space, ranges = UNIFORM[kind]
    count = 20_000
    drawn = UniformActions(space)(count, RandomStream(0, "test")).reshape(count, -1)
    for column, values in zip(drawn.T, ranges, strict=True):
        found = [int((column == value).sum()) for value in values]
        assert sum(found) == count
        share = 1 / len(values)
        np.testing.assert_allclose(found, count * share, atol=5 * np.sqrt(count * share * (1 - share)))


@pytest.mark.parametrize("dtype", ["int64", "uint64"])
def test_random_integers_of_the_whole_dtype(dtype: str) -> None:
    """By quarters and by the last three bits."""
    limits = np.iinfo(dtype)
    drawn = UniformActions(spaces.Box(limits.min, limits.max, (4,), np.dtype(dtype).type))(4000, RandomStream(0, "test"))
    assert drawn.dtype == dtype
    quarter = (drawn.astype(object) - limits.min) // 2**62
    for values, count in ((quarter.astype(int).ravel(), 4), ((drawn % 8).astype(int).ravel(), 8)):
        np.testing.assert_allclose(np.bincount(values, minlength=count), 16_000 / count, atol=5 * np.sqrt(16_000 / count))


@pytest.mark.parametrize(
    ("space", "low", "high"),
    [
        (spaces.Box(-np.inf, np.inf, (2,)), -1, 1),
        (spaces.Box(-np.inf, -7, (1,)), -8, -7),
        (spaces.Box(5, np.inf, (1,), np.float64), 5, 6),
        (spaces.Box(-np.inf, 0.5, ()), -1, 0.5),
        (spaces.Box(np.finfo(np.float64).min, np.finfo(np.float64).max, (1,), np.float64), -1.797e308, 1.797e308),
        (spaces.Box(np.finfo(np.float16).min, np.finfo(np.float16).max, (1,), np.float16), -65504, 65504),
    ],
)
def test_random_numbers_lie_in_their_box(space: spaces.Box, low: float, high: float) -> None:
    drawn = UniformActions(space)(1000, RandomStream(0, "test"))
    assert drawn.dtype == space.dtype
    assert all(space.contains(x) for x in map(np.asarray, drawn))
    middle = float(drawn.min()) / 2 + float(drawn.max()) / 2
    np.testing.assert_allclose([drawn.min() / 2, drawn.max() / 2], [low / 2, high / 2], rtol=0.02, atol=0.02)
    assert 0.4 < (drawn < middle).mean() < 0.6


# -- observations --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ppo", "dqn", "sac"])
@pytest.mark.parametrize("dtype", [*INTEGERS, np.dtype(bool)], ids=str)
def test_act_takes_the_same_numbers_in_any_form(name: str, dtype: np.dtype) -> None:
    top = 2 if dtype.kind == "b" else 100
    space = spaces.Box(0, top - 1, (6,), dtype.type)
    agent = pyrl.make_agent(name, space, spaces.Box(-1, 1, (1,)) if name == "sac" else spaces.Discrete(50), seed=1)
    observation = np.random.default_rng(0).integers(0, top, (40, 6)).astype(dtype)
    expected = agent.act(observation)
    assert name == "sac" or len(set(expected.tolist())) > 1
    for form in (
        np.ndarray.tolist,
        *(lambda x, d=d: x.astype(d) for d in ("int8", "uint8", "int64", "uint64", "float16", "float32", "float64")),
    ):
        np.testing.assert_array_equal(agent.act(form(observation)), expected)
    for number in (0.5, -1.5, 1e30, -(2.0**70), 2.0**64):
        with pytest.raises(ValueError, match=re.escape(f"act: observation holds {number} at [2], expected numbers that {dtype} holds")):
            agent.act([0.0, 0.0, number, 0.0, 0.0, 0.0])


OUTSIDE: list[tuple[Any, Any, str]] = [
    *((spaces.Discrete(5), value, f"observation is {value}, expected elements of Discrete(5)") for value in (5, -1, 2.7, np.int8(7))),
    *((spaces.Discrete(3, start=-1, dtype=np.int8), value, f"observation is {value}, expected") for value in (2, -2, 0.5, 300)),
    (spaces.Discrete(5), np.nan, "observation is nan, expected"),
    (spaces.Discrete(5), None, "observation has dtype object, expected int64"),
    (spaces.Discrete(5), "2", "observation has dtype <U1, expected int64"),
    (spaces.Discrete(5), [2], "observation has shape [1], expected []"),
    (spaces.MultiDiscrete([2, 3]), np.array([0, 3]), "observation holds 3 at [1], expected elements of MultiDiscrete([2 3])"),
    (spaces.MultiDiscrete([2, 3]), np.array([-1, 0]), "observation holds -1 at [0]"),
    (spaces.MultiDiscrete([2, 3]), np.array([0.5, 0]), "observation holds 0.5 at [0]"),
    (spaces.MultiBinary(2), np.array([1, 2], np.int8), "observation holds 2 at [1], expected elements of MultiBinary(2)"),
    (spaces.MultiBinary(2), np.array([256, 0]), "observation holds 256 at [0]"),
    (spaces.Box(0, 255, (2,), np.uint8), np.array([0, 256]), "observation holds 256 at [1], expected numbers that uint8 holds"),
    (spaces.Box(0, 255, (2,), np.uint8), np.array([0.0, 2.5], np.float32), "observation holds 2.5 at [1], expected numbers that uint8"),
    (spaces.Box(-9, 9, (2,), np.int8), np.array([300, 0]), "observation holds 300 at [0], expected numbers that int8 holds"),
    (spaces.Dict({"a": spaces.Discrete(2)}), {"a": 2}, "observation['a'] is 2, expected elements of Discrete(2)"),
    (spaces.Dict({1: spaces.Tuple((spaces.MultiBinary(1),))}), {1: (np.array([3]),)}, "observation[1][0] holds 3 at [0]"),
    (spaces.Dict({"a": spaces.Discrete(2), "b": spaces.Box(0, 1, ())}), {"a": 0.25, "b": 0.0}, "observation['a'] is 0.25"),
]  # fmt: skip


class Broken(gym.Env):
    """Shows what its space holds, and from its third observation on something else."""

    action_space = spaces.Discrete(2)

    def __init__(self, space: Any, wrong: Any) -> None:
        self.observation_space, self.wrong, self.shown = space, wrong, 0

    def look(self) -> Any:
        self.shown += 1
        return self.wrong if self.shown > 2 else self.observation_space.sample()

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict]:
        return self.look(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        return self.look(), 0.0, False, False, {}


def broken(index: int) -> Any:
    """A factory of two environments, the second of which fails; in another process too."""
    space, wrong, _ = OUTSIDE[index]
    made = itertools.count()
    return lambda: Broken(space, wrong if next(made) % 2 else space.sample())


@pytest.mark.parametrize("at_reset", [False, True])
@pytest.mark.parametrize("backend", ["lean", "sync"])
@pytest.mark.parametrize("index", range(len(OUTSIDE)))
def test_observations_outside_of_their_space_are_named(index: int, backend: str, at_reset: bool) -> None:
    with pyrl.envs.make(broken(index), 2, backend=backend) as stepper:
        stepper.reset(seed=1)
        stepper.step(np.zeros(2, np.int64))
        with pytest.raises(EnvError, match=rf"Broken.*environment 1 .*{re.escape(OUTSIDE[index][2])}"):
            stepper.reset() if at_reset else stepper.step(np.zeros(2, np.int64))


def test_whole_numbers_of_another_dtype_are_themselves() -> None:
    for space, value in (
        (spaces.Discrete(5), 2.0),
        (spaces.Discrete(5), np.uint8(2)),
        (spaces.MultiDiscrete([2, 3]), np.array([1.0, 2.0], np.float32)),
        (spaces.MultiBinary(2), np.array([True, False])),
        (spaces.Box(0, 255, (2,), np.uint8), np.array([7, 255])),
    ):
        with pyrl.envs.make(lambda space=space, value=value: Broken(space, value), 2) as stepper:
            stepper.reset(seed=1)
            for _ in range(2):
                stepper.step(np.zeros(2, np.int64))
            np.testing.assert_array_equal(stepper.observation, [value, value])
            assert stepper.observation.dtype == space.dtype


@pytest.mark.parametrize("index", [i for i, (_, _, text) in enumerate(OUTSIDE) if "dtype" not in text and "shape" not in text])
def test_act_names_what_lies_outside(index: int) -> None:
    space, wrong, text = OUTSIDE[index]
    kind = NonFiniteError if "nan" in text else ValueError
    with pytest.raises(kind, match="^act: " + re.escape(text)):
        pyrl.make_agent("ppo", space, spaces.Discrete(2)).act(wrong)


def test_moments_of_entries_whose_names_look_alike() -> None:
    box = spaces.Box(-1, 1, (1,))
    for space in (spaces.Dict({1: box, "1": box}), spaces.Dict({"a.b": box, "a": spaces.Dict({"b": box})})):
        normalizer = Normalizer(space, normalize_observation=True)
        assert len(normalizer.state_dict()) == 2
    assert set(Normalizer(spaces.Dict({"a": box, 2: box}), normalize_observation=True).state_dict()) == {"observation.a", "observation.2"}
