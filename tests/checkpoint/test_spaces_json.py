"""Spaces as JSON: what comes back equals what went in; a hostile description is refused before memory is asked for."""

from __future__ import annotations

import json
from collections import OrderedDict
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st

from pyrl.checkpoint.spaces_json import space_from_json, space_to_json
from pyrl.errors import SpaceError

SHAPES = st.lists(st.integers(0, 3), max_size=3).map(tuple)
BOUNDS = st.sampled_from([(-1.0, 1.0), (0.1, 0.3), (-np.inf, np.inf), (-np.inf, 0.0), (-3.4e38, 3.4e38)])


@st.composite
def boxes(draw: st.DrawFn) -> spaces.Box:
    if draw(st.booleans()):
        return spaces.Box(0, 255, draw(SHAPES), np.uint8)
    shape, dtype = draw(SHAPES), draw(st.sampled_from([np.float32, np.float64]))
    size = int(np.prod(shape))
    drawn = np.array(draw(st.lists(BOUNDS, min_size=size, max_size=size))).reshape(size, 2).astype(dtype)
    return spaces.Box(drawn[:, 0].reshape(shape), drawn[:, 1].reshape(shape), shape, dtype)


LEAVES = st.one_of(
    boxes(),
    st.builds(spaces.Discrete, st.integers(1, 2**40), start=st.integers(-5, 5)),
    st.builds(lambda n: spaces.MultiDiscrete(n, start=[1] * len(n)), st.lists(st.integers(1, 9), min_size=1, max_size=3)),
    st.builds(lambda n: spaces.MultiDiscrete(np.array(n).reshape(1, -1)), st.lists(st.integers(1, 9), min_size=1)),
    st.builds(spaces.MultiBinary, st.integers(1, 4) | st.lists(st.integers(1, 3), min_size=1, max_size=2)),
)
KEYS = st.text(max_size=3) | st.integers(-3, 3) | st.sampled_from(["0", "1", "-1"])
SPACES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(st.tuples(KEYS, inner), max_size=3).map(lambda pairs: spaces.Dict(OrderedDict(pairs)))
        | st.lists(inner, min_size=1, max_size=3).map(spaces.Tuple)
    ),
    max_leaves=4,
)


@given(space=SPACES)
def test_round_trip(space: spaces.Space) -> None:
    back = space_from_json(json.loads(json.dumps(space_to_json(space), allow_nan=False)))
    assert back == space
    assert repr(back) == repr(space)  # the order of keys too, and what is an integer


@pytest.mark.parametrize("key", [None, 0.5, (1, 2), b"a"])
def test_keys_that_json_does_not_know(key: Any) -> None:
    with pytest.raises(SpaceError, match="expected strings and integers"):
        space_to_json(spaces.Dict({key: spaces.Discrete(2)}))


def test_unknown_space() -> None:
    with pytest.raises(SpaceError, match="expected Box, Discrete"):
        space_to_json(spaces.Text(3))


@pytest.mark.parametrize(
    "data",
    [
        {"type": "Box", "low": 0, "high": 1, "shape": [2**40], "dtype": "float32"},
        {"type": "Box", "low": 0, "high": 1, "shape": [-1], "dtype": "float32"},
        {"type": "Box", "low": 0, "high": 1, "shape": [2], "dtype": "object"},
        {"type": "Box", "low": [0, 0, 0], "high": 1, "shape": [2], "dtype": "float32"},
        {"type": "Box", "low": "__import__", "high": 1, "shape": [2], "dtype": "float32"},
        {"type": "Box"},
        {"type": "Discrete", "n": 0, "start": 0, "dtype": "int64"},
        {"type": "Discrete", "n": "many", "start": 0, "dtype": "int64"},
        {"type": "os.system"},
        {"type": "Dict", "spaces": [1]},
        {"type": "Dict", "keys": [1.5], "spaces": [{"type": "Discrete", "n": 2, "start": 0, "dtype": "int64"}]},
        {"type": "Dict", "keys": [1, 2], "spaces": [{"type": "Discrete", "n": 2, "start": 0, "dtype": "int64"}]},
        {"type": "Dict", "keys": 1, "spaces": []},
        {"type": "Dict", "keys": [2, 2], "spaces": [{"type": "Discrete", "n": 2, "start": 0, "dtype": "int64"}] * 2},
        {},
        None,
        3,
    ],
)
def test_hostile_description(data: Any) -> None:
    with pytest.raises(SpaceError, match="expected"):
        space_from_json(data)
