"""What records are there, by name: `indices`, `newest`; and `cut`."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete

from pyrl.buffers import PrioritizedReplayBuffer, ReplayBuffer

SPACES = Box(-1e6, 1e6, (1,), np.float32), Discrete(2)


@pytest.mark.parametrize("frame_stack", [1, 3])
@pytest.mark.parametrize("linked", [True, False])
def test_names_are_those_of_all_that_can_be_drawn(frame_stack: int, linked: bool) -> None:
    if frame_stack > 1 and not linked:
        return
    rng = np.random.default_rng(frame_stack)
    buffer, value = ReplayBuffer(30, *SPACES, num_envs=3, frame_stack=frame_stack, linked=linked), 0.0
    assert buffer.newest.tolist() == [-1, -1, -1]
    assert len(buffer.indices()) == 0
    for step in range(60):
        now = np.arange(3, dtype=np.float32)[:, None] + 10 * value
        value += 1 if rng.random() < 0.9 else 2  # a manual reset now and then
        ended, valid = rng.random((2, 3)) < [[0.2], [0.8]]
        buffer.add(now, np.ones(3, int), np.full(3, step), now + 10, ended, ~ended & (rng.random(3) < 0.1), valid)
        if step == 40:
            buffer.delete(buffer.indices()[:1])
        index = buffer.indices()
        everything = np.arange(3 * 100)
        assert sorted(index) == everything[buffer.is_drawable(everything)].tolist()
        for env in range(3):
            own = index[index % 3 == env]
            assert (np.diff(own) > 0).all()
            if valid[env] and step != 40 and len(own):
                assert own[-1] == buffer.newest[env]
                assert buffer.get(own[-1:]).reward[0] == step
    state = buffer.state_dict()["random"]
    buffer.indices()
    assert buffer.state_dict()["random"] == state


@pytest.mark.parametrize("made", [ReplayBuffer, PrioritizedReplayBuffer])
def test_a_cut_ends_the_episode_though_the_next_observation_follows(made: type[ReplayBuffer]) -> None:
    buffer = made(40, *SPACES, n_step=3, gamma=0.5, frame_stack=2)
    for step in range(6):
        at = np.full((1, 1), step, np.float32)
        buffer.add(at, [0], [1.0], at + 1, [False], [False])
        if step == 2:
            buffer.cut()
            buffer.cut()  # nothing runs any more
            again = copy.deepcopy(buffer)
            assert [e["ended"] for e in again.episodes()] == ["cut"]
    assert [(e["length"], e["ended"]) for e in buffer.episodes()] == [(3, "cut"), (3, None)]
    batch = buffer.get(buffer.indices())
    assert batch.reward.tolist() == [1.75, 1.5, 1, 1.75, 1.5, 1]
    assert batch.discount.tolist() == [0.125, 0.25, 0.5, 0.125, 0.25, 0.5]  # bootstraps, as from a truncation
    assert batch.observation[3].ravel().tolist() == [3, 3]  # the history does not reach back across the cut
    assert len(buffer) == 6
    ReplayBuffer(4, *SPACES).cut()
