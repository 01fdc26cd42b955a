"""Reading a checkpoint as untrusted input."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from pyrl.checkpoint.errors import checkpoint_errors
from pyrl.checkpoint.format import CHUNK, FORMAT_VERSION, GROUP, MANIFEST, MAX_HEADER, SEAL, array_keys, aside_of
from pyrl.checkpoint.locks import Lock
from pyrl.checkpoint.strict_json import parse
from pyrl.errors import CheckpointError

Tree: TypeAlias = dict[str, Any]  # nested dicts with arrays, tensors and JSON values as leaves
Result = TypeVar("Result")


def load(path: str | Path, groups: Iterable[str] | None = None) -> tuple[Tree, dict[str, Any]]:
    """``(tree, metadata)`` as given to `save`, every byte verified; only the top-level keys in ``groups`` if given.

    FileNotFoundError when there is no checkpoint at ``path``; CheckpointError, saying which file and why, when there is
    anything wrong with it. Nothing in a checkpoint is executed, and nothing is allocated that its files do not hold.
    """
    with checkpoint_errors(path, "cannot be read"):
        return _whole(Path(path), lambda folder: _load(folder, None if groups is None else set(groups)))


def _load(path: Path, wanted: set[str] | None) -> tuple[Tree, dict[str, Any]]:
    manifest = read_manifest(path)
    _check_listing(path, manifest["files"])
    tree = {k: v for k, v in manifest["values"].items() if wanted is None or k in wanted}
    for name, entry in manifest["files"].items():
        group = name.removesuffix(".safetensors")
        if wanted is not None and group not in wanted:
            continue
        for key, array in _read_arrays(path / name, entry).items():
            _insert(tree, [group, *array_keys(key)], array, path)
    return tree, manifest["metadata"]


def read_metadata(path: str | Path) -> dict[str, Any]:
    """The metadata alone; the arrays are not read."""
    with checkpoint_errors(path, "cannot be read"):
        return _whole(Path(path), lambda folder: read_manifest(folder)["metadata"])


def exists(path: str | Path) -> bool:
    """Whether `load` would find a checkpoint there, whole or not."""
    return _find(Path(path)) is not None


def _whole(path: Path, read: Callable[[Path], Result]) -> Result:
    """``read`` the folder of the checkpoint, again if a save replaced it meanwhile."""
    while True:
        folder = _existing(path)
        try:
            handle = os.open(folder, os.O_RDONLY)  # while it is open, no other folder gets its inode
        except FileNotFoundError:
            continue
        try:
            result = read(folder)
            if not _was_replaced(path, folder, handle):  # else some files may be of the old one and some of the new
                return result
        except (CheckpointError, OSError):
            if not _was_replaced(path, folder, handle):
                raise
        finally:
            os.close(handle)


def _was_replaced(path: Path, folder: Path, handle: int) -> bool:
    """Whether the checkpoint is no longer the open ``handle``, or no longer called ``folder``: a save puts the old one aside first."""
    found = _find(path)
    try:
        return found is not None and (found != folder or not os.path.samestat(os.fstat(handle), os.stat(found)))
    except FileNotFoundError:
        return True


def _existing(path: Path) -> Path:
    folder = _find(path)
    if folder is not None:
        return folder
    if path.is_dir():
        raise CheckpointError(f"{path} is not a checkpoint: it has no {MANIFEST}")
    raise FileNotFoundError(f"there is no checkpoint {path}")


def _find(path: Path) -> Path | None:
    """The folder of the checkpoint: between the two renames of a save the old one has another name."""
    candidates = path, aside_of(path)
    for folder in candidates:
        if (folder / MANIFEST).exists():
            return folder
    with suppress(OSError), Lock(path.parent):  # nor between two checks
        return next((folder for folder in candidates if (folder / MANIFEST).exists()), None)
    return None


def read_manifest(path: Path) -> dict[str, Any]:
    """What the manifest in the folder ``path`` says, checked."""
    file = path / MANIFEST
    data = _read(file, MAX_HEADER)
    manifest = _strict_json(data, file)
    version = manifest.get("version")
    if manifest.get("format") != "pyrl checkpoint" or type(version) is not int:
        raise CheckpointError(f"{file} is not a manifest of a pyrl checkpoint")
    if version != FORMAT_VERSION:
        raise CheckpointError(f"{file} has format version {version}, expected {FORMAT_VERSION}: it needs another version of pyrl")
    seal = len(SEAL % ("0" * 64))
    if data[:seal] != (SEAL % hashlib.sha256(data[seal:]).hexdigest()).encode():
        raise CheckpointError(f"{file} is damaged: its SHA-256 is not the one it states")
    for key in ("metadata", "values", "files"):
        if not isinstance(manifest.get(key), dict):
            raise CheckpointError(f"{file}: {key!r} is missing or no object")
    for name, entry in manifest["files"].items():
        if not name.endswith(".safetensors") or not GROUP.fullmatch(name.removesuffix(".safetensors")):
            raise CheckpointError(f"{file} lists a file named {name!r}, expected <group>.safetensors")
        kinds = entry.get("arrays") if isinstance(entry, dict) else None
        if not isinstance(kinds, dict) or not all(kind in ("numpy", "torch") for kind in kinds.values()):
            raise CheckpointError(f"{file}: the entry of {name} is malformed")
        if type(entry.get("length")) is not int or not isinstance(entry.get("sha256"), str):
            raise CheckpointError(f"{file}: the entry of {name} is malformed")
    return manifest


def _check_listing(path: Path, files: Mapping[str, Any]) -> None:
    with os.scandir(path) as entries:
        found = {e.name: e.stat(follow_symlinks=False) for e in entries}
    for name, status in found.items():
        if name != MANIFEST and name not in files:
            raise CheckpointError(f"{path} holds {name!r}, which its manifest does not list")
        if not stat.S_ISREG(status.st_mode):
            raise CheckpointError(f"{path / name} is not a regular file")
    for name, entry in files.items():
        if name not in found:
            raise CheckpointError(f"{path / name} is missing")
        if found[name].st_size != entry["length"]:
            raise CheckpointError(f"{path / name} has {found[name].st_size} bytes, expected {entry['length']}")


def _read(file: Path, limit: int) -> bytes:
    try:
        handle = os.open(file, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read: {error.strerror} (links are refused)") from error
    with os.fdopen(handle, "rb") as stream:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise CheckpointError(f"{file} is not a regular file")
        data = stream.read(limit + 1)
    if len(data) > limit:
        raise CheckpointError(f"{file} is longer than {limit} bytes")
    return data


def _strict_json(data: bytes, where: Path) -> dict[str, Any]:
    try:
        return parse(data)
    except ValueError as error:
        raise CheckpointError(f"{where} is damaged: {error}") from error


def _read_arrays(file: Path, entry: Mapping[str, Any]) -> dict[str, Any]:
    from safetensors import SafetensorError, safe_open

    digest = hashlib.sha256()
    with open(file, "rb") as stream:
        while chunk := stream.read(CHUNK):
            digest.update(chunk)
        if digest.hexdigest() != entry["sha256"]:
            raise CheckpointError(f"{file} is damaged: its SHA-256 is not the one in the manifest")
        stream.seek(0)
        length = int.from_bytes(stream.read(8), "little")
        if length > min(MAX_HEADER, entry["length"] - 8):
            raise CheckpointError(f"{file} is damaged: its header claims {length} bytes")
        _strict_json(stream.read(length), file)  # the library accepts a repeated name
    arrays: dict[str, Any] = {}
    try:
        for kind, framework in (("numpy", "np"), ("torch", "pt")):
            names = [name for name, k in entry["arrays"].items() if k == kind]
            if names:
                with safe_open(file, framework) as reader:
                    if set(reader.keys()) != set(entry["arrays"]):
                        raise CheckpointError(f"{file} holds other arrays than its manifest lists")
                    arrays |= {name: reader.get_tensor(name) for name in names}
    except (SafetensorError, TypeError, ValueError, OverflowError) as error:
        raise CheckpointError(f"{file} is damaged: {error}") from error
    return arrays


def _insert(tree: Tree, keys: list[str], array: Any, path: Path) -> None:
    node: Any = tree
    for key in keys[:-1]:
        node = node.get(key) if isinstance(node, dict) else None
    if not isinstance(node, dict) or keys[-1] in node:
        raise CheckpointError(f"{path / MANIFEST}: there is no place for the array {'/'.join(keys)}")
    node[keys[-1]] = array
