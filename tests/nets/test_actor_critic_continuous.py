"""Action scaling, critics, Polyak averages and exploration noise."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st

from pyrl.engine.arena import Arena, polyak
from pyrl.nets.actor_critic_continuous import ActionScale, Actor, Critics, GaussianActor
from pyrl.nets.mlp import mlp
from pyrl.nets.noise import exploration_noise

BOUNDS = st.tuples(st.floats(-100, 100, width=32), st.floats(0, 100, width=32))


@given(bounds=st.lists(BOUNDS, min_size=1, max_size=4), unit=st.floats(-1, 1))
def test_scaling_there_and_back(bounds: list[tuple[float, float]], unit: float) -> None:
    low, width = np.float32(bounds).T
    high = low + width
    scale = ActionScale("x", spaces.Box(low, high))
    for sign, expected in ((-1.0, low), (0.0, (low + high) / 2), (1.0, high)):
        np.testing.assert_allclose(scale.to_box(np.full((2, len(low)), sign, np.float32)), np.tile(expected, (2, 1)), rtol=1e-5, atol=1e-4)
    back = scale.to_unit(scale.to_box(np.full((2, len(low)), unit, np.float32)))
    wide = high - low > np.maximum(1e-3 * np.abs(high), 1e-30)
    np.testing.assert_allclose(back[:, wide], np.full((2, wide.sum()), unit), atol=1e-3)
    assert (back[:, high == low] == 0).all()


def test_critics_of_several_outputs_and_of_other_layers() -> None:
    made: list[tuple[int, ...]] = []

    def make(sizes: tuple[int, ...], activation: str) -> torch.nn.Sequential:
        made.append(tuple(sizes))
        return torch.nn.Sequential(*mlp(sizes, activation), torch.nn.LayerNorm(sizes[-1]))

    critics = Critics(spaces.Discrete(3), 2, (8,), "relu", 4, num_outputs=5, make=make)
    observation, action = torch.tensor([0, 2]), torch.randn(2, 2)
    outputs = critics(observation, action)
    assert outputs.shape == (4, 2, 5)
    assert torch.equal(critics.first(observation, action), outputs[0])
    assert made == [(3 + 2, 8, 5)] * 4
    assert all(isinstance(network[-1], torch.nn.LayerNorm) for network in critics.networks)


def test_critics_share_nothing_and_first_is_the_first() -> None:
    critics = Critics(spaces.Discrete(3), 2, (8,), "relu", 2)
    observation, action = torch.tensor([0, 2]), torch.randn(2, 2)
    q = critics(observation, action)
    assert q.shape == (2, 2)
    assert torch.equal(critics.first(observation, action), q[0])
    q[1].sum().backward()
    assert all(p.grad.abs().sum() == 0 for p in critics.networks[0].parameters())
    assert all(p.grad.abs().sum() > 0 for p in critics.networks[1].parameters())
    assert not torch.equal(q[0], q[1])


def test_actors() -> None:
    observation = torch.randn(5, 3) * 100
    assert Actor(spaces.Box(-1, 1, (3,)), 2, (8,), "relu")(observation).abs().max() <= 1.0
    mean, log_std = GaussianActor(spaces.Box(-1, 1, (3,)), 2, (8,), "relu", (math.log(0.1), 2.0))(observation)
    assert mean.shape == log_std.shape == (5, 2)
    assert log_std.min() >= math.log(0.1) - 1e-6
    assert log_std.max() <= 2.0


def test_polyak() -> None:
    online, target = torch.nn.Linear(2, 3), torch.nn.Linear(2, 3)
    arenas = Arena(target), Arena(online)
    before = target.weight.detach().clone()
    polyak(*arenas, 0.25)
    torch.testing.assert_close(target.weight, 0.75 * before + 0.25 * online.weight)
    polyak(*arenas, 1.0)
    assert torch.equal(target.weight, online.weight)


# -- noise -----------------------------------------------------------------------------------------------------------------


def test_normal_noise_has_its_deviation_and_keeps_the_bounds() -> None:
    noise = exploration_noise("normal", 0.2, seed=0)
    drawn = noise(np.zeros((100, 200), np.float32))
    assert drawn.std() == pytest.approx(0.2, rel=0.02)
    assert drawn.mean() == pytest.approx(0.0, abs=0.01)
    at_bound = noise(np.ones((100, 10), np.float32))
    assert at_bound.max() == 1.0
    assert (at_bound == 1.0).mean() == pytest.approx(0.5, abs=0.06)


def test_ornstein_uhlenbeck_noise_is_the_stationary_process() -> None:
    """x_t = (1 - theta dt) x_{t-1} + std sqrt(dt) xi: its autocorrelation and its deviation."""
    noise = exploration_noise("ornstein-uhlenbeck", 0.1, seed=0)
    zero = np.zeros((4000, 1), np.float32)
    assert noise(zero).std() == pytest.approx(0.1 * math.sqrt(noise.dt), rel=0.05)  # from zero on
    for _ in range(2500):
        noise(zero)
    x = [noise(zero) for _ in range(101)]
    assert x[0].std() == pytest.approx(0.1 / math.sqrt(2 * noise.theta), rel=0.05)
    correlation = (x[0] * x[100]).mean() / (x[0].std() * x[100].std())
    assert correlation == pytest.approx((1 - noise.theta * noise.dt) ** 100, abs=0.05)


@pytest.mark.parametrize("noise_type", ["normal", "ornstein-uhlenbeck"])
def test_noise_goes_on_from_its_state(noise_type: str) -> None:
    noise, other = exploration_noise(noise_type, 0.3, seed=1), exploration_noise(noise_type, 0.3, seed=2)
    other.state = noise.state  # before the first draw, too
    zero = np.zeros((3, 2), np.float32)
    assert np.array_equal(noise(zero), other(zero))
    for _ in range(5):
        noise(zero)
    other.state = tuple(json.loads(json.dumps(noise.state)))
    kept = noise.state
    first = noise(zero)
    assert np.array_equal(other(zero), first)
    noise(np.zeros((7, 2), np.float32))  # another number of environments, as in an evaluation
    noise.state = kept
    assert np.array_equal(noise(zero), first)
