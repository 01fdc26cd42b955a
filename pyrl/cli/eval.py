"""``pyrl eval``: the scores of a trained agent."""

from __future__ import annotations

from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from pyrl.cli.chosen import RunArgument, env_options, trained_run
from pyrl.cli.own import objects_of, require_given
from pyrl.cli.parsing import parse
from pyrl.cli.progress import score


@dataclass(frozen=True, kw_only=True)
class EvalOptions:
    run: RunArgument  # run folder, or one of its checkpoints
    episodes: int = 20  # how many
    seed: int = 10_000  # of the environments; training uses others
    stochastic: bool = False  # draw actions from the policy, instead of its best
    device: str | None = None  # of the networks (cpu, cuda); None: as in training
    network: str | None = None  # MODULE:NAME, where the run was trained with one; so for the next three
    features_extractor: str | None = None
    activation: str | None = None
    optimizer: str | None = None


def evaluate(arguments: list[str]) -> int:
    options = parse(EvalOptions, arguments, "eval", "Evaluate the best checkpoint of a run, or the one named.")
    run, path = trained_run(options.run)
    own = objects_of(options, "eval")
    require_given(run, own, "eval")
    from pyrl.agents.checkpoints import load_agent
    from pyrl.experiment.runs import shown
    from pyrl.loops import evaluate as run_episodes

    result = run_episodes(
        load_agent(path, device=options.device, **own),
        run.config["env"],
        options.episodes,
        seed=options.seed,
        deterministic=not options.stochastic,
        **env_options(run),
    )
    lowest, highest = score(result.returns.min()), score(result.returns.max())
    table = Table.grid(padding=(0, 2))
    table.add_row("checkpoint", shown(path.absolute()))
    table.add_row("return", f"{score(result.mean, result.std)} (lowest {lowest}, highest {highest})")
    table.add_row("length", f"{result.lengths.mean():.1f}")
    if result.success_rate is not None:
        table.add_row("success", f"{result.success_rate:.1%}")
    actions = "drawn from the policy" if options.stochastic else "deterministic"
    table.add_row("episodes", f"{options.episodes}, seed {options.seed}, actions {actions}")
    Console().print(table, highlight=False)
    return 0
