"""The thread count of torch and of the kernels, set together."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from pyrl import ops


@contextmanager
def use_threads(count: int | None) -> Iterator[None]:
    """The threads of both engines, torch and pyrl's kernels, inside a ``with``; they work in turns, never against each other."""
    if count is None:
        yield
        return
    of_torch, of_kernels = torch.get_num_threads(), ops.set_num_threads(count)
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(of_torch)
        ops.set_num_threads(of_kernels)
