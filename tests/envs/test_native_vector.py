"""The `gymnasium.vector.VectorEnv` face of native environments."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers.vector import RecordEpisodeStatistics

from pyrl.envs import NativeEnv, NativeVectorEnv, make
from pyrl.envs.make import native_form
from pyrl.errors import SettingError


def test_final_observations_and_infos_are_as_gymnasium_has_them() -> None:
    envs = NativeVectorEnv("CartPole-v1", 3, max_episode_steps=5)
    theirs = gymnasium.vector.SyncVectorEnv([lambda: gymnasium.make("CartPole-v1", max_episode_steps=5)] * 3, autoreset_mode="SameStep")
    assert envs.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    assert (envs.observation_space, envs.action_space) == (theirs.observation_space, theirs.action_space)
    observation, infos = envs.reset(seed=0)
    theirs.reset(seed=0)
    assert infos == {}
    for step in range(1, 6):
        ours, other = envs.step(np.array([0, 1, 0])), theirs.step(np.array([0, 1, 0]))
        for a, b in zip(ours[:4], other[:4]):
            assert (a.shape, a.dtype) == (b.shape, b.dtype)
        assert ours[4].keys() == other[4].keys()
        assert ours[3].tolist() == [step == 5] * 3
    assert ours[4]["_final_obs"].tolist() == [True] * 3
    final = np.stack(ours[4]["final_obs"])
    assert envs.observation_space.contains(ours[0])
    assert not np.array_equal(final, ours[0])
    assert observation.shape == (3, 4)


def test_seeds_give_each_environment_its_own_episodes() -> None:
    envs, other = NativeVectorEnv("Pendulum-v1", 4), NativeVectorEnv("Pendulum-v1", 2)
    observation = envs.reset(seed=5)[0]
    np.testing.assert_array_equal(other.reset(seed=[7, 8])[0], observation[2:])
    again = envs.reset()[0]
    assert not np.array_equal(again, observation)
    np.testing.assert_array_equal(envs.reset(seed=5)[0], observation)
    np.testing.assert_array_equal(envs.reset()[0], again)
    with pytest.raises(ValueError, match="3 entries"):
        envs.reset(seed=[1, 2, 3])


@pytest.mark.parametrize(
    ("name", "options", "low", "high"),
    [
        ("CartPole-v1", {"low": 0.01, "high": 0.02}, 0.01, 0.02),
        ("MountainCar-v0", {"low": -0.5, "high": -0.45}, -0.5, -0.45),
        ("Pendulum-v1", {"x_init": 0.1, "y_init": 0.0}, None, None),
    ],
)
def test_reset_options(name: str, options: dict, low: float | None, high: float | None) -> None:
    envs = NativeVectorEnv(name, 50)
    observation = envs.reset(seed=0, options=options)[0]
    if low is None:
        assert (np.abs(np.arctan2(observation[:, 1], observation[:, 0])) <= 0.1).all()
        assert (observation[:, 2] == 0).all()
    else:
        assert ((observation[:, 0] >= low - 1e-7) & (observation[:, 0] <= high + 1e-7)).all()
    # They are of that reset alone.
    assert not np.array_equal(envs.reset(seed=0)[0], observation)
    wrong = dict.fromkeys(options, "wide")
    with pytest.raises(ValueError, match="expected a number"):
        envs.reset(options=wrong)


def test_options_low_above_high_and_unknown_ones() -> None:
    envs = NativeVectorEnv("CartPole-v1", 2)
    with pytest.raises(ValueError, match=r"low is 0\.3, expected at most"):
        envs.reset(options={"low": 0.3})
    np.testing.assert_array_equal(envs.reset(seed=0, options={"colour": 1})[0], envs.reset(seed=0)[0])


def test_disabled_autoreset_waits_for_a_mask() -> None:
    envs = NativeVectorEnv("Pendulum-v1", 3, autoreset_mode="Disabled", max_episode_steps=4)
    before = envs.reset(seed=0)[0]
    for _ in range(4):
        observation, _, _, truncated, infos = envs.step(np.zeros((3, 1), np.float32))
    assert truncated.all()
    assert infos == {}
    after = envs.reset(options={"reset_mask": np.array([True, False, False])})[0]
    np.testing.assert_array_equal(after[1:], observation[1:])
    assert not np.array_equal(after[0], observation[0])
    assert not envs.step(np.zeros((3, 1), np.float32))[3][0]
    assert before.shape == after.shape
    with pytest.raises(ValueError, match="reset_mask"):
        envs.reset(options={"reset_mask": [1, 0]})
    with pytest.raises(SettingError, match="NEXT_STEP"):
        NativeVectorEnv("Pendulum-v1", 3, autoreset_mode="NextStep")


def test_arrays_are_the_callers_unless_told_otherwise() -> None:
    envs = NativeVectorEnv("CartPole-v1", 2)
    first = envs.reset(seed=0)[0]
    kept = first.copy()
    for _ in range(5):
        envs.step(np.array([0, 1]))
    np.testing.assert_array_equal(first, kept)
    shared = NativeVectorEnv("CartPole-v1", 2, copy=False)
    latest = shared.reset(seed=0)[0]
    kept = latest.copy()
    shared.step(np.array([0, 1]))
    np.testing.assert_array_equal(latest, kept)  # until the next but one


def test_gymnasiums_wrappers_and_our_stepper_take_it() -> None:
    envs = RecordEpisodeStatistics(NativeVectorEnv("CartPole-v1", 4, max_episode_steps=9))
    envs.reset(seed=0)
    for _ in range(9):
        infos = envs.step(np.array([0, 1, 0, 1]))[4]
    assert "episode" in infos or "episode" in infos.get("final_info", {})
    with make(NativeVectorEnv("FrozenLake-v1", 4, max_episode_steps=6)) as stepper:
        stepper.reset()
        episodes = [episode for _ in range(20) for episode in stepper.step(np.array([0, 1, 2, 3])).episodes]
    assert episodes
    assert max(episode.length for episode in episodes) <= 6


def test_step_before_reset() -> None:
    with pytest.raises(gymnasium.error.ResetNeeded):
        NativeVectorEnv("CartPole-v1", 2).step(np.array([0, 1]))


@pytest.mark.parametrize("name", ["CartPole-v1", "Pendulum-v1", "FrozenLake-v1"])
@pytest.mark.filterwarnings("ignore:.*:UserWarning")  # of infinite bounds, as Gymnasium's own has
def test_one_native_environment_passes_gymnasiums_checker(name: str) -> None:
    native, _ = native_form(name, {}, None)
    assert isinstance(native, NativeEnv)
    check_env(native(), skip_render_check=True)
