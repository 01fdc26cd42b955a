"""Multilayer perceptrons and their initialisation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

from torch import nn

Activation: TypeAlias = Literal["relu", "tanh", "silu", "gelu"]
ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh, "silu": nn.SiLU, "gelu": nn.GELU}


def mlp(sizes: Sequence[int], activation: Activation) -> nn.Sequential:
    """Linear layers of ``sizes`` with ``activation`` between them, none after the last."""
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation is {activation!r}, expected one of {', '.join(ACTIVATIONS)}")
    layers: list[nn.Module] = []
    for size_in, size_out in zip(sizes[:-1], sizes[1:]):
        layers += [nn.Linear(size_in, size_out), ACTIVATIONS[activation]()]
    return nn.Sequential(*layers[:-1])


def orthogonal(network: nn.Sequential, hidden_gain: float, last_gain: float) -> nn.Sequential:
    """Orthogonal weights and zero biases (Saxe et al. 2014), with a gain of its own for the last layer."""
    linear = [layer for layer in network if isinstance(layer, nn.Linear)]
    for layer in linear:
        nn.init.orthogonal_(layer.weight, last_gain if layer is linear[-1] else hidden_gain)
        nn.init.zeros_(layer.bias)
    return network
