"""Metrics files: nothing lost when columns grow, when a process dies in mid-line, or when a run goes on."""

from __future__ import annotations

import csv
import errno
import io
import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyrl.experiment import metrics, runs
from pyrl.experiment.metrics import STEP, CsvLog, MetricsLog, read_csv, running_mean, tensorboard_installed
from pyrl.types import Episode, Metrics

ROWS = st.lists(
    st.dictionaries(st.sampled_from(["a", "b/c", "d,e", 'f"', "g\nh"]), st.floats(allow_infinity=True), min_size=1),
    max_size=12,
)


@given(rows=ROWS, every=st.integers(1, 5))
def test_columns_may_grow(tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, float]], every: int) -> None:
    path = tmp_path_factory.mktemp("csv") / "metrics.csv"
    log = CsvLog(path)
    for i, row in enumerate(rows):
        log.write(row)
        if i % every == 0:
            log.flush()
    log.close()
    table = read_csv(path)
    assert list(table) == list(dict.fromkeys(key for row in rows for key in row))
    for key, column in table.items():
        np.testing.assert_array_equal(column, [row.get(key, math.nan) for row in rows])


def test_rows_reach_the_file_in_time(tmp_path: Path) -> None:
    log = CsvLog(tmp_path / "m.csv", flush_seconds=0.0)
    log.write({"a": 1.0})
    assert (tmp_path / "m.csv").read_text() == "a\n1\n"
    slow = CsvLog(tmp_path / "s.csv", flush_seconds=1e6)
    slow.write({"a": 1.0})
    assert (tmp_path / "s.csv").read_text() == ""
    slow.close()
    assert (tmp_path / "s.csv").read_text() == "a\n1\n"


@given(rows=ROWS, refused=st.sets(st.integers(0, 30)))
def test_rows_wait_for_a_disk_that_refuses(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, float]], refused: set[int]
) -> None:
    """Any of the flushes may fail, half of the text written; afterwards everything is there once."""
    path = tmp_path_factory.mktemp("csv") / "metrics.csv"
    log = CsvLog(path, flush_seconds=0.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics, "_text", failing_text(refused))
        patch.setattr(Path, "open", failing_open(Path.open, refused))
        for row in rows:
            log.write(row)
    log.close()
    assert log.failure is None
    table = read_csv(path)
    for key in {key for row in rows for key in row}:
        np.testing.assert_array_equal(table[key], [row.get(key, math.nan) for row in rows])


def failing_text(refused: set[int]) -> Any:
    """Some of the calls say that the disk is full, before anything is written."""
    calls, text = itertools.count(), metrics._text

    def call(*arguments: Any, **options: Any) -> str:
        if next(calls) in refused:
            raise OSError(errno.ENOSPC, "No space left on device")
        return text(*arguments, **options)

    return call


def failing_open(real: Any, refused: set[int]) -> Any:
    """Files that are appended to, some of which take three bytes and are then full."""
    calls = itertools.count()

    class Full(io.FileIO):
        def write(self, data: Any) -> int:
            if self.tell() >= self.full:
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(data[:3])

    def call(path: Path, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        if mode != "r+b" or next(calls) not in refused:
            return real(path, mode, *arguments, **options)
        file = Full(str(path), "r+b")
        file.full = path.stat().st_size + 3
        return file

    return call


def test_a_deleted_file_is_not_made_again(tmp_path: Path) -> None:
    log = CsvLog(tmp_path / "m.csv")
    log.write({"a": 1.0})
    log.flush()
    (tmp_path / "m.csv").unlink()
    for row in ({"a": 2.0}, {"b": 2.0}):
        log.write(row)
        log.flush()
        assert "deleted" in str(log.failure)
    assert list(tmp_path.iterdir()) == []


def test_half_a_line_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text(f"{STEP},a\n1,2\n3,4\n5,6")
    assert read_csv(path)["a"].tolist() == [2, 4]
    log = CsvLog(path, keep_until=10)
    log.write({STEP: 7, "a": 8})
    log.close()
    assert path.read_text() == f"{STEP},a\n1,2\n3,4\n7,8\n"


def test_no_file_has_no_columns(tmp_path: Path) -> None:
    assert read_csv(tmp_path / "none.csv") == {}
    (tmp_path / "empty.csv").touch()
    assert read_csv(tmp_path / "empty.csv") == {}


def record(step: int, *episodes: Episode, **values: float) -> Metrics:
    return Metrics({STEP: step, **values}, list(episodes))


def test_a_run_that_goes_on_forgets_what_was_after_the_checkpoint(tmp_path: Path) -> None:
    with MetricsLog(tmp_path) as log:
        log.write(record(10, Episode(1.0, 5, 0, True), Episode(2.0, 6, 1, None), x=1.0))
        log.write(record(20, x=2.0))
        log.write(record(30, Episode(3.0, 7, 0, False), x=3.0))
    with MetricsLog(tmp_path, resume_from=20) as log:
        log.write(record(31, Episode(4.0, 8, 0, False), y=4.0))
    table = read_csv(tmp_path / "metrics.csv")
    assert table[STEP].tolist() == [10, 20, 31]
    np.testing.assert_array_equal(table["x"], [1, 2, math.nan])
    np.testing.assert_array_equal(table["y"], [math.nan, math.nan, 4])
    with (tmp_path / "episodes.csv").open() as file:
        assert list(csv.reader(file)) == [
            ["step", "return", "length", "success"], ["10", "1", "5", "1"], ["10", "2", "6", ""], ["31", "4", "8", "0"],
        ]  # fmt: skip


def test_a_new_run_starts_empty(tmp_path: Path) -> None:
    with MetricsLog(tmp_path) as log:
        log.write(record(10, x=1.0))
    with MetricsLog(tmp_path):
        pass
    assert read_csv(tmp_path / "metrics.csv") == {}


@pytest.mark.skipif(not tensorboard_installed(), reason="the tensorboard extra is not installed")
def test_tensorboard_reads_the_events(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with MetricsLog(tmp_path) as log:
        log.write(record(10, x=0.5))
        log.write(record(20, x=1.5))
    with MetricsLog(tmp_path, resume_from=10) as log:
        log.write(record(15, x=2.5))
    assert log.failure is None
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [(e.step, e.value) for e in events.Scalars("x")] == [(10, 0.5), (15, 2.5)]


@given(
    values=st.lists(st.floats(-1e3, 1e3), max_size=30),
    window=st.integers(1, 12),
)
def test_running_mean(values: list[float], window: int) -> None:
    expected = [np.mean(values[max(0, i + 1 - window) : i + 1]) for i in range(len(values))]
    np.testing.assert_allclose(running_mean(np.array(values), window), expected, atol=1e-9)


# -- run folders -------------------------------------------------------------------------------------------------------


def test_run_folder(tmp_path: Path) -> None:
    first = runs.RunFolder.create("ppo", "ALE/Pong-v5", 3, {"total_steps": 10, "config": {"gamma": 0.9}}, root=tmp_path)
    second = runs.RunFolder.create("ppo", "ALE/Pong-v5", 3, {}, root=tmp_path)
    assert first.path != second.path
    assert first.path.name.startswith("ppo_ALE-Pong-v5_")
    assert first.path.name.endswith("_s3")
    for path in (first.path, first.best, str(first.last)):
        again = runs.RunFolder.open(path)
        assert again.path == first.path
        assert again.config == first.config
    assert first.config["env"] == "ALE/Pong-v5"
    assert first.config["config"] == {"gamma": 0.9}
    assert {"python", "numpy", "torch"} <= set(first.config["versions"])
    assert {r.path for r in runs.list_runs(tmp_path)} == {first.path, second.path}


def test_run_folder_of_ones_own(tmp_path: Path) -> None:
    run = runs.RunFolder.create("dqn", "CartPole-v1", 0, {}, path=tmp_path / "here" / "mine")
    assert run.path == tmp_path / "here" / "mine"
    with pytest.raises(FileExistsError, match="holds a run already"):
        runs.RunFolder.create("dqn", "CartPole-v1", 0, {}, path=run.path)


def test_trained_checkpoint(tmp_path: Path) -> None:
    from pyrl import checkpoint

    run = runs.RunFolder.create("dqn", "CartPole-v1", 0, {}, root=tmp_path)
    with pytest.raises(FileNotFoundError, match="holds no checkpoint"):
        run.trained()
    checkpoint.save(run.last, {}, {})
    assert run.trained() == run.last
    checkpoint.save(run.best, {}, {})
    assert run.trained() == run.best


@pytest.mark.parametrize(("text", "message"), [("{", "damaged"), ("[]", "does not describe"), ('{"model": 1}', "does not")])
def test_not_a_run(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(FileNotFoundError, match=r"no config\.json"):
        runs.RunFolder.open(tmp_path / "x")
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "config.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        runs.RunFolder.open(tmp_path / "x")
    assert runs.list_runs(tmp_path) == []
