"""torch's process-wide settings, set aside: agents are made, act and learn the same under all of them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")

_num_modes, _any_autocast = torch._C._len_torch_function_stack, torch._C._is_any_autocast_enabled


def is_standard() -> bool:
    """Whether they are as torch has them at its start: float32, no device or other mode, gradients, no inference mode, no autocast."""
    return (
        torch.get_default_dtype() is torch.float32
        and _num_modes() == 0
        and torch.is_grad_enabled()
        and not torch.is_inference_mode_enabled()
        and not _any_autocast()
    )


@contextmanager
def standard() -> Iterator[None]:
    """Sets them so inside a ``with``, and gives them back as they were."""
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with (
            torch.inference_mode(False),
            torch.enable_grad(),
            torch.device("cpu"),
            torch.autocast("cpu", enabled=False),
            torch.autocast("cuda", enabled=False),
        ):
            yield
    finally:
        torch.set_default_dtype(dtype)


def in_standard_state(function: Callable[P, R]) -> Callable[P, R]:
    """Decorator: ``function`` runs as if they were unchanged."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        if is_standard():
            return function(*args, **kwargs)
        with standard():
            return function(*args, **kwargs)

    return call
