"""What is done to a checkpoint by the fuzzer of `loader`: as attackers, bad disks and foreign writers would."""

from __future__ import annotations

import hashlib
import json
import math
import os
import random
import shutil
import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import pyrl
from pyrl.checkpoint.format import MANIFEST, SEAL

GOLDEN = Path(__file__).parent.parent / "golden"


def fresh(value: Any) -> Any:
    """A copy of JSON values; `copy.deepcopy` does not go deep enough."""
    return json.loads(json.dumps(value))


@dataclass
class Draft:
    """A checkpoint to be written: what `mutate` changes."""

    manifest: dict[str, Any]
    files: dict[str, bytes]
    text: Callable[[str], str] | None = None  # of the manifest, before it is sealed
    after: list[Callable[[Path], None]] = field(default_factory=list)  # changes behind the seal

    def write(self, folder: Path) -> None:
        manifest = fresh(self.manifest)
        entries = manifest.get("files")
        for name, data in self.files.items():
            (folder / name).write_bytes(data)
            if isinstance(entries, dict) and isinstance(entries.get(name), dict):
                for key, true in (("length", len(data)), ("sha256", hashlib.sha256(data).hexdigest())):
                    if entries[name].get(key) == "auto":
                        entries[name][key] = true
        text = json.dumps(manifest, indent=1)
        if self.text is not None:
            text = self.text(text)
        body = text[1:].encode("utf-8", "surrogatepass")
        (folder / MANIFEST).write_bytes((SEAL % hashlib.sha256(body).hexdigest()).encode() + body)
        for change in self.after:
            with suppress(OSError):  # another mutation has taken the file away, or made something else of it
                change(folder)


def read(folder: Path) -> Draft:
    manifest = json.loads((folder / MANIFEST).read_text())
    del manifest["sha256"]
    files = {name: (folder / name).read_bytes() for name in manifest["files"]}
    for entry in manifest["files"].values():
        entry |= {"length": "auto", "sha256": "auto"}
    return Draft(manifest, files)


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


HOSTILE: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 3, 255, 2**31, 2**53 + 1, 2**63 - 1, 2**63, 2**64, 10**30, -(2**63) - 1, 1e300, -1e300, 0.5, -0.0,
    1e-320,
    "", "x", "nan", "inf", "-inf", "1", "ppo", "float32", "V1000000000", "O", "f4,f4", "cuda", "x" * 70_000, "\x00", "\udc80",
    "../../etc/passwd",
    [], {}, [1, 2], [[1], [2]], [None], {"a": 1}, {"type": "Box"}, [20000, 20000], [1] * 3000, [1e9], ["64"], [-1], [2**40], [0],
    nested(50), nested(300),
    ["linear", 1], "linear_1e-3", "linear_nan", "auto_1e400", [1] * 200_000, {str(i): i for i in range(20_000)},
)  # fmt: skip

BOX = {"type": "Box", "low": -1.0, "high": 1.0, "shape": [3], "dtype": "float32"}
SPACES: tuple[Any, ...] = (
    {**BOX, "shape": [1 << 28]}, {**BOX, "shape": [1 << 20, 1 << 20]}, {**BOX, "shape": [1 << 21]}, {**BOX, "shape": [1] * 40},
    {**BOX, "shape": [0]}, {**BOX, "shape": []}, {**BOX, "shape": [3, 0]}, {**BOX, "shape": [-3]}, {**BOX, "shape": 3}, {**BOX,
    "shape": [2.0]},
    {**BOX, "shape": [10**60] * 30}, {**BOX, "dtype": "V1000000000"}, {**BOX, "dtype": "float64"}, {**BOX, "dtype": "uint8"}, {**BOX,
    "low": 1e300},
    {**BOX, "low": "nan"}, {**BOX, "low": [1, 2]}, {**BOX, "low": [[1, 2, 3]]}, {**BOX, "low": 2}, {**BOX, "low": "x" * 1000}, {**BOX,
    "dtype": "S1000000"},
    {"type": "Dict", "spaces": {str(i): {**BOX, "shape": [1 << 17]} for i in range(300)}}, {"type": "Dict", "spaces": {}},
    {"type": "Dict", "spaces": {str(i): BOX for i in range(6000)}}, {"type": "Tuple", "spaces": [BOX] * 2000}, {"type": "Tuple",
    "spaces": []},
    {"type": "Tuple", "spaces": BOX}, {"type": "Dict", "spaces": [BOX]}, {"type": ["Box"]}, {"type": {}},
    {"type": "Discrete", "n": 30_000_000, "start": 0, "dtype": "int64"}, {"type": "Discrete", "n": 2**70, "start": 0, "dtype": "int64"},
    {"type": "Discrete", "n": 2, "start": 2**62, "dtype": "int64"}, {"type": "Discrete", "n": 2.5, "start": 0, "dtype": "int64"},
    {"type": "Discrete", "n": 2, "start": 0, "dtype": "float32"}, {"type": "Discrete", "n": True, "start": 0, "dtype": "int8"},
    {"type": "MultiBinary", "n": 1 << 33}, {"type": "MultiBinary", "n": [1 << 20, 1 << 20]}, {"type": "MultiBinary", "n": 4},
    {"type": "MultiBinary", "n": []},
    {"type": "MultiDiscrete", "nvec": [2] * 100_000, "start": [0] * 100_000, "dtype": "int64"},
    {"type": "MultiDiscrete", "nvec": [2**62, 2**62], "start": [0, 0], "dtype": "int64"}, {"type": "MultiDiscrete", "nvec": nested(40),
    "start": 0, "dtype": "int64"},
    {"type": "MultiDiscrete", "nvec": [], "start": [], "dtype": "int64"}, {"type": "MultiDiscrete", "nvec": [{}], "start": [0],
    "dtype": "int64"},
    {"type": "MultiDiscrete", "nvec": [[2, 3], [2]], "start": [0, 0], "dtype": "int64"}, {"type": "MultiDiscrete", "nvec": [2, 3],
    "start": [0], "dtype": "int64"},
)  # fmt: skip


def deep_space(depth: int) -> Any:
    space: Any = BOX
    for _ in range(depth):
        space = {"type": "Tuple", "spaces": [space]}
    return space


def places(tree: Any) -> list[tuple[Any, Any]]:
    """(container, key) of every value in a JSON tree."""
    found, pending = [], [tree]
    while pending:
        node = pending.pop()
        for key in list(node) if isinstance(node, dict) else range(len(node)):
            found.append((node, key))
            if isinstance(node[key], dict | list):
                pending.append(node[key])
    return found


def change_value(chance: random.Random, draft: Draft) -> None:
    node, key = chance.choice(places(draft.manifest))
    node[key] = fresh(chance.choice(HOSTILE))


def nudge_number(chance: random.Random, draft: Draft) -> None:
    numbers = [(n, k) for n, k in places(draft.manifest) if type(n[k]) in (int, float)]
    node, key = chance.choice(numbers)
    value = node[key]
    node[key] = chance.choice(
        [value + 1, value - 1, -value, value * 2, float(value), str(value), bool(value), value + 2**63, value * 10**6]
    )


def change_key(chance: random.Random, draft: Draft) -> None:
    node, key = chance.choice([(n, k) for n, k in places(draft.manifest) if isinstance(n, dict)])
    value = node.pop(key)
    if chance.random() < 0.6:
        node[chance.choice([str(key) + "x", "", "x" * 300, "~", "a/b", str(key).upper(), *map(str, node)])] = value


def swap_values(chance: random.Random, draft: Draft) -> None:
    (a, i), (b, j) = (chance.choice(places(draft.manifest)) for _ in range(2))
    a[i], b[j] = fresh(b[j]), fresh(a[i])


def change_setting(chance: random.Random, draft: Draft) -> None:
    about = draft.manifest.get("metadata")
    if not isinstance(about, dict) or not isinstance(about.get("config"), dict):
        return
    match chance.randrange(4):
        case 0:
            sizes = [
                [20000, 20000],
                [1] * 3000,
                [1] * 200_000,
                [2**40],
                [],
                [6],
                [6, 4, 4],
                [4, 6],
                [1448, 1448],
                [5000],
                [6, 4.0],
                [6, True],
                [10**60],
            ]
            about["config"]["net_arch"] = chance.choice(sizes)
        case 1:
            about["num_envs"] = chance.choice([0, -1, 2, 10**6, 10**9, 2**62, 2**70, 1.0, "1", None, True])
        case 2:
            about["algo"] = chance.choice([*pyrl.available_agents(), "base", "os", "", "..", "x" * 60_000, 3, None, ["ppo"]])
        case _:
            about["config"][chance.choice([*about["config"], "lr"])] = fresh(chance.choice(HOSTILE))


def change_space(chance: random.Random, draft: Draft) -> None:
    about = draft.manifest.get("metadata")
    if isinstance(about, dict):
        space = chance.choice([*SPACES, deep_space(20), deep_space(31), deep_space(200)])
        about[chance.choice(["observation_space", "action_space"])] = fresh(space)


def change_text(chance: random.Random, draft: Draft) -> None:
    """What a JSON library would not write."""
    token = chance.choice(
        ["1e999", "-1e999", "9" * 4000, "9" * 10_000, "NaN", "Infinity", "1.0e400", "[" * 5000, "[" * 500 + "]" * 500, '{"a":' * 2000,
        "0x1", "01", "1" + "0" * 70,
         "{},[],[],{}" * 100_000, '{"a":1,"a":2}', '"\\ud800"', "[" + "{}," * 600_000 + "{}]", '"' + "y" * 100_000 + '"', "\x00",
         "1.5," * 300_000 + "1"]
    )  # fmt: skip
    pick = chance.random()

    def replace(text: str) -> str:
        numbers = [i for i, c in enumerate(text[:-1]) if c in ":[" and (text[i + 1].isdigit() or text[i + 1 : i + 3].strip()[:1].isdigit())]
        at = numbers[int(pick * len(numbers))] + 1 if numbers else 1
        end = at
        while end < len(text) and text[end] not in ",]}\n":
            end += 1
        return text[:at] + token + text[end:]

    draft.text = replace


def split_file(data: bytes) -> tuple[dict[str, Any], bytes]:
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def join_file(header: Any, data: bytes) -> bytes:
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data


def any_file(chance: random.Random, draft: Draft) -> str | None:
    return chance.choice(sorted(draft.files)) if draft.files else None


def change_header(chance: random.Random, draft: Draft) -> None:
    name = any_file(chance, draft)
    if name is None:
        return
    try:
        header, data = split_file(draft.files[name])
        array = chance.choice(sorted(header))
        about = header[array]
        shape, (start, stop) = list(about["shape"]), about["data_offsets"]
    except (ValueError, KeyError, TypeError, IndexError):
        return
    match chance.randrange(9):
        case 0:  # the same bytes as another type
            about["dtype"] = chance.choice(
                ["I32", "U32", "F32", "F64", "I64", "U64", "F16", "BF16", "U8", "I8", "BOOL", "F8_E4M3", "OBJ", "", None, 3]
            )
        case 1:
            about["shape"] = chance.choice(
                [shape[::-1], [math.prod(shape)], [1, *shape], [*shape, 1], [], [0], [-1], [2**62, 4], [2**32, 2**32], [1] * 100, "x"]
            )
        case 2:  # an array of another type and of as many elements, as an old or foreign writer would leave it
            count = math.prod(shape)
            code, kind = chance.choice([("I32", "<i4"), ("F64", "<f8"), ("F16", "<f2"), ("U8", "<u1"), ("I64", "<i8"), ("F32", "<f4")])
            payload = np.zeros(count, kind).tobytes()
            header, data = _replaced(header, data, array, code, shape, payload)
        case 3:
            about["data_offsets"] = chance.choice(
                [[start + 1, stop + 1], [start, stop + 4], [stop, start], [0, 2**63], [-4, 0], [0, 0], [start], None]
            )
        case 4:
            new = chance.choice([array + "x", "", "a/b", "~2", "network.actor.0.weight", "x" * 5000, "../x"])
            header[new] = header.pop(array)
            entry = draft.manifest.get("files", {})
            entry = entry.get(name) if isinstance(entry, dict) else None
            if isinstance(entry, dict) and isinstance(entry.get("arrays"), dict) and chance.random() < 0.7:
                entry["arrays"][new] = entry["arrays"].pop(array, "torch")
        case 5:
            other = chance.choice(sorted(header))
            header[array], header[other] = header[other], header[array]
        case 6:
            header["__metadata__"] = chance.choice([{"a": "b"}, {"a": 1}, [], None, {"x": "y" * 70_000}])
        case 7:
            header, data = _replaced(header, data, array, about["dtype"], [0], b"")
        case _:
            for i in range(chance.choice([1, 20, 3000])):
                header[f"more{i}"] = {"dtype": "F32", "shape": [0], "data_offsets": [len(data), len(data)]}
                with_entry = draft.manifest.get("files", {})
                if (
                    isinstance(with_entry, dict)
                    and isinstance(with_entry.get(name), dict)
                    and isinstance(with_entry[name].get("arrays"), dict)
                ):
                    with_entry[name]["arrays"][f"more{i}"] = "torch"
    draft.files[name] = join_file(header, data)


def _replaced(header: dict[str, Any], data: bytes, array: str, code: str, shape: list[int], payload: bytes) -> tuple[dict[str, Any], bytes]:
    """The file with another ``array``; the rest as it was, laid out anew."""
    pieces, at, made = [], 0, {}
    try:
        ranges = {name: header[name]["data_offsets"] for name in header}
        names = sorted(ranges, key=lambda name: ranges[name][0])
    except (KeyError, TypeError, IndexError):  # a mutation before has left no arrays that could be laid out
        return header, data
    for name in names:
        start, stop = ranges[name]
        piece = payload if name == array else data[start:stop]
        made[name] = {**header[name], "data_offsets": [at, at + len(piece)]}
        at += len(piece)
        pieces.append(piece)
    made[array] |= {"dtype": code, "shape": shape}
    return made, b"".join(pieces)


def change_bytes(chance: random.Random, draft: Draft) -> None:
    name = any_file(chance, draft)
    if name is None:
        return
    data = bytearray(draft.files[name])
    start = min(len(data), 8 + int.from_bytes(data[:8], "little")) if chance.random() < 0.85 else 0
    if len(data) - start < 8:
        return
    for _ in range(chance.choice([1, 1, 1, 3, 30])):
        at = start + 4 * chance.randrange((len(data) - start) // 4)
        patch = chance.choice(
            [struct.pack("<f", math.nan), struct.pack("<f", math.inf), struct.pack("<f", -1.0), struct.pack("<f", 3e38), b"\xff" * 4,
            b"\0" * 4,
             bytes(chance.randrange(256) for _ in range(4)), struct.pack("<d", math.nan), struct.pack("<q", 2**62), struct.pack("<q",
             -1), b"\x01", b"\x02", b"\x3f", b"\x80"]
        )  # fmt: skip
        data[at : at + len(patch)] = patch[: len(data) - at]
    draft.files[name] = bytes(data)


def change_length(chance: random.Random, draft: Draft) -> None:
    name = any_file(chance, draft)
    if name is None:
        return
    data = draft.files[name]
    cut = chance.choice([0, 1, 7, 8, 9, len(data) // 2, max(0, len(data) - 1), max(0, len(data) - 4)])
    draft.files[name] = data[:cut] if chance.random() < 0.6 else data + bytes(chance.choice([1, 4, 8, 4096, 1 << 20]))


def change_group(chance: random.Random, draft: Draft) -> None:
    name, entries = any_file(chance, draft), draft.manifest.get("files")
    if name is None or not isinstance(entries, dict):
        return
    match chance.randrange(5):
        case 0:
            draft.files.pop(name)
            entries.pop(name, None)
        case 1:
            new = (
                chance.choice(
                    ["model", "optimizer", "loop", "normalizer", "random", "counters", "metadata", "x", "a" * 65, "../x", ".hidden", "CON"]
                )
                + ".safetensors"
            )
            if "/" not in new:
                draft.files[new] = draft.files.pop(name)
            if name in entries:
                entries[new] = entries.pop(name)
        case 2:
            draft.files["extra.safetensors"] = draft.files[name]
        case 3:
            entry = entries.get(name)
            if isinstance(entry, dict) and isinstance(entry.get("arrays"), dict) and entry["arrays"]:
                chosen = chance.choice([sorted(entry["arrays"])[:1], sorted(entry["arrays"])])
                for array in chosen:
                    entry["arrays"][array] = "numpy" if entry["arrays"][array] == "torch" else "torch"
        case _:
            other = read(chance.choice(BASES))
            if name in other.files:
                draft.files[name], entries[name] = other.files[name], other.manifest["files"][name]


def change_disk(chance: random.Random, draft: Draft) -> None:
    """Behind the seal: what a bad disk or a stranger with a shell leaves."""
    name, pick, bit = any_file(chance, draft) or MANIFEST, chance.random(), chance.randrange(8)
    name = chance.choice([name, MANIFEST])

    def flip(folder: Path) -> None:
        data = bytearray((folder / name).read_bytes())
        if data:
            data[int(pick * len(data))] ^= 1 << bit
            (folder / name).write_bytes(data)

    def link(folder: Path) -> None:
        shutil.move(folder / name, folder.parent / "elsewhere")
        (folder / name).symlink_to(folder.parent / "elsewhere")

    def pipe(folder: Path) -> None:
        (folder / name).unlink()
        os.mkfifo(folder / name)

    def directory(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).mkdir()

    def remove(folder: Path) -> None:
        (folder / name).unlink()

    def cut(folder: Path) -> None:
        os.truncate(folder / name, int(pick * (folder / name).stat().st_size))

    def hole(folder: Path) -> None:
        os.truncate(folder / name, 1 << 40)

    draft.after.append(chance.choice([flip, flip, flip, link, pipe, directory, remove, cut, hole]))


MUTATIONS = (
    (change_value, 6), (nudge_number, 3), (change_key, 3), (swap_values, 2), (change_setting, 5), (change_space, 5), (change_text, 3),
    (change_header, 6),
    (change_bytes, 5), (change_length, 2), (change_group, 3), (change_disk, 1),
)  # fmt: skip
BASES = sorted(folder for folder in GOLDEN.glob("*/checkpoints/last") if (folder / MANIFEST).exists())


def mutated(seed: int) -> tuple[Path, Draft, str]:
    """The base, its mutation number ``seed``, and what was done."""
    chance = random.Random(seed)
    base = chance.choice(BASES)
    draft, names = read(base), []
    for _ in range(chance.choice([1, 1, 1, 1, 2, 3])):
        (change,) = chance.choices([m for m, _ in MUTATIONS], [w for _, w in MUTATIONS])
        change(chance, draft)
        names.append(change.__name__)
    return base, draft, f"{base.parent.parent.name}: {' + '.join(names)}"
