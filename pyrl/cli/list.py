"""``pyrl list``: algorithms, presets, environments, runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from pyrl.agents.registry import available_agents
from pyrl.cli.progress import score

if TYPE_CHECKING:
    from pyrl.experiment.runs import RunFolder


@dataclass(frozen=True, kw_only=True)
class ListOptions:
    pass


def list_all(arguments: list[str]) -> int:
    if arguments:
        from pyrl.cli.parsing import parse

        parse(ListOptions, arguments, "list", "What there is: algorithms, presets, environments, and the latest runs.")
    from pyrl.envs import BACKENDS
    from pyrl.experiment.presets import available_presets, describe
    from pyrl.experiment.runs import list_runs, shown

    presets: dict[str, list[str]] = {}
    for algo, env in available_presets():
        presets.setdefault(algo, []).append(env)
    table = Table("algorithm", "presets for", "elsewhere", box=None, title_justify="left")
    for algo in available_agents():
        table.add_row(algo, ", ".join(presets.get(algo, [])), describe(algo, None).partition(": ")[2])
    console = Console()
    console.print(table, highlight=False)
    table = Table("environments", "", box=None)
    for family, names in _environments().items():
        table.add_row(family, ", ".join(names))
    console.print(table, highlight=False)
    table = Table("backends", "", box=None)
    for name, backend in BACKENDS.items():
        table.add_row(name, backend.about)
    console.print(table, highlight=False)
    table = Table("runs", "score", box=None)
    for run in list_runs()[-10:]:
        table.add_row(shown(run.path), _last_score(run))
    if table.rows:
        console.print(table, highlight=False)
    return 0


def _environments() -> dict[str, list[str]]:
    """The latest version of every registered Gymnasium environment, by family."""
    import gymnasium

    latest: dict[tuple[str, str], Any] = {}
    for spec in gymnasium.registry.values():
        if isinstance(spec.entry_point, str):
            key = (str(spec.namespace or spec.entry_point.split(":")[0].split(".")[-2]), spec.name)
            if key not in latest or (spec.version or 0) >= (latest[key].version or 0):
                latest[key] = spec
    families: dict[str, list[str]] = {}
    for (family, _), spec in latest.items():
        families.setdefault(family, []).append(spec.id)
    return families


def _last_score(run: RunFolder) -> str:
    from pyrl.experiment.metrics import read_csv, running_mean

    returns = read_csv(run.episodes_file).get("return")
    return score(running_mean(returns)[-1]) if returns is not None and len(returns) else ""
