"""Optimisers that torch does not have, or not for one flat array."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeGuard

import torch
from torch import Tensor
from torch.optim import Optimizer

PIECES = 32  # of a flat array; one launch of fused Adam takes 36


class _WithoutCompiler(Optimizer):
    """torch's own methods without what it wraps around them for `torch.compile`: the wrappers import the compiler, ``torch._dynamo``,
    at their first call, which takes seconds. An optimiser's step is never compiled here."""

    add_param_group = inspect.unwrap(Optimizer.add_param_group)
    zero_grad = inspect.unwrap(Optimizer.zero_grad)
    state_dict = inspect.unwrap(Optimizer.state_dict)
    load_state_dict = inspect.unwrap(Optimizer.load_state_dict)


class Adam(_WithoutCompiler, torch.optim.Adam):
    """`torch.optim.Adam`, which does not import torch's compiler."""

    _step: Callable[..., Any] = inspect.unwrap(torch.optim.Adam.step)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        return self._step(closure)


def is_plain_adam(optimizer: Optimizer | None) -> TypeGuard[torch.optim.Adam]:
    """Whether `adam_step` makes its step; a subclass may have one of its own."""
    return type(optimizer) in (torch.optim.Adam, Adam)


class TensorFlowRMSprop(_WithoutCompiler, torch.optim.RMSprop):
    """RMSprop with epsilon inside the root, ``g / sqrt(v + eps)``, and v starting at one, as TensorFlow had it.

    The settings published for A2C mean this form: with torch's, small v give steps that are far too long.
    """

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        for parameter, state in self.state.items():
            state["step"] = state["step"].to(parameter.device)  # torch leaves it on the host, where no graph counts

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state.update(_initial_state(parameter))
                gradient = parameter.grad + group["weight_decay"] * parameter
                state["step"] += 1
                state["square_avg"].mul_(group["alpha"]).addcmul_(gradient, gradient, value=1 - group["alpha"])
                parameter.addcdiv_(gradient * -group["lr"], (state["square_avg"] + group["eps"]).sqrt())  # lr may be a tensor


def _initial_state(parameter: Tensor) -> dict[str, Tensor]:
    return {"step": torch.zeros((), device=parameter.device), "square_avg": torch.ones_like(parameter)}


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The state of an optimiser over one flat parameter, made where no step was made yet."""
    values = optimizer.param_groups[0]["params"][0]
    state = optimizer.state[values]
    if not state and isinstance(optimizer, torch.optim.Adam):
        state.update(step=torch.zeros((), device=values.device), exp_avg=torch.zeros_like(values), exp_avg_sq=torch.zeros_like(values))
    elif not state:
        state.update(_initial_state(values))
    return state


@torch.no_grad()
def adam_step(optimizer: torch.optim.Adam, nonfinite: Tensor | None) -> None:
    """``optimizer.step()`` over one flat parameter, without a look at a value; left out where ``nonfinite`` [] is 1.

    In pieces, as a block of threads gets up to 65536 numbers of one tensor: a whole arena would leave most of a GPU idle.
    """
    group, state = optimizer.param_groups[0], optimizer_state(optimizer)
    values = group["params"][0]
    size = -(-len(values) // (1024 * PIECES)) * 1024
    values, gradients, averages, squares = (x.split(size) for x in (values, values.grad, state["exp_avg"], state["exp_avg_sq"]))
    state["step"] += 1
    if nonfinite is not None:
        state["step"] -= nonfinite
    torch._fused_adam_(
        values, gradients, averages, squares, [], [state["step"]] * len(values),
        lr=group["lr"], beta1=group["betas"][0], beta2=group["betas"][1], weight_decay=group["weight_decay"], eps=group["eps"],
        amsgrad=False, maximize=False, found_inf=nonfinite,
    )  # fmt: skip
