"""Checkpoints: bitwise round trips, and nothing lost or executed, whatever happens to process, disk and files."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.numpy import load_file

from pyrl import checkpoint
from pyrl.checkpoint.format import MANIFEST, SEAL
from pyrl.checkpoint.loading import load, read_metadata
from pyrl.checkpoint.saving import save
from pyrl.checkpoint.spaces_json import space_to_json
from pyrl.errors import CheckpointError, SpaceError

EXAMPLES = int(os.environ.get("PYRL_EXAMPLES", "1"))  # multiplies the number of kills, flips and random trees


def small_tree(generation: int = 0) -> dict[str, Any]:
    return {
        "model": {"actor.0.weight": torch.full((4, 3), float(generation)), "log_std": torch.zeros(())},
        "optimizer": {"adam": {"0.step": torch.tensor(7.0), "0.exp_avg": torch.ones(4, 3)}},
        "normalizer": {"mean": np.full(3, generation, np.float64), "active": True},
        "random": {"agent": [2**64 - 1, 3, 5]},
        "counters": {"env_steps": generation},
    }


def assert_same(saved: Any, loaded: Any) -> None:
    if isinstance(saved, dict):
        assert set(saved) == set(loaded)
        for key in saved:
            assert_same(saved[key], loaded[key])
    elif isinstance(saved, torch.Tensor):
        assert isinstance(loaded, torch.Tensor)
        assert (saved.dtype, saved.shape) == (loaded.dtype, loaded.shape)
        bits = [t.detach().contiguous().reshape(-1).view(torch.uint8) for t in (saved, loaded)]
        assert torch.equal(*bits)
    elif isinstance(saved, np.ndarray):
        assert isinstance(loaded, np.ndarray)
        assert (saved.dtype, saved.shape) == (loaded.dtype, loaded.shape)
        assert saved.tobytes() == loaded.tobytes()
    else:
        assert type(saved) is type(loaded)
        assert saved == loaded


def leftovers(folder: Path) -> list[str]:
    return [p.name for p in folder.iterdir() if p.name.startswith(".")]


# -- round trips -------------------------------------------------------------------------------------------------------

ARRAYS = hnp.arrays(
    st.sampled_from([np.bool_, np.uint8, np.int16, np.int32, np.int64, np.uint64, np.float16, np.float32, np.float64]),
    hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
)
TENSORS = st.tuples(
    st.sampled_from([torch.bool, torch.uint8, torch.int64, torch.float16, torch.bfloat16, torch.float32, torch.float64]),
    st.lists(st.integers(0, 4), max_size=3),
).map(lambda a: (torch.randn(a[1]) * 9).to(a[0]))
FINITE = st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**128), 2**128) | FINITE | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=5,
)
KEYS = st.text(max_size=6)
TREES = st.dictionaries(
    st.from_regex(r"[A-Za-z0-9_-]{1,8}", fullmatch=True),
    ARRAYS | TENSORS | JSON | st.dictionaries(KEYS, ARRAYS | TENSORS | JSON | st.dictionaries(KEYS, ARRAYS | TENSORS | JSON)),
    max_size=4,
)


@settings(max_examples=60 * EXAMPLES, deadline=None)
@given(tree=TREES, metadata=st.dictionaries(KEYS, JSON, max_size=3))
def test_round_trip_is_bitwise(tmp_path_factory: pytest.TempPathFactory, tree: Any, metadata: Any) -> None:
    path = tmp_path_factory.mktemp("checkpoint") / "last"
    save(path, tree, metadata)
    loaded, about = load(path)
    assert_same(tree, loaded)
    assert_same(metadata, about)
    assert read_metadata(path) == about
    assert leftovers(path.parent) == []


def test_unusual_memory_layouts(tmp_path: Path) -> None:
    base = torch.arange(24, dtype=torch.float32).reshape(4, 6).requires_grad_()
    tree = {
        "a": {
            "transposed": base.detach().T,
            "view": base[1:3, ::2],
            "shared": base,  # overlaps the others
            "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
            "reversed": np.arange(5)[::-1],
            "readonly": np.broadcast_to(np.float32(3), (2, 2)),
        }
    }
    save(tmp_path / "c", tree, {})
    assert_same(tree, load(tmp_path / "c")[0])
    save(tmp_path / "d", {"a": {"x": np.arange(3, dtype=">i4")}}, {})
    assert load(tmp_path / "d")[0]["a"]["x"].tolist() == [0, 1, 2]


def test_files_are_plain_safetensors_and_json(tmp_path: Path) -> None:
    save(tmp_path / "c", small_tree(3), {"algo": "ppo"})
    assert sorted(p.name for p in (tmp_path / "c").iterdir()) == [
        "manifest.json", "model.safetensors", "normalizer.safetensors", "optimizer.safetensors",
    ]  # fmt: skip
    arrays = load_file(tmp_path / "c" / "optimizer.safetensors")
    assert sorted(arrays) == ["adam/0.exp_avg", "adam/0.step"]
    manifest = json.loads((tmp_path / "c" / MANIFEST).read_text())
    assert manifest["values"]["counters"] == {"env_steps": 3}
    assert manifest["libraries"]["torch"] == torch.__version__.split("+")[0] or "torch" in manifest["libraries"]


def test_numpy_alone_needs_no_torch(tmp_path: Path) -> None:
    code = f"""
import sys
sys.modules["torch"] = None
import numpy as np
from pyrl import checkpoint
from pyrl.checkpoint.spaces_json import space_to_json
checkpoint.save({str(tmp_path / "c")!r}, {{"buffer": {{"x": np.arange(3)}}}}, {{}})
print(checkpoint.load({str(tmp_path / "c")!r})[0]["buffer"]["x"].tolist())
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[0, 1, 2]\n"


def test_groups_are_read_alone(tmp_path: Path) -> None:
    save(tmp_path / "c", small_tree(), {"k": 1})
    flip(tmp_path / "c" / "optimizer.safetensors", -1, 0)
    tree, about = load(tmp_path / "c", groups=("model", "counters"))
    assert set(tree) == {"model", "counters"}
    assert about == {"k": 1}
    with pytest.raises(CheckpointError, match=r"optimizer\.safetensors is damaged"):
        load(tmp_path / "c")


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"a": {"b": object()}}, "a/b is a object"),
        ({"a": {"b": np.array([None])}}, "a/b has dtype object"),
        ({"a": {"b": np.array(["x"])}}, "a/b has dtype"),
        ({"a": {"b": np.zeros(2, np.complex128)}}, "a/b has dtype complex128"),
        ({"a": {"b": torch.zeros(3).to_sparse()}}, "a/b has layout torch.sparse"),
        ({"a": {"b": [np.zeros(2)]}}, r"a/b\[0\] is a ndarray"),
        ({"a": {3: 4}}, "a key at a is 3"),
        ({"a": {"b": float("nan")}}, "a/b is nan"),
        ({"a": {"b": [1.0, float("inf")]}}, r"a/b\[1\] is inf"),
        ({"../a": {"b": np.zeros(2)}}, r"group '\.\./a' holds arrays"),
        ({"a": {"b": "x" * (9 << 20)}}, "the JSON values take"),
    ],
)
def test_what_cannot_be_saved(tmp_path: Path, tree: Any, message: str) -> None:
    save(tmp_path / "c", small_tree(1), {})
    with pytest.raises((TypeError, ValueError), match=message):
        save(tmp_path / "c", tree, {})
    assert_same(small_tree(1), load(tmp_path / "c")[0])
    assert leftovers(tmp_path) == []


def test_other_peoples_files_are_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "thesis.tex").write_text("words")
    with pytest.raises(FileExistsError, match=r"holds 'thesis.tex'"):
        save(tmp_path / "work", small_tree(), {})
    with pytest.raises(FileExistsError, match="it is a file"):
        save(tmp_path / "work" / "thesis.tex", small_tree(), {})
    assert (tmp_path / "work" / "thesis.tex").read_text() == "words"
    assert leftovers(tmp_path) == []


# -- killed processes and full disks -----------------------------------------------------------------------------------

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
        saver.wait()
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
from pyrl.checkpoint.saving import _Lock
folder = Path({str(tmp_path)!r}, ".tmp-best-" + "b" * 16)
folder.mkdir()
with _Lock(folder):
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
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
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


# -- damage and attacks ------------------------------------------------------------------------------------------------


def flip(file: Path, byte: int, bit: int) -> None:
    data = bytearray(file.read_bytes())
    data[byte] ^= 1 << bit
    file.write_bytes(data)


def test_every_flipped_bit_is_found(tmp_path: Path) -> None:
    path = save(tmp_path / "c", small_tree(), {"algo": "ppo", "env_steps": 100})
    chance = random.Random(0)
    files = sorted(path.iterdir())
    for _ in range(500 * EXAMPLES):
        file = chance.choice(files)
        byte, bit = chance.randrange(file.stat().st_size), chance.randrange(8)
        flip(file, byte, bit)
        with pytest.raises(CheckpointError, match=file.name):
            load(path)
        flip(file, byte, bit)
    load(path)


def test_every_truncation_is_found(tmp_path: Path) -> None:
    path = save(tmp_path / "c", small_tree(), {})
    for file in path.iterdir():
        whole = file.read_bytes()
        for length in {0, 1, 7, 8, 9, *range(0, len(whole), 97), len(whole) - 1}:
            file.write_bytes(whole[:length])
            with pytest.raises(CheckpointError, match=file.name):
                load(path)
        file.write_bytes(whole + b"\0")
        with pytest.raises(CheckpointError, match=file.name):
            load(path)
        file.write_bytes(whole)


def test_mixed_generations_are_found(tmp_path: Path) -> None:
    old, new = save(tmp_path / "a", small_tree(1), {}), save(tmp_path / "b", small_tree(2), {})
    (new / "model.safetensors").write_bytes((old / "model.safetensors").read_bytes())
    with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged"):
        load(new)


def forge(path: Path, change: Any) -> None:
    """Rewrite the manifest with ``change`` applied, sealed as the library would: an attacker knows how."""
    manifest = json.loads((path / MANIFEST).read_text())
    del manifest["sha256"]
    seal(path, json.dumps(change(manifest) or manifest))


def seal(path: Path, text: str) -> None:
    body = text[1:].encode()
    (path / MANIFEST).write_bytes((SEAL % hashlib.sha256(body).hexdigest()).encode() + body)


def forge_arrays(path: Path, header: bytes, data: bytes = b"") -> None:
    """Replace model.safetensors and the manifest's words about it."""
    content = len(header).to_bytes(8, "little") + header + data
    (path / "model.safetensors").write_bytes(content)

    def change(manifest: dict[str, Any]) -> None:
        manifest["files"]["model.safetensors"] |= {
            "length": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
        }

    forge(path, change)


def move(manifest: dict[str, Any], name: str) -> None:
    manifest["files"][name] = manifest["files"].pop("model.safetensors")


MANIFEST_ATTACKS = {
    "future version": (lambda m: m | {"version": 2}, "format version 2, expected 1"),
    "boolean version": (lambda m: m | {"version": True}, "no manifest"),
    "another format": (lambda m: m | {"format": "zip"}, "no manifest"),
    "no files": (lambda m: m.pop("files") and m, "'files' is missing"),
    "parent folder": (lambda m: move(m, "../model.safetensors"), "lists a file named"),
    "absolute name": (lambda m: move(m, "/etc/x.safetensors"), "lists a file named"),
    "NUL in a name": (lambda m: move(m, "a\0.safetensors"), "lists a file named"),
    "pickle": (lambda m: move(m, "model.pt"), "lists a file named"),
    "missing file": (lambda m: move(m, "other.safetensors"), "which its manifest does not list"),
    "kind": (lambda m: m["files"]["model.safetensors"]["arrays"].update({"log_std": "pickle"}), "malformed"),
    "fractional length": (lambda m: m["files"]["model.safetensors"].update(length=8.0), "malformed"),
    "claimed length": (lambda m: m["files"]["model.safetensors"].update(length=2**40), "expected 1099511627776"),
    "array left out": (lambda m: m["files"]["model.safetensors"]["arrays"].pop("log_std") and None, "other arrays"),
    "array over a value": (lambda m: m["values"]["model"].update(log_std=1), "no place for the array"),
    "array in a list": (lambda m: m["values"].update(model=[]), "no place for the array"),
}


@pytest.mark.parametrize("attack", MANIFEST_ATTACKS)
def test_forged_manifest(tmp_path: Path, attack: str) -> None:
    path = save(tmp_path / "c", small_tree(), {})
    change, message = MANIFEST_ATTACKS[attack]
    forge(path, change)
    with pytest.raises(CheckpointError, match=message):
        load(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"version": 1, "version": 1}', "a key occurs twice"),
        ('{"version": NaN}', "NaN is no JSON number"),
        ('{"version": -Infinity}', "-Infinity is no JSON number"),
        ('{"a": ' + "[" * 100_000 + "]" * 100_000 + "}", "damaged"),
        ('{"a": ' + "9" * 100_000 + "}", "damaged"),
        ("{", "damaged"),
        ('{"a": "' + "x" * (9 << 20) + '"}', "longer than"),
    ],
    ids=["duplicate", "NaN", "infinity", "deep", "long number", "cut", "long"],
)
def test_hostile_json(tmp_path: Path, text: str, message: str) -> None:
    path = save(tmp_path / "c", small_tree(), {})
    seal(path, text)
    with pytest.raises(CheckpointError, match=message):
        load(path)


F32 = b'{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'


@pytest.mark.parametrize(
    ("header", "data"),
    [
        (b'{"log_std":' + F32 + b',"log_std":' + F32 + b"}", b"1234"),
        (b'{"log_std":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,4398046511104]}}', b"1234"),
        (b'{"log_std":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,4]}}', b"1234"),
        (b'{"log_std":' + F32 + b',"actor.0.weight":' + F32 + b"}", b"1234"),
        (b'{"log_std":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}', b"12341234"),
        (b'{"log_std":{"dtype":"OBJ","shape":[1],"data_offsets":[0,4]}}', b"1234"),
        (b'{"log_std":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}', b"1234"),
        (b'{"log_std":' + F32 + b"}", b"1234trailing"),
        (b'{"other":' + F32 + b"}", b"1234"),
        (b"[]", b""),
        (b"", b""),
    ],
    ids=["duplicate", "huge", "overflow", "overlap", "hole", "dtype", "negative", "trailing", "other", "list", "empty"],
)
def test_hostile_safetensors(tmp_path: Path, header: bytes, data: bytes) -> None:
    path = save(tmp_path / "c", {"model": {"log_std": np.zeros(1, np.float32)}}, {})
    forge_arrays(path, header, data)
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        load(path)


def test_unlisted_files_and_links_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "c", small_tree(), {})
    (path / "hook.py").write_text("raise SystemExit")
    with pytest.raises(CheckpointError, match=r"holds 'hook\.py'"):
        load(path)
    (path / "hook.py").unlink()
    secret = tmp_path / "secret"
    (path / "model.safetensors").rename(secret)
    (path / "model.safetensors").symlink_to(secret)
    with pytest.raises(CheckpointError, match=r"model\.safetensors is no regular file"):
        load(path)
    (path / MANIFEST).rename(tmp_path / "manifest")
    (path / MANIFEST).symlink_to(tmp_path / "manifest")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load(path)
    (path / MANIFEST).unlink()
    os.mkfifo(path / MANIFEST)
    with pytest.raises(CheckpointError, match="no regular file"):
        load(path)


def test_missing_checkpoints(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no checkpoint"):
        load(tmp_path / "nothing")
    with pytest.raises(CheckpointError, match="it has no manifest"):
        load(tmp_path)


# -- agents, spaces, differences ---------------------------------------------------------------------------------------


def test_differences_are_listed() -> None:
    saved = {"gamma": 0.99, "net": {"arch": [64, 64]}, "old": 1}
    checkpoint.require_match(saved, saved, "checkpoint c: config")
    with pytest.raises(CheckpointError) as caught:
        checkpoint.require_match(saved, {"gamma": 0.9, "net": {"arch": [64, 32]}}, "checkpoint c: config")
    assert str(caught.value).splitlines() == [
        "checkpoint c: config differs:",
        "  gamma: saved 0.99, wanted 0.9",
        "  net.arch: saved [64, 64], wanted [64, 32]",
        "  old: saved 1, wanted (nothing)",
    ]


def test_different_spaces_are_listed() -> None:
    from gymnasium import spaces

    saved = spaces.Dict({"a": spaces.Box(-1, 1, (3,)), "b": spaces.Discrete(2)})
    wanted = spaces.Dict({"a": spaces.Box(-1, 1, (4,)), "b": spaces.Discrete(2)})
    checkpoint.require_match(space_to_json(saved), saved, "observation_space")
    with pytest.raises(SpaceError) as caught:
        checkpoint.require_match(saved, wanted, "checkpoint c: observation_space")
    assert str(caught.value).splitlines() == [
        "checkpoint c: observation_space differs:", "  spaces.a.shape: saved [3], wanted [4]",
    ]  # fmt: skip
