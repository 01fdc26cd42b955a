"""For every space that Gymnasium can express: trained, saved, loaded and acted on, or refused by name when the agent is made.

The walk pairs each kind of observation space with each agent, the kinds of action spaces taking turns, on both engines by turns, and
then composes spaces at random; all of it is the same in every run. ``PYRL_WALK=2000`` composes so many (and takes minutes).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from agent_envs import AGENTS, CONTINUOUS, random_env
from gymnasium import spaces

import pyrl
from pyrl.buffers import RolloutBuffer
from pyrl.errors import SpaceError
from pyrl.types import PolicyInput

COMPOSED = int(os.environ.get("PYRL_WALK", "45"))
INTEGERS = [np.dtype(f"{sign}int{bits}") for sign in ("", "u") for bits in (8, 16, 32, 64)]
FLOATS = [np.dtype(f"float{bits}") for bits in (16, 32, 64)]
TEXT, GRAPH = spaces.Text(3), spaces.Graph(spaces.Box(0, 1, (2,)), None)
SEQUENCE, ONE_OF = spaces.Sequence(spaces.Discrete(2)), spaces.OneOf((spaces.Discrete(2), spaces.Box(0, 1, (1,))))
SMALL_BOX = spaces.Box(-1, 1, (2,))

# Single arrays, which are observations and actions.
DISCRETE = {
    "Discrete(1)": spaces.Discrete(1),
    "Discrete from -2": spaces.Discrete(3, start=-2),
    "Discrete far off": spaces.Discrete(2, start=2**62),
    **{f"Discrete {dtype}": spaces.Discrete(3, start=1, dtype=dtype.type) for dtype in INTEGERS},
}
SEVERAL = {
    "MultiDiscrete": spaces.MultiDiscrete([2, 3]),
    "MultiDiscrete of rank 2": spaces.MultiDiscrete([[2, 1], [3, 2]], start=[[0, -1], [5, 2]]),
    **{f"MultiDiscrete {dtype}": spaces.MultiDiscrete([1, 4], dtype=dtype.type, start=[1, 2]) for dtype in INTEGERS},
    "MultiBinary(1)": spaces.MultiBinary(1),
    "MultiBinary of rank 2": spaces.MultiBinary((2, 2)),
}
INTEGER_BOXES = {
    **{f"Box {dtype}": spaces.Box(np.iinfo(dtype).min, np.iinfo(dtype).max, (2,), dtype.type) for dtype in INTEGERS},
    "Box of few integers": spaces.Box(np.array([-2, 0]), np.array([2, 0]), dtype=np.int32),
    "Box of bytes of shape ()": spaces.Box(0, 255, (), np.uint8),
    "Box bool": spaces.Box(0, 1, (3,), bool),
}
BOUNDED_BOXES = {
    **{f"Box {dtype}": spaces.Box(-1, 3, (2,), dtype.type) for dtype in FLOATS},
    "Box of shape ()": spaces.Box(-1, 3, ()),
    "Box of rank 3": spaces.Box(-1, 1, (1, 2, 2)),
    "Box of one point": spaces.Box(2, 2, (2,)),
}
WIDE_BOXES = {
    **{f"Box {dtype} without bounds": spaces.Box(-np.inf, np.inf, (2,), dtype.type) for dtype in FLOATS},
    "Box with one bound each": spaces.Box(np.array([-np.inf, 5], np.float32), np.array([-7, np.inf], np.float32)),
    "Box of all numbers": spaces.Box(np.finfo(np.float32).min, np.finfo(np.float32).max, (1,)),
}
EVERY_ACTION = {**DISCRETE, **SEVERAL, **INTEGER_BOXES, **BOUNDED_BOXES, **WIDE_BOXES}
ACTIONS = {
    **dict.fromkeys(("a2c", "a3c", "impala", "appo", "ppo", "random"), EVERY_ACTION),
    "dqn": DISCRETE,
    **dict.fromkeys(CONTINUOUS, BOUNDED_BOXES),
}
OBSERVATIONS = {
    **EVERY_ACTION,
    # As above, but for numbers whose squares a loss cannot hold, which is an error of its own.
    **{f"Box {dtype}": spaces.Box(0, 99, (2,), dtype.type) for dtype in map(np.dtype, ("int64", "uint64"))},
    "Box of all numbers": spaces.Box(-1e15, 1e15, (1,)),
    "bytes": spaces.Box(0, 255, (5,), np.uint8),
    "small image": spaces.Box(0, 255, (4, 4, 3), np.uint8),
    "image": spaces.Box(0, 255, (36, 36, 1), np.uint8),
    "Dict": spaces.Dict({"a": SMALL_BOX, "b": spaces.Tuple((spaces.Discrete(3), spaces.MultiBinary(2)))}),
    "Dict of integers": spaces.Dict({2: SMALL_BOX, 0: spaces.Discrete(3), -1: spaces.Box(0, 255, (2, 2), np.uint8)}),
    "Dict of 1 and '1'": spaces.Dict({1: SMALL_BOX, "1": spaces.Box(-9, 9, (3,))}),
    "Dict of odd names": spaces.Dict(
        {k: SMALL_BOX for k in ("", "a/b", "a.b", "~0", "[1]", "\u00fc", " ")} | {"a": spaces.Dict({"b": SMALL_BOX})}
    ),
    "Dict with an image": spaces.Dict({"eye": spaces.Box(0, 255, (36, 36, 3), np.uint8), "touch": spaces.Box(-1, 1, ())}),
    "Tuple": spaces.Tuple((spaces.Tuple((spaces.Discrete(2, start=-1),)), spaces.Box(-1, 1, (), np.float64))),
}
# What nobody can represent, and what the refusal says.
UNFIT: dict[str, tuple[Any, str]] = {
    "Text": (TEXT, "expected"),
    "Graph": (GRAPH, "expected"),
    "Sequence": (SEQUENCE, "expected"),
    "OneOf": (ONE_OF, "expected"),
    "Box without elements": (spaces.Box(0, 1, (0,)), r"shape is \[0\], expected at least one number"),
    "Box of rank 2 without elements": (spaces.Box(0, 255, (3, 0), np.uint8), r"shape is \[3, 0\], expected at least one number"),
    "MultiDiscrete without elements": (spaces.MultiDiscrete([]), r"expected at least one number"),
    "Box longdouble": (spaces.Box(0, 1, (2,), np.longdouble), r"dtype is (float128|longdouble|float64), expected a native"),
    "Box of swapped bytes": (spaces.Box(0, 1, (2,), np.dtype(">f4")), r"dtype is >f4, expected a native"),
    "Discrete without end": (spaces.Discrete(2**40), r"1099511627776 choices, expected at most"),
    "MultiDiscrete without end": (spaces.MultiDiscrete([2**23, 2**24]), r"25165824 choices, expected at most"),
    "Discrete beyond its dtype": (spaces.Discrete(100, start=100, dtype=np.int8), r"largest value is 199, expected at most 127"),
    "MultiDiscrete beyond int64": (
        spaces.MultiDiscrete([3], dtype=np.uint64, start=[2**63 - 1]),
        r"largest value is 9223372036854775809, expected at most",
    ),
}
UNFIT_OBSERVATIONS = {
    **UNFIT,
    "empty Dict": (spaces.Dict({}), "at least one entry"),
    "empty Tuple": (spaces.Tuple(()), "at least one entry"),
    "Dict of Text": (spaces.Dict({"said": TEXT, "seen": SMALL_BOX}), r"entry 'said': observation_space is Text"),
    "Tuple of nothing": (spaces.Tuple((SMALL_BOX, spaces.Dict({5: spaces.Box(0, 1, (0,))}))), r"entry 1: entry 5: .*at least one number"),
    "Dict of tuples": (spaces.Dict({(1, 2): SMALL_BOX}), r"the key \(1, 2\), expected strings and integers"),
    "Dict of None": (spaces.Dict({None: SMALL_BOX}), r"the key None, expected strings and integers"),
    "Dict of floats": (spaces.Dict({0.5: SMALL_BOX}), r"the key 0.5, expected strings and integers"),
}
UNFIT_ACTIONS = {
    **UNFIT,
    "Dict": (spaces.Dict({"a": spaces.Discrete(2)}), "expected"),
    "Tuple": (spaces.Tuple((spaces.Discrete(2), SMALL_BOX)), "expected"),
}
ON_POLICY: dict[str, Any] = {"n_steps": 4, "net_arch": (4,)}
OFF_POLICY: dict[str, Any] = {"learning_starts": 6, "batch_size": 4, "net_arch": (4,), "buffer_size": 64}
SHORT: dict[str, dict[str, Any]] = {
    "a2c": ON_POLICY,
    "a3c": ON_POLICY,
    "impala": ON_POLICY,
    "ppo": {**ON_POLICY, "batch_size": 5, "n_epochs": 2},
    "appo": {**ON_POLICY, "batch_size": 5, "n_epochs": 2},
    "random": {"n_steps": 4},
    "dqn": {**OFF_POLICY, "train_freq": 1},
    **{name: {**OFF_POLICY, "noise_std": 0.1} for name in CONTINUOUS},
}
Case = tuple[str, str, Any, Any, bool]  # agent, engine, observation and action space, whether observations are normalised


def make(case: Case, **options: Any) -> pyrl.agents.base.Agent:
    name, engine, observation_space, action_space, normalized = case
    options = {"num_envs": 2, "normalize_observation": normalized and name != "a3c", **SHORT[name], **options}
    return pyrl.make_agent(name, observation_space, action_space, seed=3, engine=engine, **options)


def kinds() -> Iterator[Any]:
    """Each kind of observation with each agent."""
    for j, name in enumerate(AGENTS):
        actions = list(ACTIONS[name].items())
        for k, (seen, observation_space) in enumerate(OBSERVATIONS.items()):
            done, action_space = actions[(k + 5 * j) % len(actions)]
            # Torch's engine refuses a gradient whose norm overflows in float32; the native one takes it.
            engine = "auto" if seen == "Box of all numbers" else ("auto", "torch")[(k + j) % 2]
            yield pytest.param((name, engine, observation_space, action_space, k % 3 == 0), id=f"{name}-{engine}-{seen}-{done}")


def composed() -> Iterator[Any]:
    """Spaces put together at random, the n-th the same in every run."""
    for n in range(COMPOSED):
        random = np.random.default_rng(n)
        name, engine = AGENTS[n % len(AGENTS)], str(random.choice(["auto", "torch"]))
        actions = list(ACTIONS[name].values())
        case = name, engine, nested(random, 3), actions[random.integers(len(actions))], bool(random.integers(2))
        yield pytest.param(case, id=f"{n}-{name}-{engine}")


def nested(random: np.random.Generator, depth: int) -> Any:
    kind = random.integers(4) if depth else 3
    if kind == 0:
        keys = {0: lambda i: f"k{i}", 1: lambda i: i - 1, 2: lambda i: (i, str(i))[i % 2]}[int(random.integers(3))]
        return spaces.Dict({keys(i): nested(random, depth - 1) for i in range(random.integers(1, 4))})
    if kind == 1:
        return spaces.Tuple([nested(random, depth - 1) for _ in range(random.integers(1, 4))])
    return single(random)


def single(random: np.random.Generator) -> Any:
    shape = tuple(int(n) for n in random.integers(1, 4, random.integers(4)))
    dtype = (INTEGERS + FLOATS)[random.integers(len(INTEGERS + FLOATS))]
    match random.integers(5):
        case 0:
            dtype = INTEGERS[random.integers(len(INTEGERS))]
            return spaces.Discrete(int(random.integers(1, 9)), start=int(random.integers(-9 * (dtype.kind == "i"), 9)), dtype=dtype.type)
        case 1:
            dtype = INTEGERS[random.integers(len(INTEGERS))]
            shape = shape or (1,)
            return spaces.MultiDiscrete(random.integers(1, 5, shape), dtype=dtype.type, start=random.integers(0, 9, shape))
        case 2:
            return spaces.MultiBinary(shape or 2)
        case 3 if dtype.kind == "f":
            return spaces.Box(-np.inf, np.inf, shape, dtype.type)
        case _:
            low = random.integers(0, 5, shape)
            return spaces.Box(low.astype(dtype), (low + random.integers(0, 99, shape)).astype(dtype), shape, dtype.type)


def train(agent: Any, name: str) -> None:
    """A few updates, in an environment that asserts that it is handed what its action space contains."""
    with pyrl.envs.make(random_env(agent.observation_space, agent.action_space), 2) as stepper:
        if name != "a3c":
            for _ in pyrl.iterate(agent, stepper, 16):
                pass
            return
        buffer = RolloutBuffer(4, 2, agent.observation_space, agent.action_space)
        stepper.reset(seed=1)
        for _ in range(2):
            while not buffer.full:
                choice = agent.choose(PolicyInput(stepper.observation, stepper.first))
                buffer.add(stepper.step(choice.action), choice.stored)
            agent.learn(buffer.take(stepper.observation, stepper.first))


@pytest.mark.parametrize("case", [*kinds(), *composed()])
def test_trained_saved_loaded_and_acted_on(case: Case, tmp_path: Path) -> None:
    name, _, observation_space, action_space, _ = case
    agent = make(case)
    train(agent, name)
    assert name == "random" or agent.updates > 0
    loaded = pyrl.load(agent.save(tmp_path / "agent"))
    assert loaded.progress == agent.progress
    assert (loaded.observation_space, loaded.action_space) == (observation_space, action_space)
    for deterministic in (True, False):
        observation = observation_space.sample()
        action = agent.act(observation, deterministic)
        np.testing.assert_array_equal(loaded.act(observation, deterministic), action)
        assert action_space.contains(action), f"{action!r} is not in {action_space}"
        assert action.dtype == action_space.dtype


@pytest.mark.parametrize("kind", UNFIT_OBSERVATIONS)
@pytest.mark.parametrize("name", AGENTS)
def test_unfit_observations_are_refused_by_name(name: str, kind: str) -> None:
    space, text = UNFIT_OBSERVATIONS[kind]
    with pytest.raises(SpaceError, match=rf"(?s)^{name}: (?=.*observation_space).*{text}"):
        make((name, "auto", space, next(iter(ACTIONS[name].values())), False))


@pytest.mark.parametrize("name", AGENTS)
def test_unfit_actions_are_refused_by_name(name: str) -> None:
    others = {kind: (space, "expected") for kind, space in EVERY_ACTION.items() if kind not in ACTIONS[name]}
    for space, text in {**UNFIT_ACTIONS, **others}.values():
        expected = text if name in ("random", "ppo") else "expected"
        with pytest.raises(SpaceError, match=rf"(?s)^{name}: action_space is {re.escape(str(space))}.*{expected}"):
            make((name, "auto", SMALL_BOX, space, False))


@pytest.mark.parametrize("engine", ["auto", "torch"])
@pytest.mark.parametrize("kind", EVERY_ACTION)
def test_what_is_stored_is_what_was_drawn(kind: str, engine: str) -> None:
    """Without a step between, the new policy is the old one: the estimate of their divergence is zero."""
    agent = make(("ppo", engine, SMALL_BOX, EVERY_ACTION[kind], False), learning_rate=1e-12, n_epochs=1, n_steps=16, batch_size=32)
    with pyrl.envs.make(random_env(SMALL_BOX, EVERY_ACTION[kind]), 2) as stepper:
        metrics = next(iter(pyrl.iterate(agent, stepper, 32)))
    assert abs(metrics["train/kl"]) < 1e-6


@pytest.mark.parametrize("backend", ["lean", "sync"])
@pytest.mark.parametrize("kind", EVERY_ACTION)
def test_environments_are_handed_what_their_space_contains(kind: str, backend: str) -> None:
    """The environment asserts it; its observations are of the same kind, and come back as they were."""
    space = EVERY_ACTION[kind]
    agent = make(("random", "auto", space, space, False))
    with pyrl.envs.make(random_env(space, space, length=3), 2, backend=backend) as stepper:
        stepper.reset(seed=1)
        for _ in range(8):
            stepper.step(agent.choose(PolicyInput(stepper.observation, stepper.first)).action)
            for observation in stepper.observation:
                assert space.contains(np.asarray(observation) if isinstance(space, spaces.Box) else observation)
