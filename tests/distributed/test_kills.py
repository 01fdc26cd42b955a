"""`tests/distributed/kills.py` with few kills; docs/scale.md says what a hundred of them cost."""

from __future__ import annotations

from pathlib import Path

import kills
import numpy as np
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def test_killed_collectors() -> None:
    told = kills.of_collectors(6, np.random.default_rng(0))
    assert told["collected"] == told["consumed"] + sum(told["discarded"].values())


def test_killed_learners() -> None:
    told = kills.of_learners(3, np.random.default_rng(0))
    assert told["collected"] == told["consumed"] + sum(told["discarded"].values())


def test_killed_programs(tmp_path: Path) -> None:
    assert kills.of_programs(2, np.random.default_rng(0), tmp_path)["steps"] > 0
