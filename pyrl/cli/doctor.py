"""``pyrl doctor``: what was found on this machine, what is missing, and whether kernels and workers do what they should."""

from __future__ import annotations

import os
import platform
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import packages_distributions, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pyrl.cli import pyrl_version
from pyrl.cli.parsing import parse
from pyrl.envs import BACKENDS

# Extra of pyrl -> the module that it brings.
EXTRAS = {
    "box2d": "Box2D",
    "mujoco": "mujoco",
    "atari": "ale_py",
    "tensorboard": "tensorboard",
    "video": "moviepy",
    "ray": "ray",
    **{name: backend.package for name, backend in BACKENDS.items() if backend.package},
}
SHARED_MEMORY = Path("/dev/shm")  # of Linux
STEPS = 256  # of the workers' check
TOLERANCE = 1e-4  # of weights after a few updates in float32


@dataclass(frozen=True, kw_only=True)
class DoctorOptions:
    pass


def doctor(arguments: list[str]) -> int:
    parse(
        DoctorOptions,
        arguments,
        "doctor",
        "What was found on this machine, and a check that kernels compute what torch does and that workers work.",
    )
    table = Table.grid(padding=(0, 2))
    healthy = True
    for name, finding, well in _findings():
        table.add_row(name, escape(finding))
        healthy &= well
    Console().print(table, highlight=False)
    return 0 if healthy else 1


def _findings() -> Iterator[tuple[str, str, bool]]:
    """(what, what was found, whether that is well)."""
    yield "pyrl", pyrl_version(), True
    yield "machine", f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}", True
    import gymnasium
    import torch

    devices = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    shown = ", ".join(f"{device.name} ({device.total_memory / 2**30:.0f} GiB)" for device in devices)
    yield "torch", f"{torch.__version__}, {_count(torch.get_num_threads())}, {shown or 'no CUDA device'}", True
    yield "gymnasium", f"{gymnasium.__version__}, numpy {np.__version__}", True
    for extra, module in EXTRAS.items():
        yield extra, _package(module) or f"not installed: pip install 'pyrl[{extra}]'", True
    try:
        from pyrl import ops
    except ImportError as error:
        yield "kernels", str(error), False
        return
    checks = list(_checks(["cuda"] if devices else []))  # first, as kernels look for torch when they are called
    build = "CUDA build" if ops.cuda_built() else "CPU build"
    yield "kernels", f"{build}, {ops.simd_level()} instructions, {_count(ops.num_threads())} beside torch's", True
    yield from checks
    yield from _workers(["local", "ray"] if find_spec("ray") else ["local"])


def _count(threads: int) -> str:
    return "1 thread" if threads == 1 else f"{threads} threads"


def _package(module: str) -> str | None:
    """The version of the package that brings ``module``, None where there is none."""
    if find_spec(module) is None:
        return None
    names = packages_distributions().get(module)
    return version(names[0]) if names else "found, of unknown version"


def _checks(devices: list[str]) -> Iterator[tuple[str, str, bool]]:
    """The same updates of a tiny network by torch on the CPU and by every other engine here."""
    expected = _learned(engine="torch", device="cpu")
    others = [("native", "cpu"), *((engine, device) for device in devices for engine in ("torch", "graph"))]
    for engine, device in others:
        difference = float(np.abs(_learned(engine=engine, device=device) - expected).max())
        well = difference < TOLERANCE
        verdict = "right" if well else "WRONG: please report it"
        yield "check", f"{engine} updates on {device} against torch's: {difference:.1e} apart, {verdict}", well


def _learned(**options: Any) -> np.ndarray:
    """The weights of a tiny Q-network after enough updates that a graph of them is captured and replayed."""
    from gymnasium import spaces

    from pyrl.agents.registry import make_agent
    from pyrl.types import Batch

    random, size = np.random.default_rng(0), 32
    config = {"batch_size": size, "net_arch": (16, 16), "learning_rate": 1e-2, **options}
    agent = make_agent("dqn", spaces.Box(-1.0, 1.0, (4,)), spaces.Discrete(3), **config)
    for _ in range(20):
        observation, next_observation = random.normal(size=(2, size, 4)).astype(np.float32)
        reward, discount = random.normal(size=(2, size)).astype(np.float32)
        action, terminated = random.integers(0, 3, size), np.zeros(size, bool)
        agent.learn(Batch(observation, action, reward, next_observation, terminated, discount, np.arange(size)))
    parameters = agent.modules()["q_network"].parameters()
    return np.concatenate([p.detach().cpu().numpy().ravel() for p in parameters])


def _workers(engines: list[str]) -> Iterator[tuple[str, str, bool]]:
    """A short training with a worker by each engine: processes, shared memory, Ray."""
    from pyrl.experiment.train import train

    if SHARED_MEMORY.is_dir():
        usage = shutil.disk_usage(SHARED_MEMORY)
        yield "memory", f"{usage.free / 2**20:,.0f} MiB of {usage.total / 2**20:,.0f} MiB of shared memory free ({SHARED_MEMORY})", True
    for engine in engines:
        began = time.monotonic()
        options: dict[str, Any] = {"num_envs": 2, "n_steps": 16, "net_arch": (8,), "worker_engine": engine}
        try:
            train("impala", "CartPole-v1", total_steps=STEPS, workers=1, run_dir=False, curve=False, seed=0, **options)
        except Exception as error:
            yield "workers", f"{engine} FAILS: {error}", False
        else:
            yield "workers", f"{engine}: a worker made {STEPS} steps of a training in {time.monotonic() - began:.1f} s", True
