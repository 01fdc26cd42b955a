"""Networks of one shape, computed side by side on a GPU: a product of matrices a layer for all of them, instead of one for each.

Nothing is copied for it. The parameters of twins lie in one arena at a constant distance, so those of a layer are one strided view
[count, ...]. Where they do not (no arena, other shapes), under torch.compile, and on the CPU, whose batched products of thin matrices
are slow, each network is computed by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pyrl.nets.mlp import ACTIVATIONS

_ELEMENTWISE = tuple(ACTIVATIONS.values())


def side_by_side(networks: Sequence[nn.Module], x: Tensor) -> Tensor:
    """What each of ``networks`` makes of ``x`` [B, in]: [count, B, out]."""
    if len(networks) == 1:
        return networks[0](x).unsqueeze(0)
    parameters = [_parameters(network) for network in networks] if pays_off(x) else []
    distance = _distance(parameters)
    if distance is None:
        return torch.stack([network(x) for network in networks])
    stacks = iter(_Stacks.apply(len(networks), distance, *(p for own in parameters for p in own)))
    x = x.expand(len(networks), *x.shape)
    for layer in networks[0]:  # type: ignore[attr-defined]
        if isinstance(layer, nn.Linear):
            weight, bias = next(stacks), next(stacks)
            x = torch.baddbmm(bias.unsqueeze(1), x, weight.transpose(1, 2))
        else:
            x = layer(x)
    return x


def pays_off(x: Tensor) -> bool:
    return x.is_cuda and not torch.compiler.is_compiling()


class _Stacks(torch.autograd.Function):
    """From the parameters of one network after the other to those of all, [count, ...] each; gradients go back to each network's."""

    @staticmethod
    def forward(ctx: Any, count: int, distance: int, *parameters: Tensor) -> tuple[Tensor, ...]:
        first = parameters[: len(parameters) // count]
        return tuple(p.as_strided((count, *p.shape), (distance, *p.stride())) for p in first)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return (None, None, *(gradient for own in zip(*(g.unbind() for g in gradients)) for gradient in own))


def _parameters(network: nn.Module) -> list[Tensor]:
    """Weight and bias of each layer of an `mlp`; none of any other network."""
    found: list[Tensor] = []
    for layer in network if type(network) is nn.Sequential else ():
        if type(layer) is nn.Linear and layer.bias is not None:
            found += layer.weight, layer.bias
        elif not isinstance(layer, _ELEMENTWISE):
            return []
    return found


def _distance(parameters: Sequence[Sequence[Tensor]]) -> int | None:
    """How many elements the parameters of each network lie behind those of the one before, in one memory; None where they do not."""
    if not parameters or not parameters[0] or any(len(own) != len(parameters[0]) for own in parameters):
        return None
    first, second = parameters[:2]
    apart, memory = second[0].data_ptr() - first[0].data_ptr(), first[0].untyped_storage().data_ptr()
    for i, own in enumerate(parameters):
        for p, q in zip(first, own):
            alike = q.shape == p.shape and q.stride() == p.stride() and q.untyped_storage().data_ptr() == memory
            if not alike or q.data_ptr() != p.data_ptr() + i * apart:
                return None
    return apart // first[0].element_size() if apart > 0 else None
