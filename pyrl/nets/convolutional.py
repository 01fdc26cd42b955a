"""Convolutional extractors of the features of images."""

from __future__ import annotations

import math
from typing import Literal, TypeAlias

import torch
from gymnasium import spaces
from torch import Tensor, nn

from pyrl.errors import SpaceError

FeaturesExtractor: TypeAlias = Literal["auto", "flatten", "nature", "impala"]
Precision: TypeAlias = Literal["float32", "bfloat16"]

_SMALLEST = 36  # pixels a side that leave NatureCNN one


class NatureCNN(nn.Sequential):
    """Mnih et al. 2015 (doi:10.1038/nature14236, "Model architecture"): [B, channels, height, width] -> [B, 512]."""

    size = 512

    def __init__(self, channels: int, height: int, width: int) -> None:
        if min(height, width) < _SMALLEST:
            raise SpaceError(f"NatureCNN: images have {height} x {width} pixels, expected at least {_SMALLEST} x {_SMALLEST}; take impala")
        super().__init__(
            nn.Conv2d(channels, 32, 8, stride=4), nn.ReLU(),
            nn.Conv2d(32, 64, 4, stride=2), nn.ReLU(),
            nn.Conv2d(64, 64, 3, stride=1), nn.ReLU(), nn.Flatten(),
            nn.Linear(64 * _nature_side(height) * _nature_side(width), self.size), nn.ReLU(),
        )  # fmt: skip


def _nature_side(side: int) -> int:
    for kernel, stride in ((8, 4), (4, 2), (3, 1)):
        side = (side - kernel) // stride + 1
    return side


class ImpalaCNN(nn.Sequential):
    """The residual network of Espeholt et al. 2018 (arXiv:1802.01561, figure 3, right: 15 convolutions), without its LSTM:
    [B, channels, height, width] -> [B, 256]."""

    size = 256

    def __init__(self, channels: int, height: int, width: int) -> None:
        sections: list[nn.Module] = []
        for depth in (16, 32, 32):
            sections += [nn.Conv2d(channels, depth, 3, padding=1), nn.MaxPool2d(3, stride=2, padding=1), Residual(depth), Residual(depth)]
            channels, height, width = depth, (height + 1) // 2, (width + 1) // 2
        super().__init__(*sections, nn.ReLU(), nn.Flatten(), nn.Linear(channels * height * width, self.size), nn.ReLU())


class Residual(nn.Sequential):
    """x + conv(relu(conv(relu(x)))), the shape kept."""

    def __init__(self, depth: int) -> None:
        super().__init__(nn.ReLU(), nn.Conv2d(depth, depth, 3, padding=1), nn.ReLU(), nn.Conv2d(depth, depth, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


class ImageFeatures(nn.Module):
    """uint8 images [B, *shape] -> features [B, size], by a convolutional network on values scaled to [0, 1].

    ``shape`` is that of an image, channels first or last (the shorter of the two axes), or of a stack of images, whose channels
    then are side by side. Orthogonal weights (gain sqrt(2)), zero biases.

    ``precision`` "bfloat16" computes them, and their gradients, in bfloat16 (torch's autocast); parameters and features stay what
    they are, and so do the layers behind: a Q-value of 8 binary digits would be no use to a temporal difference.
    """

    precision: Precision = "float32"

    def __init__(self, shape: tuple[int, ...], network: type[NatureCNN] | type[ImpalaCNN]) -> None:
        super().__init__()
        *stack, first, middle, last = shape
        self.channels_last = last < first
        image = (last, first, middle) if self.channels_last else (first, middle, last)
        self.network = network(math.prod(stack) * image[0], *image[1:])
        self.size = self.network.size
        for parameter in self.network.parameters():
            if parameter.dim() > 1:
                nn.init.orthogonal_(parameter, math.sqrt(2))
            else:
                nn.init.zeros_(parameter)

    def forward(self, image: Tensor) -> Tensor:
        x = (image.movedim(-1, -3) if self.channels_last else image).flatten(1, -3)
        # The order in which tensor cores take them, and oneDNN: on a CPU gradients take 0.67 to 0.9 of the time. What moves here are bytes.
        x = x.contiguous(memory_format=torch.channels_last)
        dtype = next(self.parameters()).dtype
        if self.precision == "float32":
            return self.network(x.to(dtype).div_(255.0))
        with torch.autocast(x.device.type, torch.bfloat16):
            return self.network(x.to(torch.bfloat16) / 255.0).to(dtype)


def set_precision(network: nn.Module, precision: Precision) -> None:
    """Of all convolutional extractors in ``network``, and of the native form of all that has one (`pyrl.engine.native`)."""
    for module in network.modules():
        if isinstance(module, ImageFeatures) or hasattr(module, "native_parts"):
            module.precision = precision  # type: ignore[assignment]


def image_network(space: spaces.Space, features_extractor: FeaturesExtractor) -> type[NatureCNN] | type[ImpalaCNN] | None:
    """What ``features_extractor`` means for one array of the observation; None: it is flattened.

    An image is a uint8 Box of rank 3 (an image, or a stack of grey ones) or 4 (a stack of images). "auto" takes `NatureCNN` for
    images that are large enough for it.
    """
    if features_extractor == "flatten" or not isinstance(space, spaces.Box) or space.dtype != "uint8" or len(space.shape) not in (3, 4):
        return None
    if features_extractor == "auto":
        return NatureCNN if sorted(space.shape[-3:])[1] >= _SMALLEST else None
    return ImpalaCNN if features_extractor == "impala" else NatureCNN
