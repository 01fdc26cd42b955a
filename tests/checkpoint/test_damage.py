"""Checkpoints: damage is found, and nothing that a forged file says is executed or believed."""

from __future__ import annotations

import hashlib
import json
import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoint_trees import EXAMPLES, flip, small_tree

from pyrl.checkpoint.format import MANIFEST, SEAL
from pyrl.checkpoint.loading import load
from pyrl.checkpoint.saving import save
from pyrl.errors import CheckpointError


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
    "boolean version": (lambda m: m | {"version": True}, "not a manifest"),
    "another format": (lambda m: m | {"format": "zip"}, "not a manifest"),
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
        ('{"version": NaN}', "NaN is not a JSON number"),
        ('{"version": -Infinity}', "-Infinity is not a JSON number"),
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
    with pytest.raises(CheckpointError, match=r"model\.safetensors is not a regular file"):
        load(path)
    (path / MANIFEST).rename(tmp_path / "manifest")
    (path / MANIFEST).symlink_to(tmp_path / "manifest")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load(path)
    (path / MANIFEST).unlink()
    os.mkfifo(path / MANIFEST)
    with pytest.raises(CheckpointError, match="not a regular file"):
        load(path)


def test_missing_checkpoints(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no checkpoint"):
        load(tmp_path / "nothing")
    with pytest.raises(CheckpointError, match="it has no manifest"):
        load(tmp_path)
