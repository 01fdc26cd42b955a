"""Generalized advantages and V-trace by the signatures of ``torchrl.objectives.value.functional``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from pyrl import ops
from pyrl.adapters.columns import count
from pyrl.errors import DTypeError, SettingError, ShapeError

_NUMBERS = (torch.float32, torch.float64)


def generalized_advantage_estimate(
    gamma: float,
    lmbda: float,
    state_value: torch.Tensor,
    next_state_value: torch.Tensor,
    reward: torch.Tensor,
    done: torch.Tensor,
    terminated: torch.Tensor | None = None,
    *,
    time_dim: int = -2,
) -> tuple[torch.Tensor, torch.Tensor]:
    """``(advantage, value_target)`` of tensors of one shape, [*batch, T, *features] where ``time_dim`` is -2.

    ``done`` ends the sums, ``terminated`` (``done`` where it is None) removes the bootstrap value: a time limit is done and not terminated.
    ``gamma`` and ``lmbda`` are numbers in [0, 1]. Results have the dtype of ``next_state_value`` and no gradient: a tensor that requires
    one is refused where gradients are on. ShapeError, DTypeError, DeviceError, ValueError name the argument.
    """
    function = "generalized_advantage_estimate"
    numbers = _numbers(function, {"gamma": gamma, "lmbda": lmbda})
    tensors = {"state_value": state_value, "next_state_value": next_state_value, "reward": reward, "done": done, "terminated": terminated}
    steps = _Steps(function, tensors, "next_state_value", time_dim)
    value, following, rewards = map(steps.numbers, (state_value, next_state_value, reward))
    ended = steps.flags(done)
    end = ended if terminated is None else steps.flags(terminated)
    return steps.back(*ops.gae(rewards, value, following, end, ended, gamma=numbers[0], gae_lambda=numbers[1]))


def vtrace_advantage_estimate(
    gamma: float,
    log_pi: torch.Tensor,
    log_mu: torch.Tensor,
    state_value: torch.Tensor,
    next_state_value: torch.Tensor,
    reward: torch.Tensor,
    done: torch.Tensor,
    terminated: torch.Tensor | None = None,
    rho_thresh: float | torch.Tensor = 1.0,
    c_thresh: float | torch.Tensor = 1.0,
    time_dim: int = -2,
) -> tuple[torch.Tensor, torch.Tensor]:
    """``(advantage, value_target)`` by V-trace: shapes, flags and errors as `generalized_advantage_estimate`.

    Where a step does not end, its ``next_state_value`` is taken to be the ``state_value`` of the step after it.
    ``log_pi`` is the learned policy's, ``log_mu`` that of the policy that acted. ``rho_thresh`` and ``c_thresh`` clip their ratio: numbers,
    or tensors of one element.
    """
    function = "vtrace_advantage_estimate"
    numbers = _numbers(function, {"gamma": gamma, "rho_thresh": rho_thresh, "c_thresh": c_thresh})
    tensors = {
        "log_pi": log_pi, "log_mu": log_mu, "state_value": state_value, "next_state_value": next_state_value, "reward": reward,
        "done": done, "terminated": terminated,
    }  # fmt: skip
    steps = _Steps(function, tensors, "next_state_value", time_dim)
    columns = [steps.numbers(tensor) for tensor in (log_pi, log_mu, reward, state_value, next_state_value)]
    ended = steps.flags(done)
    end = ended if terminated is None else steps.flags(terminated)
    log_prob, behaviour, rewards, value, following = columns
    target, advantage = ops.vtrace(
        log_prob, behaviour, rewards, value, following, end, ended, gamma=numbers[0], rho_bar=numbers[1], c_bar=numbers[2]
    )
    return steps.back(advantage, target)


def _numbers(function: str, given: Mapping[str, Any]) -> list[float]:
    found = []
    for name, value in given.items():
        try:
            found.append(float(value))
        except (TypeError, ValueError, RuntimeError):
            raise DTypeError(f"{function}: {name} is {value!r}, expected a number") from None
    for name, number in zip(given, found):
        if name in ("gamma", "lmbda") and not 0 <= number <= 1:
            raise SettingError(f"{function}: {name} is {number}, expected a number in [0, 1]")
    return found


class _Steps:
    """Tensors of one shape, time in any dimension, as contiguous [T, N] and back."""

    def __init__(self, function: str, tensors: Mapping[str, Any], like: str, time_dim: int) -> None:
        for name, tensor in tensors.items():
            if tensor is None and name == "terminated":
                continue
            if not isinstance(tensor, torch.Tensor):
                raise DTypeError(f"{function}: {name} is a {type(tensor).__name__}, expected a tensor")
            if tensor.shape != tensors[like].shape:
                raise ShapeError(f"{function}: {name} has shape {list(tensor.shape)}, expected {list(tensors[like].shape)}, that of {like}")
            if tensor.requires_grad and torch.is_grad_enabled():
                raise DTypeError(f"{function}: {name} requires grad, and the result has none; detach it, or call under torch.no_grad()")
        self.shape, self.dtype = tensors[like].shape, tensors[like].dtype
        time_dim = count(function, "time_dim", time_dim, -(2**62))
        if not self.shape.numel():
            raise ShapeError(f"{function}: {like} has shape {list(self.shape)}, expected at least one element")
        if not -len(self.shape) <= time_dim < len(self.shape):
            raise ShapeError(f"{function}: time_dim is {time_dim}, and {like} has shape {list(self.shape)}")
        self.time_dim = time_dim
        self.kernel_dtype = self.dtype if self.dtype in _NUMBERS else torch.float32

    def numbers(self, tensor: torch.Tensor) -> torch.Tensor:
        return self._first(tensor.detach().to(self.kernel_dtype))

    def flags(self, tensor: torch.Tensor) -> torch.Tensor:
        return self._first(tensor if tensor.dtype is torch.bool else tensor != 0)

    def _first(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.movedim(self.time_dim, 0).reshape(self.shape[self.time_dim], -1).contiguous()

    def back(self, *results: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        moved = torch.Size([self.shape[self.time_dim], *(n for i, n in enumerate(self.shape) if i != self.time_dim % len(self.shape))])
        first, second = (result.reshape(moved).movedim(0, self.time_dim).contiguous().to(self.dtype) for result in results)
        return first, second
