"""The CUDA twins against the CPU kernels: on a GPU, or on an emulated one (PYRL_CUDA=EMULATED). Skipped elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import emulated
import pytest
import torch

from pyrl import ops


def why_not(item: pytest.Item) -> str | None:
    if emulated.IS_BUILT:
        return "captures torch's work, which needs a GPU" if item.path.name == "test_gpu_learning.py" else None
    if not ops.cuda_built():
        return "this build of pyrl has no CUDA (docs/cuda.md)"
    return None if torch.cuda.is_available() else "torch finds no GPU"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.gpu)
            if reason := why_not(item):
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="module", autouse=True)
def gpu() -> Iterator[None]:
    """The emulated one, where there is one."""
    if not emulated.IS_BUILT:
        yield
        return
    with emulated.gpu():
        yield
