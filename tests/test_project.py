"""What holds the tests together: extras, pins, and a time limit for every process."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pytest needs it there

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXTRAS = PROJECT["project"]["optional-dependencies"]
FILES = sorted(path for folder in ("tests", "examples") for path in (ROOT / folder).rglob("*.py"))


def name_of(requirement: str) -> str:
    return re.match(r"[\w.-]+", requirement)[0].lower().replace("_", "-")  # type: ignore[index]


APART = {"ray", "rllib", "tianshou"}  # extras that cannot live beside the others, or start clusters; their tests say how to run them


def test_all_is_every_extra_but_that_of_the_tests() -> None:
    (everything,) = EXTRAS["all"]
    assert set(everything.removeprefix("pyrl[").removesuffix("]").split(",")) == EXTRAS.keys() - {"all", "test", *APART}


def test_everything_is_pinned() -> None:
    pins = {name_of(line) for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")}
    wanted = {name_of(r) for extra in EXTRAS.values() for r in extra} | {name_of(r) for r in PROJECT["project"]["dependencies"]}
    assert wanted - pins == {"pyrl"}


def test_every_test_has_a_time_limit() -> None:
    options = PROJECT["tool"]["pytest"]["ini_options"]
    assert options["timeout"] > 0
    assert options["timeout_method"] == "thread"  # a signal would wait for a kernel to return


def unlimited(source: str) -> list[int]:
    """Lines that wait for a process of `subprocess` without a limit."""
    tree = ast.parse(source)
    if "subprocess" not in source:
        return []
    lines = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        whose, what = ast.unparse(node.func.value), node.func.attr
        waits = what in {"run", "call", "check_call", "check_output"} if whose == "subprocess" else what == "communicate"
        if waits and not any(keyword.arg in ("timeout", None) for keyword in node.keywords):
            lines.append(node.lineno)
    return lines


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_processes_have_a_time_limit(path: Path) -> None:
    assert unlimited(path.read_text()) == []


def test_what_counts_as_unlimited() -> None:
    limited = "import subprocess\nsubprocess.run(x, timeout=3)\np.communicate(timeout=2)\nrun.run(x)\nsubprocess.run(x, **options)"
    assert unlimited(limited) == []
    assert unlimited("import subprocess\nsubprocess.run(x)\nsubprocess.check_output(x)\np.communicate()") == [2, 3, 4]


@pytest.mark.parametrize(("reason", "code"), [("torch finds no GPU", 0), ("envpool is not installed", 1)])
def test_skips_are_counted_and_only_the_hardware_excuses_them(reason: str, code: int, tmp_path: Path) -> None:
    shutil.copy(ROOT / "tests" / "conftest.py", tmp_path)
    (tmp_path / "test_it.py").write_text(f"import pytest\n\ndef test_a(): pytest.skip({reason!r})\ndef test_b(): pass\n")
    command = [sys.executable, "-m", "pytest", "--complete", "-p", "no:cacheprovider", "test_it.py"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=300)
    assert done.returncode == code, done.stdout
    assert f"     1 {reason}\n" in done.stdout
    assert ("1 tests run only on other hardware" in done.stdout) == (code == 0)
