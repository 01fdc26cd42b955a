"""Native environments compute what Gymnasium's do (gymnasium_twin.py), and reset as they do."""

from __future__ import annotations

import math

import gymnasium
import numpy as np
import pytest
from gymnasium_twin import CASES, Ours, Theirs, compare, make_steps
from scipy import stats

from pyrl.envs import NativeVectorEnv, make
from pyrl.errors import CheckpointError, EnvError, SettingError

IDS = sorted({name for name, _ in CASES})


def numpy_is_libm() -> bool:
    """Whether NumPy takes sines and cosines from libm here, as Python does; on some processors it has its own."""
    x = np.random.default_rng(0).uniform(-10, 10, 20_000)
    return all(float(function(v)) == exact(v) for function, exact in ((np.cos, math.cos), (np.sin, math.sin)) for v in x)


EXACT = numpy_is_libm()
pytestmark = pytest.mark.filterwarnings("ignore:.*out of date:DeprecationWarning")


@pytest.mark.parametrize(("name", "kwargs"), CASES, ids=lambda value: str(value) if value else "")
def test_steps_equal_those_of_gymnasium(name: str, kwargs: dict) -> None:
    different = compare(name, kwargs, 2_000, seed=1)
    # The observation of Acrobot's reset is the cosine of a float32, which NumPy has a function of its own for.
    allowed = {"reset observation"} if name == "Acrobot-v1" else set()
    if EXACT or "Lake" in name or "Taxi" in name or "Cliff" in name:
        assert set(different) <= allowed, different


@pytest.mark.parametrize("name", ["CartPole-v1", "Pendulum-v1", "Acrobot-v1"])
def test_steps_are_close_whatever_libm_is_used(name: str) -> None:
    """The comparison that holds on every processor."""
    made, ours = make_steps(Theirs(name, {}), 500, np.random.default_rng(0)), Ours(name, {}, 500)
    ours.set_states(made.states, made.numbers)
    observation, reward, _ = ours.step(made.actions)
    np.testing.assert_allclose(reward, [result[1] for result in made.results], rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(observation, [result[0] for result in made.results], rtol=1e-6, atol=1e-6)
    for own, result in zip(ours.states(), made.results):
        np.testing.assert_allclose(np.frombuffer(own), np.frombuffer(result[3]), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", IDS)
def test_spaces_limits_and_names_are_those_of_gymnasium(name: str) -> None:
    with make(name, 2, backend="native") as native, make(name, 2) as lean:
        assert native.single_observation_space == lean.single_observation_space
        assert native.single_action_space == lean.single_action_space
        assert (native.name, native.spec.id) == (lean.name, lean.spec.id)
        limit = gymnasium.spec(name).max_episode_steps
        assert native.native.max_episode_steps == (limit or 0)


def test_time_limit_truncates_and_shows_the_final_observation() -> None:
    with make("Pendulum-v1", 3, backend="native", max_episode_steps=7, seed=4) as stepper:
        stepper.reset()
        for step in range(1, 22):
            before = np.array(stepper.observation)
            result = stepper.step(np.zeros((3, 1), np.float32))
            np.testing.assert_array_equal(result.observation, before)
            ended = step % 7 == 0
            assert result.truncated.tolist() == [ended] * 3
            assert not result.terminated.any()
            assert len(result.episodes) == 3 * ended
            assert all(episode.length == 7 for episode in result.episodes)
            assert np.array_equal(result.next_observation, stepper.observation) != ended


def random_actions(stepper: object, steps: int, seed: int = 0) -> list[np.ndarray]:
    space = stepper.single_action_space  # type: ignore[attr-defined]
    space.seed(seed)
    return [np.array([space.sample() for _ in range(stepper.num_envs)]) for _ in range(steps)]  # type: ignore[attr-defined]


def played(stepper: object, actions: list[np.ndarray]) -> list[bytes]:
    log = []
    for action in actions:
        result = stepper.step(action)  # type: ignore[attr-defined]
        parts = (result.next_observation, result.reward, result.terminated, result.truncated, stepper.observation)  # type: ignore[attr-defined]
        log.append(b"".join(np.asarray(part).tobytes() for part in parts) + repr(result.episodes).encode())
    return log


@pytest.mark.parametrize("name", IDS)
def test_episodes_depend_on_seed_and_environment_only(name: str) -> None:
    with make(name, 5, backend="native", seed=3) as one, make(name, 5, backend="native", seed=3) as two:
        first, second = one.reset(), two.reset()
        np.testing.assert_array_equal(first, second)
        actions = random_actions(one, 60)
        assert played(one, actions) == played(two, actions)
    # The first environments of many are those of few.
    with make(name, 2, backend="native", seed=3) as few, make(name, 5, backend="native", seed=3) as many:
        np.testing.assert_array_equal(few.reset(), many.reset()[:2])
        for action in actions:
            few.step(action[:2])
            many.step(action)
            np.testing.assert_array_equal(few.observation, many.observation[:2])


@pytest.mark.parametrize("name", IDS)
def test_a_saved_stepper_goes_on_alike(name: str) -> None:
    with (
        make(name, 4, backend="native", seed=1, max_episode_steps=13) as stepper,
        make(name, 4, backend="native", seed=2, max_episode_steps=13) as other,
    ):
        stepper.reset()
        played(stepper, random_actions(stepper, 20))
        state = stepper.state_dict()
        actions = random_actions(stepper, 40, seed=5)
        other.load_state_dict(state)
        assert played(stepper, actions) == played(other, actions)
        with pytest.raises(EnvError, match="take no such state"):
            other.load_state_dict({**state, "environments": {"pool": np.zeros((4, 3), np.uint8)}})
        with pytest.raises(CheckpointError, match="returns"):
            other.load_state_dict({**state, "returns": np.zeros(3)})


def test_threads_do_not_change_episodes() -> None:
    from pyrl import ops

    logs = []
    for threads in (1, 2):
        before = ops.set_num_threads(threads)
        try:
            with make("CartPole-v1", 700, backend="native", seed=9) as stepper:
                stepper.reset()
                logs.append(played(stepper, random_actions(stepper, 30)))
        finally:
            ops.set_num_threads(before)
    assert logs[0] == logs[1]


RESETS = {
    "CartPole-v1": [(-0.05, 0.05)] * 4,
    "MountainCar-v0": [(-0.6, -0.4), None],
    "MountainCarContinuous-v0": [(-0.6, -0.4), None],
    "Acrobot-v1": [None, None, None, None, (-0.1, 0.1), (-0.1, 0.1)],
}


@pytest.mark.parametrize("name", RESETS)
def test_resets_are_uniform(name: str) -> None:
    observation = NativeVectorEnv(name, 4_000).reset(seed=0)[0].astype(np.float64)
    for column, bounds in zip(observation.T, RESETS[name]):
        if bounds is not None:
            low, high = bounds
            assert stats.kstest((column - low) / (high - low), "uniform").pvalue > 1e-4
    for i in range(observation.shape[1]):
        for j in range(i):
            if RESETS[name][i] and RESETS[name][j]:
                assert abs(np.corrcoef(observation[:, i], observation[:, j])[0, 1]) < 0.08


def test_pendulum_starts_at_any_angle() -> None:
    observation = NativeVectorEnv("Pendulum-v1", 4_000).reset(seed=0)[0].astype(np.float64)
    angle = np.arctan2(observation[:, 1], observation[:, 0])
    assert stats.kstest((angle + math.pi) / (2 * math.pi), "uniform").pvalue > 1e-4
    assert stats.kstest((observation[:, 2] + 1) / 2, "uniform").pvalue > 1e-4


def test_taxi_starts_and_slippery_moves_have_their_probabilities() -> None:
    twin = gymnasium.make("Taxi-v4").unwrapped
    seen = NativeVectorEnv("Taxi-v4", 30_000).reset(seed=1)[0]
    expected = twin.initial_state_distrib * len(seen)  # type: ignore[attr-defined]
    counts = np.bincount(seen, minlength=500)
    assert not counts[expected == 0].any()
    assert stats.chisquare(counts[expected > 0], expected[expected > 0]).pvalue > 1e-4

    lake = NativeVectorEnv("FrozenLake-v1", 30_000, success_rate=0.5)
    lake.reset(seed=2)
    moved = lake.step(np.full(30_000, 2))[0]  # right: down with 1/4, right with 1/2, and up, into the edge, with 1/4
    assert stats.chisquare([(moved == s).sum() for s in (4, 1, 0)], [7_500, 15_000, 7_500]).pvalue > 1e-4


@pytest.mark.parametrize(
    ("name", "kwargs", "reason"),
    [
        ("Taxi-v4", {"fickle_passenger": True}, "fickle_passenger"),
        ("Blackjack-v1", {}, "has no Blackjack-v1"),
    ],
)
def test_what_is_not_native_is_refused_by_name(name: str, kwargs: dict, reason: str) -> None:
    with pytest.raises(SettingError, match=reason):
        make(name, backend="native", env_kwargs=kwargs)


def test_wrapped_drawn_and_changed_environments_are_refused() -> None:
    class Mine(gymnasium.make("CartPole-v1").unwrapped.__class__):  # type: ignore[misc]
        pass

    with pytest.raises(SettingError, match="wrapped in"):
        make("CartPole-v1", backend="native", wrapper=lambda env: gymnasium.wrappers.TransformReward(env, lambda r: 2 * r))
    with pytest.raises(SettingError, match="has no Mine"):
        make(Mine, backend="native")
    with pytest.raises(SettingError, match="pictures"):
        make("CartPole-v1", backend="native", render_mode="rgb_array")
    with pytest.raises(TypeError, match="unexpected keyword"):
        make("CartPole-v1", backend="native", env_kwargs={"gravitas": 1})
    with pytest.raises(ValueError, match="SAME_STEP"):
        make("CartPole-v1", backend="native", autoreset="NEXT_STEP")


def test_acrobot_with_noise_is_refused() -> None:
    def noisy() -> gymnasium.Env:
        env = gymnasium.make("Acrobot-v1", disable_env_checker=True)
        env.unwrapped.torque_noise_max = 0.5  # type: ignore[attr-defined]
        return env

    with pytest.raises(SettingError, match="torque noise"):
        make(noisy, backend="native")


def test_actions_are_checked_as_those_of_other_backends() -> None:
    with make("CartPole-v1", 2, backend="native") as stepper:
        with pytest.raises(EnvError, match="before reset"):
            stepper.step(np.zeros(2, np.int64))
        stepper.reset()
        with pytest.raises(ValueError, match="action of environment 1 is 2"):
            stepper.step(np.array([0, 2]))
        with pytest.raises(ValueError, match="pictures"):
            stepper.render()
        stepper.step(np.array([0, 1]))
