"""The CUDA twins against the CPU kernels: `pytest -m gpu`. Skipped where there is no GPU or the build has no CUDA."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from pyrl import ops

sys.path[:0] = [str(Path(__file__).parent.parent / name) for name in ("ops", "agents")]  # the CPU tests' strategies, rollouts, agents


def why_not() -> str | None:
    if not ops.cuda_built():
        return "this build of pyrl has no CUDA (docs/cuda.md)"
    return None if torch.cuda.is_available() else "torch finds no GPU"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    reason = why_not()
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.gpu)
            if reason:
                item.add_marker(pytest.mark.skip(reason=reason))
