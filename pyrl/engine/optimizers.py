"""Optimisers that torch does not have, or not for one flat array."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeGuard

import torch
from torch import Tensor
from torch.optim import Optimizer

from pyrl.errors import SettingError, closest_names
from pyrl.own import name_of, torch_class

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
    """The state of an optimiser over one flat parameter, created if no step was made yet."""
    values = optimizer.param_groups[0]["params"][0]
    state = optimizer.state[values]
    if not state and isinstance(optimizer, torch.optim.Adam):
        state.update(step=torch.zeros((), device=values.device), exp_avg=torch.zeros_like(values), exp_avg_sq=torch.zeros_like(values))
    elif not state:
        state.update(_initial_state(values))
    return state


@torch.no_grad()
def adam_step(optimizer: torch.optim.Adam, nonfinite: Tensor | None) -> None:
    """``optimizer.step()`` over one flat parameter, without reading a value; skipped where ``nonfinite`` [] is 1.

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


_NAMED: dict[str, Any] = {"adam": Adam, "rmsprop": TensorFlowRMSprop, "sgd": torch.optim.SGD}
_NOT_THEIRS = {"params", "maximize", "foreach", "fused", "capturable", "differentiable"}  # arguments that pyrl decides
_TENSORFLOW = {"alpha", "eps", "weight_decay"}


def build_optimizer(kind: Any, parameters: list[Tensor], rate: float, arguments: Mapping[str, Any]) -> torch.optim.Optimizer:
    """The optimiser ``kind`` (a name of `pyrl.agents.base.LearningConfig`, or a class) over one flat tensor.

    SettingError for arguments that it does not take, and for an optimiser that cannot step one flat tensor, such as those that treat
    matrices as such, or whose state a checkpoint could not keep.
    """
    cls = _NAMED.get(kind) or torch_class(kind) if isinstance(kind, str) else kind
    names = [p.name for p in inspect.signature(cls).parameters.values() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    allowed = sorted(_TENSORFLOW if cls is TensorFlowRMSprop else set(names) - _NOT_THEIRS - {"lr"})
    for name in arguments:
        if name not in allowed:
            hint = "; its rate is learning_rate" if name in ("lr", "learning_rate") else closest_names(name, allowed)
            raise SettingError(f"optimizer_kwargs: {name_of(kind)} has no {name!r} here{hint} (arguments: {', '.join(allowed)})")
    fused = {"fused": True} if cls in (Adam, torch.optim.Adam) else {}

    def make(over: list[Tensor]) -> torch.optim.Optimizer:
        return cls(over, lr=rate, **fused, **arguments)

    if kind not in ("adam", "rmsprop") or arguments:
        _try(make, name_of(kind))
    return make(parameters)


def _try(make: Any, name: str) -> None:
    """SettingError unless what ``make`` makes steps a flat tensor, and keeps numbers and tensors only."""
    scratch = torch.zeros(16, requires_grad=True)
    scratch.grad = torch.zeros(16)
    try:
        optimizer = make([scratch])
    except Exception as error:
        raise SettingError(f"optimizer: {name} refuses its arguments: {error}") from error
    try:
        optimizer.step()
    except Exception as error:
        what = f"optimizer: {name} cannot step one flat tensor, which holds all parameters here"
        raise SettingError(f"{what}: {type(error).__name__}: {error}") from error
    for entry, value in optimizer.state[scratch].items():
        if value is not None and not isinstance(value, Tensor | int | float):
            raise SettingError(
                f"optimizer: {name} keeps a {type(value).__name__} as {entry!r}, expected tensors and numbers: a checkpoint holds no other"
            )


def is_known(optimizer: torch.optim.Optimizer | None) -> bool:
    """Whether native kernels do what ``optimizer`` does, and its steps never wait for a GPU."""
    if type(optimizer) in (Adam, torch.optim.Adam, torch.optim.AdamW):
        group = optimizer.param_groups[0]  # type: ignore[union-attr]
        return not (group["amsgrad"] or group["maximize"])
    return type(optimizer) is TensorFlowRMSprop


def state_after_a_step(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The names and shapes of the state of an optimiser over one flat parameter, before or after its first step."""
    if is_known(optimizer):
        return optimizer_state(optimizer)
    other = copy.deepcopy(optimizer)
    values = other.param_groups[0]["params"][0]
    values.grad = torch.zeros_like(values)
    other.step()
    return dict(other.state[values])
