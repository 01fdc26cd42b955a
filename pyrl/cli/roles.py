"""What the roles of a run with workers do, from its metrics: a table below the progress bar, or a line where there is no terminal."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from rich.table import Table

from pyrl.cli.short import short


def _bytes(rate: float) -> str:
    for unit in ("B", "kB", "MB"):
        if rate < 999.5:
            return f"{rate:.3g} {unit}"
        rate /= 1000
    return f"{rate:.3g} GB"


_SHOWN: tuple[tuple[str, str, str, Callable[[float], str]], ...] = (  # role, metric, words, how a number is written
    ("collectors", "time/collected_per_second", "{} steps/s", short),
    ("collectors", "time/restarts", "{} restarts", short),
    ("queue", "time/queue_depth", "{} chunks", short),
    ("queue", "time/bytes_per_second", "{}/s", _bytes),
    ("queue", "time/discarded_steps", "{} steps discarded", short),
    ("learner", "time/env_steps_per_second", "{} steps/s", short),
    ("learner", "time/updates_per_second", "{} updates/s", short),
    ("learner", "train/policy_lag", "lag {} updates", "{:.1f}".format),
    ("learner", "time/learner_waits", "waits {}", "{:.0%}".format),
    ("learner", "time/learner_restarts", "{} restarts of the group", short),
)


def roles(metrics: Mapping[str, float]) -> dict[str, list[str]]:
    """What each role is said to do; nothing of what the metrics do not hold, and nothing at all of a run without workers."""
    if "time/queue_depth" not in metrics:
        return {}
    told: dict[str, list[str]] = {}
    for role, name, words, written in _SHOWN:
        if name in metrics:
            told.setdefault(role, []).append(words.format(written(metrics[name])))
    return told


def table(told: Mapping[str, list[str]]) -> Table:
    grid = Table.grid(padding=(0, 2))
    for role, words in told.items():
        grid.add_row(f"[dim]{role}[/]", *words)
    return grid


def line(told: Mapping[str, list[str]]) -> str:
    return "; ".join(f"{role}: {', '.join(words)}" for role, words in told.items())
