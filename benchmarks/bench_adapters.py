"""Other people's buffers against ours through their own interface, in turns: a table of rows, each with the host's call and ours.

python benchmarks/bench_adapters.py [--hosts sb3,...] [--only REGEX] [--quick]

Every host has one function that yields `Row`s (`HOSTS`); it imports the host itself, so that a host that is not installed is reported
and left out. Both calls of a row are prepared, warmed up and timed in turns, in CPU time of this process, one thread; the figure is the
median over the rounds of *host's time / ours in the same round*.
"""

from __future__ import annotations

import argparse
import datetime
import gc
import importlib.metadata
import os
import platform
import re
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import adapter_rows

Call = Callable[[], object]


class Row(NamedTuple):
    """One line of the table. ``prepare`` gives (the host's call, ours), which do the same work; it is not timed."""

    name: str
    prepare: Callable[[], tuple[Call, Call]]
    goal: float = 3.0  # times faster


def sb3_rows() -> Iterator[Row]:
    import stable_baselines3  # noqa: F401

    yield from ()


def others(host: str) -> Iterator[Row]:
    yield from (Row(*row) for row in adapter_rows.HOSTS[host]())


HOSTS: dict[str, Callable[[], Iterator[Row]]] = {
    "stable-baselines3": sb3_rows,
    **{host: partial(others, host) for host in adapter_rows.HOSTS},
}


def cpu_time(call: Call, loops: int) -> float:
    result = None
    start = time.process_time()
    for _ in range(loops):
        result = call()  # the last result stays alive during the next call, as a batch does in training
    elapsed = time.process_time() - start
    del result
    return elapsed


def loops_for(call: Call, seconds: float) -> int:
    loops = 1
    while (elapsed := cpu_time(call, loops)) < seconds:
        loops = max(loops + 1, min(20 * loops, round(1.1 * loops * seconds / max(elapsed, 1e-6))))
    return loops


def measure(row: Row, rounds: int, seconds: float) -> tuple[float, float, float]:
    """(seconds of a call of the host, of ours, median ratio)"""
    gc.collect()
    host, ours = row.prepare()
    host_loops, our_loops = loops_for(host, seconds), loops_for(ours, seconds)
    times = [(cpu_time(host, host_loops) / host_loops, cpu_time(ours, our_loops) / our_loops) for _ in range(rounds)]
    host_time, our_time = (statistics.median(column) for column in zip(*times))
    return host_time, our_time, statistics.median(theirs / own for theirs, own in times)


def version(host: str) -> str:
    try:
        return importlib.metadata.version(host)
    except importlib.metadata.PackageNotFoundError:
        return "(a checkout)"


def machine() -> str:
    with open("/proc/cpuinfo") as lines:
        names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()}, {datetime.date.today()}"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hosts", default=",".join(HOSTS), help=f"comma-separated, of {', '.join(HOSTS)}; default: all")
    parser.add_argument("--only", metavar="REGEX", default="", help="rows whose name matches")
    parser.add_argument("--quick", action="store_true", help="3 rounds of 0.05 s instead of 7 of 0.2 s")
    return parser.parse_args()


def main() -> None:
    options = arguments()
    rounds, seconds = (3, 0.05) if options.quick else (7, 0.2)
    print(f"{machine()}; CPU time, one thread, {rounds} rounds in turns")
    for host in options.hosts.split(","):
        try:
            rows = [row for row in HOSTS[host]() if re.search(options.only, row.name)]
        except ImportError as missing:
            print(f"\n{host}: not measured ({missing})")
            continue
        print(f"\n{host} {version(host)}{'host us':>38}{'ours us':>11}{'times':>8}")
        for row in rows:
            theirs, own, ratio = measure(row, rounds, seconds)
            print(
                f"{row.name:50}{1e6 * theirs:11.1f}{1e6 * own:11.1f}{ratio:8.1f}{'' if ratio >= row.goal else f'   goal {row.goal:g}'}",
                flush=True,
            )


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
