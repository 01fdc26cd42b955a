"""Networks of one shape, computed side by side on a GPU: a product of matrices a layer for all of them, instead of one for each.

Nothing is copied for it. The parameters of twins are in one arena at a constant distance, so those of a layer are one strided view
[count, ...]. Where they do not (no arena, other shapes), and on the CPU, whose batched products of thin matrices are slow, each network
is computed by itself. What torch compiles cannot look at addresses: there, the parameters are copied together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from pyrl.nets.mlp import ACTIVATIONS

_ELEMENTWISE = tuple(ACTIVATIONS.values())


def batched_mlp(networks: nn.ModuleList, x: Tensor) -> Tensor:
    """What each of ``networks`` makes of ``x`` [B, in]: [count, B, out]."""
    if len(networks) == 1:
        return networks[0](x).unsqueeze(0)
    stacks = _stacks(networks) if pays_off(x) else []
    if not stacks:
        return torch.stack([network(x) for network in networks])
    x, remaining = x.expand(len(networks), *x.shape), iter(stacks)
    for layer in cast(nn.Sequential, networks[0]):
        # Not baddbmm: on a GPU it copies the bias first, and what compiles cannot join that copy with the activation.
        x = torch.bmm(x, next(remaining)) + next(remaining).unsqueeze(1) if isinstance(layer, nn.Linear) else layer(x)
    return x


def pays_off(x: Tensor) -> bool:
    return x.is_cuda


def _stacks(networks: nn.ModuleList) -> Sequence[Tensor]:
    """Weight [count, in, out] and bias [count, out] of each layer; nothing where the networks are not alike, or are not laid out alike."""
    parameters = [_parameters(network) for network in networks]
    shapes = [[p.shape for p in own] for own in parameters]
    if not shapes[0] or any(shape != shapes[0] for shape in shapes):
        return []
    kinds = [[type(layer) for layer in cast(nn.Sequential, network)] for network in networks]
    if any(kind != kinds[0] for kind in kinds):
        return []
    if torch.compiler.is_compiling():
        return [torch.stack(group) for group in zip(*parameters)]
    distance = _distance(parameters)
    return [] if distance is None else _Views.apply(len(networks), distance, *(p for own in parameters for p in own))


class _Views(torch.autograd.Function):
    """From the parameters of one network after the other to those of all, [count, ...] each; gradients go back to each network's."""

    @staticmethod
    def forward(ctx: Any, count: int, distance: int, *parameters: Tensor) -> tuple[Tensor, ...]:
        first = parameters[: len(parameters) // count]
        return tuple(p.as_strided((count, *p.shape), (distance, *p.stride())) for p in first)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return (None, None, *(gradient for own in zip(*(g.unbind() for g in gradients)) for gradient in own))


def _parameters(network: nn.Module) -> list[Tensor]:
    """Weight [in, out] and bias [out] of each layer of an `mlp`; none of any other network."""
    found: list[Tensor] = []
    for layer in network if type(network) is nn.Sequential else ():
        if type(layer) is nn.Linear and layer.bias is not None:
            found += layer.weight.t(), layer.bias
        elif not isinstance(layer, _ELEMENTWISE):
            return []
    return found


def _distance(parameters: Sequence[Sequence[Tensor]]) -> int | None:
    """How many elements separate the parameters of each network from those of the one before; None where they are not in one memory."""
    first, second = parameters[:2]
    apart, memory = second[0].data_ptr() - first[0].data_ptr(), first[0].untyped_storage().data_ptr()
    for i, own in enumerate(parameters):
        for p, q in zip(first, own):
            alike = q.stride() == p.stride() and q.untyped_storage().data_ptr() == memory
            if not alike or q.data_ptr() != p.data_ptr() + i * apart:
                return None
    return apart // first[0].element_size() if apart > 0 else None
