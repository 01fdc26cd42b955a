"""The plan of the house, checked (docs/architecture.md): who may import and include whom, and what importing costs."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from pyrl.agents.registry import SHARED, agent_class

ROOT = Path(__file__).parent.parent
LEAVES = {"errors", "own", "schedules", "seeding", "spaces", "torchrun", "trees", "types"}
# What each room may import from pyrl, beside itself and the leaves.
ALLOWED = {
    "ops": {"_core"},
    "nets": {"ops"},
    "engine": {"ops", "nets"},
    "buffers": {"ops", "checkpoint"},
    "envs": {"ops"},
    "adapters": {"ops", "buffers"},
    "checkpoint": set(),
    "agents": {"ops", "nets", "engine", "checkpoint"},
    "deploy": {"agents", "engine", "nets"},
    "loops": {"agents", "envs", "buffers", "ops"},
    "distributed": {"loops", "agents", "envs", "buffers", "ops"},
    "experiment": {"distributed", "loops", "agents", "engine", "envs", "checkpoint"},
    "cli": {"experiment", "deploy", "loops", "agents", "envs", "checkpoint", "ops", "__init__"},
}
CPP_ALLOWED = {
    "core": {"core"},
    "returns": {"core", "returns"},
    "replay": {"core", "replay"},
    "sampling": {"core", "sampling"},
    "nn": {"core", "nn"},
    "envs": {"core", "envs"},
    "bindings": {"core", "returns", "replay", "sampling", "nn", "envs", "bindings"},
}


def room_of(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def imports_of(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{a.name}" for a in node.names} if node.module == "pyrl" else {node.module}
    return {n for n in names if n == "pyrl" or n.startswith("pyrl.")}


SOURCES = sorted(p for p in (ROOT / "pyrl").rglob("*.py") if p.parent != ROOT / "pyrl" or p.name not in {"__init__.py", "__main__.py"})


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_python_arrows(path: Path) -> None:
    room = path.relative_to(ROOT / "pyrl").parts[0].removesuffix(".py")
    allowed = LEAVES | {room} | ALLOWED.get(room, set()) if room not in LEAVES else LEAVES
    wrong = {n for n in imports_of(path) if room_of(n) not in allowed}
    assert not wrong, f"{path.name} in {room} imports {wrong}, allowed: {sorted(allowed)}"


@pytest.mark.parametrize(
    "path",
    sorted(p for p in (ROOT / "csrc").rglob("*.*") if p.suffix in {".cpp", ".hpp", ".cu", ".cuh"}),
    ids=lambda p: str(p.relative_to(ROOT)),
)
def test_cpp_arrows(path: Path) -> None:
    room = path.relative_to(ROOT / "csrc").parts[0]
    text = path.read_text()
    for included in re.findall(r'#include "([^"/]+)/', text):
        assert included in CPP_ALLOWED[room], f"{path.name} in {room} includes {included}/"
    if room != "bindings":
        assert not re.search(r"#include <(pybind11|Python\.h|torch|numpy)", text), f"{path.name} knows of Python"


ALGORITHMS = sorted(p for p in (ROOT / "pyrl" / "agents").glob("*.py") if p.stem not in {*SHARED, "__init__"})


def code_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Its lines, the docstring left out: that of `pyrl.train` documents 21 arguments."""
    first = function.body[0]
    assert function.end_lineno is not None
    assert first.end_lineno is not None
    has_docstring = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str)
    return function.end_lineno - function.lineno + 1 - (first.end_lineno - first.lineno + 1 if has_docstring else 0)


@pytest.mark.parametrize(
    "path",
    sorted(
        p for room in ("pyrl", "csrc") for p in (ROOT / room).rglob("*.*") if p.suffix in {".py", ".c", ".h", ".cpp", ".hpp", ".cu", ".cuh"}
    ),
    ids=lambda p: str(p.relative_to(ROOT)),
)
def test_files_and_functions_are_short(path: Path) -> None:
    """What breaks a budget is split."""
    text, most = path.read_text(), 250 if path in ALGORITHMS else 400
    assert len(text.splitlines()) <= most, f"{path.name} has {len(text.splitlines())} lines, at most {most}"
    functions = (
        [n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)] if path.suffix == ".py" else []
    )
    long = {n.name: lines for n in functions if (lines := code_lines(n)) > 60}
    assert not long, f"{path.name}: lines of functions {long}, at most 60"


@pytest.mark.parametrize("path", ALGORITHMS, ids=lambda p: p.stem)
def test_no_algorithm_extends_another(path: Path) -> None:
    """What two algorithms share is a skeleton, an agent's or a config's, that is none itself."""
    ours = agent_class(path.stem)
    algorithms = [agent_class(other.stem) for other in ALGORITHMS if other != path]
    kin = {*ours.__mro__, *ours.Config.__mro__} & {cls for other in algorithms for cls in (other, other.Config)}
    assert not kin, f"{ours.__name__} extends {[cls.__name__ for cls in kin]}"


def run_python(code: str) -> str:
    """From another folder: in this one the source tree would hide the installed package."""
    with tempfile.TemporaryDirectory() as folder:
        return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=folder, timeout=300).stdout


def test_import_is_lazy() -> None:
    loaded = run_python("import sys, pyrl; print(*sorted(m for m in sys.modules if m in ('torch', 'gymnasium', 'matplotlib', 'numpy')))")
    assert loaded.split() == []


@pytest.mark.parametrize("engine", ["native", "torch"])
def test_torchs_compiler_is_not_imported(engine: str) -> None:
    """It takes seconds; torch's optimisers import it when they are made and when they step."""
    code = f"""
import sys
from pyrl.__main__ import main
runs = {{"ppo": "CartPole-v1 --n-steps 16", "dqn": "CartPole-v1 --learning-starts 20", "sac": "Pendulum-v1 --learning-starts 20"}}
for algo, flags in runs.items():
    shared = "--engine {engine} --num-envs 1 --batch-size 16 --total-steps 40 --quiet --no-curve --run-dir"
    main(["train", algo, *flags.split(), *shared.split(), algo])
import pyrl
for algo in runs:
    agent = pyrl.load(algo + "/checkpoints/last")
    print(algo, agent.engine, agent.updates > 0, "torch._dynamo" in sys.modules)
"""
    assert run_python(code).splitlines() == [f"{algo} {engine} True False" for algo in ("ppo", "dqn", "sac")]


def test_parts_work_without_torch() -> None:
    code = """
import sys
sys.modules["torch"] = None  # any import of torch fails
import numpy as np, pyrl
from gymnasium.spaces import Box, Discrete
advantage, return_ = pyrl.ops.gae(*(np.ones((3, 2), np.float32),) * 3, *(np.zeros((3, 2), bool),) * 2, gamma=0.9, gae_lambda=0.8)
buffer = pyrl.buffers.ReplayBuffer(10, Box(-1, 1, (3,)), Discrete(2))
for _ in range(5):
    buffer.add(np.zeros((1, 3), np.float32), 0, 1.0, np.ones((1, 3), np.float32), False, False)
print(advantage.shape, buffer.sample(4).observation.shape)
"""
    assert run_python(code).strip() == "(3, 2) (4, 3)"


def test_no_file_cites_one_that_is_not_here() -> None:
    """Markdown files that docs, comments and messages name: in the repository, or somebody else's address."""
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60).stdout.split()
    if not tracked:
        pytest.skip("no git checkout")
    names = {Path(name).name for name in tracked}
    read = [
        name
        for name in tracked
        if name.endswith((".md", ".py", ".cpp", ".hpp", ".cu", ".cuh", ".toml", ".txt")) and (ROOT / name).is_file()
    ]
    cited = {(name, found) for name in read for found in re.findall(r"(?<![\w*{}])[\w./-]+\.md\b", (ROOT / name).read_text())}
    wrong = sorted(f"{name} cites {found}" for name, found in cited if "://" not in found and Path(found).name not in names)
    assert not wrong, wrong


@pytest.mark.parametrize("path", [p for p in SOURCES if p.relative_to(ROOT / "pyrl").parts[0] == "loops"], ids=lambda p: p.name)
def test_loops_read_no_config(path: Path) -> None:
    """An agent says what it stores (`Agent.storage`); what its config holds is its own affair."""
    read = [
        node.lineno
        for node in ast.walk(ast.parse(path.read_text()))
        if (isinstance(node, ast.Attribute) and node.attr in ("config", "Config"))
        or (isinstance(node, ast.Constant) and node.value in ("config", "Config"))
    ]
    assert not read, f"{path.name} reads a config in lines {read}"
