"""Where a run's numbers are written: CSV files whose columns may grow, and TensorBoard events when the extra is installed.

`MetricsLog` writes all of them for a run folder. `read_csv` gives the columns back; a line that a killed process left
half written is left out.
"""

from __future__ import annotations

import csv
import importlib.util
import io
import math
import os
import socket
import time
from collections.abc import Mapping, Sequence
from errno import ENOENT
from pathlib import Path
from typing import Any

import numpy as np

from pyrl.experiment.files import append, replacing
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

    Rows reach the file every ``flush_seconds``, at `flush` and at `close`. When the disk refuses they are kept for the next time,
    and ``failure`` says why. With ``keep_until`` an existing file is continued: its rows up to that value of ``step_column`` stay,
    later ones (written after the checkpoint that it resumes from) go.
    """

    def __init__(self, path: str | Path, *, keep_until: float | None = None, step_column: str = STEP, flush_seconds: float = 5.0) -> None:
        self.path = Path(path)
        self.columns: list[str] = []
        self.failure: OSError | None = None
        self._waiting: list[Mapping[str, float | None]] = []
        self._flush_seconds = flush_seconds
        self._flushed = time.monotonic()
        rows: list[list[float]] = []
        if keep_until is not None:
            self.columns, rows = _read(self.path)
            if rows:
                step = self.columns.index(step_column)
                rows = [r for r in rows if r[step] <= keep_until]
        self._rewrite(self.columns, rows)

    def write(self, row: Mapping[str, float | None]) -> None:
        self._waiting.append(dict(row))
        if time.monotonic() - self._flushed >= self._flush_seconds:
            self.flush()

    def flush(self) -> None:
        self._flushed = time.monotonic()
        try:
            self._flush()
        except OSError as error:
            self.failure = error
        else:
            self.failure = None
            self._waiting = []

    def _flush(self) -> None:
        if not self.path.exists():
            raise FileNotFoundError(ENOENT, "it was deleted", str(self.path))
        columns = list(dict.fromkeys([*self.columns, *(key for row in self._waiting for key in row)]))
        lines = [[row.get(c) for c in columns] for row in self._waiting]
        if len(columns) > len(self.columns):
            rows = [row + [math.nan] * (len(columns) - len(row)) for row in _read(self.path)[1]]
            self._rewrite(columns, [*rows, *lines])
            self.columns = columns
        elif lines:
            append(self.path, _text(lines).encode())

    def close(self) -> None:
        self.flush()

    def _rewrite(self, columns: list[str], rows: Sequence[Sequence[float | None]]) -> None:
        text = _text([columns], names=True) if columns else ""
        with replacing(self.path) as temporary:
            temporary.write_bytes((text + _text(rows)).encode())


class MetricsLog:
    """``metrics.csv``, ``episodes.csv`` and TensorBoard events in ``folder``; a context manager.

    ``resume_from`` is the environment step that a run resumes from: what was written after it is dropped.
    """

    def __init__(self, folder: str | Path, *, resume_from: int | None = None, flush_seconds: float = 5.0) -> None:
        folder = Path(folder)
        kept: dict[str, Any] = {"keep_until": resume_from, "flush_seconds": flush_seconds}
        self.metrics = CsvLog(folder / "metrics.csv", **kept)
        self.episodes = CsvLog(folder / "episodes.csv", step_column=EPISODE_COLUMNS[0], **kept)
        self.tensorboard = TensorBoardLog(folder, resume_from, flush_seconds) if tensorboard_installed() else None

    def write(self, metrics: Metrics) -> None:
        """One record and the episodes that ended since the last."""
        step = metrics[STEP]
        self.metrics.write(metrics)
        for episode in metrics.episodes:
            self.episodes.write(_episode_row(step, episode))
        if self.tensorboard is not None:
            self.tensorboard.write(metrics, int(step))

    def flush(self) -> None:
        for log in self._logs():
            log.flush()

    def close(self) -> None:
        self.flush()

    @property
    def failure(self) -> OSError | None:
        """Why some rows are not on the disk."""
        return next((log.failure for log in self._logs() if log.failure is not None), None)

    def _logs(self) -> list[CsvLog | TensorBoardLog]:
        return [self.metrics, self.episodes, *([] if self.tensorboard is None else [self.tensorboard])]

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def tensorboard_installed() -> bool:
    """Whether the extra is there: ``pip install 'pyrl[tensorboard]'``."""
    return importlib.util.find_spec("tensorboard") is not None


class TensorBoardLog:
    """Scalars in a TensorBoard event file. The tensorboard package frames the events; they are kept and written as `CsvLog` does."""

    def __init__(self, folder: str | Path, resume_from: int | None = None, flush_seconds: float = 5.0) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog

        self.failure: OSError | None = None
        self._event = Event
        self._waiting = io.BytesIO()
        self._flush_seconds = flush_seconds
        self._add(file_version="brain.Event:2")
        if resume_from is not None:  # TensorBoard drops the points after this step, as the CSV files do
            self._add(step=resume_from + 1, session_log=SessionLog(status=SessionLog.START))
        name = f"events.out.tfevents.{time.time_ns()}.{socket.gethostname()}.{os.getpid()}"
        self.path = Path(folder) / name
        self.path.touch(exist_ok=False)
        self.flush()

    def write(self, metrics: Mapping[str, float], step: int) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        values = [Summary.Value(tag=key, simple_value=float(value)) for key, value in metrics.items() if key != STEP]
        self._add(step=step, summary=Summary(value=values))
        if time.monotonic() - self._flushed >= self._flush_seconds:
            self.flush()

    def flush(self) -> None:
        self._flushed = time.monotonic()
        try:
            append(self.path, self._waiting.getvalue())
        except OSError as error:
            self.failure = error
        else:
            self.failure, self._waiting = None, io.BytesIO()

    def _add(self, **event: Any) -> None:
        from tensorboard.summary.writer.record_writer import RecordWriter

        RecordWriter(self._waiting).write(self._event(wall_time=time.time(), **event).SerializeToString())


def _episode_row(step: float, episode: Episode) -> dict[str, float | None]:
    success = None if episode.success is None else float(episode.success)
    return dict(zip(EPISODE_COLUMNS, (step, episode.episode_return, episode.length, success)))


def _cell(value: float | None) -> str:
    """The shortest text that reads back as the same number; nothing for a missing one."""
    if value is None or math.isnan(value):
        return ""
    number = float(value)
    return str(int(number)) if number.is_integer() and abs(number) < 2**53 else repr(number)


def _text(rows: Sequence[Sequence[Any]], names: bool = False) -> str:
    lines = io.StringIO()
    csv.writer(lines, lineterminator="\n").writerows(rows if names else [[_cell(value) for value in row] for row in rows])
    return lines.getvalue()


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
