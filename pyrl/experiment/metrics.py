"""Where a run's numbers go: CSV files whose columns may grow, and TensorBoard events when the extra is installed.

`MetricsLog` writes all of them for a run folder. `read_csv` gives the columns back; a line that a killed process left
half written is left out.
"""

from __future__ import annotations

import csv
import importlib.util
import io
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pyrl.types import Episode, Metrics

STEP = "time/env_steps"  # the column that every other one is drawn against
EPISODE_COLUMNS = ("step", "return", "length", "success")


def read_csv(path: str | Path) -> dict[str, np.ndarray]:
    """The columns as float64 arrays of equal length, NaN where a row has no value; no columns if there is no file."""
    names, rows = _read(Path(path))
    table = np.array(rows, np.float64).reshape(len(rows), len(names))
    return {name: table[:, i] for i, name in enumerate(names)}


def running_mean(values: np.ndarray, window: int = 100) -> np.ndarray:
    """Mean of the last ``window`` values at every point, of all so far at the beginning. [K] -> [K]"""
    sums = np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])
    stop = np.arange(1, len(values) + 1)
    start = np.maximum(stop - window, 0)
    return (sums[stop] - sums[start]) / (stop - start)


class CsvLog:
    """Appends rows; a key not seen before becomes a new column, empty in the rows above.

    Rows reach the file every ``flush_seconds`` and at `close`. With ``keep_until`` an existing file is continued: its
    rows up to that value of ``step_column`` stay, later ones (written after the checkpoint it goes on from) go.
    """

    def __init__(self, path: str | Path, *, keep_until: float | None = None, step_column: str = STEP, flush_seconds: float = 5.0) -> None:
        self.path = Path(path)
        self.columns: list[str] = []
        self._lines = io.StringIO()
        self._flush_seconds = flush_seconds
        self._flushed = time.monotonic()
        rows: list[list[float]] = []
        if keep_until is not None:
            self.columns, rows = _read(self.path)
            if rows:
                step = self.columns.index(step_column)
                rows = [r for r in rows if r[step] <= keep_until]
        self._rewrite(rows)

    def write(self, row: Mapping[str, float | None]) -> None:
        new = [key for key in row if key not in self.columns]
        if new:
            self.flush()
            rows = _read(self.path)[1]
            self.columns += new
            self._rewrite([r + [math.nan] * len(new) for r in rows])
        csv.writer(self._lines, lineterminator="\n").writerow([_cell(row.get(c)) for c in self.columns])
        if time.monotonic() - self._flushed >= self._flush_seconds:
            self.flush()

    def flush(self) -> None:
        text = self._lines.getvalue()
        if text:
            with self.path.open("a", newline="") as file:
                file.write(text)
            self._lines = io.StringIO()
        self._flushed = time.monotonic()

    def close(self) -> None:
        self.flush()

    def _rewrite(self, rows: list[list[float]]) -> None:
        temporary = self.path.with_name(f".{self.path.name}.tmp")
        with temporary.open("w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            if self.columns:
                writer.writerow(self.columns)
            writer.writerows([_cell(value) for value in row] for row in rows)
        os.replace(temporary, self.path)


class MetricsLog:
    """``metrics.csv``, ``episodes.csv`` and TensorBoard events in ``folder``; a context manager.

    ``resume_from`` is the environment step that a run goes on from: what was written after it is dropped.
    """

    def __init__(self, folder: str | Path, *, resume_from: int | None = None, flush_seconds: float = 5.0) -> None:
        folder = Path(folder)
        kept: dict[str, Any] = {"keep_until": resume_from, "flush_seconds": flush_seconds}
        self.metrics = CsvLog(folder / "metrics.csv", **kept)
        self.episodes = CsvLog(folder / "episodes.csv", step_column=EPISODE_COLUMNS[0], **kept)
        self.tensorboard = TensorBoardLog(folder, resume_from) if tensorboard_installed() else None

    def write(self, metrics: Metrics) -> None:
        """One record and the episodes that ended since the last."""
        step = metrics[STEP]
        self.metrics.write(metrics)
        for episode in metrics.episodes:
            self.episodes.write(_episode_row(step, episode))
        if self.tensorboard is not None:
            self.tensorboard.write(metrics, int(step))

    def flush(self) -> None:
        self.metrics.flush()
        self.episodes.flush()
        if self.tensorboard is not None:
            self.tensorboard.flush()

    def close(self) -> None:
        self.metrics.close()
        self.episodes.close()
        if self.tensorboard is not None:
            self.tensorboard.close()

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def tensorboard_installed() -> bool:
    """Whether the extra is there: ``pip install 'pyrl[tensorboard]'``."""
    return importlib.util.find_spec("tensorboard") is not None


class TensorBoardLog:
    """Scalars in a TensorBoard event file, written with the tensorboard package alone."""

    def __init__(self, folder: str | Path, resume_from: int | None = None) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._event = Event
        self._writer = EventFileWriter(str(folder))
        if resume_from is not None:  # TensorBoard drops the points after this step, as the CSV files do
            start = SessionLog(status=SessionLog.START)
            self._writer.add_event(Event(wall_time=time.time(), step=resume_from + 1, session_log=start))

    def write(self, metrics: Mapping[str, float], step: int) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        values = [Summary.Value(tag=key, simple_value=float(value)) for key, value in metrics.items() if key != STEP]
        self._writer.add_event(self._event(wall_time=time.time(), step=step, summary=Summary(value=values)))

    def flush(self) -> None:
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


def _episode_row(step: float, episode: Episode) -> dict[str, float | None]:
    success = None if episode.success is None else float(episode.success)
    return dict(zip(EPISODE_COLUMNS, (step, episode.episode_return, episode.length, success)))


def _cell(value: float | None) -> str:
    """The shortest text that reads back as the same number; nothing for a missing one."""
    if value is None or math.isnan(value):
        return ""
    number = float(value)
    return str(int(number)) if number.is_integer() and abs(number) < 2**53 else repr(number)


def _read(path: Path) -> tuple[list[str], list[list[float]]]:
    if not path.exists():
        return [], []
    with path.open(newline="") as file:
        text = file.read()
    whole = text[: text.rfind("\n") + 1]
    lines = list(csv.reader(io.StringIO(whole)))
    if not lines:
        return [], []
    rows = [[float(cell) if cell else math.nan for cell in line] for line in lines[1:] if len(line) == len(lines[0])]
    return lines[0], rows
