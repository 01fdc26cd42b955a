"""One gradient step in torch: loss, gradient, clipping, optimiser; eager, or compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from pyrl.engine.arena import Arena

Report: TypeAlias = tuple[Tensor, ...]
Loss: TypeAlias = Callable[..., tuple[Tensor, Report]]


class Update:
    """``update(*data)`` moves the arena's parameters one step down the gradient of ``loss(*data)``.

    ``loss`` returns (the loss [], tensors to report), computed by the modules of ``arena``, through others that stay as they are
    (the critic in an actor's loss: no gradient of its weights is computed); the report comes back detached.
    ``compiled`` makes one function of loss and gradient by torch.compile: some seconds at the first call, then less overhead.
    """

    def __init__(self, arena: Arena, loss: Loss, *, max_grad_norm: float | None = None, compiled: bool = False) -> None:
        self.arena = arena
        self.loss = loss
        self.max_grad_norm = max_grad_norm
        self._gradient = _compiled_gradient(arena, loss) if compiled else None

    def __call__(self, *data: Any) -> Report:
        report = self.gradient(*data)
        self.arena.step(self.max_grad_norm)
        return report

    def gradient(self, *data: Any) -> Report:
        """Writes the gradient and makes no step."""
        self.arena.sync()
        if self._gradient is None:
            loss, report = self.loss(*data)
            self.arena.differentiate(loss)
        else:
            gradient, report = self._gradient(self.arena.values, *data)
            self.arena.gradients.copy_(gradient)
        return tuple(tensor.detach() for tensor in report)


class _Function(nn.Module):
    """A loss as a module, so that its parameters can be handed in as arguments."""

    def __init__(self, arena: Arena, function: Loss) -> None:
        super().__init__()
        self.owners = nn.ModuleList(arena.modules)
        self.function = function

    def forward(self, *data: Any) -> tuple[Tensor, Report]:
        return self.function(*data)


def _compiled_gradient(arena: Arena, loss: Loss) -> Callable[..., tuple[Tensor, Report]]:
    """A function of (values [size], *data) that returns (gradient [size], report)."""
    function = _Function(arena, loss)

    def of_values(values: Tensor, *data: Any) -> tuple[Tensor, Report]:
        return torch.func.functional_call(function, arena.views(function, values), data)

    differentiated = torch.func.grad_and_value(of_values, has_aux=True)

    def gradient_and_report(values: Tensor, *data: Any) -> tuple[Tensor, Report]:
        gradient, (_, report) = differentiated(values, *data)
        return gradient, report

    return torch.compile(gradient_and_report)
