"""Learning curves, drawn from the files of run folders: a run may be plotted while it runs, or years later.

No window is ever opened and no global state is touched; a figure is complete on the disk before its path is returned.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from pyrl.experiment.files import replacing
from pyrl.experiment.metrics import STEP, read_csv, running_mean
from pyrl.experiment.runs import RunFolder

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

X: TypeAlias = Literal["steps", "episodes", "seconds"]

WINDOW = 100  # episodes in the running mean, at most; shorter runs take a fifth of their episodes
_COLUMNS = {"steps": STEP, "episodes": "time/episodes", "seconds": "time/seconds"}
_AXES = {"steps": "environment steps", "episodes": "episodes", "seconds": "seconds of training"}
_MAX_POINTS = 4_000  # of one curve
_BLUE, _ORANGE, _GREEN, _GREY = "#2f6fb0", "#d9700f", "#2e8b57", "#5b6470"
_COLORS = (_BLUE, _ORANGE, _GREEN, "#a23b72", "#7a5cc0", "#b59a00", "#0f8f9c", "#8c564b")


def plot_run(folder: str | Path, path: str | Path | None = None, *, window: int | None = None, x: X = "steps") -> Path:
    """Episode returns with their running mean, evaluations, the return to stop at and what ended the run; below them
    exploration and success; ``curve.png``.

    window: episodes in the running mean; None: a fifth of the run's, at least 5 and at most 100.
    x: what is drawn against: environment steps, episodes, or seconds of training.
    FileNotFoundError when ``folder`` holds no run.
    """
    _check(window, x)
    run = RunFolder.open(folder)
    metrics = read_csv(run.metrics_file)
    places = _places(run, metrics, x)
    shares = {label: metrics[key] for key, label in _SHARES.items() if key in metrics and np.isfinite(metrics[key]).any()}
    figure = _figure(9.0, 6.4 if shares else 4.8)
    if shares:
        returns, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        _draw_shares(lower, places, shares)
    else:
        returns = lower = figure.subplots()
    _draw_returns(returns, _Episodes.of(run, metrics, places, x), window)
    _draw_evaluations(returns, places, metrics)
    goal = run.config.get("stop_at_return")
    if goal is not None:
        returns.axhline(goal, color=_GREY, linewidth=1.0, linestyle="--", label=f"stop at {goal:g}")
    returns.set_title(f"{run.config['algo'].upper()} on {run.config['env']}, seed {run.config['seed']}", loc="left", pad=18)
    if "ending" in run.config:
        returns.text(0, 1.015, shorten(f"ended by {run.config['ending']}", 110), transform=returns.transAxes, fontsize="small", color=_GREY)
    returns.set_ylabel("episode return")
    _legend(returns)
    _name_axis(lower, x)
    return _write(figure, Path(path) if path is not None else run.curve_file)


def plot_runs(folders: Iterable[str | Path], path: str | Path = "comparison.png", *, window: int | None = None, x: X = "steps") -> Path:
    """Several runs in one figure, one panel per environment: running means; ``window`` and ``x`` as in `plot_run`.

    Runs that differ in nothing but the seed make one line, their mean, in a band from the lowest to the highest.
    """
    _check(window, x)
    groups: dict[str, dict[str, list[_Episodes]]] = {}
    for env, label, runs in _grouped([RunFolder.open(f) for f in folders]):
        groups.setdefault(env, {})[label] = [_Episodes.of(run, m := read_csv(run.metrics_file), _places(run, m, x), x) for run in runs]
    if not groups:
        raise ValueError("plot_runs: folders is empty, expected at least one run")
    columns = min(len(groups), 3)
    rows = -(-len(groups) // columns)
    figure = _figure(9.0 if columns == 1 else 6.0 * columns, 4.8 * rows)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for panel, (env, lines) in zip(panels, groups.items()):
        shared = window or max(_window(run) for seeds in lines.values() for run in seeds)
        for color, (label, seeds) in zip(_COLORS * (1 + len(lines) // len(_COLORS)), lines.items()):
            _draw_seeds(panel, label, seeds, color, shared)
        panel.set_title(env, loc="left")
        panel.set_ylabel(f"episode return, mean of {shared}")
        _legend(panel)
        _name_axis(panel, x)
    for panel in panels[len(groups) :]:
        panel.remove()
    return _write(figure, Path(path))


_SHARES = {"exploration/epsilon": "exploration rate", "episode/success_rate": "success rate, last 100 episodes"}


@dataclass(frozen=True)
class _Episodes:
    """Returns [K] of a run's episodes and the places [K] on the horizontal axis at which they ended."""

    place: np.ndarray
    episode_return: np.ndarray

    @classmethod
    def of(cls, run: RunFolder, metrics: Mapping[str, np.ndarray], places: np.ndarray, x: X) -> _Episodes:
        table = read_csv(run.episodes_file)
        if not table:
            return cls(np.zeros(0), np.zeros(0))
        if x == "episodes":
            return cls(np.arange(1.0, len(table["return"]) + 1), table["return"])
        steps = metrics.get(STEP, np.zeros(0))
        place = _spread(table["step"], steps)
        return cls(place if x == "steps" else np.interp(place, [0.0, *steps], [0.0, *places]), table["return"])


def _check(window: int | None, x: str) -> None:
    if window is not None and (type(window) is not int or window < 1):
        raise ValueError(f"plot: window is {window!r}, expected an integer of at least 1")
    if x not in _COLUMNS:
        raise ValueError(f"plot: x is {x!r}, expected one of {', '.join(_COLUMNS)}")


def _places(run: RunFolder, metrics: Mapping[str, np.ndarray], x: X) -> np.ndarray:
    """The places of the metrics' rows on the horizontal axis."""
    if metrics and _COLUMNS[x] not in metrics:
        raise ValueError(f"plot: x is {x!r}, but {run.metrics_file} has no column {_COLUMNS[x]}")
    return metrics.get(_COLUMNS[x], np.zeros(0))


def _window(episodes: _Episodes) -> int:
    return min(WINDOW, max(5, len(episodes.place) // 5))


def _spread(step: np.ndarray, records: np.ndarray) -> np.ndarray:
    """Episodes are logged at the record they ended before; draw them evenly between it and the one before."""
    distinct, first, count = np.unique(step, return_index=True, return_counts=True)
    known = np.unique(np.concatenate([[0.0], records, distinct]))
    before = known[np.searchsorted(known, distinct) - 1]
    rank = np.arange(len(step)) - np.repeat(first, count) + 1
    return np.repeat(before, count) + np.repeat(distinct - before, count) * rank / np.repeat(count, count)


def _grouped(runs: Sequence[RunFolder]) -> list[tuple[str, str, list[RunFolder]]]:
    """(environment, label, runs) for every set of runs that differ in their seed only; the label says which."""
    settings = [{"algo": r.config["algo"], **_settings(r)} for r in runs]
    groups: dict[str, list[int]] = {}
    for i, run in enumerate(runs):
        groups.setdefault(json.dumps([run.config["env"], settings[i]], sort_keys=True), []).append(i)
    result = []
    for members in groups.values():
        first, env = settings[members[0]], runs[members[0]].config["env"]
        rivals = [s for r, s in zip(runs, settings) if r.config["env"] == env and s["algo"] == first["algo"]]
        differing = [k for k in first if any(s.get(k) != first[k] for s in rivals)]
        label = first["algo"] + (f" ({', '.join(f'{k}={first[k]}' for k in differing)})" if differing else "")
        result.append((env, label, [runs[i] for i in members]))
    return result


def _settings(run: RunFolder) -> dict[str, Any]:
    """The settings beside algorithm, environment and seed, flat."""
    kept = {k: v for k, v in run.config.items() if k in ("num_envs", "env_backend")}
    nested = {k: v for part in ("config", "env_kwargs") for k, v in (run.config.get(part) or {}).items()}
    return {**kept, **nested}


def _draw_returns(axes: Axes, episodes: _Episodes, window: int | None) -> None:
    if not len(episodes.place):
        axes.text(0.5, 0.5, "no episode has ended yet", transform=axes.transAxes, ha="center", color=_GREY)
        return
    window = window or _window(episodes)
    shown = _thinned(len(episodes.place))
    place, mean = episodes.place[shown], running_mean(episodes.episode_return, window)[shown]
    dots: dict[str, Any] = {"s": 10, "alpha": 0.3 if len(place) > 300 else 0.5, "linewidths": 0}
    axes.scatter(place, episodes.episode_return[shown], color=_BLUE, label="episode", **dots)
    axes.plot(place, mean, color=_BLUE, linewidth=2.2, label=f"mean of last {window} episodes: {mean[-1]:.4g}")


def _thinned(count: int) -> np.ndarray:
    """Indices of at most `_MAX_POINTS` of ``count`` points, the first and the last among them."""
    return np.unique(np.linspace(0, count - 1, min(count, _MAX_POINTS)).astype(np.int64))


def _draw_evaluations(axes: Axes, places: np.ndarray, metrics: Mapping[str, np.ndarray]) -> None:
    mean = metrics.get("evaluation/return_mean", np.zeros(0))
    done = np.isfinite(mean)
    if not done.any():
        return
    deviation = metrics.get("evaluation/return_std", np.zeros_like(mean))[done]
    style: dict[str, Any] = {"fmt": "D-", "markersize": 5.5, "linewidth": 1.2, "elinewidth": 1.0, "capsize": 2.5}
    label = f"evaluation, mean and deviation: {mean[done][-1]:.4g}"
    axes.errorbar(places[done], mean[done], np.nan_to_num(deviation), color=_ORANGE, label=label, **style)


def _draw_shares(axes: Axes, places: np.ndarray, shares: Mapping[str, np.ndarray]) -> None:
    for color, (label, share) in zip((_GREEN, _ORANGE), shares.items()):
        known = np.isfinite(share)
        shown = np.flatnonzero(known)[_thinned(int(known.sum()))]
        axes.plot(places[shown], share[shown], color=color, linewidth=1.8, label=label)
    axes.set_ylim(-0.03, 1.03)
    axes.set_yticks([0, 0.5, 1])
    _legend(axes, "center right")


def _draw_seeds(axes: Axes, label: str, seeds: Sequence[_Episodes], color: str, window: int) -> None:
    curves = [(e.place, running_mean(e.episode_return, window)) for e in seeds if len(e.place)]
    if not curves:
        return
    if len(curves) == 1:
        step, mean = curves[0]
        shown = _thinned(len(step))
        axes.plot(step[shown], mean[shown], color=color, linewidth=2, label=label)
        return
    start, stop = max(s[0] for s, _ in curves), min(s[-1] for s, _ in curves)
    grid = np.linspace(start, max(start, stop), 400)
    values = np.stack([np.interp(grid, step, mean) for step, mean in curves])
    axes.fill_between(grid, values.min(0), values.max(0), color=color, alpha=0.2, linewidth=0)
    axes.plot(grid, values.mean(0), color=color, linewidth=2, label=f"{label}, mean and range of {len(curves)} seeds")


def warm_up() -> None:
    """Imports what drawing needs, which takes a second."""
    import matplotlib.backends.backend_agg  # noqa: F401

    _figure(1.0, 1.0).subplots()


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure((width, height), dpi=120, layout="constrained", facecolor="white")


def _legend(axes: Axes, place: Literal["lower right", "center right"] = "lower right") -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(True, color="#dde1e6", linewidth=0.8)
    axes.set_axisbelow(True)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc=place, frameon=True, framealpha=0.9, edgecolor="none", fontsize="small")


def _name_axis(axes: Axes, x: X) -> None:
    from matplotlib.ticker import EngFormatter

    axes.set_xlabel(_AXES[x])
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))


def _write(figure: Figure, path: Path) -> Path:
    suffix = path.suffix or ".png"
    known = figure.canvas.get_supported_filetypes()
    if suffix[1:].lower() not in known:
        raise ValueError(f"plot: out is {path}, expected a file that ends in .{', .'.join(known)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    path = path.with_suffix(suffix)
    with replacing(path) as temporary:
        figure.savefig(temporary)
    return path
