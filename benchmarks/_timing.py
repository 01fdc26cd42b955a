"""Cases, contenders, and the worker process that times them. Standard library only: every peer's environment runs it.

A worker is ``python _timing.py MODULE``: it imports MODULE, which registers contenders, and answers JSON lines on stdin
with JSON lines on stdout. `run.py` speaks to the workers; README.md is the contract for the modules.
"""

from __future__ import annotations

import dataclasses
import functools
import gc
import importlib
import importlib.metadata
import json
import os
import sys
from collections.abc import Callable
from time import perf_counter_ns, process_time_ns
from typing import Any

Call = Callable[[], object]
PACKAGES = (
    "pyrl", "numpy", "torch", "numba", "gymnasium", "envpool", "stable-baselines3", "tianshou", "torchrl", "tensordict",
    "cpprb", "pufferlib", "jax", "flashbax", "ray",
)  # fmt: skip
clock_ns = process_time_ns if os.environ.get("PYRL_BENCHMARK_CLOCK") == "cpu" else perf_counter_ns
SLOWEST_CALL = 10e9  # ns; a contender slower than this is reported, not repeated


class Unsupported(Exception):
    """Raised by a contender that cannot do a case; the reason is printed in its row."""


@dataclasses.dataclass(frozen=True)
class Case:
    """One row group of the table: the same work for every contender of ``op``.

    One call does ``units`` of ``unit`` ("transitions", "elements"). ``goals`` are sentences that the report checks, "pyrl 3x
    peers" or "pyrl <= 2 us". ``once``: a call is long and changes its own state (training), so a round is one call.
    """

    name: str
    op: str
    params: dict[str, Any]
    units: int = 1
    unit: str = "calls"
    goals: tuple[str, ...] = ()
    once: bool = False


_makers: dict[str, dict[str, Callable[..., Any]]] = {}
_stores: list[dict[Any, Any]] = []


def contender(op: str, name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register ``make(**case.params)``, which prepares everything and returns the call to be timed (README.md)."""

    def register(make: Callable[..., Any]) -> Callable[..., Any]:
        _makers.setdefault(op, {})[name] = make
        return make

    return register


def keep_one(build: Callable[..., Any]) -> Callable[..., Any]:
    """Cache the latest result only, and drop it before the next is built: full buffers take gigabytes and seconds."""
    held: dict[Any, Any] = {}
    _stores.append(held)

    @functools.wraps(build)
    def get(*args: Any, **options: Any) -> Any:
        key = (args, *sorted(options.items()))
        if key not in held:
            held.clear()
            gc.collect()
            held[key] = build(*args, **options)
        return held[key]

    return get


def time_loops(call: Call, loops: int) -> int:
    """Nanoseconds of ``loops`` calls. The last result stays alive during the next call, as a batch does in training."""
    result = None
    start = clock_ns()
    for _ in range(loops):
        result = call()
    elapsed = clock_ns() - start
    del result
    return elapsed


def calibrated_loops(call: Call, seconds: float) -> int:
    """Loops that last about ``seconds``; finding them warms up the memory that they touch."""
    loops = 1
    while (elapsed := time_loops(call, loops)) < 1e9 * seconds:
        if elapsed > SLOWEST_CALL:
            raise Unsupported(f"one call takes {elapsed / 1e9:.0f} s")
        loops = max(loops + 1, min(20 * loops, round(1.1 * loops * 1e9 * seconds / max(elapsed, 1))))
    return loops


class Worker:
    """The far end of the driver's pipe: holds the prepared calls of one case."""

    def __init__(self) -> None:
        self.calls: dict[str, Call] = {}

    def prepare(self, op: str, name: str, params: dict[str, Any]) -> dict[str, Any]:
        """Build the call and make it once: what compiles or fails does it here."""
        made = _makers[op][name](**params)
        call, answer = made if isinstance(made, tuple) else (made, None)
        call()
        self.calls[name] = call
        return {"answer": answer() if answer else None}

    def calibrate(self, name: str, seconds: float) -> dict[str, Any]:
        return {"loops": calibrated_loops(self.calls[name], seconds)}

    def time(self, name: str, loops: int) -> dict[str, Any]:
        return {"ns": time_loops(self.calls[name], loops) / loops}

    def drop(self, stores: bool) -> dict[str, Any]:
        self.calls.clear()
        for held in _stores if stores else ():
            held.clear()
        gc.collect()
        return {}


def greeting(module: str) -> dict[str, Any]:
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    declared = [dataclasses.asdict(case) for case in getattr(importlib.import_module(module), "CASES", ())]
    contenders = {op: list(makers) for op, makers in _makers.items()}
    return {"versions": versions, "cases": declared, "contenders": contenders}


def serve(module: str) -> None:
    if hasattr(os, "sched_setaffinity"):  # one thread is one core: XLA and EnvPool have threads of their own, whatever they are set to
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(os.environ["OMP_NUM_THREADS"])])
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints must not end up among the replies

    def answer(handle: Callable[..., dict[str, Any]], **arguments: Any) -> None:
        try:
            reply = handle(**arguments)
        except Unsupported as reason:
            reply = {"unsupported": str(reason)}
        except Exception as error:
            reply = {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
        replies.write(json.dumps(reply) + "\n")
        replies.flush()

    answer(greeting, module=module)
    worker = Worker()
    for line in sys.stdin:
        request = json.loads(line)
        answer(getattr(worker, request.pop("do")), **request)


if __name__ == "__main__":
    import _timing  # the module that contenders register with, which __main__ is not

    _timing.serve(sys.argv[1])
