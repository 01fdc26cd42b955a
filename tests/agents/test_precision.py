"""Convolutional networks in bfloat16: nearly the same gradients, the same learning, the same checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from agent_envs import CONTINUOUS, TwoPictures
from gymnasium import spaces
from rounding import SLACK, distance, in_rounded_steps
from test_images import ALGORITHMS, batch, seeing

import pyrl
from pyrl.errors import SpaceError
from pyrl.nets.convolutional import ImageFeatures, ImpalaCNN, NatureCNN


def gradients(
    precision: Any, network: type[NatureCNN] | type[ImpalaCNN], shape: tuple[int, ...], seed: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Features of eight pictures, and the gradient of a sum of them by the weights."""
    torch.manual_seed(seed)
    features = ImageFeatures(shape, network)
    images = torch.randint(0, 256, (8, *shape), dtype=torch.uint8)
    if precision == "rounded":
        output = in_rounded_steps(features, images)
    else:
        features.precision = precision
        output = features(images)
    (output * torch.linspace(-1, 1, features.size)).sum().backward()
    grads = [p.grad for p in features.parameters() if p.grad is not None]
    assert all(grad.dtype == torch.float32 for grad in [output, *grads])
    return output.detach(), torch.cat([grad.flatten() for grad in grads])


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("network", [NatureCNN, ImpalaCNN])
@pytest.mark.parametrize("shape", [(36, 40, 3), (4, 40, 36), (2, 36, 36, 1)])
def test_errors_are_those_of_the_roundings(network: Any, shape: tuple[int, ...], seed: int) -> None:
    """Of features and gradients: neither larger than bfloat16 brings, nor smaller, as if it had computed in float32."""
    exact, rounded, found = (gradients(precision, network, shape, seed) for precision in ("float32", "rounded", "bfloat16"))
    for result, allowed, reference in zip(found, rounded, exact, strict=True):
        error = distance(allowed, reference)
        assert error / SLACK < distance(result, reference) < error * SLACK


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_learns_from_pictures(algo: str) -> None:
    options = {"num_envs": 4, "seed": 1, "precision": "bfloat16", **ALGORITHMS[algo]}
    run = pyrl.train(algo, TwoPictures, total_steps=2_400, run_dir=False, **options)
    assert pyrl.evaluate(run.agent, TwoPictures, 10).mean > 9.5


@pytest.mark.parametrize("algo", CONTINUOUS)
def test_targets_and_all_are_computed_in_it(algo: str) -> None:
    agent = seeing(algo, learning_starts=0, net_arch=(16,), precision="bfloat16")
    images = [m for module in agent.modules().values() for m in module.modules() if isinstance(m, ImageFeatures)]
    assert len(images) == len([name for name in agent.modules() if name != "temperature"])
    assert {m.precision for m in images} == {"bfloat16"}
    agent.learn(batch(agent))
    assert all(p.dtype == torch.float32 and p.isfinite().all() for module in agent.modules().values() for p in module.parameters())


def test_checkpoints_are_the_same(tmp_path: Path) -> None:
    """Weights do not depend on the precision they are used in."""
    agent = seeing("dqn", precision="bfloat16", learning_starts=0)
    agent.learn(batch(agent))
    path = agent.save(tmp_path / "agent")
    same: Any = pyrl.load(path)
    assert same.config.precision == "bfloat16"
    pictures = batch(agent, 16).observation
    np.testing.assert_array_equal(agent.act(pictures), same.act(pictures))
    other = seeing("dqn", learning_starts=0)
    other.load_state_dict(agent.state_dict())
    for a, b in zip(agent.state_dict()["model"].values(), other.state_dict()["model"].values(), strict=True):
        assert a.dtype == torch.float32
        assert torch.equal(a, b)


def test_it_is_for_convolutional_networks() -> None:
    with pytest.raises(SpaceError, match="ppo: precision is 'bfloat16', which is for pyrl's convolutional networks"):
        pyrl.make_agent("ppo", spaces.Box(-1, 1, (3,)), spaces.Discrete(2), precision="bfloat16")
    with pytest.raises(SpaceError, match="features_extractor 'flatten' makes none"):
        seeing("ppo", features_extractor="flatten", precision="bfloat16")
    with pytest.raises(ValueError, match="precision is 'float16', expected one of float32, bfloat16"):
        seeing("ppo", precision="float16")
