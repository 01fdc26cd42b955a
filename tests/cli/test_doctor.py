"""``pyrl doctor``: says what there is and how to get what there is not, and fails where kernels are wrong or missing."""

from __future__ import annotations

import importlib.util
import platform
import re
import sys
from typing import Any

import gymnasium
import pytest
import torch

from pyrl import ops
from pyrl.__main__ import main
from pyrl.cli.doctor import EXTRAS


def told(capsys: pytest.CaptureFixture[str], code: int = 0) -> dict[str, str]:
    assert main(["doctor"]) == code
    lines = [line for line in capsys.readouterr().out.splitlines() if line.strip()]
    return {line.split()[0]: line for line in lines}


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")


def test_what_was_found(capsys: pytest.CaptureFixture[str]) -> None:
    found = told(capsys)
    assert {"pyrl", "machine", "torch", "gymnasium", "kernels", "check", "memory", "workers", *EXTRAS} == set(found)
    assert "MiB of shared memory free" in found["memory"]
    assert re.search(r"(local|ray): a worker made 256 steps of a training in \d+\.\d s", found["workers"])
    assert platform.python_version() in found["machine"]
    assert torch.__version__ in found["torch"]
    assert ("no CUDA device" in found["torch"]) == (torch.cuda.device_count() == 0)
    assert gymnasium.__version__ in found["gymnasium"]
    assert f"{ops.simd_level()} instructions" in found["kernels"]
    assert found["check"].endswith("right")
    for extra, module in EXTRAS.items():
        missing = importlib.util.find_spec(module) is None
        assert (f"not installed: pip install 'pyrl[{extra}]'" in found[extra]) == missing


def test_wrong_kernels_are_told(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    adam = ops.adam

    def wrong(values: Any, *arguments: Any, **options: Any) -> float:
        norm = adam(values, *arguments, **options)
        values[0] += 0.01
        return norm

    monkeypatch.setattr(ops, "adam", wrong)
    assert "WRONG" in told(capsys, code=1)["check"]


def test_missing_kernels_are_told(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    import pyrl

    monkeypatch.delattr(pyrl, "ops", raising=False)
    monkeypatch.setitem(sys.modules, "pyrl.ops", None)  # what an import of it says where the extension is not built
    found = told(capsys, code=1)
    assert "pyrl.ops" in found["kernels"]
    assert "check" not in found


def test_workers_that_do_not_work_are_told(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where shared memory cannot be had."""
    from pyrl.distributed import supervisor

    def refused(*arguments: Any) -> Any:
        raise RuntimeError("unable to allocate shared memory(shm): No space left on device (28)")

    monkeypatch.setattr(supervisor.Vitals, "shared", refused)
    assert "FAILS: unable to allocate shared memory" in told(capsys, code=1)["workers"]


def test_simd_level_has_a_name() -> None:
    assert ops.simd_level() in ("portable", "avx2", "avx512")
