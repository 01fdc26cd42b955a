"""Multilayer perceptrons and their initialisation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeAlias, cast

import torch
from torch import Tensor, nn

from pyrl.errors import NetworkError
from pyrl.nets.own import called
from pyrl.own import name_of, torch_class

Activation: TypeAlias = Literal["relu", "tanh", "silu", "gelu"]
MakeActivation: TypeAlias = Callable[[], Any]
NetArch: TypeAlias = Sequence[int] | Mapping[str, Sequence[int]]
ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh, "silu": nn.SiLU, "gelu": nn.GELU}


def layers_of(net_arch: NetArch, part: str) -> Sequence[int]:
    """The hidden layers of one part of a network."""
    return net_arch[part] if isinstance(net_arch, Mapping) else net_arch


def make_activation(activation: Activation | str | MakeActivation) -> nn.Module:
    """One of ACTIVATIONS, a class of torch by its name (`pyrl.own`), or what a callable without arguments makes. NetworkError if that
    is not a module that maps floats [B, D] to the same shape."""
    if isinstance(activation, str):
        kind = ACTIVATIONS.get(activation) or torch_class(activation)
        if kind is None:
            raise ValueError(f"activation is {activation!r}, expected one of {', '.join(ACTIVATIONS)}, or a callable")
        return cast(nn.Module, kind())
    made = called(activation, "activation", "")
    where = f"activation: {name_of(activation)}"
    if not isinstance(made, nn.Module):
        raise NetworkError(f"{where} made a {type(made).__name__}, expected a torch module")
    x = torch.zeros(2, 4)
    try:
        y: Any = made(x)
    except Exception as error:
        raise NetworkError(f"{where} raised {type(error).__name__} for zeros [2, 4]: {error}") from error
    if not isinstance(y, Tensor) or (y.shape, y.dtype) != (x.shape, x.dtype):
        shown = f"{y.dtype} {list(y.shape)}" if isinstance(y, Tensor) else type(y).__name__
        raise NetworkError(f"{where} made {shown} of zeros [2, 4], expected torch.float32 [2, 4]")
    return made


def mlp(sizes: Sequence[int], activation: Activation | str | MakeActivation) -> nn.Sequential:
    """Linear layers of ``sizes`` with ``activation`` between them, none after the last."""
    layers: list[nn.Module] = []
    for size_in, size_out in zip(sizes[:-1], sizes[1:]):
        layers += [nn.Linear(size_in, size_out), make_activation(activation)]
    return nn.Sequential(*layers[:-1])


def orthogonal(network: nn.Sequential, hidden_gain: float, last_gain: float) -> nn.Sequential:
    """Orthogonal weights and zero biases (Saxe et al. 2014), with a gain of its own for the last layer."""
    linear = [layer for layer in network if isinstance(layer, nn.Linear)]
    for layer in linear:
        nn.init.orthogonal_(layer.weight, last_gain if layer is linear[-1] else hidden_gain)
        nn.init.zeros_(layer.bias)
    return network
