"""Optimiser steps over arenas: clip the gradient's global norm and step, in one call, by the formulas of torch.optim.

All arrays are flat [size], of one dtype (float32 or float64), NumPy arrays or torch CPU tensors, and changed in place; ``step``
is a float32 array [] that counts the steps, as torch keeps it, so the state of a ``torch.optim`` optimiser over one flat
parameter can be handed in. ``max_grad_norm=None``: no clipping. Each returns the gradient's norm before clipping, and leaves the
gradient as it was. NonFiniteError, with nothing changed, if the gradient holds a NaN or an infinity.
"""

from __future__ import annotations

from pyrl import _core
from pyrl.types import Array

__all__ = ["adam", "copy_nontemporal", "polyak", "rmsprop"]


def adam(
    parameters: Array,
    gradients: Array,
    exp_avg: Array,
    exp_avg_sq: Array,
    step: Array,
    *,
    lr: float,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    decoupled: bool = False,
    max_grad_norm: float | None = None,
) -> float:
    """Adam (Kingma and Ba 2015); ``decoupled`` weight decay makes it AdamW (Loshchilov and Hutter 2019)."""
    return _core.adam(
        parameters, gradients, exp_avg, exp_avg_sq, step, lr, betas[0], betas[1], eps, weight_decay, decoupled, max_grad_norm
    )  # fmt: skip


def rmsprop(
    parameters: Array,
    gradients: Array,
    square_avg: Array,
    step: Array,
    *,
    lr: float,
    alpha: float = 0.99,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    epsilon_inside: bool = False,
    max_grad_norm: float | None = None,
) -> float:
    """RMSprop (Hinton 2012), without momentum; ``epsilon_inside`` the root is TensorFlow's form, which A2C's settings mean."""
    return _core.rmsprop(parameters, gradients, square_avg, step, lr, alpha, eps, weight_decay, epsilon_inside, max_grad_norm)


def polyak(target: Array, online: Array, tau: float) -> None:
    """``target <- target + tau (online - target)``; ``tau = 1`` copies."""
    _core.polyak(target, online, tau)


def copy_nontemporal(array: Array, kept: Array) -> None:
    """Copies ``array``, of any shape and dtype, to ``kept``, of the same, past the caches: for what is rarely read back.

    Both are contiguous and on the CPU; ShapeError, DTypeError, DeviceError or ValueError otherwise.
    """
    _core.copy_nontemporal(array, kept)
