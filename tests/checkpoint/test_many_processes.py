"""Several processes save and load one path: every save works, every load gives one whole tree, and there is no false error."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from checkpoint_trees import EXAMPLES, assert_same, leftovers, small_tree

from pyrl import checkpoint
from pyrl.checkpoint import loading
from pyrl.checkpoint.format import aside_of
from pyrl.checkpoint.loading import load
from pyrl.checkpoint.saving import save

WRITER = """
import sys, numpy as np
from pathlib import Path
from pyrl.checkpoint.saving import save
path, name, count, size = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
for i in range(count):
    value = 1000 * name + i
    save(path, {"model": {"x": np.full(size, value)}, "other": {"y": np.full(size, value)}, "counters": {"value": value}}, {"value": value})
"""
READER = """
import sys
from pathlib import Path
from pyrl.checkpoint.loading import exists, load, read_metadata
path, stop, loads = Path(sys.argv[1]), Path(sys.argv[2]), 0
while not stop.exists():
    assert exists(path)
    tree, about = load(path)
    values = {about["value"], tree["counters"]["value"], *tree["model"]["x"].tolist(), *tree["other"]["y"].tolist()}
    assert len(values) == 1, values
    read_metadata(path)
    loads += 1
print(loads)
"""


@pytest.mark.parametrize(("writers", "readers", "size"), [(1, 2, 10), (3, 0, 10), (3, 2, 10), (2, 2, 30_000)])
def test_writers_and_readers_of_one_path(tmp_path: Path, writers: int, readers: int, size: int) -> None:
    path, stop, count = tmp_path / "runs" / "last", tmp_path / "stop", 30 * EXAMPLES
    path.parent.mkdir()
    save(path, {"model": {"x": np.zeros(size)}, "other": {"y": np.zeros(size)}, "counters": {"value": 0}}, {"value": 0})

    def start(code: str, *arguments: object) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", code, *map(str, arguments)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    reading = [start(READER, path, stop) for _ in range(readers)]
    writing = [start(WRITER, path, i + 1, count, size) for i in range(writers)]
    try:
        results = [process.communicate(timeout=120 * EXAMPLES) for process in writing]
        stop.touch()
        results += [process.communicate(timeout=60) for process in reading]
    finally:
        for process in (*writing, *reading):
            process.kill()
            process.wait(60)
    assert [error for _, error in results] == [""] * len(results)
    assert all(int(output) > 0 for output, _ in results[writers:])
    assert load(path)[1]["value"] % 1000 == count - 1
    assert leftovers(path.parent) == []


@pytest.mark.parametrize("file", ["manifest.json", "model.safetensors"])
def test_a_load_goes_on_when_a_save_puts_the_checkpoint_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str) -> None:
    """Between the two renames of a save, the folder that is read has another name."""
    path = save(tmp_path / "last", small_tree(1), {})
    seal, moved = loading.hashlib.sha256, []

    def digest(*data: bytes) -> object:
        if not moved and (file == "manifest.json" or not data):  # of an array file it begins with nothing
            moved.append(path.rename(aside_of(path)))
        return seal(*data)

    monkeypatch.setattr(loading.hashlib, "sha256", digest)
    assert_same(load(path)[0], small_tree(1))
    assert moved


def test_kept_groups_are_linked_not_written(tmp_path: Path) -> None:
    path, replay = tmp_path / "last", {"reward": np.arange(1000.0), "options": {"capacity": 7}}
    save(path, {**small_tree(1), "replay": replay}, {})
    file = path / "replay.safetensors"
    before = file.stat().st_ino
    save(path, small_tree(2), {"n": 2}, keep=["replay"])
    tree, about = load(path)
    assert (file.stat().st_ino, about["n"], tree["counters"]["env_steps"]) == (before, 2, 2)
    assert tree["replay"]["options"] == {"capacity": 7}
    np.testing.assert_array_equal(tree["replay"]["reward"], replay["reward"])
    assert file.stat().st_nlink == 1  # the old checkpoint is gone


def test_kept_groups_are_copied_where_there_are_no_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    save(tmp_path / "last", {"replay": {"x": np.ones(3)}}, {})
    monkeypatch.setattr("os.link", refuse)
    save(tmp_path / "last", {}, {}, keep=["replay"])
    np.testing.assert_array_equal(load(tmp_path / "last")[0]["replay"]["x"], np.ones(3))


def test_a_missing_folder_is_not_made_again(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"gone.*was not written: No such file"):
        checkpoint.save(tmp_path / "gone" / "last", small_tree(), {}, parents=False)
    assert list(tmp_path.iterdir()) == []
