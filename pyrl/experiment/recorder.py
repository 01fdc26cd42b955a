"""What a run leaves behind: rows of metrics, checkpoints, its ending, its curve."""

from __future__ import annotations

import math
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pyrl.errors import CheckpointError, NonFiniteError, UnsavedError
from pyrl.experiment.metrics import MetricsLog
from pyrl.experiment.runs import RunFolder
from pyrl.experiment.saves import Failures, Saver
from pyrl.loops.base import Loop
from pyrl.types import Metrics

ROWS = 500  # about how many rows a run's metrics.csv gets
TRACEBACK_LINES = 30  # of an error in config.json, its last ones


class Recorder:
    """Keeps rows of metrics and, if there is a run folder, writes everything that belongs in it."""

    def __init__(self, folder: RunFolder | None, loop: Loop, rows: list[Metrics], total_steps: float | None, resumed: bool) -> None:
        self.loop, self.rows, self.failures = loop, rows, Failures()
        self._thinner = _Thinner(total_steps)
        self._kept = loop.episodes
        self._folder = folder
        if folder is not None:
            self._saver = Saver(folder, loop, self.failures, self.state_dict)
            self._saver.begin(resumed)
            # Rows reach the disk with the checkpoint that they belong to.
            self._log = MetricsLog(folder.path, resume_from=loop.agent.env_steps if resumed else None, flush_seconds=math.inf)

    def state_dict(self) -> dict[str, Any]:
        """What decides which rows and checkpoints come next; JSON values, kept in the checkpoint `last`."""
        best = self._saver.best if self._folder is not None else -math.inf
        return {"next_row": self._thinner.next_row, "kept": self._kept, "best": best if math.isfinite(best) else None}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """CheckpointError, and no change, for a state that `state_dict` does not give."""
        numbers = [state.get(name) for name in ("next_row", "kept")] + [state.get("best") or 0.0]
        if state.keys() != {"next_row", "kept", "best"} or not all(type(n) in (int, float) and math.isfinite(n) for n in numbers):
            raise CheckpointError(f"recorder is {dict(state)!r:.200}, expected the numbers next_row, kept and best")
        self._thinner.next_row, self._kept = float(state["next_row"]), int(state["kept"])
        if self._folder is not None and state["best"] is not None:
            self._saver.best = max(self._saver.best, float(state["best"]))

    def record(self, metrics: Metrics, score_key: str, keep_every: int | None) -> None:
        """One record. ``score_key`` names the number by which a checkpoint is the best; the checkpoint of every
        ``keep_every`` episodes stays."""
        self._write(self._thinner.row(metrics))
        if self._folder is None:
            return
        score, episodes = metrics.get(score_key, -math.inf), self.loop.episodes
        evaluated = score_key.startswith("evaluation/")
        if evaluated or len(self.loop.window) >= 10:
            self._saver.offer(score, rare=evaluated)
        if keep_every is not None and episodes // keep_every > self._kept // keep_every:
            self._saver.keep(episodes)
            self._kept = episodes
        self._saver.save_if_due(self._flush)

    def close(self, ending: str, error: BaseException | None = None, curve: bool | Callable[[Path], object] = True) -> UnsavedError | None:
        """Write what is left, and draw the ``curve`` as `pyrl.train` was asked to; the error if that is not possible."""
        folder, attempt = self._folder, self.failures.attempt
        broken_off = self.loop.rest()
        if broken_off is not None:
            self._write(self._thinner.row(broken_off))
        if folder is None:
            self._write(self._thinner.rest())
            return None
        self._flush(close=True)
        self._saver.finish(ending)
        folder.config |= {"ending": ending, "best": self._saver.best if math.isfinite(self._saver.best) else None}
        if error is not None:
            folder.config["error"] = about(error)
        if self.failures.last is not None:
            folder.config["save_failure"] = self.failures.last
        attempt("config.json", folder.write_config)
        if curve and not self.failures.now:
            attempt("curve.png", lambda: curve(folder.path) if callable(curve) else _draw(folder))
        if not self.failures.now:
            return None
        lost = "; ".join(f"{name}: {failure}" for name, failure in self.failures.now.items())
        return UnsavedError(f"the run in {folder.path} ended by {ending}, but not all of it could be written: {lost}")

    def _write(self, row: Metrics | None) -> None:
        if row is not None:
            self.rows.append(row)
            if self._folder is not None:
                self._log.write(row)

    def _flush(self, close: bool = False) -> None:
        """Writes all records and episodes so far to the files."""
        self._write(self._thinner.rest())
        self.failures.attempt("the metrics", lambda: self._flush_log(close))

    def _flush_log(self, close: bool) -> None:
        assert self._folder is not None
        self._folder.check()
        if close:
            self._log.close()
        else:
            self._log.flush()
        if self._log.failure is not None:
            raise self._log.failure


class _Thinner:
    """Makes about ROWS rows of a run's records: losses averaged, counters as they are, no episode lost."""

    def __init__(self, total_steps: float | None) -> None:
        self.every = (total_steps or 100_000) / ROWS
        self.next_row = 0.0
        self.held: list[Metrics] = []

    def row(self, metrics: Metrics) -> Metrics | None:
        """The row that ``metrics`` completes, or None."""
        self.held.append(metrics)
        if metrics["time/env_steps"] < self.next_row and not any(k.startswith("evaluation/") for k in metrics):
            return None
        self.next_row = metrics["time/env_steps"] + self.every
        return self.rest()

    def rest(self) -> Metrics | None:
        """The row of the records that are not written yet."""
        if not self.held:
            return None
        held, self.held = self.held, []
        merged = dict(held[-1])
        for key in {key for metrics in held for key in metrics if key.startswith(("loss/", "train/"))}:
            values = [metrics[key] for metrics in held if key in metrics]
            merged[key] = sum(values) / len(values)
        return Metrics(merged, [episode for metrics in held for episode in metrics.episodes])


def ending_of(error: BaseException) -> str:
    """An error in one line."""
    first = str(error).strip().partition("\n")[0]
    return f"an error: {type(error).__name__}{f': {first}' if first else ''}"


def about(error: BaseException) -> dict[str, Any]:
    """What config.json keeps of the error that ended a run."""
    lines = "".join(traceback.format_exception(type(error), error, error.__traceback__)).splitlines()
    cause = error.__cause__ if not isinstance(error, NonFiniteError) else None
    return {
        "type": type(error).__name__,
        "message": str(error),
        "cause": None if cause is None else f"{type(cause).__name__}: {cause}",
        "env_index": getattr(error, "index", None),
        "env_seed": getattr(error, "seed", None),
        "traceback": lines[-TRACEBACK_LINES:],
    }


def _draw(folder: RunFolder) -> None:
    from pyrl.experiment.plots import plot_run

    plot_run(folder.path)
