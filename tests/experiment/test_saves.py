"""Checkpoints of a run: at a price that is bounded, in spite of a disk that refuses, and nowhere but in the run folder."""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
import shutil
import threading
import types
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pyrl
from pyrl import checkpoint
from pyrl.errors import UnsavedError
from pyrl.experiment import saves
from pyrl.experiment.metrics import read_csv
from pyrl.experiment.runs import RunFolder

DQN = {"buffer_size": 500, "train_freq": 4, "gradient_steps": 1, "learning_starts": 20, "batch_size": 16, "net_arch": (8,), "num_envs": 1}
PPO = {"n_steps": 16, "batch_size": 16, "n_epochs": 1, "net_arch": (8,), "num_envs": 1}
QUICK = {"dqn": DQN, "ppo": PPO}
STEPS = 48
CALLS = ("write", "fsync", "rename", "mkdir", "link", "replace")


def failing(monkeypatch: pytest.MonkeyPatch, name: str, refused: Callable[[int], bool]) -> list[int]:
    """The n-th call of ``os.<name>`` fails where ``refused(n)``; how many there were is the list's last entry."""
    real, count = getattr(os, name), [0]

    def call(*arguments: Any, **options: Any) -> Any:
        count.append(count[-1] + 1)
        if refused(count[-1]):
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*arguments, **options)

    monkeypatch.setattr(os, name, call)
    return count


def train(algo: str, folder: Path, steps: int = 160, **options: Any) -> tuple[pyrl.Run, list[str]]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run = pyrl.train(algo, "CartPole-v1", total_steps=steps, run_dir=folder, **QUICK[algo], **options)
    return run, [str(w.message) for w in caught if w.category is RuntimeWarning]


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Saves after every record, and no picture."""
    monkeypatch.setattr(saves, "SAVE_SECONDS", 0.0)
    monkeypatch.setattr(saves, "SHARE", 1e9)
    monkeypatch.setattr("pyrl.experiment.recorder._draw", lambda folder: None)


@pytest.mark.parametrize(("algo", "name"), [("ppo", name) for name in CALLS] + [("dqn", "rename"), ("dqn", "link")])
def test_one_refusal_costs_nothing(algo: str, name: str, often: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each call fails in turn: training goes on, and at the end everything is there; the start and the end alone are errors."""
    good, errors = 0, 0
    for n in itertools.count(1):
        folder = tmp_path / str(n)
        with monkeypatch.context() as patch:
            count = failing(patch, name, lambda i, n=n: i == n)  # type: ignore[misc]
            error = None
            try:
                run, told = train(algo, folder, steps=STEPS, save_every_episodes=1)
            except OSError as raised:
                error = raised
        if error is not None:
            errors += 1
            assert "No space left" in str(error)
            if isinstance(error, UnsavedError):
                assert error.run.agent.env_steps == STEPS
                checkpoint.load(folder / "checkpoints" / "last")
            continue
        assert run.agent.env_steps == STEPS
        tree, _ = checkpoint.load(folder / "checkpoints" / "last")
        assert tree["counters"]["env_steps"] == STEPS
        table, episodes = read_csv(folder / "metrics.csv"), read_csv(folder / "episodes.csv")
        assert len(episodes.get("return", ())) == table["time/episodes"][-1]
        if (folder / "checkpoints" / "best").exists():
            pyrl.load(folder / "checkpoints" / "best")
        failure = json.loads((folder / "config.json").read_text()).get("save_failure")
        assert bool(told) == bool(failure)
        assert all("was not written; training continues, and the save is tried again" in t for t in told)
        if count[-1] < n:
            break
        good += bool(told)
        shutil.rmtree(folder)
    assert good > 3 or name in ("link", "replace")
    assert errors > 0 or name == "link"  # without hard links there are other ways


@pytest.mark.parametrize("algo", QUICK)
def test_a_disk_that_stays_full(algo: str, often: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From any call on: one error at the end, the run in it, and the last whole checkpoint on the disk."""
    with monkeypatch.context() as patch:
        count = failing(patch, "write", lambda i: False)
        train(algo, tmp_path / "whole", steps=STEPS)
    ends = 0
    for n in range(5, count[-1], max(1, count[-1] // 6)):
        folder = tmp_path / str(n)
        with monkeypatch.context() as patch, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            failing(patch, "write", lambda i, n=n: i >= n)  # type: ignore[misc]
            with pytest.raises(OSError, match="No space left on device") as raised:
                pyrl.train(algo, "CartPole-v1", total_steps=STEPS, run_dir=folder, **QUICK[algo])
        if not isinstance(raised.value, UnsavedError):  # the first save: training did not begin
            assert not (folder / "metrics.csv").exists()
            continue
        ends += 1
        assert "not all of it could be written" in str(raised.value)
        assert raised.value.run.agent.env_steps == STEPS
        assert checkpoint.load(folder / "checkpoints" / "last")[0]["counters"]["env_steps"] <= STEPS
        config = json.loads((folder / "config.json").read_text())  # written by another call than os.write
        assert "No space left" in config["save_failure"]
        assert pyrl.train(algo, "CartPole-v1", resume=folder).agent.env_steps == STEPS
    assert ends >= 3


def test_a_failure_at_the_end_does_not_hide_the_error(often: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(metrics: pyrl.types.Metrics) -> None:
        shutil.rmtree(tmp_path / "run")
        raise RuntimeError("mine")

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(RuntimeError, match="mine"):
            pyrl.train("ppo", "CartPole-v1", total_steps=160, run_dir=tmp_path / "run", on_metrics=stop, **PPO)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("how", ["deleted", "moved", "replaced by a run", "replaced by a folder", "replaced by a file"])
@pytest.mark.parametrize("algo", QUICK)
def test_a_folder_that_goes_is_not_made_again(algo: str, how: str, often: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, place = tmp_path / "runs" / "mine", tmp_path / "cwd"
    place.mkdir()
    monkeypatch.chdir(place)

    def contents(root: Path) -> dict[str, bytes]:
        return {str(p.relative_to(tmp_path)): p.read_bytes() if p.is_file() else b"" for p in root.rglob("*")}

    after: dict[str, bytes] = {}

    def go(metrics: pyrl.types.Metrics) -> None:
        if metrics["time/env_steps"] == 64:
            os.rename(folder, tmp_path / "elsewhere")
            if how == "deleted":
                shutil.rmtree(tmp_path / "elsewhere")
            elif how == "replaced by a run":
                RunFolder.create(algo, "CartPole-v1", 0, {}, path=folder)
                (folder / "metrics.csv").write_text("theirs\n")
            elif how == "replaced by a folder":
                (folder / "checkpoints").mkdir(parents=True)
            elif how == "replaced by a file":
                folder.write_text("theirs")
            after.update(contents(tmp_path))

    with pytest.raises(UnsavedError, match="the run folder was deleted or moved") as raised:
        train(algo, folder, on_metrics=go)
    assert raised.value.run.agent.env_steps == 160
    assert contents(tmp_path) == after


def test_the_working_directory_may_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other").mkdir()
    run = pyrl.train("ppo", "CartPole-v1", total_steps=64, run_dir="mine", on_metrics=lambda _: os.chdir(tmp_path / "other"), **PPO)
    assert run.dir == tmp_path / "mine"
    assert checkpoint.load(tmp_path / "mine" / "checkpoints" / "last")[0]["counters"]["env_steps"] == 64
    assert list((tmp_path / "other").iterdir()) == []


def test_one_of_many_gets_the_folder(tmp_path: Path) -> None:
    for attempt in range(20):
        start, results = threading.Barrier(6), []

        def claim(start: threading.Barrier = start, path: Path = tmp_path / str(attempt), results: list[Any] = results) -> None:
            start.wait()
            with contextlib.suppress(FileExistsError):
                results.append(RunFolder.create("ppo", "CartPole-v1", 0, {}, path=path).config["id"])

        threads = [threading.Thread(target=claim) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert len(results) == 1
        assert RunFolder.open(tmp_path / str(attempt)).config["id"] == results[0]
        assert sorted(os.listdir(tmp_path / str(attempt))) == ["checkpoints", "config.json"]


def test_a_run_killed_before_its_first_save_begins(tmp_path: Path) -> None:
    pyrl.train("ppo", "CartPole-v1", total_steps=64, run_dir=tmp_path / "run", **PPO)
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "last")
    with pytest.raises(FileNotFoundError, match="there is no checkpoint"):  # it had begun
        pyrl.train("ppo", "CartPole-v1", resume=tmp_path / "run")
    (tmp_path / "run" / "metrics.csv").unlink()
    assert pyrl.train("ppo", "CartPole-v1", resume=tmp_path / "run").agent.env_steps == 64


# -- pace --------------------------------------------------------------------------------------------------------------


class Clock:
    """Time that passes when something costs it."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


@settings(max_examples=40)
@given(agent=st.floats(0.001, 0.5), replay=st.floats(0.0, 30.0) | st.none(), record=st.floats(0.2, 3.0))
def test_saving_costs_little_and_loses_little(agent: float, replay: float | None, record: float) -> None:
    """Whatever a save of the agent, one of the replay and a record of training take."""
    clock = Clock()
    spent, saved, gaps, replays = 0.0, 0.0, [], []
    steps = types.SimpleNamespace(env_steps=0)

    def write(path: Path, tree: Any, about: Any, *, keep: Any, parents: bool) -> None:
        nonlocal spent, saved
        cost = agent + ((replay or 0.0) if "replay" in tree else 0.0)
        assert ("replay" in tree) != ("replay" in keep) or replay is None
        gaps.append(clock.now - saved)
        saved = clock.now
        clock.now += cost
        spent += cost
        if "replay" in tree:
            replays.append(clock.now)

    def state(replay_too: bool) -> dict[str, Any]:
        return {"buffer": {}} if replay_too and replay is not None else {}

    loop: Any = types.SimpleNamespace(agent=steps, state_dict=lambda replay: state(replay))
    folder: Any = types.SimpleNamespace(check=lambda: None, last=Path("last"), best=Path("best"), config={})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(saves, "time", clock)
        patch.setattr(saves.checkpoint, "save", write)
        patch.setattr(saves.checkpoint, "exists", lambda path: False)
        patch.setattr(saves, "agent_tree", lambda agent: ({}, {}))
        saver = saves.Saver(folder, loop, saves.Failures(), dict)
        saver.begin(resumed=False)
        start, first, gaps[:] = clock.now, spent, []
        while clock.now < start + 300.0 + 60 * (replay or 0.0):
            clock.now += record
            saver.save_if_due(lambda: None)
    assert spent - first <= 2 * saves.SHARE * (clock.now - start) + agent + 2 * (replay or 0.0)
    whole = agent + (replay or 0.0)
    bound = max(saves.SAVE_SECONDS, agent / saves.SHARE) if whole > saves.SAVE_SECONDS * saves.SHARE else saves.SAVE_SECONDS
    assert max(gaps) <= bound + record + whole + 1e-6
    if replay is not None and whole < 0.99 * saves.SAVE_SECONDS * saves.SHARE:
        assert len(replays) == len(gaps) + 1  # a small one goes with every save


@pytest.mark.parametrize("algo", QUICK)
def test_short_runs_save_rarely_and_the_best_is_certain(algo: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved: list[str] = []
    save = checkpoint.save
    monkeypatch.setattr(checkpoint, "save", lambda path, *rest, **options: (saved.append(path.name), save(path, *rest, **options))[1])
    pyrl.train(algo, "CartPole-v1", total_steps=3_000, run_dir=tmp_path / "run", **QUICK[algo])
    assert saved.count("best") <= 2
    assert len(saved) <= 5
    config, about = RunFolder.open(tmp_path / "run").config, checkpoint.read_metadata(tmp_path / "run" / "checkpoints" / "best")
    assert config["best"] == about["score"]
    assert about["score"] in read_csv(tmp_path / "run" / "metrics.csv")["episode/return_mean"]


def test_the_best_is_not_forgotten_by_a_kill(tmp_path: Path) -> None:
    """What config.json never heard of."""
    run = pyrl.train("ppo", "CartPole-v1", total_steps=1_000, run_dir=tmp_path / "run", **PPO)
    folder = RunFolder.open(tmp_path / "run")
    tree, about = checkpoint.load(folder.best)
    checkpoint.save(folder.best, tree, {**about, "score": 400.0})
    folder.config.pop("best")
    folder.write_config()
    run = pyrl.train("ppo", "CartPole-v1", resume=tmp_path / "run", total_steps=1_500)
    assert run.metrics
    assert checkpoint.read_metadata(folder.best)["score"] == 400.0


def test_a_replay_that_is_older_than_its_agent_is_told(tmp_path: Path) -> None:
    run, _ = train("dqn", tmp_path / "run")
    last = tmp_path / "run" / "checkpoints" / "last"
    whole, about = checkpoint.load(last)
    agent = {key: value for key, value in whole.items() if key != "replay"}
    checkpoint.save(last, {**agent, "counters": {**whole["counters"], "env_steps": 200}}, about, keep=["replay"])
    with pytest.warns(RuntimeWarning, match=r"the replay in .*last lacks the last 40 steps before the run was killed"):
        again = pyrl.train("dqn", "CartPole-v1", resume=tmp_path / "run", total_steps=300)
    assert again.agent.env_steps == 300
    assert again.agent.updates > run.agent.updates
