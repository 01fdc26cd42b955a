"""A run's records as a progress bar."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from types import MappingProxyType

from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from pyrl.cli.roles import line, roles, table
from pyrl.cli.short import short
from pyrl.types import Metrics


def score(*values: float) -> str:
    """Returns with as many decimals as matter to a reader: 487.3, 0.74; a mean and its deviation with equally many."""
    decimals = 1 if abs(values[0]) >= 10 else 2
    return " +- ".join(f"{value:.{decimals}f}" for value in values)


def tell(text: str) -> None:
    """Print if there still is a terminal: after SIGHUP it is gone."""
    try:
        print(text, flush=True)
    except OSError:
        _leave_terminal()


def _leave_terminal() -> None:
    """What Python still holds for the terminal that is gone must not fail at exit."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class _Progress(Progress):
    """With what the roles of a run with workers do below it."""

    told: Mapping[str, list[str]] = MappingProxyType({})

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        if self.told:
            yield table(self.told)


class Bar:
    """A progress bar on a terminal; elsewhere one line for every tenth of the run. A lost terminal does not end the training."""

    def __init__(self, title: str, console: Console, total_steps: int | None, total_episodes: int | None) -> None:
        self._console = console
        self._title = title
        self._unit = "steps" if total_steps is not None else "episodes"
        self._total = total_steps if total_steps is not None else total_episodes or 0
        self._shown = False
        self._tenths = 0
        self._evaluation = ""
        columns = (TextColumn("{task.description}"), BarColumn(None), TextColumn("{task.fields[text]}", style="cyan"))
        live = console.is_terminal and not console.quiet
        self._progress = _Progress(*columns, TimeRemainingColumn(), console=console, disable=not live, expand=True)
        self._task = self._progress.add_task(title, total=self._total or None, text="")

    def show(self, metrics: Metrics) -> None:
        try:
            self._show(metrics)
        except BrokenPipeError:  # pyrl train ... | head
            raise
        except OSError:
            _leave_terminal()

    def _show(self, metrics: Metrics) -> None:
        done = metrics["time/env_steps" if self._unit == "steps" else "time/episodes"]
        speed = short(metrics["time/env_steps_per_second"])
        parts = [f"{short(done)}/{short(self._total)} {self._unit}", f"{speed} steps/s"]
        if "episode/return_mean" in metrics:
            parts.append(f"return {score(metrics['episode/return_mean'])}")
        if "episode/success_rate" in metrics:
            parts.append(f"success {metrics['episode/success_rate']:.0%}")
        if "evaluation/return_mean" in metrics:
            self._evaluation = f"evaluation {score(metrics['evaluation/return_mean'])}"
        text = "  ".join([*parts, self._evaluation] if self._evaluation else parts)
        if not self._shown:  # a resumed run has done these before
            self._progress.reset(self._task, total=self._total or None, completed=int(done))
        self._shown = True
        self._progress.told = told = roles(metrics)
        self._progress.update(self._task, completed=done, text=text)
        tenths = int(10 * done / self._total) if self._total else 0
        if tenths > self._tenths and not self._console.is_terminal:
            self._console.print(f"{self._title}  {text}", highlight=False, soft_wrap=True)
            if told:
                self._console.print(f"  {line(told)}", highlight=False, soft_wrap=True)
        self._tenths = max(tenths, self._tenths)

    def __enter__(self) -> Bar:
        self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        try:
            self._progress.stop()
        except OSError:
            _leave_terminal()
