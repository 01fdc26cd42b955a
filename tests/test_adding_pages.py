"""The pages on adding an algorithm, a kernel and an environment backend, followed: their files are written and their commands run.

A block of a page says its file behind its language (```` ```python thread_backend.py ````); the lines of a ``console`` block are commands.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"^```(\w+)(?: (\S+))?\n(.*?)^```", re.MULTILINE | re.DOTALL)


def files_of(page: str) -> dict[str, str]:
    return {name: text for _, name, text in BLOCK.findall((ROOT / "docs" / page).read_text()) if name}


def commands_of(page: str, program: str) -> list[list[str]]:
    """The arguments of each command that calls ``program``."""
    consoles = [text for language, _, text in BLOCK.findall((ROOT / "docs" / page).read_text()) if language == "console"]
    lines = [shlex.split(line.removeprefix("$ ")) for text in consoles for line in text.splitlines()]
    return [words[1:] for words in lines if words[0] == program]


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def run(code: str, cwd: Path, *path: Path) -> str:
    """``code`` in a process of its own that finds ``path`` before everything else."""
    paths = [str(folder) for folder in path] + [os.environ[name] for name in ("PYTHONPATH",) if name in os.environ]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], cwd=cwd, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


TESTED = "import pytest; assert pytest.main(['-q', '-p', 'no:cacheprovider', {0!r}]) == 0\n"
COMMANDS = "from pyrl.__main__ import main\nfor words in {0!r}:\n    assert main(words) == 0, words\n"


def install(folder: Path) -> None:
    """What pip makes of the folder's pyproject.toml: the metadata by which its entry points are found."""
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    groups = (f"[{group}]\n" + "\n".join(f"{k} = {v}" for k, v in entries.items()) for group, entries in project["entry-points"].items())
    about = folder / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    (about / "entry_points.txt").write_text("\n".join(groups) + "\n")


def test_an_algorithm_outside_of_pyrl(tmp_path: Path) -> None:
    files, commands = files_of("adding_an_algorithm.md"), commands_of("adding_an_algorithm.md", "pyrl")
    assert len(commands) == 4
    write(tmp_path / "package", files)
    install(tmp_path / "package")
    tested = TESTED.format(str(tmp_path / "package" / "test_pyrl_awr.py")).replace("import pytest;", "import pytest, pyrl_awr;")
    shown = run(COMMANDS.format(commands) + tested, tmp_path, tmp_path / "package")
    assert "--beta" in shown
    assert (tmp_path / "runs/awr/checkpoints/last").is_dir()


def test_an_algorithm_inside_pyrl(tmp_path: Path) -> None:
    import pyrl

    shutil.copytree(Path(pyrl.__file__).parent, tmp_path / "pyrl", ignore=shutil.ignore_patterns("__pycache__"))
    files = files_of("adding_an_algorithm.md")
    write(tmp_path, {"pyrl/agents/awr.py": files["pyrl_awr.py"]})
    write(tmp_path, {"test_awr.py": files["test_pyrl_awr.py"].replace("from pyrl_awr import", "from pyrl.agents.awr import")})
    listed = "import pyrl; assert 'awr' in pyrl.available_agents(), pyrl.__file__\n"
    run(listed + TESTED.format(str(tmp_path / "test_awr.py")), tmp_path, tmp_path)


def test_an_env_backend(tmp_path: Path) -> None:
    commands = commands_of("adding_an_env_backend.md", "pyrl")
    assert len(commands) == 3
    write(tmp_path, files_of("adding_an_env_backend.md"))
    run(COMMANDS.format(commands) + TESTED.format("test_thread_backend.py"), tmp_path, tmp_path)


# The bindings' shared code, the module and the page's files as one small module, which takes seconds where the whole takes minutes.
SUPPORT = ("array_arg", "border", "call", "cuda_arg", "fast_call", "fresh_array", "tensor_arg", "module")
FLAGS = "-std=c++20 -O0 -fPIC -shared -fvisibility=hidden -ffp-contract=off -Wall -Wextra -Wno-psabi -Werror -DPYRL_HAS_CUDA=0 -pthread"
KERNEL = """
import importlib.util, runpy, sys

spec = importlib.util.spec_from_file_location("_core", "_core.so")
small = importlib.util.module_from_spec(spec)
spec.loader.exec_module(small)
from pyrl import _core, ops
from pyrl.ops import returns

_core.running_return = small.running_return
exec(open("page/pyrl/ops/returns.py").read(), vars(returns))
ops.running_return = returns.running_return
sys.path.append({root!r})
from tests.fuzz import signatures

exec(open("page/tests/fuzz/signatures.py").read(), vars(signatures))
import pytest

assert pytest.main(["-q", "-p", "no:cacheprovider", "page/tests/ops/test_running_return.py"]) == 0
sys.argv = ["border", "--only", "running_return", "--calls", "300"]
runpy.run_module("tests.fuzz.border", run_name="__main__", alter_sys=True)
"""


def test_a_kernel(tmp_path: Path) -> None:
    compiler = shutil.which(os.environ.get("CXX", "c++"))
    assert compiler, "no C++ compiler, with which pyrl itself is built"
    write(tmp_path / "page", files_of("adding_a_kernel.md"))
    own = sorted(str(path) for path in tmp_path.glob("page/csrc/**/*.cpp"))
    assert len(own) == 2
    support = [f"bindings/{name}.cpp" for name in SUPPORT]
    (tmp_path / "all.cpp").write_text("".join(f'#include "{path}"\n' for path in (*support, *own)))
    core = [str(path) for path in sorted((ROOT / "csrc/core").glob("*.cpp"))]
    found = subprocess.run([sys.executable, "-m", "pybind11", "--includes"], capture_output=True, text=True, check=True, timeout=60)
    includes = found.stdout.replace("-I", "-isystem").split()
    command = [compiler, *FLAGS.split(), '-DPYRL_VERSION="page"', f"-I{tmp_path}/page/csrc", f"-I{ROOT}/csrc", *includes]
    built = subprocess.run([*command, "all.cpp", *core, "-o", "_core.so"], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert built.returncode == 0, built.stderr[:3000]
    run(KERNEL.format(root=str(ROOT)), tmp_path)
