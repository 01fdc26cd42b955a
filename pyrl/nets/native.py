"""From torch modules to the native engine: the same weights, seen by `pyrl.ops.Network`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from torch import nn

from pyrl.nets.arena import Arena
from pyrl.ops import Layer, Network

_ACTIVATIONS: dict[type[nn.Module], str] = {nn.ReLU: "relu", nn.Tanh: "tanh", nn.SiLU: "silu", nn.GELU: "gelu", nn.Identity: "identity"}


def native_network(arena: Arena, module: nn.Module) -> Network | None:
    """The native form of a plain MLP whose parameters lie in ``arena``; None for anything else.

    A plain MLP is a Sequential of Linear layers, each followed by a LayerNorm or not, and by an activation or not.
    """
    layers: list[Layer] = []
    previous: nn.Module | None = None
    for part in _parts(module):
        if isinstance(part, nn.Linear):
            bias = None if part.bias is None else arena.offset(part.bias)
            layers.append(Layer(part.in_features, part.out_features, arena.offset(part.weight), bias))
        elif isinstance(part, nn.LayerNorm):
            affine = part.elementwise_affine and part.bias is not None and part.eps == 1e-5
            if not (isinstance(previous, nn.Linear) and affine and part.normalized_shape == (previous.out_features,)):
                return None
            layers[-1] = replace(layers[-1], gain=arena.offset(part.weight), shift=arena.offset(part.bias))
        elif (
            type(part) in _ACTIVATIONS and isinstance(previous, nn.Linear | nn.LayerNorm) and getattr(part, "approximate", "none") == "none"
        ):
            layers[-1] = replace(layers[-1], activation=_ACTIVATIONS[type(part)])
        else:
            return None
        previous = part
    return Network(layers, str(arena.values.dtype).removeprefix("torch.")) if layers else None


def _parts(module: nn.Module) -> Iterator[nn.Module]:
    if isinstance(module, nn.Sequential):
        for part in module:
            yield from _parts(part)
    else:
        yield module
