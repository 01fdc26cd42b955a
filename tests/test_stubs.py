"""What the package says of itself agrees: the stub with the extension, the versions with each other."""

from importlib.metadata import version
from pathlib import Path

import stubs

import pyrl
from pyrl import _core


def test_stub_is_current() -> None:
    assert (Path(pyrl.__file__).parent / "_core.pyi").read_text() == stubs.generate(), "run `python tests/stubs.py`"


def test_versions_agree() -> None:
    assert _core.__version__ == version("pyrl") == pyrl.__version__
