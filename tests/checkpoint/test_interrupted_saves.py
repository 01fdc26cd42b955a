"""Checkpoints: nothing is lost when processes are killed, system calls fail and disks are full."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from checkpoint_trees import EXAMPLES, assert_same, leftovers, small_tree

from pyrl.checkpoint.loading import load
from pyrl.checkpoint.saving import save

SAVER = """
import sys, numpy as np
from pathlib import Path
from pyrl.checkpoint.saving import save
path, generation = Path(sys.argv[1]), int(sys.argv[2])
while True:
    generation += 1
    save(path, {"model": {"x": np.full(20_000, generation)}, "counters": {"generation": generation}}, {})
    print(generation, flush=True)
"""


def test_killed_in_mid_save(tmp_path: Path) -> None:
    """Whatever moment the process dies at, the checkpoint is whole and not older than the last acknowledged save."""
    path, generation, strays = tmp_path / "last", 0, 0
    chance = random.Random(0)
    for _ in range(20 * EXAMPLES):
        saver = subprocess.Popen([sys.executable, "-c", SAVER, str(path), str(generation)], stdout=subprocess.PIPE, text=True)
        assert saver.stdout is not None
        acknowledged = [saver.stdout.readline()]
        time.sleep(chance.uniform(0, 0.03))
        saver.send_signal(signal.SIGKILL)
        acknowledged += saver.stdout.read().splitlines()
        saver.wait(60)
        saver.stdout.close()
        strays += bool(leftovers(tmp_path))
        tree, _ = load(path)
        assert (tree["model"]["x"] == tree["counters"]["generation"]).all()
        assert tree["counters"]["generation"] >= int(acknowledged[-1])
        generation = tree["counters"]["generation"]
    save(path, small_tree(), {})
    assert leftovers(tmp_path) == []
    print(f"{strays} of {20 * EXAMPLES} kills left something behind")


def test_killed_between_the_renames(tmp_path: Path) -> None:
    save(tmp_path / "last", small_tree(1), {})
    (tmp_path / "last").rename(tmp_path / ".old-last")
    assert_same(small_tree(1), load(tmp_path / "last")[0])
    with pytest.raises(TypeError):
        save(tmp_path / "last", {"a": object()}, {})
    save(tmp_path / "last", small_tree(2), {})
    assert_same(small_tree(2), load(tmp_path / "last")[0])
    assert leftovers(tmp_path) == []


def test_strays_are_removed_unless_somebody_writes_them(tmp_path: Path) -> None:
    code = f"""
import sys, time
from pathlib import Path
from pyrl.checkpoint.locks import Lock
folder = Path({str(tmp_path)!r}, ".tmp-best-" + "b" * 16)
folder.mkdir()
with Lock(folder):
    print("held", flush=True)
    time.sleep(60)
"""
    (tmp_path / (".tmp-last-" + "a" * 16)).mkdir()
    (tmp_path / ".tmp-last-notes").mkdir()
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        save(tmp_path / "last", small_tree(), {})
        assert sorted(leftovers(tmp_path)) == [".tmp-best-" + "b" * 16, ".tmp-last-notes"]
        writer.kill()
    save(tmp_path / "last", small_tree(), {})
    assert leftovers(tmp_path) == [".tmp-last-notes"]


def error_of(function: Any) -> OSError | None:
    try:
        function()
    except OSError as error:
        return error
    return None


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EFBIG, errno.EACCES])
def test_every_system_call_may_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    """Fail the n-th of open, write, fsync, rename, mkdir, n = 1, 2, ...: OSError, the old checkpoint, no leftovers."""
    save(tmp_path / "last", small_tree(1), {})
    calls = {"count": 0, "fail_at": 0}

    def failing(function: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            calls["count"] += 1
            if calls["count"] == calls["fail_at"]:
                raise OSError(code, os.strerror(code))
            return function(*args, **kwargs)

        return call

    failures = 0
    while True:
        calls.update(count=0, fail_at=failures + 1)
        with monkeypatch.context() as patch:
            for name in ("open", "write", "fsync", "rename", "mkdir"):
                patch.setattr(os, name, failing(getattr(os, name)))
            error = error_of(lambda: save(tmp_path / "last", small_tree(2), {}))
        if calls["count"] < calls["fail_at"]:
            break
        if error is None:  # a call whose failure does not matter, while tidying up
            save(tmp_path / "last", small_tree(1), {})
        else:
            assert error.errno == code
            assert str(tmp_path / "last") in str(error)
            assert os.strerror(code) in str(error)
        failures += 1
        assert_same(small_tree(1), load(tmp_path / "last")[0])
        assert leftovers(tmp_path) == []
    assert failures > 15
    assert_same(small_tree(2), load(tmp_path / "last")[0])


def test_short_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda file, data: write(file, data[:7]))
        save(tmp_path / "last", small_tree(1), {})
    assert_same(small_tree(1), load(tmp_path / "last")[0])


def test_file_size_limit(tmp_path: Path) -> None:
    """The kernel itself refuses: RLIMIT_FSIZE stands for a full disk."""
    save(tmp_path / "last", small_tree(1), {})
    code = f"""
import resource, signal, numpy as np
from pyrl.checkpoint.saving import save
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    save({str(tmp_path / "last")!r}, {{"model": {{"x": np.zeros(100_000)}}}}, {{}})
except OSError as error:
    print(error)
"""
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300).stdout
    assert "was not written: File too large" in output
    assert "model.safetensors" in output
    assert_same(small_tree(1), load(tmp_path / "last")[0])
    assert leftovers(tmp_path) == []


def test_interrupt_in_mid_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "last", small_tree(1), {})

    def interrupted(file: int) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", interrupted)
        with pytest.raises(KeyboardInterrupt):
            save(tmp_path / "last", small_tree(2), {})
    assert_same(small_tree(1), load(tmp_path / "last")[0])
    assert leftovers(tmp_path) == []
