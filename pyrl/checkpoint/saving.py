"""Writing a checkpoint so that a full disk or a killed process loses nothing."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from errno import EEXIST
from pathlib import Path
from typing import Any

import numpy as np

from pyrl.checkpoint.format import (
    CHUNK,
    FORMAT_VERSION,
    GROUP,
    MANIFEST,
    MAX_HEADER,
    SEAL,
    array_name,
    aside_of,
    library_versions,
)
from pyrl.checkpoint.loading import read_manifest
from pyrl.checkpoint.locks import Lock
from pyrl.checkpoint.strict_json import parse

_SAFETENSORS_DTYPES = {
    "bool": "BOOL", "uint8": "U8", "int8": "I8", "uint16": "U16", "int16": "I16", "uint32": "U32", "int32": "I32",
    "uint64": "U64", "int64": "I64", "float16": "F16", "bfloat16": "BF16", "float32": "F32", "float64": "F64",
}  # fmt: skip


def save(
    path: str | Path,
    tree: Mapping[str, Any],
    metadata: Mapping[str, Any],
    *,
    keep: Iterable[str] = (),
    parents: bool = True,
) -> Path:
    """Write ``tree`` and ``metadata`` as the checkpoint ``path``, replacing the one that is there.

    Leaves of ``tree`` are NumPy arrays, torch tensors (bitwise round trip, back on the CPU) or JSON values;
    ``metadata`` is JSON. Tuples come back as lists, NumPy scalars as Python numbers. TypeError or ValueError for other
    leaves; OSError naming the path and the cause when the disk refuses. After an error the previous checkpoint is as
    it was, and no temporary file is left. Several threads and processes may save and load the same path.

    keep: top-level keys whose contents are those of the checkpoint that is replaced. Their files are linked, not written.
    parents: make the folders above ``path`` where they are missing.
    """
    path = Path(os.path.abspath(path))
    groups: dict[str, dict[str, Any]] = {}
    manifest: dict[str, Any] = {
        "format": "pyrl checkpoint",
        "version": FORMAT_VERSION,
        "libraries": library_versions(),
        "metadata": _json_value(metadata, "metadata"),
        "values": _split(tree, (), groups),
        "files": {},
    }
    temporary = path.with_name(f".tmp-{path.name}-{secrets.token_hex(8)}")
    try:
        if parents:
            path.parent.mkdir(parents=True, exist_ok=True)
        with Lock(path.parent):
            _tidy(path)
            _check_replaceable(path)
            os.mkdir(temporary)
            mark = Lock(temporary)
            for group in keep:
                _link_group(group, path, temporary, manifest)
        with mark:
            for group, arrays in groups.items():
                name = f"{group}.safetensors"
                kinds = {k: "numpy" if isinstance(a, np.ndarray) else "torch" for k, a in arrays.items()}
                manifest["files"][name] = {**_write(temporary / name, _safetensors(arrays)), "arrays": kinds}
            _write(temporary / MANIFEST, [_manifest_bytes(manifest)])
            _sync(temporary)
            with Lock(path.parent):
                _replace(temporary, path)
    except OSError as error:
        cause = f"save: checkpoint {path} was not written: {error.strerror or error}"
        raise OSError(error.errno, cause, str(error.filename or temporary)) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return path


def _link_group(group: str, old: Path, new: Path, manifest: dict[str, Any]) -> None:
    """Carry ``group`` over from the checkpoint ``old`` into ``new``."""
    previous, name = read_manifest(old), f"{group}.safetensors"
    if group in previous["values"]:
        manifest["values"][group] = previous["values"][group]
    if name in previous["files"]:
        manifest["files"][name] = previous["files"][name]
        try:
            os.link(old / name, new / name)
        except OSError:  # not every file system has hard links
            shutil.copyfile(old / name, new / name)


def _split(tree: Any, path: tuple[str, ...], groups: dict[str, dict[str, Any]]) -> Any:
    """The JSON leaves of ``tree``, nested as they were; its arrays go to ``groups[first key][rest of the path]``."""
    if not isinstance(tree, Mapping):
        return _json_value(tree, "/".join(path))
    values: dict[str, Any] = {}
    for key, value in tree.items():
        if not isinstance(key, str):
            raise TypeError(f"save: a key at {'/'.join(path) or 'the top'} is {key!r}, expected a string")
        if _is_array(value):
            group = path[0] if path else key
            if not GROUP.fullmatch(group):
                raise ValueError(f"save: group {group!r} holds arrays, expected a name of letters, digits, _ and -")
            _check_array(value, "/".join((*path, key)))
            groups.setdefault(group, {})[array_name((*path, key)[1:])] = value
        else:
            values[key] = _split(value, (*path, key), groups)
    return values


def _is_array(value: Any) -> bool:
    torch = sys.modules.get("torch")
    return isinstance(value, np.ndarray) or (torch is not None and isinstance(value, torch.Tensor))


def _check_array(array: Any, where: str) -> None:
    if _dtype_name(array) not in _SAFETENSORS_DTYPES:
        raise TypeError(f"save: {where} has dtype {array.dtype}, expected one of {', '.join(_SAFETENSORS_DTYPES)}")
    if not isinstance(array, np.ndarray) and str(array.layout) != "torch.strided":
        raise TypeError(f"save: {where} has layout {array.layout}, expected a dense tensor")


def _dtype_name(array: Any) -> str:
    return array.dtype.name if isinstance(array, np.ndarray) else str(array.dtype).removeprefix("torch.")


def _json_value(value: Any, where: str) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not np.isfinite(value):
        raise ValueError(f"save: {where} is {value}, expected a finite number (or an array, which may hold any)")
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [_json_value(v, f"{where}[{i}]") for i, v in enumerate(value)]
    if isinstance(value, Mapping) and all(isinstance(k, str) for k in value):
        return {k: _json_value(v, f"{where}/{k}") for k, v in value.items()}
    raise TypeError(f"save: {where} is a {type(value).__name__}, expected an array, a tensor or a JSON value")


def _safetensors(arrays: Mapping[str, Any]) -> Iterator[Any]:
    """The bytes of a safetensors file, array by array: the library's own writer needs the whole file in memory."""
    names = sorted(arrays, key=lambda k: (-arrays[k].itemsize, k))  # wide ones first keeps every array aligned
    header, start = {}, 0
    for name in names:
        stop = start + arrays[name].nbytes
        dtype, shape = _SAFETENSORS_DTYPES[_dtype_name(arrays[name])], list(arrays[name].shape)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}
        start = stop
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for name in names:
        array = arrays[name]
        if isinstance(array, np.ndarray):
            yield np.ascontiguousarray(array, array.dtype.newbyteorder("<")).reshape(-1).view(np.uint8)
        else:
            import torch

            yield array.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()


def _manifest_bytes(manifest: Mapping[str, Any]) -> bytes:
    body = json.dumps(manifest, indent=1, allow_nan=False)[1:].encode()
    if len(body) > MAX_HEADER - 128:
        raise ValueError(f"save: the JSON values take {len(body)} bytes, expected at most {MAX_HEADER} (make them arrays)")
    try:
        parse(b"{" + body)
    except ValueError as error:
        raise ValueError(f"save: the JSON values could not be read back: {error}") from None
    return (SEAL % hashlib.sha256(body).hexdigest()).encode() + body


def _write(path: Path, parts: Iterable[Any]) -> dict[str, Any]:
    """Write a new file and flush it to the disk; its length and SHA-256."""
    digest, length = hashlib.sha256(), 0
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        for part in parts:
            rest = memoryview(part)
            digest.update(rest)
            length += len(rest)
            while rest:
                rest = rest[os.write(file, rest[:CHUNK]) :]
        os.fsync(file)
    except OSError as error:
        error.filename = error.filename or str(path)
        raise
    finally:
        os.close(file)
    return {"length": length, "sha256": digest.hexdigest()}


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _replace(temporary: Path, path: Path) -> None:
    """Put ``temporary`` in the place of ``path``, or leave everything as it was and raise."""
    aside = aside_of(path)
    replacing = os.path.lexists(path)
    if replacing:
        os.rename(path, aside)
    try:
        os.rename(temporary, path)
        try:
            _sync(path.parent)
        except OSError:
            os.rename(path, temporary)
            raise
    except OSError:
        if replacing:
            os.rename(aside, path)
        raise
    with suppress(OSError):  # the next save tries again
        _remove(aside)


def _check_replaceable(path: Path) -> None:
    """Only checkpoints and empty folders are replaced: a mistyped path must not delete other files."""
    if path.is_dir():
        for file in path.iterdir():
            if file.name != MANIFEST and file.suffix != ".safetensors":
                raise FileExistsError(EEXIST, f"it holds {file.name!r}, which is not part of a checkpoint", str(path))
    elif os.path.lexists(path):
        raise FileExistsError(EEXIST, "it is a file", str(path))


def _tidy(path: Path) -> None:
    """Undo what a killed save left behind: restore an old checkpoint, remove temporary folders that no process holds."""
    aside = aside_of(path)
    if aside.exists() and not os.path.lexists(path):
        os.rename(aside, path)
    _remove(aside)
    for stray in path.parent.glob(".tmp-*-" + "[0-9a-f]" * 16):
        with suppress(OSError), Lock(stray, wait=False) as lock:
            if lock.held:
                _remove(stray)


def _remove(path: Path) -> None:
    if path.is_symlink() or path.is_file():
        path.unlink()
    else:
        shutil.rmtree(path, ignore_errors=True)
