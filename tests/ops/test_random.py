"""The random stream: keys from names, 24 bytes of state, copies that go on from the same point."""

from __future__ import annotations

import copy
import json
import pickle

import numpy as np
import pytest
import reference_sampling as reference
from hypothesis import given
from hypothesis import strategies as st

from pyrl.errors import DTypeError
from pyrl.ops.random import RandomStream
from pyrl.ops.sampling import uniform_indices
from pyrl.seeding import stream_key

WORDS = st.integers(0, 2**64 - 1)


def test_known_keys():
    """For ever: a checkpoint's seed must give the same run in later versions."""
    assert RandomStream(0, "agent").state == (0x64E2C68975C6EB81, 0, 0)
    assert RandomStream(0, "agent").key == stream_key(0, "agent")


def test_names_and_seeds_give_unrelated_streams():
    keys = {RandomStream(seed, *name).key for seed in (0, 1, 10, -1, 2**80) for name in ((), ("a",), ("a", 0), ("a", 1), ("b",))}
    assert len(keys) == 25


@given(WORDS, WORDS, st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
def test_words_equal_the_definition(key, draw, element, block):
    assert list(RandomStream.from_state((key, 0, draw)).words(element, block)) == reference.philox(key, draw, element, block)


@given(WORDS, st.integers(0, 2**64 - 100))
def test_state_round_trips_through_json_pickle_and_copies(key, draw):
    stream = RandomStream.from_state((key, 0, draw))
    uniform_indices(3, 10, stream)
    assert stream.state == (key, 0, draw + 1)
    copies = [
        RandomStream.from_state(json.loads(json.dumps(stream.state))),
        pickle.loads(pickle.dumps(stream)),
        copy.copy(stream),
        copy.deepcopy({"deep": stream})["deep"],
    ]
    expected = uniform_indices(20, 1000, stream)
    for other in copies:
        assert type(other) is RandomStream
        np.testing.assert_array_equal(uniform_indices(20, 1000, other), expected)
        assert other.state == stream.state


def test_setting_the_state_repeats_the_draws():
    stream = RandomStream(3)
    state = stream.state
    first = [uniform_indices(5, 100, stream).tolist() for _ in range(4)]
    stream.state = state
    assert [uniform_indices(5, 100, stream).tolist() for _ in range(4)] == first
    assert len({tuple(draw) for draw in first}) == 4


@pytest.mark.parametrize("state", [(), (1, 0), (1, 2, 3), (1, 0, -1), (1, 0, 2**64), (2**64, 0, 1)])
def test_bad_states_are_refused(state):
    stream = RandomStream(1)
    before = stream.state
    with pytest.raises(ValueError, match=r"RandomStream: state is .* expected"):
        stream.state = state
    assert stream.state == before


def test_spawned_streams_depend_on_the_key_and_the_name_only():
    parent = RandomStream(5, "agent")
    child = parent.spawn("noise")
    uniform_indices(3, 10, parent)
    assert parent.spawn("noise").state == child.state
    assert child.draw == 0
    assert len({parent.key, child.key, parent.spawn("other").key, RandomStream(6, "agent").spawn("noise").key}) == 4


def test_it_says_what_it_is():
    assert repr(RandomStream.from_state((255, 0, 7))) == "RandomStream(key=0x00000000000000ff, draw=7)"
    with pytest.raises(DTypeError, match=r"random is a NoneType, expected a pyrl\.RandomStream"):
        uniform_indices(1, 2, None)
