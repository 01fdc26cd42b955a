"""One gradient step: loss, gradient, clipping, optimiser; by torch, eager or compiled, or by native kernels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from pyrl.engine.arena import Arena
from pyrl.engine.trainable import Trainable

LossReport: TypeAlias = Mapping[str, Any]  # by metric name: tensors from torch, numbers and arrays from the native engine
Loss: TypeAlias = Callable[..., tuple[Tensor, LossReport]]
NativeGradient: TypeAlias = Callable[..., LossReport]


class Step:
    """``step(*data)`` moves the parameters of ``trainable`` one step down the gradient of ``loss(*data)`` and returns the report.

    loss: ``loss(*data) -> (loss [], report)`` in torch. Other networks that it calls stay as they are: their gradients are not
        computed. The report comes back detached.
    native_gradient: ``native_gradient(*data) -> report``, the same by kernels: it takes NumPy arrays and writes the gradient into
        ``trainable.arena.gradients``. None: the algorithm has no native form.
    max_grad_norm: bound of the gradient's global norm; None: none.
    """

    def __init__(
        self, trainable: Trainable, loss: Loss, native_gradient: NativeGradient | None = None, *, max_grad_norm: float | None = None
    ) -> None:
        self.trainable = trainable
        self.loss = loss
        self.native_gradient = native_gradient
        self.max_grad_norm = max_grad_norm
        self.is_native = False  # set by the updater before each update
        self.reduce: Callable[[Tensor], None] | None = (
            None  # the gradient [size] becomes that of several learners (`pyrl.distributed.group`)
        )
        self._compiled: Callable[..., tuple[Tensor, LossReport]] | None = None

    def __call__(self, *data: Any) -> LossReport:
        report = self.gradient(*data)
        if self.reduce is not None:
            self.reduce(self.trainable.arena.gradients)
        by = self.trainable.native if self.is_native else self.trainable.arena
        by.step(self.max_grad_norm)
        return report

    def gradient(self, *data: Any) -> LossReport:
        """Writes the gradient and makes no step."""
        if self.is_native:
            assert self.native_gradient is not None
            return self.native_gradient(*data)
        arena = self.trainable.arena
        arena.sync()
        if self._compiled is not None:
            gradient, report = self._compiled(arena.values, *data)
            arena.gradients.copy_(gradient)
            if not arena.trainable:
                arena.zero_frozen()
        else:
            loss, report = self.loss(*data)
            arena.differentiate(loss)
        return {name: value.detach() if isinstance(value, Tensor) else value for name, value in report.items()}

    def compile(self) -> None:
        """From now on loss and gradient are one function by torch.compile: seconds at the first call, then less overhead."""
        self._compiled = _compiled_gradient(self.trainable.arena, self.loss)


class _Function(nn.Module):
    """A loss as a module, so that its parameters can be handed in as arguments."""

    def __init__(self, arena: Arena, function: Loss) -> None:
        super().__init__()
        self.owners = nn.ModuleList(arena.modules)
        self.function = function

    def forward(self, *data: Any) -> tuple[Tensor, LossReport]:
        return self.function(*data)


def _compiled_gradient(arena: Arena, loss: Loss) -> Callable[..., tuple[Tensor, LossReport]]:
    """A function of (values [size], *data) that returns (gradient [size], report)."""
    function = _Function(arena, loss)

    def of_values(values: Tensor, *data: Any) -> tuple[Tensor, LossReport]:
        return torch.func.functional_call(function, arena.views(function, values), data)

    differentiated = torch.func.grad_and_value(of_values, has_aux=True)

    def gradient_and_report(values: Tensor, *data: Any) -> tuple[Tensor, LossReport]:
        gradient, (_, report) = differentiated(values, *data)
        return gradient, report

    return torch.compile(gradient_and_report)
