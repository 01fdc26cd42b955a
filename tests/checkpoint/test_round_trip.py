"""Checkpoints: what comes back is bit for bit what was saved, in plain files; differences are listed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoint_trees import EXAMPLES, assert_same, flip, leftovers, small_tree
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.numpy import load_file

from pyrl import checkpoint
from pyrl.checkpoint.format import MANIFEST
from pyrl.checkpoint.loading import load, read_metadata
from pyrl.checkpoint.saving import save
from pyrl.checkpoint.spaces_json import space_to_json
from pyrl.errors import CheckpointError, SpaceError

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
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300).stdout == "[0, 1, 2]\n"


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
