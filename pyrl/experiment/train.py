"""`pyrl.train`: a loop with everything around it: run folder, metrics, curve, evaluations, checkpoints, going on after a stop."""

from __future__ import annotations

import dataclasses
import inspect
import math
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from pyrl import checkpoint
from pyrl.agents.base import Agent
from pyrl.agents.checkpoints import save_agent
from pyrl.agents.checks import Count, Goal, Limit, NumEnvs, Seed, Unsaid, checks_arguments
from pyrl.agents.registry import check_algorithm, config_to_json, make_agent
from pyrl.engine.threads import use_threads
from pyrl.envs import make
from pyrl.errors import CheckpointError, NonFiniteError, SettingError
from pyrl.experiment.metrics import MetricsLog
from pyrl.experiment.runs import RunFolder
from pyrl.experiment.settings import CHANGEABLE_CONFIG, from_json, new_settings, resumed_settings, to_json
from pyrl.loops.base import Loop, Window
from pyrl.loops.evaluation import Evaluation, evaluate
from pyrl.loops.iterate import iterate
from pyrl.types import Metrics

ROWS = 500  # about how many rows a run's metrics.csv gets
SAVES = 50  # at most about how many times a run writes the checkpoint of its best 100-episode mean
SAVE_SECONDS = 120.0  # between two saves of the checkpoint to go on from

SEED, TEN = Unsaid(0), Unsaid(10)


@dataclasses.dataclass(repr=False)
class Run:
    """What training leaves in memory; `dir` is what it leaves on the disk (None without a run folder)."""

    agent: Agent
    metrics: list[Metrics]  # the rows of metrics.csv
    dir: Path | None
    evaluations: list[tuple[int, Evaluation]]  # (environment step, scores)
    ending: str = "an error"  # what ended it, a limit or else; in config.json and the checkpoint `last` too
    new_steps: int = 0  # environment steps of this call: all of them, but where an older run was gone on with
    seconds: float = 0.0  # that they took, evaluations and checkpoints included

    def __repr__(self) -> str:
        last = self.metrics[-1] if self.metrics else Metrics({}, [])
        score = f", mean return of the last episodes {last['episode/return_mean']:.1f}" if "episode/return_mean" in last else ""
        return f"Run({self.agent.name}, {self.agent.env_steps:,} steps{score}, ended by {self.ending}, dir={self.dir and str(self.dir)!r})"


@checks_arguments
def train(
    algo: str,
    env: Any,
    *,
    total_steps: Limit | None = None,
    total_episodes: Limit | None = None,
    seed: Seed | None = SEED,
    num_envs: NumEnvs | None = None,
    backend: str | None = None,
    env_kwargs: Mapping[str, Any] | None = None,
    max_episode_steps: Count | None = None,
    eval_every: Count | None = None,
    eval_episodes: Count = TEN,
    stop_at_return: Goal | None = None,
    stop_window: Window = TEN,
    save_every_episodes: Count | None = None,
    run_dir: bool | str | Path | None = None,
    resume: str | Path | None = None,
    agent: Agent | None = None,
    on_metrics: Callable[[Metrics], bool | None] | None = None,
    threads: Count | None = None,
    **config: Any,
) -> Run:
    """Train ``algo`` on ``env`` (an id, a callable, or a vector environment).

    total_steps, total_episodes: the first limit that is reached ends the run; without either, the preset's.
    seed: of everything random; None draws one, which is kept in the run's config.
    num_envs, config: as in `pyrl.make_agent`; what is not given comes from the preset for (algo, env), and where there is none from
        pyrl's general settings for the algorithm (`pyrl.experiment.presets`). A vector environment brings its ``num_envs``.
    backend, env_kwargs, max_episode_steps: as in `pyrl.envs.make`.
    eval_every: evaluate at every multiple of so many environment steps, and at the end: ``eval_episodes`` episodes, on
        environments of their own.
    stop_at_return: end when the mean return of the last ``stop_window`` episodes reaches this, with the parameters that did it.
    save_every_episodes: keep a checkpoint ``episode_<n>`` about every so many episodes, beside ``best`` and ``last``.
    run_dir: folder for config, metrics, curve and checkpoints; None makes one below ``runs/``, False writes nothing.
    resume: the folder of a stopped run to go on with, by its own settings. New ones of limits, ``stop_*``, evaluations,
        ``save_every_episodes`` and learning_rate are taken, and noted in config.json; any other that differs is refused.
    agent: one that has learned already, to go on with (the object itself), in the same environment or in another of the same spaces: by its
        own config, seed and num_envs, as a run of its own, whose limits and schedules begin anew.
    on_metrics: called with every record; return True to stop after it. The checkpoint ``last`` is written either way.
    threads: of torch and of pyrl's own kernels while training. None takes one, the fastest for small networks (more pay from about
        256x256 at batches of 128 on), and leaves torch's as they are for networks of images.
    """
    arguments = dict(locals())
    names = inspect.signature(train).parameters
    check_algorithm(algo, env)
    if resume is not None:
        if agent is not None:
            raise SettingError("train: agent and resume are both given, expected one of them: a resumed run has its own agent")
        folder: RunFolder | None = RunFolder.open(resume)
        if Path(resume) not in (folder.path, folder.last):  # type: ignore[union-attr]
            raise ValueError(f"resume is {str(resume)!r}, expected the run's folder: a run goes on from its checkpoint `last` only")
        settings, changes = resumed_settings(folder, arguments, names)  # type: ignore[arg-type]
        settings["env_kwargs"] = from_json(settings.get("env_kwargs"))
    else:
        settings, folder = new_settings(arguments, names), None
    saved_kwargs = None if run_dir is False else to_json(dict(settings["env_kwargs"] or {}), "env_kwargs")
    options = {k: settings[k] for k in ("backend", "env_kwargs", "max_episode_steps") if settings.get(k)}
    with make(env, settings["num_envs"], seed=settings["seed"], **options) as stepper, ExitStack() as held:
        if agent is None:
            agent = make_agent(
                settings["algo"], stepper.single_observation_space, stepper.single_action_space,
                seed=settings["seed"], num_envs=stepper.num_envs, **settings["config"],
            )  # fmt: skip
        held.enter_context(use_threads(agent.threads if threads is None else threads))
        limits = {name: settings[name] for name in ("total_steps", "total_episodes", "stop_at_return", "stop_window")}
        loop = iterate(agent, stepper, **limits)
        settings["env_kwargs"] = saved_kwargs
        if resume is None and run_dir is not False:
            settings |= {"config": config_to_json(agent.config), "num_envs": stepper.num_envs, "engine": agent.engine}
            rest = {k: v for k, v in settings.items() if k not in ("algo", "env", "seed")}
            path = None if run_dir in (None, True) else Path(str(run_dir))
            folder = RunFolder.create(settings["algo"], settings["env"], settings["seed"], rest, path=path)
        elif resume is not None and folder is not None:
            _restore(folder, agent, loop)
            if changes:
                settings["resumed"] = [*settings.get("resumed", []), {"env_steps": agent.env_steps, "changes": changes}]
            folder.config = settings
            folder.config.pop("ending", None)
            folder.write_config()
        score = (lambda: evaluate(agent, env, settings["eval_episodes"], **options)) if settings["eval_every"] else None
        return _run(loop, folder, settings, score, on_metrics, resumed=resume is not None)


def _run(
    loop: Loop,
    folder: RunFolder | None,
    settings: Mapping[str, Any],
    score: Callable[[], Evaluation] | None,
    on_metrics: Callable[[Metrics], bool | None] | None,
    resumed: bool,
) -> Run:
    agent, every, kept_every = loop.agent, settings["eval_every"], settings["save_every_episodes"]
    run = Run(agent, [], None if folder is None else folder.path, [])
    recorder = _Recorder(folder, loop, run.metrics, settings["total_steps"], resumed)
    before, kept = agent.env_steps, loop.episodes
    first_step, started = agent.env_steps, time.perf_counter()
    try:
        for metrics in loop:
            if score is not None and (agent.env_steps // every > before // every or loop.finished):
                result = score()
                run.evaluations.append((agent.env_steps, result))
                metrics |= result.metrics()
            before = agent.env_steps
            recorder.record(metrics, "evaluation/return_mean" if score is not None else "episode/return_mean")
            if folder is not None and kept_every is not None and loop.episodes // kept_every > kept // kept_every:
                save_agent(folder.after_episode(loop.episodes), agent)
                kept = loop.episodes
            if on_metrics is not None and on_metrics(metrics):
                break
        run.ending = loop.ending
    except NonFiniteError as error:
        if folder is None or loop.refused is None:
            raise
        path = checkpoint.save(folder.failure, {"data": _tree(loop.refused)}, {"error": str(error), "env_steps": agent.env_steps})
        raise NonFiniteError(f"{error}; the weights are as they were before it, the data lie in {path}") from error
    finally:  # an environment that fails does not take the run with it
        run.new_steps, run.seconds = agent.env_steps - first_step, time.perf_counter() - started
        recorder.close(run.ending)
    return run


def _tree(value: Any) -> Any:
    """A batch or rollout as nested mappings of arrays."""
    if dataclasses.is_dataclass(value):
        return {f.name: _tree(getattr(value, f.name)) for f in dataclasses.fields(value) if getattr(value, f.name) is not None}
    if isinstance(value, Mapping | tuple):
        items = value.items() if isinstance(value, Mapping) else enumerate(value)
        return {str(key): _tree(entry) for key, entry in items}
    return value


class _Recorder:
    """Keeps rows of metrics and, if there is a run folder, writes them, the best checkpoint, the last one, and the curve."""

    def __init__(self, folder: RunFolder | None, loop: Loop, rows: list[Metrics], total_steps: float | None, resumed: bool) -> None:
        self.folder, self.loop, self.rows = folder, loop, rows
        self.pace = _Pace(total_steps, loop.agent.env_steps)
        self.log: MetricsLog | None = None
        self.best = -math.inf
        self.saved, self.save_seconds = time.monotonic(), 0.0
        if folder is not None:
            self.log = MetricsLog(folder.path, resume_from=loop.agent.env_steps if resumed else None)
            self.best = folder.config.get("best", -math.inf)

    def record(self, metrics: Metrics, score_key: str) -> None:
        """One record; ``score_key`` names the number that the best checkpoint is the best of."""
        self._write(self.pace.row(metrics))
        if self.folder is None:
            return
        score, steps = metrics.get(score_key, -math.inf), self.loop.agent.env_steps
        may_save = score_key.startswith("evaluation/") or (len(self.loop.window) >= 10 and self.pace.may_save(steps))
        if score > self.best and may_save:
            self.best = self.folder.config["best"] = score
            save_agent(self.folder.best, self.loop.agent)
        # A large replay takes long to save: never more than a twentieth of the time.
        if time.monotonic() - self.saved > max(SAVE_SECONDS, 20 * self.save_seconds):
            self._save_last()

    def close(self, ending: str) -> None:
        self._write(self.pace.rest())
        if self.folder is None or self.log is None:
            return
        self.log.close()
        self._save_last(ending)
        self.folder.config["ending"] = ending
        self.folder.write_config()
        from pyrl.experiment.plots import plot_run

        plot_run(self.folder.path)

    def _write(self, row: Metrics | None) -> None:
        if row is not None:
            self.rows.append(row)
            if self.log is not None:
                self.log.write(row)

    def _save_last(self, ending: str | None = None) -> None:
        """The agent, and what its loop needs to go on: replay, episode window, counters."""
        started = time.monotonic()
        assert self.folder is not None
        about = {} if ending is None else {"ending": ending}
        save_agent(self.folder.last, self.loop.agent, loop=self.loop.state_dict(), metadata=about)
        self.saved = time.monotonic()
        self.save_seconds = self.saved - started


class _Pace:
    """Thins the records of a run to about ROWS rows: losses averaged, counters as they are, no episode lost."""

    def __init__(self, total_steps: float | None, start: int) -> None:
        self.every = (total_steps or 100_000) / ROWS
        self.save_every = (total_steps or 100_000) / SAVES
        self.next_row, self.next_save = 0.0, start + self.save_every
        self.held: list[Metrics] = []

    def row(self, metrics: Metrics) -> Metrics | None:
        """The row that ``metrics`` completes, or None."""
        self.held.append(metrics)
        if metrics["time/env_steps"] < self.next_row and not any(k.startswith("evaluation/") for k in metrics):
            return None
        self.next_row = metrics["time/env_steps"] + self.every
        return self.rest()

    def rest(self) -> Metrics | None:
        """The row of what is held back."""
        if not self.held:
            return None
        held, self.held = self.held, []
        merged = dict(held[-1])
        for key in {key for metrics in held for key in metrics if key.startswith(("loss/", "train/"))}:
            values = [metrics[key] for metrics in held if key in metrics]
            merged[key] = sum(values) / len(values)
        return Metrics(merged, [episode for metrics in held for episode in metrics.episodes])

    def may_save(self, env_steps: int) -> bool:
        """At most once in `save_every` steps."""
        if env_steps < self.next_save:
            return False
        self.next_save = env_steps + self.save_every
        return True


def _restore(folder: RunFolder, agent: Agent, loop: Loop) -> None:
    tree, metadata = checkpoint.load(folder.last)
    if "loop" not in tree:
        raise CheckpointError(f"{folder.last} holds no training state to go on from")
    for what, saved, wanted in (
        ("observation_space", metadata["observation_space"], checkpoint.space_to_json(agent.observation_space)),
        ("action_space", metadata["action_space"], checkpoint.space_to_json(agent.action_space)),
        ("config", _fixed(metadata["config"]), _fixed(config_to_json(agent.config))),
    ):
        checkpoint.require_match(saved, wanted, what)
    agent.load_state_dict(tree)
    loop.load_state_dict(tree["loop"])


def _fixed(config: Mapping[str, Any]) -> dict[str, Any]:
    """Without what may change when a run goes on."""
    return {name: value for name, value in config.items() if name not in CHANGEABLE_CONFIG}
