"""Runs Python code in a process of its own, with a time limit."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path


def run_python(code: str, *arguments: str, limit: float = 60, **options) -> subprocess.CompletedProcess[str]:
    """Ends the process after ``limit`` seconds and fails then; ``code`` may import the modules beside this one. From another folder than
    this repository's: in that one the source tree would hide the installed package."""
    prelude = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
    options = {"cwd": tempfile.gettempdir(), **options}
    return subprocess.run([sys.executable, "-c", prelude + code, *arguments], capture_output=True, text=True, timeout=limit, **options)
