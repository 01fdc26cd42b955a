"""``pyrl train``: from flags to `pyrl.experiment.train`, and from its records to a progress bar."""

from __future__ import annotations

import dataclasses
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.markup import escape

from pyrl.cli.flags import check_by_id, check_names, import_from_here, known_algorithms, parse, parse_known, split_env_kwargs
from pyrl.cli.play import missing_to_draw
from pyrl.cli.progress import Bar, tell
from pyrl.errors import UnknownNameError


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    total_steps: int | None = None  # environment steps to train for
    total_episodes: int | None = None  # episodes to train for; the first limit that is reached ends the run
    seed: int = 0  # of everything random
    num_envs: int | None = None  # environments stepped together
    env_backend: Literal["auto", "lean", "sync", "async", "vector", "envpool"] = "auto"  # what steps the environments
    max_episode_steps: int | None = None  # time limit of an episode; None: the environment's own
    env_timeout: float | None = 300.0  # seconds that an environment of another process gets to answer; None: for ever
    eval_every: int | None = None  # environment steps between evaluations; None: no evaluation
    eval_episodes: int = 10  # episodes of each evaluation
    stop_at_return: float | None = None  # stop when the mean return of the last stop_window episodes reaches this
    stop_window: int = 10  # episodes of that mean
    save_every_episodes: int | None = None  # episodes between two checkpoints that are kept; None: only the best and the last are
    threads: int | None = None  # of torch and of pyrl's kernels; None: one, or torch's own for images
    run_dir: Path | None = None  # run folder; None: runs/<algo>_<env>_<time>_s<seed>
    quiet: bool = False  # print nothing


@dataclass(frozen=True, kw_only=True)
class ResumeOptions:
    resume: Path  # run folder to go on with
    total_steps: int | None = None  # environment steps at which to end; None: as the run was told
    total_episodes: int | None = None  # episodes at which to end; None: as the run was told
    stop_at_return: float | None = None  # mean return of the last stop_window episodes at which to end; None: as the run was told
    stop_window: int = 10  # episodes of that mean
    quiet: bool = False  # print nothing


def train(arguments: list[str]) -> int:
    if any(a == "--resume" or a.startswith("--resume=") for a in arguments):
        return _resume(arguments)
    if len(arguments) < 2 or arguments[0].startswith("-") or arguments[1].startswith("-"):
        if {"-h", "--help"} & set(arguments):
            about = "Flags of every algorithm; pyrl train ALGO ENV --help shows the algorithm's own too, and the preset."
            parse(TrainOptions, ["--help"], "train ALGO ENV", about)
        raise UnknownNameError(f"train needs ALGO and ENV first: pyrl train ppo CartPole-v1 ({known_algorithms()})")
    algo, env, *flags = arguments
    env_kwargs, flags = split_env_kwargs(flags)
    check_names(algo, env, env_kwargs)
    general, config = _parse_train_flags(algo, env, flags)
    keywords = {f.name: getattr(general, f.name) for f in dataclasses.fields(general)}
    quiet, backend = keywords.pop("quiet"), keywords.pop("env_backend")
    keywords |= {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
    return _train_watched(algo, env, quiet, backend=backend, env_kwargs=env_kwargs, **keywords)


def _parse_train_flags(algo: str, env: str, flags: list[str]) -> tuple[TrainOptions, Any]:
    """The general options and the algorithm's config, with the preset's values where no flag says otherwise."""
    from pyrl.agents.registry import agent_class
    from pyrl.experiment.presets import has_preset, preset

    chosen = preset(algo, env)
    general = TrainOptions(num_envs=chosen.num_envs)
    told = {flag.partition("=")[0].replace("_", "-") for flag in flags}
    if not told & {"--total-steps", "--total-episodes"}:  # a limit that is told takes the place of the preset's
        general = dataclasses.replace(general, total_steps=chosen.total_steps, total_episodes=chosen.total_episodes)
    config = agent_class(algo).Config(**chosen.config)
    parts = [(n, type(d), dataclasses.field(default=d)) for n, d in (("training", general), (algo, config))]
    both = dataclasses.make_dataclass("Options", parts, frozen=True)
    source = "the preset for it" if has_preset(algo, env) else f"{algo}; there is no preset for it"
    about = f"Train {algo} on {env}. Defaults: those of {source}. --env-kwargs.NAME VALUE goes to the environment."
    options: Any = parse(both, flags, f"train {algo} {env}", about)
    return options.training, getattr(options, algo)


def _resume(arguments: list[str]) -> int:
    from pyrl.experiment.runs import RunFolder

    options, others = parse_known(ResumeOptions, arguments, "train", "Go on with a stopped run, with the settings it had.")
    if others:
        taken = ", ".join(f"--{field.name.replace('_', '-')}" for field in dataclasses.fields(ResumeOptions) if field.name != "resume")
        raise ValueError(f"train: {shlex.join(others)} cannot go with --resume: a resumed run keeps its settings, but for {taken}")
    run = RunFolder.open(options.resume)
    check_by_id(run, f"go on there, pyrl.train({run.config['algo']!r}, {{env}}, resume={str(run.path)!r})")
    import_from_here()
    limits: dict[str, Any] = {"stop_at_return": options.stop_at_return, "stop_window": options.stop_window}
    for name in ("total_steps", "total_episodes"):
        told = getattr(options, name)
        limits[name] = told if told is not None else run.config.get(name)
    return _train_watched(run.config["algo"], run.config["env"], options.quiet, resume=run.path, **limits)


def _train_watched(algo: str, env: str, quiet: bool, **keywords: Any) -> int:
    """Call `pyrl.experiment.train` under a progress bar. A signal ends it when it has saved; the exit code is the signal's."""
    from pyrl.cli.report import print_report
    from pyrl.experiment.runs import RunFolder, shown
    from pyrl.experiment.signals import Interrupted, Stopped
    from pyrl.experiment.train import train

    console = Console(quiet=quiet)
    try:
        with Bar(f"{algo} {env}", console, keywords["total_steps"], keywords["total_episodes"]) as bar:
            run = train(algo, env, on_metrics=bar.show, **keywords)
    except (Stopped, Interrupted) as stop:
        folder = shlex.quote(shown(stop.folder))
        tell(f"stopped after {stop.run.agent.env_steps:,} steps; go on with\n  pyrl train --resume {folder}")
        return 128 + stop.signal
    assert run.dir is not None
    folder = shlex.quote(shown(run.dir))
    print_report(console, RunFolder.open(run.dir), run.new_steps, run.seconds)
    remedy = missing_to_draw(env)
    needs = f" (needs: {escape(remedy)})" if remedy else ""
    console.print(f"watch it with{needs}\n  [bold]pyrl play {folder}[/]", highlight=False, soft_wrap=True)
    return 0
