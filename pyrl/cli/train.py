"""``pyrl train``: from flags to `pyrl.experiment.train`, and from its records to a progress bar."""

from __future__ import annotations

import dataclasses
import os
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pyrl.agents.checks import Count, Goal, NumEnvs, Positive, Rate, Seed, check_fields
from pyrl.agents.registry import check_algorithm
from pyrl.cli.flags import check_by_id, check_names, import_from_here, known_algorithms, plain_flags, says, split_env_kwargs
from pyrl.cli.own import objects_of, require_given, with_objects
from pyrl.errors import UnknownNameError
from pyrl.own import BROUGHT
from pyrl.torchrun import torchrun_rank

if TYPE_CHECKING:
    from pyrl.types import Metrics


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    total_steps: Count | None = None  # environment steps to train for
    total_episodes: Count | None = None  # episodes to train for; the first limit that is reached ends the run
    seed: Seed | None = 0  # of everything random; None draws one
    num_envs: NumEnvs | None = None  # environments stepped together
    env_backend: str = "auto"  # what steps the environments; pyrl list has the names
    max_episode_steps: Count | None = None  # time limit of an episode; None: the environment's own
    env_timeout: Positive | None = 300.0  # seconds that an environment of another process gets to answer; None: no limit
    eval_every: Count | None = None  # environment steps between evaluations; None: no evaluation
    eval_episodes: Count = 10  # episodes of each evaluation
    stop_at_return: Goal | None = None  # stop when the mean return of the last stop_window episodes reaches this
    stop_window: Count = 10  # episodes of that mean
    save_every_episodes: Count | None = None  # episodes between two checkpoints that are kept; None: only the best and the last are
    threads: Count | None = None  # of torch and of pyrl's kernels; None: one, or torch's own for images
    workers: NumEnvs | None = None  # that collect for the learner, num_envs / workers environments each; None: this process does it all
    worker_engine: Literal["local", "sync", "ray"] | None = None  # of workers: processes (None), all in this one, or actors of Ray
    max_policy_lag: Count | None = None  # of workers in processes: chunks by weights of more updates ago are discarded; None: 20
    replay_shards: Count | None = None  # of workers that fill a replay (dqn, ddpg, td3, sac): its parts; None: one
    samples_per_insert: Positive | None = None  # the same: transitions drawn for each that is stored; None: as without workers
    remote_shards: bool = False  # with --worker-engine ray: each shard is an actor, on any node; else all are in this process
    learners: Count | None = None  # that share the updates of impala and a2c (docs/scale.md); None: one
    overlap: bool = False  # environments step while the agent learns: off-policy it acts one step late, on-policy one rollout
    address: str | None = None  # of Ray's cluster, auto: the one of this machine; None: RAY_ADDRESS, or one of its own
    curve: bool = True  # draw curve.png at the end; pyrl plot does it later
    run_dir: Path | None = None  # run folder; None: runs/<algo>_<env>_<time>_s<seed>
    quiet: bool = False  # print nothing


@dataclass(frozen=True, kw_only=True)
class ResumeOptions:
    """None: as in the run."""

    resume: Path  # run folder to resume
    total_steps: Count | None = None  # environment steps at which to end
    total_episodes: Count | None = None  # episodes at which to end
    stop_at_return: Goal | None = None  # mean return of the last stop_window episodes at which to end
    stop_window: Count | None = None  # episodes of that mean
    eval_every: Count | None = None  # environment steps between evaluations
    eval_episodes: Count | None = None  # episodes of each evaluation
    save_every_episodes: Count | None = None  # episodes between two checkpoints that are kept
    address: str | None = None  # of Ray's cluster
    learning_rate: Rate | None = None  # of the optimisers
    network: str | None = None  # MODULE:NAME, if the run was started with one; the same for the next three
    features_extractor: str | None = None
    activation: str | None = None
    optimizer: str | None = None
    threads: Count | None = None  # of torch and of pyrl's kernels; None: one, or torch's own for images
    quiet: bool = False  # print nothing


def train(arguments: list[str]) -> int:
    if any(a == "--resume" or a.startswith("--resume=") for a in arguments):
        return _resume(arguments)
    if len(arguments) < 2 or arguments[0].startswith("-") or arguments[1].startswith("-"):
        if {"-h", "--help"} & set(arguments):
            algo = "ALGO" if arguments[0].startswith("-") else arguments[0]
            _help(algo)
        raise UnknownNameError(f"train needs ALGO and ENV first: pyrl train ppo CartPole-v1 ({known_algorithms()})")
    algo, env, *flags = arguments
    if {"-h", "--help"} & set(flags):
        flags = ["--help"]
    env_kwargs, flags = split_env_kwargs(flags)
    check_algorithm(algo, env)
    if flags != ["--help"] and not says(flags, "quiet"):  # before the imports, which take seconds
        _print_dim(f"{algo} on {env}; {_source(algo, env)}")
    check_names(algo, env, env_kwargs)
    general, config = _parse_train_flags(algo, env, flags)
    check_fields(general, "train")
    keywords = {f.name: getattr(general, f.name) for f in dataclasses.fields(general)}
    quiet, backend = keywords.pop("quiet"), keywords.pop("env_backend")
    keywords |= with_objects({f.name: getattr(config, f.name) for f in dataclasses.fields(config)}, "train")
    return _train_watched(algo, env, quiet, backend=backend, env_kwargs=env_kwargs, **keywords)


def _help(algo: str) -> None:
    """Before there is an environment: the flags of every algorithm, and those of ``algo`` with its general settings."""
    about = "Flags of every algorithm; pyrl train ALGO ENV --help shows the algorithm's own too, and the preset."
    if algo == "ALGO":
        from pyrl.cli.parsing import parse

        parse(TrainOptions, ["--help"], "train ALGO ENV", about)
    check_algorithm(algo)
    _parse_train_flags(algo, None, ["--help"])


def _source(algo: str, env: str | None) -> str:
    from pyrl.experiment.presets import describe

    return describe(algo, env)


def _parse_train_flags(algo: str, env: str | None, flags: list[str]) -> tuple[TrainOptions, Any]:
    """The general options and the algorithm's config, with the preset's values where no flag says otherwise."""
    from pyrl.agents.registry import agent_class
    from pyrl.cli.parsing import parse
    from pyrl.experiment.presets import preset

    chosen = preset(algo, env)
    general = TrainOptions(num_envs=chosen.num_envs)
    told = {flag.partition("=")[0].replace("_", "-") for flag in flags}
    if not told & {"--total-steps", "--total-episodes"}:  # a given limit replaces the preset's
        general = dataclasses.replace(general, total_steps=chosen.total_steps, total_episodes=chosen.total_episodes)
    config = agent_class(algo).Config(**chosen.config)
    parts = [(n, type(d), dataclasses.field(default=d)) for n, d in (("training", general), (algo, config))]
    both = dataclasses.make_dataclass("Options", parts, frozen=True)
    about = (
        f"Train {algo} on {env or 'ENV'}. Defaults: {_source(algo, env)}; all others are those of the algorithm (pyrl.make_agent's). "
        "--env-kwargs.NAME VALUE goes to the environment."
    )
    options: Any = parse(both, plain_flags(flags, general, config), f"train {algo} {env or 'ENV'}", about)
    training = options.training
    if training.workers and "--num-envs" not in told:  # the preset's, rounded up to what workers and shards can share out
        training = dataclasses.replace(training, num_envs=None)
    return training, getattr(options, algo)


def _resume(arguments: list[str]) -> int:
    from pyrl.cli.parsing import parse_known
    from pyrl.experiment.runs import RunFolder

    options, others = parse_known(ResumeOptions, arguments, "train", "Resume a stopped run, with the settings it had.")
    check_fields(options, "train")
    if others:
        taken = ", ".join(f"--{field.name.replace('_', '-')}" for field in dataclasses.fields(ResumeOptions) if field.name != "resume")
        raise ValueError(f"train: {shlex.join(others)} cannot go with --resume: a resumed run keeps its settings, but for {taken}")
    run = RunFolder.open(options.resume)
    check_by_id(run, f"resume it there, pyrl.train({run.config['algo']!r}, {{env}}, resume={str(run.path)!r})")
    import_from_here()
    told = {field.name: getattr(options, field.name) for field in dataclasses.fields(options) if field.name not in ("resume", "quiet")}
    told = {name: value for name, value in told.items() if value is not None and name not in BROUGHT}
    for name, value in told.items():
        if value != _before(run.config, name) and not options.quiet:
            _print_dim(f"{name} {value}, was {_before(run.config, name)}")
    told |= objects_of(options, "train")
    require_given(run, told, "train --resume")
    return _train_watched(run.config["algo"], run.config["env"], options.quiet, resume=run.path, **told)


def _before(config: Mapping[str, Any], name: str) -> Any:
    """What a run was given."""
    return config.get("config", {}).get(name) if name == "learning_rate" else config.get(name)


def _print_dim(line: str) -> None:
    """What rich would print, before it is imported; of torchrun's ranks by the first."""
    if torchrun_rank() > 0:
        return
    dim = sys.stdout.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
    print(f"\x1b[2m{line}\x1b[0m" if dim else line, flush=True)


def _train_watched(algo: str, env: str, quiet: bool, **keywords: Any) -> int:
    """Call `pyrl.experiment.train` under a progress bar. A signal ends it when it has saved; the exit code is the signal's."""
    from rich.console import Console
    from rich.markup import escape

    from pyrl.cli.play import missing_to_draw
    from pyrl.cli.progress import Bar, tell
    from pyrl.cli.report import print_report
    from pyrl.experiment.drawing import Drawing
    from pyrl.experiment.runs import RunFolder, shown
    from pyrl.experiment.signals import Interrupted, Stopped
    from pyrl.experiment.train import train

    console = Console(quiet=quiet or torchrun_rank() > 0)
    curve = keywords.pop("curve", True)
    ends = RunFolder.open(keywords["resume"]).config | keywords if "resume" in keywords else keywords
    try:
        with (
            Drawing(ends.get("total_steps")) as drawing,
            Bar(f"{algo} {env}", console, ends.get("total_steps"), ends.get("total_episodes")) as bar,
        ):

            def watch(metrics: Metrics) -> None:
                bar.show(metrics)
                if curve:
                    drawing.watch(metrics)

            run = train(algo, env, on_metrics=watch, curve=curve and drawing, **keywords)
    except (Stopped, Interrupted) as stop:
        folder = shlex.quote(shown(stop.folder))
        tell(f"stopped after {stop.run.agent.env_steps:,} steps; resume with\n  pyrl train --resume {folder}")
        return 128 + stop.signal
    if run.dir is None:  # of a run that another rank of torchrun has
        return 0
    folder = shlex.quote(shown(run.dir))
    print_report(console, RunFolder.open(run.dir), run.new_steps, run.seconds)
    remedy = missing_to_draw(env)
    needs = f" (needs: {escape(remedy)})" if remedy else ""
    console.print(f"watch it with{needs}\n  [bold]pyrl play {folder}[/]", highlight=False, soft_wrap=True)
    return 0
