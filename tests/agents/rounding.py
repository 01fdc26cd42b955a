"""How far a network in bfloat16 may be from the one in float32: the arithmetic's own answer, on whatever processor.

A bfloat16 has 8 significant bits: each rounding errs by up to 2^-8 of the value. No fixed percentage follows for a gradient: a rounding
that turns a ReLU on or off, or that picks another element in a max pooling, moves a whole share of the gradient, and how many are that
close to the kink depends on weights and pictures (1 % to 10 % for those of the tests). So the roundings are done here, on float32
numbers: the input, each parameter and the output of each layer, and on the way back the gradient of each. What a processor computes in
bfloat16, by instructions of its own or not, has the same roundings and differs by the order of its sums, in float32, alone.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pyrl.nets.convolutional import ImageFeatures

# Sums in another order move a few values across a rounding's edge, and those a few units across a kink: at most 13 % of the error,
# over all instruction sets of torch and oneDNN on x86. A rounding too many on each path, as of sums held in bfloat16, would show.
SLACK = 1.5


class Rounded(torch.autograd.Function):
    """A value, and its gradient, to bfloat16 and back."""

    @staticmethod
    def forward(_: Any, x: Tensor) -> Tensor:
        return x.bfloat16().to(x.dtype)

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:
        return gradient.bfloat16().to(gradient.dtype)


def in_rounded_steps(features: ImageFeatures, images: Tensor) -> Tensor:
    """``features(images)`` with the roundings of bfloat16, which also act on the gradients that follow from it."""
    for module in features.network.modules():
        module.register_forward_pre_hook(lambda _, inputs: tuple(map(Rounded.apply, inputs)))
        module.register_forward_hook(lambda _, __, output: Rounded.apply(output))
    return torch.func.functional_call(features, {name: Rounded.apply(p) for name, p in features.named_parameters()}, images)


def distance(found: Tensor, expected: Tensor) -> float:
    return ((found - expected).norm() / expected.norm()).item()
