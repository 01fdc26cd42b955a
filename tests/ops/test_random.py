"""The random stream: keys from names, 24 bytes of state, copies that go on from the same point."""

from __future__ import annotations

import copy
import json
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import reference_sampling as reference
import torch
from hypothesis import given
from hypothesis import strategies as st

from pyrl.errors import DTypeError
from pyrl.ops.random import RandomStream
from pyrl.ops.sampling import sample_categorical, uniform_indices
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


@given(WORDS, st.integers(0, 2**64 - 100))
def test_a_state_in_memory_gives_the_same_draws(key, draw):
    """A tensor on the CPU stands for one on a GPU: what differs is who reads it."""
    stream, memory = RandomStream.from_state((key, 0, draw)), RandomStream.from_state((key, 0, draw), device="cpu")
    assert stream.device is None
    assert memory.device == torch.device("cpu")
    words = memory.memory
    for n in (3, 20):
        np.testing.assert_array_equal(uniform_indices(n, 1000, memory), uniform_indices(n, 1000, stream))
        assert memory.state == stream.state
    assert [int(word) & (2**64 - 1) for word in words] == [key, draw + 2]
    for other in (pickle.loads(pickle.dumps(memory)), copy.deepcopy(memory)):
        assert other.state == memory.state
        assert other.device == memory.device
        assert other.memory.data_ptr() != words.data_ptr()
    assert memory.spawn("noise").state == stream.spawn("noise").state
    assert memory.spawn("noise").device == memory.device
    memory.state = (5, 0, 6)
    assert memory.memory is words
    assert words.tolist() == [5, 6]
    assert repr(memory).endswith("draw=6, device=cpu)")


def test_a_draw_that_was_not_used_is_given_back():
    for stream in (RandomStream(3), RandomStream(3, device="cpu")):
        before = stream.state
        with pytest.raises(ValueError, match="logits has nan"):
            sample_categorical(np.full((2, 3), np.nan, np.float32), stream)
        assert stream.state == before


def test_threads_that_share_a_stream_get_different_draws():
    stream, n = RandomStream(3), 200
    logits = np.zeros((64, 3), np.float32)  # draws are taken in time, however long the kernel works without the interpreter lock
    with ThreadPoolExecutor(4) as pool:
        drawn = list(pool.map(lambda _: sample_categorical(logits, stream)[0].tobytes(), range(n)))
    assert stream.draw == n
    assert len(set(drawn)) == n


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
