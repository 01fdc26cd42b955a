"""Networks in bfloat16: nearly the same gradients, the same learning, the same checkpoints."""

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
from pyrl import _core, ops
from pyrl.errors import SettingError, SpaceError
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


def test_it_is_for_networks_that_compute_in_it() -> None:
    space, actions = spaces.Box(-1, 1, (3,)), spaces.Discrete(2)
    with pytest.raises(SpaceError, match=r"ppo: precision is 'bfloat16', which is for .* MLPs on the native engine, but engine is 'torch'"):
        pyrl.make_agent("ppo", space, actions, precision="bfloat16", engine="torch")
    with pytest.raises(SpaceError, match="precision is 'bfloat16', which is for pyrl's own networks, expected 'float32' for yours"):
        pyrl.make_agent("dqn", space, actions, precision="bfloat16", network=lambda *_: torch.nn.Linear(3, 2))
    with pytest.raises(ValueError, match="precision is 'float16', expected one of float32, bfloat16"):
        seeing("ppo", precision="float16")
    with pytest.raises(SettingError, match="random: engine is 'native', expected 'auto' or 'torch': it has no network"):
        pyrl.make_agent("random", space, actions, engine="native")
    with pytest.raises(SettingError, match="random: precision is 'bfloat16', expected 'float32': it has no network"):
        pyrl.make_agent("random", space, actions, precision="bfloat16")


# -- MLPs on the native engine: only products of at least 32 rows, columns and steps round ------------------------------

wherever_it_runs = pytest.mark.filterwarnings("ignore:.*all is computed in float32:UserWarning")
has_bfloat16 = pytest.mark.skipif(not ops.bfloat16_products(), reason="the processor has no AMX, or PYRL_SIMD asks for less")
WIDE, BATCH = 64, 48
SIZES = (17, WIDE, WIDE, 6)  # the middle layer's products round


class RoundedLinear(torch.autograd.Function):
    """x w with both factors of each product in bfloat16, and sums in float32."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        x, w = x.bfloat16().float(), w.bfloat16().float()
        ctx.save_for_backward(x, w)
        return x @ w

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:  # type: ignore[override]
        x, w = ctx.saved_tensors
        gradient = gradient.bfloat16().float()
        return gradient @ w.T, x.T @ gradient


def mlp(seed: int) -> tuple[list[ops.Layer], torch.Tensor, torch.Tensor]:
    """Layers, their arena, and observations."""
    layers, at = [], 0
    for i, (a, b) in enumerate(zip(SIZES, SIZES[1:])):
        layers.append(ops.Layer(a, b, at, at + a * b, activation="relu" if i < 2 else "identity"))
        at += a * b + b
    random = torch.Generator().manual_seed(seed)
    return layers, torch.randn(at, generator=random) * 0.2, torch.randn(BATCH, SIZES[0], generator=random)


def native_gradient(precision: str, seed: int) -> torch.Tensor:
    layers, w, x = mlp(seed)
    network, gradient = ops.Network(layers, precision=precision), torch.empty_like(w)
    y = network.forward(w, x)
    network.backward(w, gradient, torch.linspace(-1, 1, y.numel()).view(*y.shape))  # type: ignore[arg-type, call-overload]
    return gradient


def rounded_gradient(seed: int) -> torch.Tensor:
    layers, w, x = mlp(seed)
    w.requires_grad_()
    for layer in layers:
        weight = w[layer.weight : layer.weight + layer.num_inputs * layer.num_outputs].view(layer.num_inputs, layer.num_outputs)
        assert layer.bias is not None
        product = RoundedLinear.apply(x, weight) if weight.shape == (WIDE, WIDE) else x @ weight
        x = product + w[layer.bias : layer.bias + layer.num_outputs]
        x = x.relu() if layer.activation == "relu" else x
    (x * torch.linspace(-1, 1, x.numel()).view(*x.shape)).sum().backward()
    assert w.grad is not None
    return w.grad


@has_bfloat16
@pytest.mark.parametrize("seed", range(4))
def test_native_errors_are_those_of_the_roundings(seed: int) -> None:
    exact, rounded, found = native_gradient("float32", seed), rounded_gradient(seed), native_gradient("bfloat16", seed)
    error = distance(rounded, exact)
    assert error / SLACK < distance(found, exact) < error * SLACK
    assert distance(found, rounded) < error / 2


def test_without_the_instructions_it_is_float32() -> None:
    level = _core.simd_level()
    _core.set_simd_level(1)  # AVX2
    try:
        assert not ops.bfloat16_products()
        assert torch.equal(native_gradient("bfloat16", 0), native_gradient("float32", 0))
        with pytest.warns(UserWarning, match=r"ppo: precision is 'bfloat16', but this processor has no products in it .* float32"):
            pyrl.make_agent("ppo", spaces.Box(-1, 1, (3,)), spaces.Discrete(2), precision="bfloat16")
    finally:
        _core.set_simd_level(level)


@wherever_it_runs
@pytest.mark.parametrize("algo", ["ppo", "dqn", "sac", "td3"])
def test_all_networks_of_an_agent_compute_in_it(algo: str, tmp_path: Path) -> None:
    actions = spaces.Discrete(2) if algo in ("ppo", "dqn") else spaces.Box(-1, 1, (2,))
    agent: Any = pyrl.make_agent(algo, spaces.Box(-1, 1, (3,)), actions, precision="bfloat16", net_arch=(WIDE, WIDE))
    assert agent.engine == "native"
    again: Any = pyrl.load(agent.save(tmp_path / "agent"))
    for one in (agent, again):
        networks = [network for name, native in one.native.items() if name != "temperature" for network in native.networks]
        assert {network.precision for network in networks} == {"bfloat16"}


@wherever_it_runs
def test_learns_on_the_native_engine() -> None:
    options: Any = {"num_envs": 8, "n_steps": 128, "batch_size": 256, "n_epochs": 4, "net_arch": (64, 64), "seed": 1}
    run = pyrl.train("ppo", "CartPole-v1", total_steps=24_576, precision="bfloat16", run_dir=False, **options)
    assert pyrl.evaluate(run.agent, "CartPole-v1", 10, seed=10_000).mean > 150
