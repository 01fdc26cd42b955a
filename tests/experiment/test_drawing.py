"""The curve at the end of a run: by a process of its own, by a function of the caller's, or not at all."""

from __future__ import annotations

import subprocess
import types
import warnings
from pathlib import Path
from typing import Any

import pytest

import pyrl
from pyrl.errors import UnsavedError
from pyrl.experiment import drawing
from pyrl.experiment.drawing import Drawing
from pyrl.types import Metrics

RUN: dict[str, Any] = {"total_steps": 40, "n_steps": 16}


def at(steps: float) -> Metrics:
    return Metrics({"time/env_steps": steps}, [])


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The times at which a process began; it only waits."""
    times: list[float] = []
    clock = types.SimpleNamespace(now=0.0, monotonic=lambda: clock.now)

    def start(self: Drawing) -> Any:
        times.append(clock.now)
        self._process = subprocess.Popen(["sleep", "60"], stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        return self._process

    monkeypatch.setattr(Drawing, "_start", start)
    monkeypatch.setattr(drawing, "time", clock)
    monkeypatch.setattr(Drawing, "run", lambda self, total, pace: self_run(self, clock, total, pace), raising=False)
    return times


def self_run(drawing: Any, clock: Any, total: float, pace: float) -> None:
    """A run of ``total`` steps with ten records a second."""
    while clock.now * pace <= total:
        drawing.watch(at(clock.now * pace))
        clock.now += 0.1


def test_the_process_starts_a_little_before_the_end(started: list[float]) -> None:
    with Drawing(10_000) as it:
        it.run(10_000, 100.0)  # type: ignore[attr-defined]
        assert len(started) == 1
        assert 100.0 - drawing.AHEAD - 0.2 < started[0] <= 100.0 - drawing.AHEAD + 0.2
        process = it._process
        assert process is not None
        assert process.poll() is None
    assert process.poll() is not None  # whatever ended the run


@pytest.mark.parametrize("total", [None, float("inf")])
def test_without_a_limit_of_steps_it_starts_at_the_end(started: list[float], total: float | None) -> None:
    with Drawing(total) as it:
        it.run(10_000, 100.0)  # type: ignore[attr-defined]
    assert started == []


def test_a_short_run_has_no_pace(started: list[float]) -> None:
    with Drawing(100) as it:
        it.run(100, 1_000.0)  # type: ignore[attr-defined]
    assert started == []


def test_it_draws(tmp_path: Path) -> None:
    folder = tmp_path / "a b"
    with Drawing(40) as it:
        it._start()
        pyrl.train("random", "CartPole-v1", run_dir=folder, curve=it, **RUN)
    assert (folder / "curve.png").read_bytes()[1:4] == b"PNG"


def test_what_it_cannot_draw_is_an_error_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def damaged(folder: Path) -> None:
        (folder / "config.json").unlink()
        with Drawing(None) as it:
            it(folder)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(UnsavedError, match=r"curve\.png: FileNotFoundError: there is no run in"):
            pyrl.train("random", "CartPole-v1", run_dir=tmp_path / "run", curve=damaged, **RUN)


def test_no_curve_if_none_is_wanted(tmp_path: Path) -> None:
    pyrl.train("random", "CartPole-v1", run_dir=tmp_path / "run", curve=False, **RUN)
    assert not (tmp_path / "run" / "curve.png").exists()
    folders: list[Path] = []
    pyrl.train("random", "CartPole-v1", resume=tmp_path / "run", curve=folders.append, total_steps=80)
    assert folders == [tmp_path / "run"]
    assert not (tmp_path / "run" / "curve.png").exists()
