"""Everything that wants a GPU, in one command: build, tests, compute-sanitizer, benchmarks, each with a limit of its own.

    python benchmarks/gpu_all.py --out results/gpu [--wheels FOLDER]    # at most 12 minutes (`LIMIT`), on a machine with a GPU and nvcc
    python benchmarks/gpu_all.py --out results/gpu --emulated           # the same stages here, on the emulated GPU; no figure of it counts

Stages run in the order of what is worth most. Each result is written when its stage ends, so whatever stops the command leaves what came
before: ``gpu_all.json`` (every stage with seconds, exit code and the end of its output; what the benchmarks measured), and
the same as a table for docs/cuda.md. A stage that fails does not stop those after it, but for the build. Exit code 1 if one failed.

Runs with the Python it is started by, which needs pytest, hypothesis and pyrl's dependencies; ``--wheels`` installs missing ones from a
folder of wheels. The extension module is built in place, for this machine's GPU alone.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
TABLE = "gpu_all" + ".md"  # by parts, as no such file is in the repository
LIMIT = 720.0  # seconds, all stages together
PROBE = """
import platform, numpy, torch
from pyrl import ops
gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
print(f"gpu {gpu}; torch {torch.__version__}; numpy {numpy.__version__}; python {platform.python_version()}; cuda built {ops.cuda_built()}")
assert ops.cuda_built(), "this build of pyrl has no CUDA"
"""
PACKAGES = ("gymnasium", "hypothesis", "safetensors", "tyro", "rich", "pytest-timeout")  # what a GPU machine may lack
SHORT = "gae or permutation or uniform or categorical or take_rows or prioritized"  # for compute-sanitizer, 10 to 50 times slower


@dataclass(frozen=True)
class Stage:
    """``command`` may take ``limit`` seconds; what it needs, beside the build, is the program ``needs``."""

    name: str
    limit: float
    command: list[str]
    needs: str | None = None
    only_real: bool = False  # nothing an emulated GPU could say


def stages(out: Path, emulated: bool, wheels: Path | None) -> list[Stage]:
    python, preset = sys.executable, "emulated" if emulated else "cuda"
    build = ROOT / "build" / f"gpu_all_{preset}"
    here = [] if emulated else ["-DCMAKE_CUDA_ARCHITECTURES=native"]
    configure = ["cmake", "--preset", preset, "-B", str(build), f"-DPython_EXECUTABLE={python}", "-DPYRL_BUILD_TESTS=OFF", *here]
    sanitizer = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
    tests = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/gpu"]
    watched = [sanitizer, "--error-exitcode", "9", "--tool"]
    install = [python, "-m", "pip", "install", "-q", "--no-index", "--find-links", str(wheels), *PACKAGES]
    return [
        *([] if wheels is None else [Stage("wheels", 90, install)]),
        Stage("configure", 60, configure),
        Stage("build", 300, ["cmake", "--build", str(build), "--parallel", str(os.cpu_count() or 2)]),
        Stage("what is here", 60, [python, "-c", PROBE]),
        Stage("tests of the kernels and the replay", 200, [*tests, "--ignore=tests/gpu/test_gpu_learning.py"]),
        Stage("tests of learning", 150, [*tests[:-1], "tests/gpu/test_gpu_learning.py"]),
        Stage("benchmarks", 200, [python, "benchmarks/run.py", "gpu", "--quick", "--peers", "", "--results", str(out)]),
        Stage("node counts", 90, [python, "benchmarks/bench_gpu.py"], only_real=True),
        Stage("memcheck", 120, [*watched, "memcheck", *tests, "-x", "-k", SHORT], needs=sanitizer, only_real=True),
        Stage("racecheck", 120, [*watched, "racecheck", *tests, "-x", "-k", SHORT], needs=sanitizer, only_real=True),
    ]


def run(stage: Stage, left: float, log: Path) -> dict[str, Any]:
    """What came of it: ``seconds``, ``code`` (None: stopped at the limit), ``tail`` of what it said."""
    if stage.needs is not None and shutil.which(stage.needs) is None:
        return {"seconds": 0.0, "code": None, "tail": [f"left out: there is no {stage.needs}"]}
    began, limit = time.monotonic(), min(stage.limit, left)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "MPLBACKEND": "Agg"}
    code: int | None = None
    with log.open("wb") as said:
        process = subprocess.Popen(stage.command, cwd=ROOT, env=environment, stdout=said, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            code = process.wait(limit)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            process.wait()
    tail = log.read_text(errors="replace").splitlines()[-12:]
    if code is None:
        tail.append(f"stopped after {limit:.0f} s")
    return {"seconds": time.monotonic() - began, "code": code, "tail": tail}


def table(results: dict[str, Any], emulated: bool) -> str:
    place = "the emulated GPU: no time counts" if emulated else results["stages"].get("what is here", {}).get("tail", ["?"])[-1]
    lines = [f"{results['date']}, {results['commit']}, {platform.processor() or platform.machine()}: {place}", ""]
    lines += ["| stage | seconds | exit code | last words |", "|---|---|---|---|"]
    for name, result in results["stages"].items():
        code = "-" if result["code"] is None else result["code"]
        last = (result["tail"] or [""])[-1].strip().replace("|", "/")
        lines.append(f"| {name} | {result['seconds']:.0f} | {code} | {last:.120} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--wheels", type=Path, help="folder of wheels to install from")
    parser.add_argument("--emulated", action="store_true", help="try the command on the emulated GPU")
    options = parser.parse_args()
    out = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()
    results: dict[str, Any] = {"date": str(date.today()), "commit": commit or "no git", "stages": {}}
    began, failed = time.monotonic(), False
    for stage in stages(out, options.emulated, options.wheels):
        left = LIMIT - (time.monotonic() - began)
        if stage.only_real and options.emulated:
            result: dict[str, Any] = {"seconds": 0.0, "code": None, "tail": ["left out: needs a real GPU"]}
        elif left < 5:
            result = {"seconds": 0.0, "code": None, "tail": ["left out: no time left"]}
        else:
            result = run(stage, left, out / f"{stage.name.replace(' ', '_')}.log")
            failed |= result["code"] != 0
        results["stages"][stage.name] = result
        print(f"{stage.name}: {result['code']} after {result['seconds']:.0f} s: {(result['tail'] or [''])[-1]}", flush=True)
        (out / "gpu_all.json").write_text(json.dumps(results, indent=1) + "\n")
        (out / TABLE).write_text(table(results, options.emulated))
        if result["code"] != 0 and stage.name in ("configure", "build"):
            break
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
