"""Plots are made from files, show what is in them, and leave nothing open."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pyrl.experiment import plots
from pyrl.experiment.metrics import STEP, MetricsLog, read_csv, running_mean
from pyrl.experiment.runs import RunFolder
from pyrl.types import Episode, Metrics


def fake_run(root: Path, algo: str = "dqn", seed: int = 0, env: str = "CartPole-v1", *, records: int = 60, **config: float) -> Path:
    """A run that learns: returns grow from 20 to 200, epsilon falls, five evaluations."""
    run = RunFolder.create(algo, env, seed, {"num_envs": 1, "config": config}, root=root)
    random, step, epsilon_too = np.random.default_rng(seed), 0, algo == "dqn"
    count = 0
    slope = 5 if algo == "dqn" else 3 + 1000 * config.get("learning_rate", 0)
    with MetricsLog(run.path) as log:
        for i in range(records):
            ended = []
            for _ in range(random.integers(0, 8)):
                score = float(np.clip(20 + 190 / (1 + np.exp(6 - i / slope)) + random.normal(0, 18), 9, 500))
                ended.append(Episode(score, int(score), 0, None if epsilon_too else bool(score > 100)))
                step += int(score)
            count += len(ended)
            values = {STEP: step, "time/seconds": 2.5 * i, "time/episodes": count, "time/updates": i, "loss/q": 1 / (1 + i)}
            if epsilon_too:
                values["exploration/epsilon"] = max(0.05, 1 - i / 40)
            elif i > 3:
                values["episode/success_rate"] = i / records
            if i % 12 == 11:
                values |= {"evaluation/return_mean": 20 + 200 * i / records, "evaluation/return_std": 12.0}
            log.write(Metrics(values, ended))
    return run.path


def assert_png(path: Path, name: str) -> None:
    from matplotlib.image import imread

    assert path.name == name
    image = imread(path)
    assert image.shape[0] > 300
    assert image.shape[1] > 600
    assert image[..., :3].std() > 0.02  # not an empty sheet
    assert [p for p in path.parent.iterdir() if p.name.startswith(".")] == []
    keep = os.environ.get("PYRL_PLOTS")  # a folder to look at the pictures
    if keep:
        Path(keep, name if name != "curve.png" else f"{path.parent.name[:6]}.png").write_bytes(path.read_bytes())


@pytest.mark.parametrize("algo", ["dqn", "ppo"])
def test_plot_run(tmp_path: Path, algo: str) -> None:
    assert_png(plots.plot_run(fake_run(tmp_path, algo, records=150)), "curve.png")
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()


def test_plot_run_before_the_first_episode(tmp_path: Path) -> None:
    run = RunFolder.create("ppo", "CartPole-v1", 0, {}, root=tmp_path)
    assert_png(plots.plot_run(run.path), "curve.png")
    with MetricsLog(run.path) as log:
        log.write(Metrics({STEP: 8}, []))
    assert_png(plots.plot_run(run.path, tmp_path / "here.png"), "here.png")


def test_plot_runs(tmp_path: Path) -> None:
    paths = [fake_run(tmp_path, "dqn", seed) for seed in range(3)]
    paths += [fake_run(tmp_path, "ppo", seed, learning_rate=rate) for seed in range(3) for rate in (1e-3, 3e-4)]
    paths += [fake_run(tmp_path, "dqn", 0, "Acrobot-v1")]
    assert_png(plots.plot_runs(paths, tmp_path / "comparison.png"), "comparison.png")
    assert_png(plots.plot_runs(paths[:3], tmp_path / "new" / "folder" / "one.png"), "one.png")
    with pytest.raises(ValueError, match=r"plot: out is .*one\.bmp, expected a file that ends in .*\.png"):
        plots.plot_runs(paths[:3], tmp_path / "one.bmp")
    with pytest.raises(ValueError, match="folders is empty"):
        plots.plot_runs([])
    with pytest.raises(FileNotFoundError, match="there is no run"):
        plots.plot_runs([tmp_path / "nothing"])


def test_runs_are_grouped_by_all_but_the_seed(tmp_path: Path) -> None:
    paths = [fake_run(tmp_path, "dqn", seed, records=2) for seed in range(2)]
    paths += [fake_run(tmp_path, "ppo", seed, records=2, learning_rate=rate, gamma=0.9) for seed in (0, 1) for rate in (1e-3, 2e-3)]
    groups = plots._grouped([RunFolder.open(p) for p in paths])
    assert [(env, label, len(runs)) for env, label, runs in groups] == [
        ("CartPole-v1", "dqn", 2),
        ("CartPole-v1", "ppo (learning_rate=0.001)", 2),
        ("CartPole-v1", "ppo (learning_rate=0.002)", 2),
    ]


def test_episodes_are_spread_between_records() -> None:
    step = plots._spread(np.array([10.0, 10, 30, 40, 40]), np.array([10.0, 20, 30, 40]))
    assert step.tolist() == [5, 10, 30, 35, 40]
    assert plots._spread(np.zeros(0), np.zeros(0)).tolist() == []


def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The figures that are written from now on."""
    figures: list[Any] = []
    monkeypatch.setattr(plots, "_write", lambda figure, path: figures.append(figure) or path)
    return figures


@pytest.mark.parametrize(("records", "window", "label"), [(4, None, 5), (60, None, None), (150, None, 100), (60, 17, 17)])
def test_the_window_fits_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, records: int, window: int | None, label: int | None
) -> None:
    figures, run = drawn(monkeypatch), fake_run(tmp_path, records=records)
    plots.plot_run(run, window=window)
    returns = read_csv(run / "episodes.csv")["return"]
    expected = label or len(returns) // 5
    line = figures[0].axes[0].lines[0]
    assert line.get_label().startswith(f"mean of last {expected} episodes")
    np.testing.assert_allclose(line.get_ydata(), running_mean(returns, expected))
    plots.plot_runs([run], window=window)
    assert figures[1].axes[0].get_ylabel() == f"episode return, mean of {expected}"


@pytest.mark.parametrize(("x", "axis"), [("steps", "environment steps"), ("episodes", "episodes"), ("seconds", "seconds of training")])
def test_what_returns_are_drawn_against(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, x: Any, axis: str) -> None:
    figures, run = drawn(monkeypatch), fake_run(tmp_path)
    metrics, count = read_csv(run / "metrics.csv"), len(read_csv(run / "episodes.csv")["return"])
    ends = {"steps": metrics[STEP][-1], "episodes": count, "seconds": metrics["time/seconds"][-1]}
    for draw in (plots.plot_run, lambda run, x: plots.plot_runs([run], x=x)):
        draw(run, x=x)
        axes = figures[-1].axes
        assert axes[-1].get_xlabel() == axis
        places = axes[0].lines[0].get_xdata()
        assert (np.diff(places) >= 0).all()
        assert places[0] >= 0
        assert ends[x] * 0.9 <= places[-1] <= ends[x]


def test_a_run_without_wall_clock_says_so(tmp_path: Path) -> None:
    run = RunFolder.create("ppo", "CartPole-v1", 0, {}, root=tmp_path)
    with MetricsLog(run.path) as log:
        log.write(Metrics({STEP: 8}, []))
    with pytest.raises(ValueError, match=r"plot: x is 'seconds', but .*metrics.csv has no column time/seconds"):
        plots.plot_run(run.path, x="seconds")
    with pytest.raises(ValueError, match="window is 0"):
        plots.plot_run(run.path, window=0)
    with pytest.raises(ValueError, match="x is 'hours', expected one of steps, episodes, seconds"):
        plots.plot_run(run.path, x="hours")  # type: ignore[arg-type]
