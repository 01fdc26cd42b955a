"""Networks: forward, and backward by hand, beside torch's autograd and the floor of the arithmetic.

The floor is what torch.mm takes for as many operations at the shape of the hidden layers: one product forward, two backward
(by the weights and by the activations). All contenders of a case have the same weights; their gradients must agree.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from _timing import Case, contender

from pyrl.ops import Layer, Network

SHAPES = [  # inputs, hidden, outputs, activation, batches
    (4, (64, 64), 2, "tanh", (8, 64, 256)),
    (4, (256, 256), 2, "relu", (64, 128, 256)),
    (17, (400, 300), 1, "relu", (256,)),
    (17, (256, 256), 12, "silu", (256,)),
    (17, (256, 256), 12, "gelu", (256,)),
]
SHARE = {8: 0.7, 64: 0.65, 128: 0.85, 256: 0.7}  # of the floor, at least
CASES = [
    Case(
        f"{direction} {inputs}-{hidden[0]}-{hidden[1]}-{outputs} {activation} b{batch}",
        f"networks.{direction}",
        {"inputs": inputs, "hidden": hidden, "outputs": outputs, "activation": activation, "batch": batch},
        units=2 * batch * (1 if direction == "forward" else 2) * (inputs * hidden[0] + hidden[0] * hidden[1] + hidden[1] * outputs)
        - (2 * batch * inputs * hidden[0] if direction == "backward" else 0),  # the gradient w.r.t. the inputs is not computed
        unit="FLOP",
        goals=(f"pyrl {SHARE[batch]}x floor torch.mm",),
    )
    for inputs, hidden, outputs, activation, batches in SHAPES
    for batch in batches
    for direction in ("forward", "backward")
]


def layers(inputs: int, hidden: tuple[int, int], outputs: int, activation: str) -> tuple[list[Layer], np.ndarray]:
    """Layers one after the other in an arena, each tensor at a cache line, and their parameters."""
    widths, made, at = (inputs, *hidden, outputs), [], 0
    for i, (m, n) in enumerate(zip(widths, widths[1:])):
        bias = at + -(-m * n // 16) * 16
        made.append(Layer(m, n, at, bias, activation="identity" if i == len(hidden) else activation))
        at = bias + -(-n // 16) * 16
    rng, parameters = np.random.default_rng(0), np.zeros(at, np.float32)
    for layer in made:
        size = layer.num_inputs * layer.num_outputs
        parameters[layer.weight : layer.weight + size] = rng.standard_normal(size) * layer.num_inputs**-0.5
    return made, parameters


def data(inputs: int, outputs: int, batch: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    return rng.standard_normal((batch, inputs)).astype(np.float32), rng.standard_normal((batch, outputs)).astype(np.float32)


def torch_network(inputs: int, hidden: tuple[int, int], outputs: int, activation: str) -> Any:
    import torch
    from torch import nn

    made, parameters = layers(inputs, hidden, outputs, activation)
    kinds = {"tanh": nn.Tanh, "relu": nn.ReLU, "silu": nn.SiLU, "gelu": nn.GELU, "identity": nn.Identity}
    modules: list[nn.Module] = []
    for layer in made:
        linear = nn.Linear(layer.num_inputs, layer.num_outputs)
        weight = parameters[layer.weight : layer.weight + linear.weight.numel()].reshape(layer.num_inputs, layer.num_outputs)
        with torch.no_grad():
            linear.weight.copy_(torch.from_numpy(weight.T))
            linear.bias.zero_()
        modules += [linear, kinds[layer.activation]()]
    return nn.Sequential(*modules)


@contender("networks.forward", "pyrl")
def forward(inputs: int, hidden: tuple[int, int], outputs: int, activation: str, batch: int) -> Any:
    made, parameters = layers(inputs, tuple(hidden), outputs, activation)
    network, (x, _) = Network(made), data(inputs, outputs, batch)
    return partial(network.forward, parameters, x), lambda: float(abs(network.forward(parameters, x)).mean())


@contender("networks.forward", "pyrl infer out=")
def infer(inputs: int, hidden: tuple[int, int], outputs: int, activation: str, batch: int) -> Callable[[], Any]:
    made, parameters = layers(inputs, tuple(hidden), outputs, activation)
    x, y = data(inputs, outputs, batch)
    return partial(Network(made).infer, parameters, x, out=y)


@contender("networks.forward", "ref torch")
def torch_forward(inputs: int, hidden: tuple[int, int], outputs: int, activation: str, batch: int) -> Any:
    import torch

    network, x = torch_network(inputs, tuple(hidden), outputs, activation), torch.from_numpy(data(inputs, outputs, batch)[0])
    return partial(network, x), lambda: network(x).abs().mean().item()


@contender("networks.forward", "floor torch.mm")
def forward_floor(inputs: int, hidden: tuple[int, int], outputs: int, activation: str, batch: int) -> Callable[[], Any]:
    import torch

    first, second = hidden
    depth = round((inputs * first + first * second + second * outputs) / second)
    return partial(torch.mm, torch.randn(batch, depth), torch.randn(depth, second), out=torch.empty(batch, second))


@contender("networks.backward", "pyrl")
def backward(inputs: int, hidden: tuple[int, int], outputs: int, activation: str, batch: int) -> Any:
    made, parameters = layers(inputs, tuple(hidden), outputs, activation)
    network, (x, dy), gradients = Network(made), data(inputs, outputs, batch), np.zeros_like(parameters)
    network.forward(parameters, x)
    return partial(network.backward, parameters, gradients, dy), lambda: float(np.linalg.norm(gradients))


@contender("networks.backward", "ref torch")
def torch_backward(inputs: int, hidden: tuple[int, int], outputs: int, activation: str, batch: int) -> Any:
    import torch

    network, (x, dy) = torch_network(inputs, tuple(hidden), outputs, activation), map(torch.from_numpy, data(inputs, outputs, batch))
    y, parameters = network(x), list(network.parameters())
    gradients = partial(torch.autograd.grad, y, parameters, dy, retain_graph=True)
    return gradients, lambda: sum(float(g.square().sum()) for g in gradients()) ** 0.5


@contender("networks.backward", "floor torch.mm")
def backward_floor(inputs: int, hidden: tuple[int, int], outputs: int, activation: str, batch: int) -> Callable[[], Any]:
    import torch

    first, second = hidden
    depth = round((inputs * first / 2 + first * second + second * outputs) / second)
    dz, h, weight = torch.randn(batch, second), torch.randn(batch, depth), torch.randn(depth, second)
    d_weight, dh = torch.empty(depth, second), torch.empty(batch, depth)

    def call() -> None:
        torch.mm(h.t(), dz, out=d_weight)
        torch.mm(dz, weight.t(), out=dh)

    return call
