"""Regenerates pyrl/_core.pyi from the built extension: `python tests/stubs.py`. tests/test_stubs.py fails when it has drifted."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path


def generate() -> str:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pybind11_stubgen", "pyrl._core", "-o", folder, "--exit-code"]
        subprocess.run(command, check=True, capture_output=True, text=True, cwd=folder, timeout=300)
        return (Path(folder) / "pyrl" / "_core.pyi").read_text()


if __name__ == "__main__":
    (Path(__file__).parent.parent / "pyrl" / "_core.pyi").write_text(generate())
