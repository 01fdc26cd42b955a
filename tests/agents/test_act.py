"""`Agent.act`, the public door: what comes in is read by the space, and what is wrong with it is named."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, Tuple

from pyrl.agents.base import Agent
from pyrl.agents.registry import available_agents, make_agent
from pyrl.errors import DTypeError, NonFiniteError, ShapeError

PLAIN = Box(-9, 9, (3,), np.float32)
NESTED = Dict({"a": Discrete(4), "b": Tuple((PLAIN, Box(-9, 9, (2, 2), np.float64)))})


def agent(name: str, space: Any, **options: Any) -> Agent:
    discrete = name in ("dqn", "ppo")
    return make_agent(name, space, Discrete(2) if discrete else Box(-1, 1, (2,), np.float32), **options)


def nested(*leading: int) -> dict[str, Any]:
    return {"a": np.zeros(leading, np.int64), "b": (np.ones((*leading, 3), np.float32), np.ones((*leading, 2, 2)))}


@pytest.mark.parametrize("engine", ["auto", "torch"])
@pytest.mark.parametrize("name", available_agents())
def test_a_number_that_is_not_finite_is_the_observations_fault(name: str, engine: str) -> None:
    """Whatever the network would make of it: an error of its own, an action that is no number, or the first action."""
    actor = agent(name, PLAIN, engine=engine)
    before = actor.random.state
    for bad, text in ((np.nan, "nan"), (np.inf, "inf"), (-np.inf, "-inf")):
        for deterministic in (True, False):
            with pytest.raises(NonFiniteError, match=rf"^act: observation holds {text} at \[1\], expected finite numbers$"):
                actor.act(np.array([0, bad, 0], np.float32), deterministic)
    observation = np.zeros((5, 3))
    observation[3, 2] = np.nan
    with pytest.raises(NonFiniteError, match=r"observation holds nan at \[3, 2\]"):
        actor.act(observation)
    assert actor.random.state == before
    actor.act(np.full(3, 3e19, np.float32))  # whose squares overflow


def test_each_leaf_is_read() -> None:
    actor = agent("ppo", NESTED)
    assert np.shape(actor.act(nested())) == ()
    assert np.shape(actor.act(nested(5))) == (5,)
    bad = nested(5)
    bad["b"][1][4, 0, 1] = np.inf
    wrong = [
        (bad, NonFiniteError, "observation['b'][1] holds inf at [4, 0, 1], expected finite numbers"),
        (
            {"a": 0, "b": (np.ones((5, 3)), np.ones((5, 2)))},
            ShapeError,
            "observation['b'][1] has shape [5, 2], expected [2, 2] or [N, ...]",
        ),
        ({**nested(5), "a": np.zeros((2, 5))}, ShapeError, "observation['a'] has shape [2, 5], expected [] or [N, ...]"),
        ({**nested(5), "a": np.zeros(4)}, ShapeError, "the entries of observation lead with [[4], [5]], expected the same [N] or none"),
        ({**nested(5), "a": 0}, ShapeError, "the entries of observation lead with [[], [5]], expected the same [N] or none"),
        ({"a": 0}, ValueError, "observation is a dict without the entry 'b', which its space has"),
        ({"a": 0, "b": (np.ones(3),)}, ValueError, "observation['b'] is a tuple without the entry 1, which its space has"),
        ({**nested(), "b": (np.array(["x"] * 3), np.ones((2, 2)))}, DTypeError, "observation['b'][0] has dtype <U1, expected numbers"),
        (np.zeros(8), ValueError, "observation is a ndarray without the entry 'a', which its space has"),
    ]
    for value, error, text in wrong:
        with pytest.raises(error, match=f"^act: {re.escape(text)}"):
            actor.act(value)
    with pytest.raises(ShapeError, match=r"^act: observation is a tuple that makes no array, expected \[3\]"):
        agent("dqn", PLAIN).act((np.zeros(3, np.float32), {}))  # what Gymnasium's reset returns
    with pytest.raises(DTypeError, match=r"^act: observation has dtype object, expected numbers"):
        agent("dqn", PLAIN).act(None)
