"""A run's curve, drawn by a process of its own: importing matplotlib takes a second, which passes while the run ends.

As a program it draws the run folder that it reads from its standard input, or ends with it.
"""

from __future__ import annotations

import math
import subprocess
import sys
import time
from pathlib import Path

from pyrl.types import Metrics

AHEAD = 4.0  # seconds before the end of a run, by its pace, at which the process starts
KNOWN = 0.5  # seconds after which a pace is known
_LONGEST = 120.0  # seconds that drawing may take


class Drawing:
    """``drawing(folder)`` draws the curve of a finished run; a ``with`` ends the process whatever happened.

    `watch` starts it a little before the run reaches ``total_steps``; where another limit ends the run, it starts at the end.
    """

    def __init__(self, total_steps: float | None) -> None:
        self._total = math.inf if total_steps is None else total_steps
        self._first: tuple[float, float] | None = None  # environment steps and time at the first record
        self._process: subprocess.Popen[str] | None = None

    def watch(self, metrics: Metrics) -> None:
        steps, now = metrics["time/env_steps"], time.monotonic()
        if self._first is None:
            self._first = steps, now
            return
        seconds, pace = now - self._first[1], (steps - self._first[0]) / max(now - self._first[1], 1e-9)
        if self._process is None and seconds > KNOWN and self._total - steps < AHEAD * pace:
            self._start()

    def __call__(self, folder: Path) -> None:
        """OSError, with what the process said, if there is no picture."""
        process = self._process or self._start()
        try:
            _, said = process.communicate(f"{folder}\n", timeout=_LONGEST)
        except subprocess.TimeoutExpired:
            raise OSError(f"drawing took more than {_LONGEST:.0f} s") from None
        if process.returncode != 0:
            raise OSError(said.strip().rpartition("\n")[2] or f"drawing ended with status {process.returncode}")

    def _start(self) -> subprocess.Popen[str]:
        """A session of its own: Ctrl-C is for the run, which then wants its curve."""
        command = [sys.executable, "-m", "pyrl.experiment.drawing"]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=subprocess.DEVNULL, stderr=pipe, text=True, start_new_session=True)
        return self._process

    def __enter__(self) -> Drawing:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.communicate(timeout=_LONGEST)


def main() -> None:
    from pyrl.experiment.plots import plot_run, warm_up

    warm_up()
    folder = sys.stdin.readline().rstrip("\n")
    if folder:
        plot_run(folder)


if __name__ == "__main__":
    main()
