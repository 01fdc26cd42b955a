"""Modules that a user changes after an agent is made: taken in where they are of the same kind, refused by name where they are not.
Nothing is ignored, whatever the engine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from test_engines import CASES, batches
from torch import nn

import pyrl
from pyrl.errors import NetworkError, ShapeError
from pyrl.types import Progress

OBSERVATION = np.zeros(5, np.float32)


class Doubled(nn.Linear):
    """Of the same shape, with another forward."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2.0 * super().forward(x)


def first_linear(network: nn.Module) -> tuple[nn.Module, str, nn.Linear]:
    """(parent, name, layer)"""
    return next(
        (parent, name, child) for parent in network.modules() for name, child in parent.named_children() if type(child) is nn.Linear
    )


def replace(network: nn.Module, make: Callable[[nn.Linear], nn.Module]) -> None:
    parent, name, layer = first_linear(network)
    setattr(parent, name, make(layer))


def sequential(network: nn.Module) -> nn.Sequential:
    return next(module for module in network.modules() if type(module) is nn.Sequential)


def drop_last(network: nn.Module) -> None:
    del sequential(network)[-1]


CHANGES: dict[str, Callable[[nn.Module], object]] = {
    "another class": lambda n: replace(n, lambda layer: Doubled(layer.in_features, layer.out_features)),
    "no layer": lambda n: replace(n, lambda layer: nn.Identity()),
    "another activation": lambda n: sequential(n).__setitem__(1, nn.Softplus()),
    "a layer more": lambda n: sequential(n).append(nn.Dropout()),
    "a layer less": drop_last,
    "a parameter more": lambda n: n.register_parameter("scale", nn.Parameter(torch.ones(1))),
    "no bias": lambda n: replace(n, lambda layer: nn.Linear(layer.in_features, layer.out_features, bias=False)),
    "wider": lambda n: replace(n, lambda layer: nn.Linear(layer.in_features, layer.out_features + 1)),
}
USES: dict[str, Callable[[Any, Path], object]] = {
    "act": lambda agent, path: agent.act(OBSERVATION),
    "learn": lambda agent, path: agent.learn(next(batches(agent))),
    "save": lambda agent, path: agent.save(path / "agent"),
}


def make(case: str, engine: str) -> Any:
    name, observation_space, action_space, options = CASES[case]
    return pyrl.make_agent(name, observation_space, action_space, seed=3, engine=engine, **options)


def networks(case: str) -> list[str]:
    return list(make(case, "torch").modules())


NETWORKS = [
    (case, name) for case in ("ppo gaussian", "a2c categorical", "dqn dueling", "ddpg", "td3", "sac", "svg") for name in networks(case)
]


@pytest.mark.parametrize("engine", ["native", "torch"])
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize(("case", "name"), [pair for pair in NETWORKS if pair[1] != "temperature"])
def test_a_changed_network_is_refused_by_name(case: str, name: str, change: str, engine: str, tmp_path: Path) -> None:
    for use in ("learn", "save"):
        agent = make(case, engine)
        CHANGES[change](agent.modules()[name])
        with pytest.raises((NetworkError, ShapeError)):
            USES[use](agent, tmp_path)
    if name in ("network", "q_network", "actor"):
        agent = make(case, engine)
        agent.progress = Progress(10**6)  # past random actions
        CHANGES[change](agent.modules()[name])
        with pytest.raises((NetworkError, ShapeError)):
            agent.act(OBSERVATION)


@pytest.mark.parametrize("engine", ["native", "torch"])
@pytest.mark.parametrize(("case", "name"), NETWORKS)
def test_another_network_in_an_attribute_is_refused(case: str, name: str, engine: str) -> None:
    agent = make(case, engine)
    setattr(agent, name, nn.Linear(5, 5))
    with pytest.raises(NetworkError, match=f"attribute '{name}' holds a Linear"):
        agent.learn(next(batches(agent)))


@pytest.mark.parametrize("engine", ["native", "torch"])
@pytest.mark.parametrize("case", ["ppo gaussian", "dqn", "sac"])
def test_a_layer_of_the_same_kind_is_taken_in(case: str, engine: str) -> None:
    """Its weights are what acts, and what learns."""
    agent = make(case, engine)
    name = next(iter(agent.modules()))
    network = agent.modules()[name]
    replace(network, lambda layer: nn.Linear(layer.in_features, layer.out_features))
    before = first_linear(network)[2].weight.detach().clone()
    data = batches(agent)
    agent.learn(next(data))
    after = first_linear(network)[2].weight.detach()
    assert not torch.equal(before, after)
    assert (after - before).abs().max() < 0.1  # a step from the new weights


@pytest.mark.parametrize("how", ["hook", "pre-hook", "forward"])
@pytest.mark.parametrize("engine", ["native", "torch"])
@pytest.mark.parametrize("case", ["ppo gaussian", "dqn", "ddpg"])
def test_hooks_and_forwards_of_instances_are_called(case: str, engine: str, how: str) -> None:
    agent = make(case, engine)
    agent.progress = Progress(10**6)
    network = next(agent.modules()[name] for name in ("network", "q_network", "actor") if name in agent.modules())
    agent.act(OBSERVATION)
    layer, calls = first_linear(network)[2], []
    if how == "forward":
        forward = layer.forward
        layer.forward = lambda x: calls.append(1) or forward(x)  # type: ignore[method-assign, func-returns-value]
    elif how == "hook":
        layer.register_forward_hook(lambda *_: calls.append(1))
    else:
        layer.register_forward_pre_hook(lambda *_: calls.append(1))
    agent.act(OBSERVATION)
    assert calls
    count = len(calls)
    agent.learn(next(batches(agent)))
    assert len(calls) > count


def test_spaces_of_the_cases() -> None:
    assert all(isinstance(CASES[case][1], spaces.Box) and CASES[case][1].shape == (5,) for case, _ in NETWORKS)


def test_what_is_replaced_in_a_rollout_counts_when_it_is_over() -> None:
    """Loops look at the network once a rollout, whatever ends it."""
    agent = make("ppo gaussian", "native")

    def rollout() -> None:
        with agent.unwatched():
            before = agent.act(OBSERVATION)
            CHANGES["another class"](agent.modules()["network"])
            np.testing.assert_array_equal(agent.act(OBSERVATION), before)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rollout()
    with pytest.raises(NetworkError, match="Linear"):
        agent.act(OBSERVATION)
