"""Networks of one shape side by side: the same values and gradients as each by itself, from the same memory."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from gymnasium import spaces
from torch import Tensor, nn

from pyrl.engine.arena import Arena
from pyrl.engine.step import Step
from pyrl.engine.trainable import Trainable
from pyrl.nets import batched_mlp as module
from pyrl.nets.actor_critic_continuous import Critics
from pyrl.nets.batched_mlp import batched_mlp
from pyrl.nets.mlp import mlp

ACTIVATIONS = ("relu", "tanh", "silu", "gelu")
FALLBACKS: dict[str, Callable[[nn.ModuleList], object]] = {
    "no arena": lambda networks: None,
    "another shape": lambda networks: (networks.__setitem__(1, mlp((5, 7, 3), "relu")), Arena(networks)),
    "another layer": lambda networks: (networks[1].insert(1, nn.LayerNorm(8)), Arena(networks)),
    "another activation": lambda networks: (networks[1].__setitem__(1, nn.Tanh()), Arena(networks)),
    "networks in another order": lambda networks: Arena(*reversed(networks)),
    "no bias": lambda networks: ([setattr(n[0], "bias", None) for n in networks], Arena(networks)),
    "one parameter elsewhere": lambda networks: (Arena(networks), setattr(networks[1][2], "bias", nn.Parameter(torch.ones(3)))),
    "one network twice": lambda networks: (networks.__setitem__(1, networks[0]), Arena(networks)),
}


@pytest.fixture(autouse=True)
def on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "pays_off", lambda x: True)


@pytest.fixture
def products(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of networks in each batched product."""
    seen: list[int] = []
    product = torch.bmm

    def counted(x: Tensor, weight: Tensor) -> Tensor:
        seen.append(len(x))
        return product(x, weight)

    monkeypatch.setattr(torch, "bmm", counted)
    return seen


def networks_of(count: int, sizes: tuple[int, ...], activation: str = "relu") -> nn.ModuleList:
    torch.manual_seed(0)
    return nn.ModuleList([mlp(sizes, activation) for _ in range(count)])  # type: ignore[arg-type]


def apart(networks: nn.ModuleList, x: Tensor) -> Tensor:
    return torch.stack([network(x) for network in networks])


def assert_alike(networks: nn.ModuleList) -> None:
    x = torch.randn(6, networks[0][0].in_features, dtype=networks[0][0].weight.dtype, requires_grad=True)
    trained = [x, *(p for p in networks.parameters() if p.requires_grad)]
    results = []
    for compute in (batched_mlp, apart):
        y = compute(networks, x)
        factor = torch.linspace(-1.0, 1.0, y.numel()).view_as(y)
        results.append([y, *torch.autograd.grad((factor * y).sum(), trained)])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("sizes", [(5, 8, 3), (4, 16, 17, 1), (5, 1)])
@pytest.mark.parametrize("count", [2, 3, 5])
def test_values_and_gradients(count: int, sizes: tuple[int, ...], activation: str, dtype: torch.dtype, products: list[int]) -> None:
    networks = networks_of(count, sizes, activation).to(dtype)
    arena = Arena(networks)
    assert_alike(networks)
    assert products == [count] * (len(sizes) - 1)
    with torch.no_grad():
        arena.values.mul_(2.0)
    assert_alike(networks)  # nothing is remembered


@pytest.mark.parametrize("change", FALLBACKS)
def test_networks_that_do_not_lie_alike_are_computed_one_by_one(change: str, products: list[int]) -> None:
    networks = networks_of(2, (5, 8, 3))
    FALLBACKS[change](networks)
    assert_alike(networks)
    assert products == []


def test_one_network_is_itself(products: list[int]) -> None:
    networks = networks_of(1, (5, 8, 3))
    Arena(networks)
    assert_alike(networks)
    assert products == []


def test_one_activation_in_two_places(products: list[int]) -> None:
    networks = networks_of(2, (5, 8, 8, 3), "tanh")
    for network in networks:
        network[3] = network[1]
    Arena(networks)
    assert_alike(networks)
    assert products == [2, 2, 2]


def test_copies_and_loaded_weights(products: list[int]) -> None:
    networks = networks_of(2, (5, 8, 3))
    Arena(networks)
    other = copy.deepcopy(networks)
    assert_alike(other)
    arena = Arena(other)
    other.load_state_dict({k: v + 1 for k, v in other.state_dict().items()}, assign=True)
    assert_alike(other)
    arena.sync()
    products.clear()
    assert_alike(other)
    assert products == [2, 2]


def test_frozen_parameters_have_no_gradient(products: list[int]) -> None:
    networks = networks_of(2, (5, 8, 3))
    Arena(networks)
    networks[0][0].weight.requires_grad_(False)
    networks[1].requires_grad_(False)
    assert_alike(networks)
    assert products == [2, 2]


def test_critics_of_pictures(products: list[int]) -> None:
    """Behind the extractor that they share."""
    critics = Critics(spaces.Box(0, 255, (36, 36, 3), "uint8"), 2, (16,), "relu", 2, "nature")
    Arena(critics)
    image, action = torch.randint(0, 256, (3, 36, 36, 3), dtype=torch.uint8), torch.rand(3, 2)
    q = critics(image, action)
    x = torch.cat([critics.encoder(image), action], dim=1)
    torch.testing.assert_close(q, torch.cat([network(x) for network in critics.networks], dim=1).t())
    assert products == [2, 2]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")  # torch's own, at the first compilation
def test_compiled() -> None:
    """What is compiled has the gradients of what is not."""
    networks, x = networks_of(2, (5, 8, 3)), torch.randn(6, 5)
    trainable = Trainable("networks", networks)

    def loss() -> tuple[Tensor, dict[str, Tensor]]:
        y = batched_mlp(networks, x)
        return y.square().sum(), {"y": y}

    step = Step(trainable, loss)
    expected, gradient = step.gradient(), trainable.arena.gradients.clone()
    step.compile()
    torch.testing.assert_close(step.gradient()["y"], expected["y"])
    torch.testing.assert_close(trainable.arena.gradients, gradient)
