"""``pyrl plot``: learning curves."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from pyrl.cli.parsing import parse


@dataclass(frozen=True, kw_only=True)
class PlotOptions:
    runs: Annotated[list[Path], tyro.conf.Positional, tyro.conf.arg(metavar="RUN...")]  # one run folder, or several
    out: Path | None = None  # picture; None: curve.png in the run folder, or comparison.png here
    window: int | None = None  # episodes in the running mean; None: a fifth of the run's, at least 5 and at most 100
    x: Literal["steps", "episodes", "seconds"] = "steps"  # what returns are drawn over


def plot(arguments: list[str]) -> int:
    options = parse(PlotOptions, arguments, "plot", "Draw the learning curve of a run, or compare several runs.")
    from pyrl.experiment.plots import plot_run, plot_runs
    from pyrl.experiment.runs import shown

    if len(options.runs) == 1:
        print(shown(plot_run(options.runs[0], options.out, window=options.window, x=options.x)))
    else:
        print(plot_runs(options.runs, options.out or Path("comparison.png"), window=options.window, x=options.x))
    return 0
