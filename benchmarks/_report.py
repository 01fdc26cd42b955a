"""What a run prints and writes: a group of rows per case, the goals, and a JSON file with every round."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import re
import statistics
import subprocess
from pathlib import Path
from typing import Any

from _timing import Case

TOLERANCE = 1e-3  # between answers to one case


def kind_of(name: str) -> str:
    """pyrl, reference, floor or peer."""
    return {"pyrl": "pyrl", "ref": "reference", "floor": "floor"}.get(name.split()[0].rstrip(":"), "peer")


def duration(ns: float) -> str:
    for unit, size in (("s", 1e9), ("ms", 1e6), ("us", 1e3)):
        if ns >= size:
            return f"{ns / size:.3g} {unit}" if ns < 999.5 * size else f"{ns / size:.0f} {unit}"
    return f"{ns:.0f} ns"


def rate(per_second: float) -> str:
    for prefix, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if per_second >= size:
            return f"{per_second / size:.3g}{prefix}"
    return f"{per_second:.3g}"


class Group:
    """The rounds of all contenders of one case."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.rounds: dict[str, list[float]] = {}  # ns a call
        self.answers: dict[str, float] = {}
        self.refused: dict[str, str] = {}

    def add(self, name: str, answer: float | None) -> None:
        self.rounds[name] = []
        if answer is not None:
            self.answers[name] = answer

    def refuse(self, name: str, reason: str) -> None:
        self.rounds.pop(name, None)
        self.refused[name] = reason

    def time(self, name: str, ns: float) -> None:
        self.rounds[name].append(ns)

    @property
    def base(self) -> str | None:
        """The contender that ratios refer to."""
        return next((name for name in self.rounds if kind_of(name) == "pyrl"), None)

    def ratio(self, name: str, base: str) -> float:
        """Time of ``name`` over time of ``base``, median over rounds."""
        return statistics.median(a / b for a, b in zip(self.rounds[name], self.rounds[base]))

    def wrong(self) -> list[str]:
        """Contenders whose answer differs from most others'."""
        if not self.answers:
            return []
        agreed = statistics.median_low(self.answers.values())
        return [name for name, answer in self.answers.items() if not abs(answer - agreed) <= TOLERANCE * abs(agreed)]

    def best(self, kind: str) -> str | None:
        names = [name for name in self.rounds if kind_of(name) == kind]
        return min(names, key=lambda name: statistics.median(self.rounds[name]), default=None)

    def goals(self) -> list[tuple[str, float, bool]]:
        """(goal, what was measured, reached) of every goal that can be judged."""
        judged = []
        for goal in dict.fromkeys((f"{self.base} 1x references", *self.case.goals)):
            if limit := re.fullmatch(r"(.+) <= ([\d.]+) us", goal):
                name, bound = limit[1], float(limit[2])
                if name in self.rounds:
                    measured = statistics.median(self.rounds[name]) / 1e3
                    judged.append((goal, measured, measured <= bound))
                continue
            name, factor, rival = re.fullmatch(r"(.+) ([\d.]+)x (.+)", goal).groups()
            rival = self.best({"peers": "peer", "references": "reference"}[rival]) if rival in ("peers", "references") else rival
            if name in self.rounds and rival in self.rounds:
                measured = self.ratio(rival, name)
                judged.append((f"{goal} ({rival})" if not goal.endswith(rival) else goal, measured, measured >= float(factor)))
        return judged

    def lines(self) -> list[str]:
        case, wrong = self.case, self.wrong()
        lines = [f"{case.name:34}{'median':>9} {'min':>9} {'of pyrl':>8} {'of floor':>8}  {case.unit}/s"]
        for name, times in self.rounds.items():
            median = statistics.median(times)
            of_pyrl = f"{self.ratio(name, self.base):.2f}" if self.base else "-"
            floor = self.best("floor")
            of_floor = f"{100 * self.ratio(floor, name):.0f} %" if floor else "-"
            mark = "  WRONG: its answer differs" if name in wrong else ""
            speed = rate(1e9 * case.units / median)
            lines.append(f"  {name:32}{duration(median):>9} {duration(min(times)):>9} {of_pyrl:>8} {of_floor:>8}  {speed}{mark}")
        lines += [f"  {name:32}{'-':>9} {reason[:120]}" for name, reason in self.refused.items()]
        lines += [f"  {'goal' if ok else 'MISSED'}: {goal}: {measured:.2f}" for goal, measured, ok in self.goals()]
        return lines

    def record(self) -> dict[str, Any]:
        goals = [{"goal": goal, "measured": measured, "reached": ok} for goal, measured, ok in self.goals()]
        case = {
            "name": self.case.name,
            "op": self.case.op,
            "params": self.case.params,
            "units": self.case.units,
            "unit": self.case.unit,
        }
        return {
            **case,
            "ns": self.rounds,
            "answers": self.answers,
            "wrong": self.wrong(),
            "refused": self.refused,
            "goals": goals,
        }


class Report:
    """Prints as the run goes and keeps everything for the JSON file."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.groups: list[Group] = []
        self.missing: dict[str, str] = {}
        self.versions: dict[str, dict[str, str]] = {}
        self.machine = machine_facts() | {
            "threads": options.threads,
            "rounds": options.rounds,
            "seconds": options.seconds,
        }
        print(", ".join(f"{name} {value}" for name, value in self.machine.items()), flush=True)

    def peer_versions(self, name: str, versions: dict[str, str]) -> None:
        self.versions[name] = versions
        print(f"peer {name}: {', '.join(f'{package} {version}' for package, version in versions.items())}", flush=True)

    def peer_missing(self, name: str, reason: str) -> None:
        self.missing[name] = reason
        print(f"peer {name}: MISSING: {reason}", flush=True)

    def subject_missing(self, subject: str, reason: str) -> None:
        self.missing[subject] = reason
        print(f"\nsubject {subject}: MISSING: {reason}", flush=True)

    def subject(self, subject: str, versions: dict[str, str]) -> None:
        self.versions["pyrl"] = versions
        print(f"\n== {subject}", flush=True)

    def add(self, group: Group) -> None:
        self.groups.append(group)
        print("\n" + "\n".join(group.lines()), flush=True)

    def finish(self, folder: Path) -> None:
        judged = [(group.case.name, *goal) for group in self.groups for goal in group.goals()]
        missed = [f"  {name}: {goal}: {measured:.2f}" for name, goal, measured, ok in judged if not ok]
        print(f"\n{len(judged) - len(missed)} of {len(judged)} goals reached; missed:" if missed else f"\nall {len(judged)} goals reached")
        print("\n".join([*missed, *(f"missing {name}: {reason}" for name, reason in self.missing.items())]))
        folder.mkdir(exist_ok=True)
        path = folder / f"{self.machine['date'].replace(':', '').replace(' ', '-')}-{self.machine['commit']}.json"
        body = {"machine": self.machine, "versions": self.versions, "missing": self.missing}
        path.write_text(json.dumps({**body, "cases": [group.record() for group in self.groups]}, indent=1) + "\n")
        print(f"written: {path}")


def machine_facts() -> dict[str, Any]:
    def line(path: str, key: str) -> str:
        found = (
            [text.split(":", 1)[1].strip() for text in Path(path).read_text().splitlines() if text.startswith(key)]
            if os.path.exists(path)
            else []
        )
        return found[0] if found else "unknown"

    def git(*command: str) -> str:
        return subprocess.run(["git", *command], capture_output=True, text=True, cwd=Path(__file__).parent).stdout.strip()

    return {
        "date": datetime.datetime.now().isoformat(" ", "seconds"),
        "commit": (git("rev-parse", "--short", "HEAD") or "unknown") + ("-changed" if git("status", "--porcelain", "-uno") else ""),
        "cpu": line("/proc/cpuinfo", "model name"),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory": line("/proc/meminfo", "MemTotal"),
        "system": platform.platform(),
        "python": platform.python_version(),
        "load": round(os.getloadavg()[0], 1),
    }
