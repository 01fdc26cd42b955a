"""Episodes into a replay buffer and out, through Minari's own files (0.5.4, `pip install 'pyrl[minari]'`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from pyrl.buffers import ReplayBuffer, Window
from pyrl.errors import DTypeError, SettingError, SpaceError

pytest.importorskip("minari", reason="minari is not installed: pip install 'pyrl[minari]'")

import minari
from minari.data_collector import EpisodeBuffer

from pyrl.adapters.minari import from_minari, to_minari

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # of metadata that nobody needs here
BOX, DISCRETE = spaces.Box(-10, 10, (3,), np.float32), spaces.Discrete(4)
DICT = spaces.Dict({"a": BOX, "b": spaces.Box(0, 255, (2, 2), np.uint8)})


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))


def dataset(observation_space: Any = BOX, action_space: Any = DISCRETE, name: str = "tests/own-v0") -> Any:
    """Three episodes of 4, 1 and 6 steps: terminated, truncated, and one without an end."""
    rng, rows = np.random.default_rng(0), []
    for length, terminated, truncated in ((4, True, False), (1, False, True), (6, False, False)):
        leaves = {"a": rng.normal(size=(length + 1, 3)).astype(np.float32), "b": rng.integers(0, 255, (length + 1, 2, 2)).astype(np.uint8)}
        ends = np.arange(length) == length - 1
        rows.append(
            EpisodeBuffer(
                observations=leaves if observation_space is DICT else leaves["a"],
                actions=np.stack([action_space.sample() for _ in range(length)]),
                rewards=rng.normal(size=length).astype(np.float32).tolist(),
                terminations=(ends & terminated).tolist(),
                truncations=(ends & truncated).tolist(),
            )
        )
    return minari.create_dataset_from_buffers(name, rows, observation_space=observation_space, action_space=action_space)


@pytest.mark.parametrize("observation_space", [BOX, DICT], ids=["box", "dict"])
def test_episodes_in_and_out(observation_space: Any) -> None:
    before = dataset(observation_space)
    buffer = from_minari(before, n_step=2, gamma=0.5)
    assert (len(buffer), buffer.capacity) == (11, 14)
    assert [(e["length"], e["begins"], e["ended"]) for e in buffer.episodes()] == [
        (4, True, "terminated"), (1, True, "truncated"), (6, True, "truncated")
    ]  # fmt: skip
    for episode, own in zip(before.iterate_episodes(), buffer.episodes()):
        batch = buffer.get(own["index"], window=Window(n_step=1))
        leaves = [(episode.observations, batch.observation, batch.next_observation)]
        if observation_space is DICT:
            leaves = [(episode.observations[k], batch.observation[k], batch.next_observation[k]) for k in DICT]
        for rows, now, following in leaves:
            np.testing.assert_array_equal(now, rows[:-1])
            np.testing.assert_array_equal(following, rows[1:])
            assert now.dtype == rows.dtype
        np.testing.assert_array_equal(batch.action, episode.actions)
        np.testing.assert_array_equal(batch.reward, np.float32(episode.rewards))
    after = to_minari(buffer, "tests/again-v0", description="from a buffer")
    assert after.total_steps == 11
    for host, own in zip(before.iterate_episodes(), after.iterate_episodes()):
        if observation_space is BOX:
            np.testing.assert_array_equal(own.observations, host.observations)
        np.testing.assert_array_equal(own.actions, host.actions)
        np.testing.assert_array_equal(own.terminations, host.terminations)
        assert own.truncations[-1] == (not host.terminations[-1])


def test_an_end_that_was_not_recorded_bootstraps_and_a_terminal_one_does_not() -> None:
    """r + discount * 8 of the last steps: the value of what comes after counts unless the episode terminated."""
    buffer = from_minari(dataset(), gamma=0.5)
    last = np.array([episode["index"][-1] for episode in buffer.episodes()])
    batch = buffer.get(last)
    np.testing.assert_array_equal(batch.discount, np.float32([0, 0.5, 0.5]))
    np.testing.assert_allclose(batch.reward + 8 * batch.discount - batch.reward, [0, 4, 4], atol=1e-6)


def test_some_episodes_and_a_buffer_of_ones_own() -> None:
    data, buffer = dataset(), ReplayBuffer(100, BOX, DISCRETE)
    assert from_minari(data, episodes=[1, 2], buffer=buffer) is buffer
    assert from_minari(data, episodes=[0], buffer=buffer) is buffer
    assert [e["length"] for e in buffer.episodes()] == [1, 6, 4]


def test_what_runs_is_truncated_and_what_lost_its_beginning_is_left_out() -> None:
    buffer = ReplayBuffer(8, BOX, DISCRETE)
    for step in range(12):
        at = np.full((1, 3), step, np.float32)
        buffer.add(at, np.array([1]), np.array([step]), at + 1, np.array([step == 8]), np.array([False]))
    (episode,) = to_minari(buffer, "tests/short-v0").iterate_episodes()
    assert episode.rewards.tolist() == [9, 10, 11]
    assert episode.truncations.tolist() == [False, False, True]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: from_minari("D4RL/door/human-v2"), DTypeError, r"dataset is a str, expected a MinariDataset: minari.load_dataset\(id\)"),
        (lambda: from_minari(dataset(), buffer=ReplayBuffer(9, BOX, DISCRETE), n_step=3), SettingError, "n_step is given with buffer"),
        (lambda: from_minari(dataset(), buffer=ReplayBuffer(9, BOX, DISCRETE, 3)), SettingError, "buffer has 3 environments, expected 1"),
        (lambda: from_minari(dataset(), episodes=[7]), SettingError, "episodes has 7, which the data set has not"),
        (lambda: from_minari(dataset(), n_steps=3), TypeError, "n_steps"),
        (lambda: to_minari([], "a/b-v0"), DTypeError, "buffer is a list, expected a pyrl.buffers.ReplayBuffer"),
        (lambda: to_minari(ReplayBuffer(9, BOX, DISCRETE), "a/b-v0"), ValueError, "no episode whose beginning is still stored"),
        (lambda: to_minari(ReplayBuffer(9, BOX, DISCRETE, linked=False), "a/b-v0"), SettingError, "buffer has linked=False"),
    ],
)
def test_mistakes(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_an_action_space_that_cannot_be_stored() -> None:
    rows = EpisodeBuffer(
        observations=np.zeros((2, 3), np.float32), actions={"left": np.array([1])}, rewards=[0.0], terminations=[True], truncations=[False]
    )
    both = spaces.Dict({"left": DISCRETE})
    data = minari.create_dataset_from_buffers("tests/dict-v0", [rows], observation_space=BOX, action_space=both)
    with pytest.raises(SpaceError, match="action_space is Dict"):
        from_minari(data)
