"""Convolutional extractors: the published architectures, any layout of images, and what is taken for an image."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from pyrl.errors import SpaceError
from pyrl.nets.convolutional import ImageFeatures, ImpalaCNN, NatureCNN
from pyrl.nets.encoder import Encoder


def image(*shape: int) -> spaces.Box:
    return spaces.Box(0, 255, shape, np.uint8)


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_nature_is_the_published_one() -> None:
    network = NatureCNN(4, 84, 84)
    convolutions = [layer for layer in network if isinstance(layer, nn.Conv2d)]
    assert [(c.out_channels, c.kernel_size[0], c.stride[0]) for c in convolutions] == [(32, 8, 4), (64, 4, 2), (64, 3, 1)]
    sizes = (8 * 8 * 4 * 32 + 32, 4 * 4 * 32 * 64 + 64, 3 * 3 * 64 * 64 + 64, 7 * 7 * 64 * 512 + 512)
    assert count(network) == sum(sizes) == 1_684_128
    assert network(torch.zeros(3, 4, 84, 84)).shape == (3, 512)


def test_impala_is_the_published_one() -> None:
    network = ImpalaCNN(3, 72, 96)  # DMLab's images
    convolutions = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d)]
    assert len(convolutions) == 15
    assert [c.out_channels for c in convolutions] == [16] * 5 + [32] * 10
    sections = sum(9 * before * depth + depth + 4 * (9 * depth * depth + depth) for before, depth in ((3, 16), (16, 32), (32, 32)))
    assert count(network) == sections + 9 * 12 * 32 * 256 + 256
    assert network(torch.zeros(2, 3, 72, 96)).shape == (2, 256)


@pytest.mark.parametrize("network", [NatureCNN, ImpalaCNN])
@settings(max_examples=20, deadline=None)
@given(height=st.integers(36, 60), width=st.integers(36, 60), channels=st.integers(1, 4), frames=st.integers(1, 3))
def test_layouts_of_the_same_image_agree(network: Any, height: int, width: int, channels: int, frames: int) -> None:
    random = np.random.default_rng(height * width)
    first = torch.from_numpy(random.integers(0, 256, (2, frames, channels, height, width), np.uint8))
    last = first.movedim(2, -1)
    stack = ImageFeatures((frames, channels, height, width), network)
    wanted = stack(first)
    assert wanted.shape == (2, network.size)
    assert wanted.abs().max() > 0
    same = ImageFeatures((frames, height, width, channels), network)
    same.load_state_dict(stack.state_dict())
    torch.testing.assert_close(same(last), wanted)
    for shape, x in (((channels, height, width), first[:, 0]), ((height, width, channels), last[:, 0])):
        if frames == 1:
            single = ImageFeatures(shape, network)
            single.load_state_dict(stack.state_dict())
            torch.testing.assert_close(single(x), wanted)


def test_values_are_scaled_and_weights_orthogonal() -> None:
    features = ImageFeatures((3, 40, 40), NatureCNN)
    white = torch.full((1, 3, 40, 40), 255, dtype=torch.uint8)
    torch.testing.assert_close(features(white), features.network(torch.ones(1, 3, 40, 40)))
    for layer in features.network:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            rows = layer.weight.detach().flatten(1)
            gram = rows @ rows.t() if rows.shape[0] <= rows.shape[1] else rows.t() @ rows
            torch.testing.assert_close(gram, 2.0 * torch.eye(len(gram)), atol=1e-4, rtol=0)
            assert not layer.bias.any()


SPACES = {
    "large": (image(4, 84, 84), "nature"),
    "last": (image(48, 64, 3), "nature"),
    "stack": (image(4, 40, 40, 3), "nature"),
    "small": (image(7, 7, 3), None),
    "grey": (image(84, 84), None),
    "floats": (spaces.Box(0, 1, (3, 84, 84)), None),
    "vector": (spaces.Box(0, 255, (128,), np.uint8), None),
}


@pytest.mark.parametrize("kind", ["auto", "flatten", "nature", "impala"])
@pytest.mark.parametrize("name", SPACES)
def test_what_is_taken_for_an_image(name: str, kind: Any) -> None:
    space, automatic = SPACES[name]
    if kind in ("nature", "impala") and automatic is None and (kind, name) != ("impala", "small"):
        with pytest.raises(SpaceError, match="at least 36" if name == "small" else "expected an image"):
            Encoder(space, kind)
        return
    encoder = Encoder(space, kind)
    wanted = {"auto": automatic, "flatten": None}.get(kind, kind)
    assert encoder.size == {None: int(np.prod(space.shape)), "nature": 512, "impala": 256}[wanted]
    observation = torch.as_tensor(np.stack([space.sample() for _ in range(2)]))
    assert encoder(observation).shape == (2, encoder.size)


def test_images_beside_other_entries() -> None:
    entries: dict[str, spaces.Space] = {"eye": image(3, 36, 36), "goal": spaces.Box(-1, 1, (2,)), "arm": spaces.Discrete(3)}
    space = spaces.Dict({**entries, "pair": spaces.Tuple((image(36, 36, 1), spaces.MultiBinary(2)))})
    encoder = Encoder(space, "auto")
    assert encoder.size == 512 + 2 + 3 + 512 + 2
    assert len(encoder.images) == 2
    row = space.sample()
    single = {"eye": row["eye"][None], "goal": row["goal"][None], "arm": np.array([row["arm"]])}
    observation = {**single, "pair": tuple(x[None] for x in row["pair"])}
    encoded = encoder({k: tuple(map(torch.as_tensor, v)) if k == "pair" else torch.as_tensor(v) for k, v in observation.items()})
    at = list(space.spaces).index("goal")  # Gymnasium sorts the entries
    before = sum({"eye": 512, "arm": 3, "pair": 514}[key] for key in list(space.spaces)[:at])
    np.testing.assert_array_equal(encoded[0, before : before + 2].detach().numpy(), row["goal"])
