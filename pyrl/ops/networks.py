"""Multilayer perceptrons over an arena, without autograd: forward, and backward by hand.

Parameters are in one flat array, the *arena* (`pyrl.engine.arena`); a network only knows where. Several networks may share an
arena, and gradients are in an array of the same layout. Arrays are NumPy arrays or torch CPU tensors, contiguous, of the
network's dtype; the kernels read and write them in place, at the address they have at the call.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pyrl import _core
from pyrl.errors import DTypeError
from pyrl.types import Array

__all__ = ["Layer", "Network", "bfloat16_products"]


@dataclass(frozen=True)
class Layer:
    """``activation(norm(x @ W + b))``. Places are the first elements in the arena; None: the layer has none.

    ``weight`` is [num_inputs, num_outputs] in rows, the transpose of what torch calls the weight. ``gain`` and ``shift`` [num_outputs]
    are those of a layer norm (Ba et al. 2016, epsilon 1e-5). ``activation`` is identity, relu, tanh, silu or gelu (exact).
    """

    num_inputs: int
    num_outputs: int
    weight: int
    bias: int | None = None
    gain: int | None = None
    shift: int | None = None
    activation: str = "identity"


def bfloat16_products() -> bool:
    """Whether this processor multiplies matrices in bfloat16 (Intel's AMX, on Linux) and ``PYRL_SIMD`` does not ask for less."""
    return _core.bfloat16_products()


class Network:
    """``y = network.forward(parameters, x)``, then ``network.backward(parameters, gradients, dy)``.

    ``precision`` "bfloat16" rounds the factors of products of at least 32 rows, columns and steps to bfloat16 and sums in float32, where
    `bfloat16_products()` says that the processor can; elsewhere, and in float64, it changes nothing. Arrays stay float32.

    Calls of several threads take turns, and `backward` follows the latest `forward` of them all. The object owns what that needs, and
    allocates only where a batch is larger than any before.
    """

    def __init__(self, layers: Sequence[Layer], dtype: str = "float32", precision: str = "float32") -> None:
        for name, given in (("dtype", dtype), ("precision", precision)):
            if not isinstance(given, str):
                raise DTypeError(f"Network: {name} is {given!r}, expected a name")
        self.layers = tuple(layers)
        self.dtype = dtype
        self.precision = precision
        places = [[-1 if place is None else place for place in (x.weight, x.bias, x.gain, x.shift)] for x in self.layers]
        specs = [(x.num_inputs, x.num_outputs, *at, x.activation) for x, at in zip(self.layers, places)]
        self._core = _core.NetworkCore(specs, dtype, precision)  # type: ignore[arg-type]
        self.num_inputs, self.num_outputs = self._core.num_inputs, self._core.num_outputs

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy knows nothing of the latest `forward`."""
        return Network, (self.layers, self.dtype, self.precision)

    def forward(self, parameters: Array, x: Array, x1: Array | None = None, *, out: Array | None = None) -> Array:
        """y [B, num_outputs] of x [B, num_inputs], or of the columns of x and x1 side by side; kept for `backward`."""
        return self._core.forward(parameters, x, x1, out)

    def infer(self, parameters: Array, x: Array, x1: Array | None = None, *, out: Array | None = None) -> Array:
        """The same with nothing kept; the latest `forward` stays differentiable."""
        return self._core.infer(parameters, x, x1, out)

    def backward(self, parameters: Array, gradients: Array | None, dy: Array, dx: Array | None = None, dx1: Array | None = None) -> None:
        """From the gradient ``dy`` [B, num_outputs] w.r.t. the output of the latest `forward`: overwrites the gradient w.r.t. every
        parameter of the network in ``gradients``, and by the inputs in ``dx`` and ``dx1``; None: not wanted."""
        self._core.backward(parameters, gradients, dy, dx, dx1)
