"""The commands for real: train, go on, evaluate, play and plot, on an agent that is fast to train."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from pyrl import checkpoint
from pyrl.__main__ import main
from pyrl.experiment.metrics import read_csv

TRAIN = ["train", "random", "FrozenLake-v1", "--env-kwargs.is_slippery", "False", "--num-envs", "4", "--seed", "7"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of 2000 steps with three evaluations."""
    folder = tmp_path_factory.mktemp("runs") / "mine"
    flags = ["--total-steps", "2000", "--n-steps", "16", "--eval-every", "900", "--eval-episodes", "3", "--quiet"]
    assert main([*TRAIN, *flags, "--run-dir", str(folder)]) == 0
    return folder


def test_run_folder_is_complete(run: Path) -> None:
    config = json.loads((run / "config.json").read_text())
    assert (config["algo"], config["env"], config["seed"], config["num_envs"]) == ("random", "FrozenLake-v1", 7, 4)
    assert config["env_kwargs"] == {"is_slippery": False}
    assert config["config"]["n_steps"] == 16
    assert (run / "curve.png").stat().st_size > 10_000
    metrics, episodes = read_csv(run / "metrics.csv"), read_csv(run / "episodes.csv")
    assert metrics["time/env_steps"][-1] == 2000
    assert (metrics["evaluation/return_mean"] >= 0).sum() == 3  # past 900, past 1800, at the end
    assert config["ending"] == "total_steps: 2,000 reached"
    assert set(episodes["success"]) == {0.0, 1.0}
    assert (episodes["return"] == episodes["success"]).all()
    assert checkpoint.load(run / "checkpoints" / "last")[0]["counters"]["env_steps"] == 2000
    assert sorted(os.listdir(run / "checkpoints")) == ["best", "last"]


def test_the_baselines_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Source document S1's baseline: the mean over all episodes, which a preset's step limit does not cut short."""
    assert main(["train", "random", "CartPole-v1", "--total-episodes", "1000", "--run-dir", str(tmp_path / "run")]) == 0
    output = " ".join(capsys.readouterr().out.split())
    returns = read_csv(tmp_path / "run" / "episodes.csv")["return"]
    means = np.convolve(returns, np.full(100, 0.01), "valid")
    assert len(returns) == 1000
    assert 20 < returns.mean() < 25
    assert f"return {returns.mean():.1f} +- {returns.std():.1f} over all episodes, best {returns.max():.1f}" in output
    assert f"{means[-1]:.1f}, mean of the last 100 episodes; highest such mean {means.max():.1f}" in output
    assert "ended by total_episodes: 1,000 reached" in output


def test_the_stop_rule_is_told_everywhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    assert main(["train", "random", "CartPole-v1", "--stop-at-return", "25", "--stop-window", "5", "--run-dir", str(folder)]) == 0
    ending = json.loads((folder / "config.json").read_text())["ending"]
    mean = read_csv(folder / "episodes.csv")["return"][-5:].mean()
    assert ending == f"stop_at_return: {mean:.6g}, the mean return of the last 5 episodes, reached 25"
    assert f"ended by {ending}" in " ".join(capsys.readouterr().out.split())
    assert checkpoint.read_metadata(folder / "checkpoints" / "last")["ending"] == ending
    rows = (folder / "metrics.csv").read_text()
    assert main(["train", "--resume", str(folder), "--quiet"]) == 0  # it has ended: nothing more happens
    assert (folder / "metrics.csv").read_text() == rows
    assert main(["train", "--resume", str(folder), "--stop-at-return", "35", "--stop-window", "3", "--quiet"]) == 0
    assert read_csv(folder / "episodes.csv")["return"][-3:].mean() >= 35


def test_same_seed_same_run(run: Path, tmp_path: Path) -> None:
    flags = ["--total-steps", "2000", "--n-steps", "16", "--run-dir", str(tmp_path / "again"), "--quiet"]
    assert main([*TRAIN, *flags]) == 0
    assert (tmp_path / "again" / "episodes.csv").read_text() == (run / "episodes.csv").read_text()


def test_eval(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answers = []
    for target in (run, run, run / "checkpoints" / "last"):
        assert main(["eval", str(target), "--episodes", "30"]) == 0
        answers.append(capsys.readouterr().out)
    assert answers[0] == answers[1]
    assert "checkpoints/best" in answers[0].replace("\n", "")
    assert "checkpoints/last" in answers[2].replace("\n", "")
    for part in ("return", "lowest", "success", "30, seed 10000"):
        assert part in answers[0]


@pytest.mark.skipif(find_spec("moviepy") is None or find_spec("pygame") is None, reason="the video extra is not installed")
def test_play_to_a_video(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from moviepy import VideoFileClip

    assert main(["play", str(run), "--episodes", "2", "--video", str(tmp_path / "out" / "play.mp4")]) == 0
    lines = capsys.readouterr().out.splitlines()
    steps = [int(line.split()[-2]) for line in lines[:2]]
    with VideoFileClip(str(tmp_path / "out" / "play.mp4")) as clip:
        assert clip.n_frames == sum(steps) + 2  # the first frame of each episode too
        assert tuple(clip.size) == (256, 256)
    assert os.listdir(tmp_path / "out") == ["play.mp4"]


def test_video_needs_its_extra(run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("pyrl.cli.play.find_spec", lambda name: None if name == "moviepy" else name)
    assert main(["play", str(run), "--video", "x.mp4"]) == 2
    assert "play: --video needs a package that is not installed: pip install 'pyrl[video]'" in capsys.readouterr().err


def test_play_without_a_display_offers_a_video(run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    assert main(["play", str(run)]) == 2
    why = "there is no display for a window (SDL_VIDEODRIVER is 'dummy')"
    assert capsys.readouterr().err == f"pyrl: play: {why}; write a video instead: pyrl play {run} --video play.mp4\n"


def test_interrupted_run_goes_on(tmp_path: Path) -> None:
    """Ctrl-C in a program of its own: it says how to go on, and the printed command does."""
    command = [*TRAIN, "--total-steps", "100000000", "--run-dir", str(tmp_path / "run")]
    with subprocess.Popen([sys.executable, "-m", "pyrl", *command], stdout=subprocess.PIPE, text=True, cwd=tmp_path) as training:
        deadline = time.monotonic() + 60
        while not (tmp_path / "run" / "metrics.csv").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.3)
        training.send_signal(signal.SIGINT)
        output, _ = training.communicate(timeout=60)
        assert training.returncode == 130
    assert output.splitlines()[-1] == "  pyrl train --resume run"
    done = checkpoint.load(tmp_path / "run" / "checkpoints" / "last")[0]["counters"]["env_steps"]
    assert main(["train", "--resume", str(tmp_path / "run"), "--total-steps", str(done + 500), "--quiet"]) == 0
    steps = read_csv(tmp_path / "run" / "metrics.csv")["time/env_steps"]
    assert steps[-1] >= done + 500
    assert (steps[1:] > steps[:-1]).all()


def test_run_of_another_environment(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The environment a run was made on has changed: the spaces differ, and the answer says how."""
    config = json.loads((run / "config.json").read_text())
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoints").symlink_to(run / "checkpoints")
    config["env_kwargs"] = {"map_name": "8x8"}
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    assert main(["train", "--resume", str(tmp_path / "run"), "--total-steps", "5000", "--quiet"]) == 2
    assert "n: saved 16, wanted 64" in capsys.readouterr().err
