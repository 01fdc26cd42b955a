"""Fuzzer of checkpoints: ``python -m tests.fuzz.loader --mutations 50000 [--seed 0]``.

Takes the golden checkpoints of every agent, changes them as an attacker or a bad disk would, seals them again (most changes are
made behind a valid checksum), and loads them in a forked child. Each must give a CheckpointError, or an agent (and a loop) whose
state is bit for bit what the files say. No crash, no other error, memory below 3 times the files and 100 MB; the command also
holds every load to 2 seconds of CPU.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import pickle
import resource
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent / "golden")]

from make import behaviour, env_of  # noqa: E402
from mutations import BASES, mutated  # noqa: E402

import pyrl  # noqa: E402
from pyrl import checkpoint  # noqa: E402
from pyrl.agents.checkpoints import restore_agent  # noqa: E402
from pyrl.buffers.layout import _leaves as leaves  # noqa: E402
from pyrl.errors import CheckpointError, NonFiniteError  # noqa: E402

SPARE = 100 << 20  # bytes above 3 times the files
SECONDS = 2.0
BATCH = 25  # mutations a child


class Failed(Exception):
    """A load that did what it must not."""


def require_same(saved: Any, loaded: Any, where: str) -> None:
    """Nothing of what the files say is cast, dropped or ignored."""
    if isinstance(saved, dict) and isinstance(loaded, dict):
        if saved.keys() != loaded.keys():
            raise Failed(f"{where}: loaded {sorted(loaded)}, the files say {sorted(saved)}")
        for key in saved:
            require_same(saved[key], loaded[key], f"{where}/{key}")
    elif hasattr(saved, "shape"):
        ours = [np.asarray(a.detach() if isinstance(a, torch.Tensor) else a) for a in (saved, loaded)]
        alike = (ours[0].dtype, ours[0].shape) == (ours[1].dtype, ours[1].shape)
        if not alike or np.ascontiguousarray(ours[0]).tobytes() != np.ascontiguousarray(ours[1]).tobytes():
            raise Failed(
                f"{where}: loaded {ours[1].dtype} {ours[1].shape} {ours[1].ravel()[:4]}, the files say {ours[0].dtype} {ours[0].shape}"
            )
    elif isinstance(saved, list | tuple) and isinstance(loaded, list | tuple) and len(saved) == len(loaded):
        for i, pair in enumerate(zip(saved, loaded)):
            require_same(*pair, f"{where}[{i}]")
    elif saved != loaded or isinstance(saved, str) != isinstance(loaded, str):  # 1, 1.0 and True are the same number
        raise Failed(f"{where}: loaded {loaded!r}, the files say {saved!r}")


def memory_of(space: Any) -> int:
    return sum(math.prod(shape) * np.dtype(dtype).itemsize for _, dtype, shape in leaves(space, "observation"))


class Costs:
    """The most that a load took of this process: bytes above what it held before, and seconds of CPU."""

    def __init__(self) -> None:
        self.memory = 0
        self.seconds = 0.0

    @contextmanager
    def of_a_load(self) -> Iterator[None]:
        Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
        floor, started = peak(), time.process_time()
        try:
            yield
        finally:
            self.seconds = max(self.seconds, time.process_time() - started)
            self.memory = max(self.memory, peak() - floor)


def peak() -> int:
    """The most bytes of memory that this process has held."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def without_derived(state: dict[str, Any]) -> dict[str, Any]:
    """Without the flag of records that can be drawn: loading computes it from the rest (`LaneRing::completed`)."""
    if "buffer" not in state:
        return state
    return {**state, "buffer": {**state["buffer"], "flags": np.asarray(state["buffer"]["flags"]) & ~np.uint8(2)}}


def attempt(folder: Path, loop: Any, costs: Costs) -> str:
    """What became of it: "refused" or "loaded". Everything else raises."""
    outcome = "refused"
    try:
        with costs.of_a_load():
            agent = pyrl.load(folder)
    except CheckpointError:
        pass
    else:
        outcome = "loaded"
        state = agent.state_dict()
        tree, about = checkpoint.load(folder, groups=state)
        if "progress" not in tree:  # older versions did not keep it
            del state["progress"]
        groups = {k: tree.get(k, {}) for k in state}
        width = len(groups["normalizer"].get("reward", {}).get("running_return", ()))
        if "reward" in state["normalizer"] and width != agent.num_envs:
            state["normalizer"]["reward"]["running_return"] = groups["normalizer"]["reward"]["running_return"]
        require_same(groups, state, "state")
        for name, space in (("observation_space", agent.observation_space), ("action_space", agent.action_space)):
            if checkpoint.space_from_json(about[name]) != space:
                raise Failed(f"{name}: loaded {space}, the files say {about[name]}")
        if memory_of(agent.observation_space) + memory_of(agent.action_space) < 1 << 16:
            with np.errstate(all="ignore"), suppress(NonFiniteError, ValueError):  # of finite but huge weights; of no actions
                behaviour(agent)
        del agent, state, tree, groups
    try:
        with costs.of_a_load(), checkpoint.checkpoint_errors(folder, "does not resume"):
            tree, _ = restore_agent(folder, loop.agent)
            state = {**tree["loop"], **({"buffer": tree["replay"]} if "replay" in tree else {})}
            loop.load_state_dict(state)
    except CheckpointError:
        return outcome
    restored = loop.state_dict()
    own = {name: restored[name] for name in state}  # older versions kept less
    require_same(without_derived(state), without_derived(own), "loop")
    if hasattr(loop, "buffer") and len(loop.buffer):
        batch = loop.buffer.sample(min(8, len(loop.buffer)))
        loop.buffer.get(batch.index)
        loop.buffer.episodes()
        with np.errstate(all="ignore"), suppress(NonFiniteError, ValueError):  # stored numbers that no environment gives
            loop.agent.learn(batch)
    return "resumed"


def loops() -> dict[Path, Any]:
    """A loop for each base, of the run's own settings."""
    made = {}
    for base in BASES:
        settings = json.loads((base.parent.parent / "config.json").read_text())
        stepper = pyrl.envs.make(env_of(settings["env"]), settings["num_envs"], seed=settings["seed"], backend="sync")
        spaces = stepper.single_observation_space, stepper.single_action_space
        agent = pyrl.make_agent(settings["algo"], *spaces, seed=settings["seed"], num_envs=settings["num_envs"], **settings["config"])
        made[base] = pyrl.iterate(agent, stepper, total_steps=1_000_000)
    return made


@dataclass
class Result:
    seed: int
    what: str
    outcome: str  # refused, loaded, resumed, or what went wrong
    memory: float = 0.0  # MB that a load took at most, above what the process had
    seconds: float = 0.0  # of CPU, of the longer load


def child(seeds: list[int], made: dict[Path, Any], folder: Path) -> Iterator[Result]:
    """Runs in a forked process."""
    for seed in seeds:
        base, draft, what = mutated(seed)
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "c").mkdir(parents=True)
        draft.write(folder / "c")
        size = sum(f.stat().st_size for f in (folder / "c").iterdir() if f.is_file() and not f.is_symlink())
        del draft
        costs = Costs()
        try:
            outcome = attempt(folder / "c", made[base], costs)
        except BaseException:
            outcome = "FAILED\n" + traceback.format_exc()[-3000:]
        memory = costs.memory / (1 << 20)
        if costs.memory > 3 * min(size, 1 << 30) + SPARE:
            outcome = f"FAILED: {memory:.0f} MB for {size} bytes of files"
        yield Result(seed, what, outcome, memory, costs.seconds)


def run(seeds: list[int], made: dict[Path, Any]) -> list[Result]:
    """One child for all; where it dies, the seed it died at is blamed and the rest go on in another."""
    done: list[Result] = []
    while len(done) < len(seeds):
        rest = seeds[len(done) :]
        reader, writer = os.pipe()
        with tempfile.TemporaryDirectory() as folder:
            if (process := os.fork()) == 0:
                os.close(reader)
                with os.fdopen(writer, "wb") as stream:
                    for result in child(rest, made, Path(folder) / "x"):
                        pickle.dump(result, stream)
                        stream.flush()
                os._exit(0)
            os.close(writer)
            with os.fdopen(reader, "rb") as stream:
                for _ in rest:
                    try:
                        done.append(pickle.load(stream))
                    except EOFError:
                        break
            _, status = os.waitpid(process, 0)
        if len(done) < len(seeds) and status != 0:
            done.append(Result(seeds[len(done)], mutated(seeds[len(done)])[2], f"FAILED: the process ended with {status}"))
    return done


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mutations", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0, help="number of the first mutation")
    options = parser.parse_args()
    torch.set_num_threads(1)
    made, counts, worst, failed = loops(), Counter(), Counter(), 0
    for first in range(options.seed, options.seed + options.mutations, BATCH):
        for result in run(list(range(first, min(first + BATCH, options.seed + options.mutations))), made):
            outcome = result.outcome
            if result.seconds > SECONDS and not outcome.startswith("FAILED"):
                outcome = f"FAILED: {result.seconds:.1f} s"
            counts[outcome.split(":")[0].split("\n")[0]] += 1
            worst["MB"] = max(worst["MB"], round(result.memory))
            worst["ms"] = max(worst["ms"], round(1000 * result.seconds))
            if outcome.startswith("FAILED"):
                failed += 1
                print(f"mutation {result.seed} ({result.what}): {outcome}", flush=True)
    print(
        f"{options.mutations} mutations of {len(BASES)} checkpoints: {dict(counts)}; at worst {worst['MB']} MB and {worst['ms']} ms of CPU"
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
