"""The normaliser against a plain model of Stable-Baselines3's VecNormalize, over all its options."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from pyrl.errors import NonFiniteError, ShapeError
from pyrl.nets.normalizer import EPSILON, Normalizer

BOX = spaces.Box(-np.inf, np.inf, (3,), np.float32)
NESTED = spaces.Dict(
    {
        "position": spaces.Box(-1, 1, (2, 2), np.float64),
        "image": spaces.Box(0, 255, (4, 4, 3), np.uint8),
        "inner": spaces.Tuple((spaces.Discrete(5), spaces.Box(-1, 1, (1,), np.float16))),
    }
)


def observations(rng, space, *leading):
    if isinstance(space, spaces.Dict):
        return {key: observations(rng, entry, *leading) for key, entry in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(observations(rng, entry, *leading) for entry in space.spaces)
    if isinstance(space, spaces.Discrete):
        return rng.integers(space.n, size=leading)
    return (rng.standard_normal((*leading, *space.shape)) * 3 + 40).astype(space.dtype)


class Model:
    """All values kept, nothing incremental: the definition."""

    def __init__(self, gamma, num_envs):
        self.gamma, self.rows, self.returns = gamma, [], []
        self.running = [0.0] * num_envs

    def step(self, observation, reward, ended, valid):
        self.rows.extend(observation)
        for i in range(len(reward)):
            if valid[i]:
                self.running[i] = self.running[i] * self.gamma + reward[i]
                self.returns.append(self.running[i])
            if ended[i]:
                self.running[i] = 0.0

    def observation(self, x, clip):
        rows = np.array(self.rows, np.float64)
        scaled = (x - rows.mean(axis=0)) / np.sqrt(rows.var(axis=0) + EPSILON)
        return scaled if clip is None else np.clip(scaled, -clip, clip)

    def reward(self, reward, clip):
        scaled = reward / np.sqrt((np.var(self.returns) if self.returns else 1.0) + EPSILON)
        return scaled if clip is None else np.clip(scaled, -clip, clip)


@given(
    steps=st.integers(1, 30),
    num_envs=st.integers(1, 5),
    clip_observation=st.sampled_from([None, 0.5, 10.0]),
    clip_reward=st.sampled_from([None, 0.5, 10.0]),
    gamma=st.sampled_from([0.0, 0.9, 1.0]),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=60, deadline=None)
def test_equals_the_model(steps, num_envs, clip_observation, clip_reward, gamma, seed):
    rng = np.random.default_rng(seed)
    model = Model(gamma, num_envs)
    normalizer = Normalizer(
        BOX, normalize_observation=True, clip_observation=clip_observation, normalize_reward=True,
        clip_reward=clip_reward, gamma=gamma, num_envs=num_envs,
    )  # fmt: skip
    assert normalizer.active
    for t in range(steps):
        if t == steps // 2:
            normalizer.begin()
            model.running = [0.0] * num_envs
        observation, reward = observations(rng, BOX, num_envs), rng.standard_normal(num_envs) * 10
        ended, valid = rng.random(num_envs) < 0.2, rng.random(num_envs) < 0.8
        reward[~valid] = 0.0
        normalizer.update(observation)
        normalizer.observe_reward(reward, ended, valid)
        model.step(observation, reward, ended, valid)
    rollout = observations(rng, BOX, 7, num_envs)
    result = normalizer.observation(rollout)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, model.observation(rollout, clip_observation), rtol=1e-4, atol=1e-4)
    for shape in ((), (num_envs,), (7, num_envs)):
        reward = np.asarray(rng.standard_normal(shape) * 5, np.float32)
        result = normalizer.reward(reward)
        assert (result.dtype, result.shape) == (np.float32, shape)
        np.testing.assert_allclose(result, model.reward(reward, clip_reward), rtol=1e-5, atol=1e-6)


def test_a_step_of_all_environments_has_the_same_bits():
    """Where nothing is said of valid, the usual case, a shorter way is taken."""
    rng = np.random.default_rng(0)
    one, other = (Normalizer(BOX, normalize_reward=True, gamma=0.9, num_envs=3) for _ in range(2))
    for _ in range(50):
        reward, ended = rng.standard_normal(3) * 10, rng.random(3) < 0.2
        one.observe_reward(reward, ended)
        other.observe_reward(reward, ended, np.ones(3, bool))
    for a, b in zip(one.moments_in_use(), other.moments_in_use()):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(one._running_return, other._running_return)
    one.observe_reward([1.0, 2.0, 3.0], (False, True, False))
    assert one._running_return[1] == 0
    before = one.state_dict()
    with pytest.raises(NonFiniteError):
        one.observe_reward(np.array([1.0, np.nan, 1.0]), np.zeros(3, bool))
    with pytest.raises(ShapeError):
        one.observe_reward(np.ones(3), np.zeros(3, bool), first_env=1)
    for ended in (True, np.zeros(2, bool), np.zeros(4, bool)):
        with pytest.raises((IndexError, ShapeError)):
            one.observe_reward(np.ones(3), ended)
    np.testing.assert_equal(one.state_dict(), before)


def test_the_running_return_does_not_leak_over_an_end():
    normalizer = Normalizer(BOX, normalize_reward=True, gamma=1.0, num_envs=2)
    normalizer.observe_reward(np.array([5.0, 1.0]), np.array([True, False]), np.array([True, True]))
    normalizer.observe_reward(np.array([0.0, 1.0]), np.array([False, False]), np.array([False, True]))  # dead step
    normalizer.observe_reward(np.array([1.0, 1.0]), np.array([False, False]))
    state = normalizer.state_dict()["reward"]
    np.testing.assert_array_equal(state["running_return"], [1.0, 3.0])
    assert int(state["count"]) == 5
    np.testing.assert_allclose(state["mean"], np.mean([5, 1, 2, 1, 3]))


@pytest.mark.parametrize("space", [BOX, NESTED, spaces.Discrete(4)], ids=["box", "nested", "discrete"])
def test_identity_touches_nothing(space):
    normalizer = Normalizer(space)
    assert not normalizer.active
    assert normalizer.state_dict() == {}
    observation, reward = observations(np.random.default_rng(0), space, 2), np.ones(2)
    normalizer.update(observation)
    normalizer.observe_reward(reward, np.zeros(2, bool))
    assert normalizer.observation(observation) is observation
    assert normalizer.reward(reward) is reward


def test_clipping_alone_keeps_the_dtype_and_counts_nothing():
    normalizer = Normalizer(NESTED, clip_observation=41.0, clip_reward=2.0, num_envs=2)
    assert normalizer.active
    observation = observations(np.random.default_rng(0), NESTED, 2)
    normalizer.update(observation)
    normalizer.observe_reward(np.ones(2), np.zeros(2, bool))
    assert normalizer.state_dict() == {}
    result = normalizer.observation(observation)
    np.testing.assert_array_equal(result["position"], np.clip(observation["position"], -41, 41))
    assert result["position"].dtype == np.float64
    assert result["image"] is observation["image"]
    np.testing.assert_array_equal(normalizer.reward(np.array([-3.0, 1.0])), [-2.0, 1.0])


def test_float_leaves_of_nested_spaces_are_normalised_and_others_pass():
    rng = np.random.default_rng(1)
    normalizer = Normalizer(NESTED, normalize_observation=True, num_envs=50)
    observation = observations(rng, NESTED, 50)
    normalizer.update(observation)
    result = normalizer.observation(observation)
    for name, leaf in (("position", result["position"]), ("inner", result["inner"][1])):
        np.testing.assert_allclose(leaf.mean(axis=0), 0.0, atol=1e-4, err_msg=name)
        np.testing.assert_allclose(leaf.std(axis=0), 1.0, atol=1e-3, err_msg=name)
        assert leaf.dtype == np.float32
    assert result["image"] is observation["image"]
    assert result["inner"][0] is observation["inner"][0]
    assert set(normalizer.state_dict()) == {"observation.position", "observation.inner.1"}


def test_strided_observations_are_taken():
    normalizer = Normalizer(BOX, normalize_observation=True)
    wide = np.random.default_rng(2).standard_normal((20, 6)).astype(np.float32)
    normalizer.update(wide[:, ::2])
    np.testing.assert_array_equal(normalizer.observation(wide[:, ::2]), normalizer.observation(wide[:, ::2].copy()))


def test_tensors_come_back_as_tensors():
    torch = pytest.importorskip("torch")
    normalizer = Normalizer(BOX, normalize_observation=True, normalize_reward=True, clip_reward=1.0)
    rows = np.random.default_rng(3).standard_normal((20, 3)).astype(np.float32)
    normalizer.update(rows)
    normalizer.observe_reward(np.ones(1), np.zeros(1, bool))
    result = normalizer.observation(torch.from_numpy(rows))
    assert isinstance(result, torch.Tensor)
    np.testing.assert_array_equal(result.numpy(), normalizer.observation(rows))
    assert isinstance(normalizer.reward(torch.ones(4)), torch.Tensor)
    clipped = Normalizer(BOX, clip_observation=0.5, clip_reward=0.5)
    assert isinstance(clipped.observation(torch.from_numpy(rows)), torch.Tensor)
    assert clipped.reward(torch.ones(2)).tolist() == [0.5, 0.5]


def test_state_goes_on_where_it_was():
    options = {"normalize_observation": True, "normalize_reward": True, "gamma": 0.9, "num_envs": 3}
    rng = np.random.default_rng(4)
    steps = [(observations(rng, NESTED, 3), rng.standard_normal(3), rng.random(3) < 0.3) for _ in range(20)]
    normalizer = Normalizer(NESTED, **options)

    def see(target, part):
        for observation, reward, ended in part:
            target.update(observation)
            target.observe_reward(reward, ended)

    see(normalizer, steps[:10])
    state = copy.deepcopy(normalizer.state_dict())
    twin = copy.deepcopy(normalizer)
    resumed = Normalizer(NESTED, **options)
    resumed.load_state_dict(state)
    for target in (normalizer, twin, resumed):
        see(target, steps[10:])
    for other in (twin, resumed):
        for name, arrays in normalizer.state_dict().items():
            for key, array in arrays.items():
                assert isinstance(array, np.ndarray)
                np.testing.assert_array_equal(other.state_dict()[name][key], array)
    fewer = Normalizer(NESTED, **{**options, "num_envs": 2})
    fewer.load_state_dict(state)
    np.testing.assert_array_equal(fewer.state_dict()["reward"]["running_return"], [0.0, 0.0])
    with pytest.raises(ValueError, match=r"Normalizer: the state has .* expected 'observation\.inner\.1' too"):
        resumed.load_state_dict({"reward": state["reward"]})


def test_bad_input_is_named_and_changes_nothing():
    normalizer = Normalizer(BOX, normalize_observation=True, normalize_reward=True, num_envs=2)
    normalizer.update(np.ones((2, 3), np.float32))
    normalizer.observe_reward(np.ones(2), np.zeros(2, bool))
    before = copy.deepcopy(normalizer.state_dict())
    with pytest.raises(ShapeError, match=r"reward has shape \[3\], expected \[N\] = \[2\]"):
        normalizer.observe_reward(np.ones(3), np.zeros(3, bool))
    with pytest.raises(ValueError, match="nan"):
        normalizer.observe_reward(np.array([1.0, np.nan]), np.zeros(2, bool))
    with pytest.raises(ValueError, match="nan in row 1, column 2"):
        normalizer.update(np.array([[1, 1, 1], [1, 1, np.nan]], np.float32))
    with pytest.raises(ShapeError, match=r"expected \[\.\.\., 3\]"):
        normalizer.observation(np.ones((2, 4), np.float32))
    for name, arrays in normalizer.state_dict().items():
        for key, array in arrays.items():
            np.testing.assert_array_equal(array, before[name][key])
    with pytest.raises(ValueError, match="clip_reward is 0, expected a positive number or None"):
        Normalizer(BOX, clip_reward=0)
