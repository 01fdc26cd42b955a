"""What a run came to, read from its files: printed when training ends."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from rich.console import Console
from rich.table import Table

from pyrl.cli.progress import score
from pyrl.experiment.metrics import STEP, read_csv, running_mean
from pyrl.experiment.runs import RunFolder, shown

WINDOW = 100  # episodes in the running mean
_ROWS = 40  # of the evaluation table


def print_report(console: Console, run: RunFolder, new_steps: int, seconds: float) -> None:
    """Every evaluation, then returns over all episodes and over the last ones, and what ended the run. ``new_steps`` were made
    just now, in ``seconds``."""
    metrics, episodes = read_csv(run.metrics_file), read_csv(run.episodes_file)
    _print_evaluations(console, metrics)
    table = Table.grid(padding=(0, 2))
    engine = f" on the {run.config['engine']} engine" if run.config.get("engine") else ""
    if metrics:
        pace = _pace(int(metrics[STEP][-1]), new_steps, seconds)
        table.add_row("steps", f"{pace}, {metrics['time/updates'][-1]:,.0f} updates{engine}")
    if episodes:
        returns = episodes["return"]
        last = min(WINDOW, len(returns))
        means = running_mean(returns, last)
        highest = means[last - 1 :].max()
        table.add_row("episodes", f"{len(returns):,}, mean length {episodes['length'].mean():.1f}")
        table.add_row("return", f"{score(returns.mean(), returns.std())} over all episodes, best {score(returns.max())}")
        table.add_row("", f"{score(means[-1])}, mean of the last {last} episodes; highest such mean {score(highest)}")
        if np.isfinite(episodes["success"]).any():
            table.add_row("success", f"{np.nanmean(episodes['success'][-last:]):.1%} of the last {last} episodes")
    table.add_row("ended by", run.config.get("ending", "still running"))
    table.add_row("run folder", shown(run.path))
    console.print(table, highlight=False)


def _pace(steps: int, new_steps: int, seconds: float) -> str:
    if new_steps == 0:
        return f"{steps:,}, none of them now (a higher limit resumes it)"
    share = "" if new_steps == steps else f", {new_steps:,} of them now,"
    return f"{steps:,}{share} in {seconds:.1f} s"


def _print_evaluations(console: Console, metrics: Mapping[str, np.ndarray]) -> None:
    mean = metrics.get("evaluation/return_mean", np.zeros(0))
    done = np.flatnonzero(np.isfinite(mean))
    if not len(done):
        return
    shown = done[np.unique(np.linspace(0, len(done) - 1, min(len(done), _ROWS)).astype(np.int64))]
    columns = {name: metrics[f"evaluation/{name}"] for name in ("return_mean", "return_std", "return_min", "return_max", "length_mean")}
    success = metrics.get("evaluation/success_rate")
    decimals = 1 if np.abs(mean[shown]).max() >= 10 else 2
    table = Table("steps", "evaluation", "deviation", "lowest", "highest", "length", box=None)
    if success is not None:
        table.add_column("success")
    for column in table.columns:
        column.justify = "right"
    for row in shown:
        cells = [f"{metrics[STEP][row]:,.0f}", *(f"{values[row]:.{decimals}f}" for values in columns.values())]
        table.add_row(*cells, *([] if success is None else [f"{success[row]:.1%}"]))
    if len(shown) < len(done):
        table.caption = f"{len(shown)} of {len(done)}; all are in metrics.csv"
    console.print(table, highlight=False)
