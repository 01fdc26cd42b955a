"""SIGINT, SIGTERM and SIGHUP end a run, which is then saved; afterwards they have their usual effect."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyrl.experiment.runs import shown

if TYPE_CHECKING:
    from pyrl.experiment.train import Run

STOPPING = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
REPEAT_SECONDS = 0.25  # timeout(1), shells and service managers send a signal twice


class Stopped(SystemExit):
    """SIGTERM or SIGHUP ended ``run``, which is saved in ``folder``. Unless caught, the process exits with 128 + the signal's number."""

    run: Run
    folder: Path
    signal: signal.Signals


class Interrupted(KeyboardInterrupt):
    """Ctrl-C ended ``run``, which is saved in ``folder``."""

    run: Run
    folder: Path
    signal: signal.Signals


class StopSignals:
    """While it is held, the first of the signals calls ``stop``, and a second one has its usual effect at once.

    In the main thread only, where Python delivers them, and only if the run is ``saved``. A signal that is ignored (``nohup``) stays
    ignored.
    """

    def __init__(self, stop: Callable[[], None], saved: bool = True) -> None:
        self.received: signal.Signals | None = None
        self.hurried = False  # a second one came
        self._stop = stop
        self._saved = saved
        self._time = 0.0
        self._process = os.getpid()
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        if self._saved and threading.current_thread() is threading.main_thread():
            for number in STOPPING:
                before = signal.getsignal(number)
                if before not in (None, signal.SIG_IGN):
                    self._before[number] = before
                    signal.signal(number, self._handle)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, before in self._before.items():
            if signal.getsignal(number) == self._handle:
                signal.signal(number, before)

    def _handle(self, number: int, frame: object) -> None:
        if os.getpid() == self._process:
            if self.received is None:
                self.received, self._time = signal.Signals(number), time.monotonic()
                self._stop()
                return
            if time.monotonic() - self._time < REPEAT_SECONDS:
                return
            self.hurried = True
        self.__exit__()  # in a forked child, an environment's, the signal is not for us
        signal.raise_signal(number)

    def deliver(self, run: Run) -> None:
        """Once the run is saved: the signal's usual effect, by default the end of the program."""
        if self.received is None or run.dir is None:
            return
        before = self._before[self.received]
        message = f"{self.received.name}: stopped after {run.agent.env_steps:,} steps; continue with resume={shown(run.dir)!r}"
        stopped: Stopped | Interrupted
        if before is signal.SIG_DFL:
            stopped = Stopped(128 + self.received)
        elif before is signal.default_int_handler:
            stopped = Interrupted(message)
        else:
            before(self.received, None)
            return
        stopped.run, stopped.folder, stopped.signal = run, run.dir, self.received
        raise stopped
