"""Each adapter says which package is missing, and the extra that brings it; none is imported with `pyrl.adapters`."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

import pyrl.adapters

FOLDER = Path(pyrl.adapters.__file__).parent
SHARED = {"columns", "hosts"}
HOSTS = {
    "sb3": "stable_baselines3",
    "torchrl": "torchrl",
    "tianshou": "tianshou",
    "minari": "minari",
    "rllib": "ray",
    "cleanrl": None,
    "cpprb": None,
}
ADAPTERS = sorted(
    {path.stem for path in FOLDER.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()} - SHARED - {"__init__"}
)


def output(code: str) -> str:
    with tempfile.TemporaryDirectory() as folder:
        return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=folder, timeout=300).stdout


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_a_missing_host_is_named_with_its_extra(adapter: str) -> None:
    host = HOSTS[adapter]
    if host is None:  # needs no host
        assert output(f"import sys, pyrl.adapters.{adapter}; print({adapter!r} in sys.modules)").strip() == "False"
        return
    code = f"""
import importlib, sys
sys.modules[{host!r}] = None  # any import of it fails
from pyrl.errors import MissingPackageError
try:
    importlib.import_module("pyrl.adapters.{adapter}")
except MissingPackageError as error:
    assert isinstance(error, ModuleNotFoundError)
    print(error)
"""
    assert output(code).strip() == f"pyrl.adapters.{adapter} needs {host}, which is not installed: pip install 'pyrl[{adapter}]'"


def test_the_extras_are_there() -> None:
    project = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    for adapter in ADAPTERS:
        if HOSTS[adapter] is not None:
            assert f"\n{adapter} = [" in project
