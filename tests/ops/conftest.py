"""Tests of the kernels choose instruction sets and threads as they like; each leaves both as they were."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pyrl import _core


@pytest.fixture(autouse=True)
def restore_paths() -> Iterator[None]:
    level = _core.simd_level()
    yield
    _core.set_simd_level(level)
    _core.set_num_threads(0)
