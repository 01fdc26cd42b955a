"""`pyrl.train`: a loop with everything around it: run folder, metrics, curve, evaluations, checkpoints, resuming."""

from __future__ import annotations

import dataclasses
import inspect
import time
import warnings
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Annotated, Any, cast

from gymnasium.vector import VectorEnv
from typing_extensions import Unpack

from pyrl import checkpoint
from pyrl.agents.base import Agent
from pyrl.agents.checkpoints import restore_agent
from pyrl.agents.checks import Count, Elsewhere, Goal, Limit, NumEnvs, Positive, Seed, Unsaid, checks_arguments
from pyrl.agents.options import AgentOptions
from pyrl.agents.registry import check_algorithm, config_to_json, make_agent
from pyrl.distributed.loop import WorkerEngine, iterate_with_workers
from pyrl.engine.threads import use_threads
from pyrl.envs import EnvSource, Stepper, make
from pyrl.envs.make import ENV_TIMEOUT
from pyrl.errors import CheckpointError, NonFiniteError, SettingError
from pyrl.experiment.metrics import read_csv
from pyrl.experiment.recorder import Recorder, ending_of
from pyrl.experiment.runs import RunFolder
from pyrl.experiment.saves import replay_of
from pyrl.experiment.settings import CHANGEABLE_CONFIG, to_json, told_settings
from pyrl.experiment.signals import StopSignals
from pyrl.loops.base import Loop, Window
from pyrl.loops.evaluation import Evaluation, evaluate
from pyrl.loops.iterate import iterate
from pyrl.own import named
from pyrl.types import Metrics

SEED, TEN, TIMEOUT = Unsaid(0), Unsaid(10), Unsaid(ENV_TIMEOUT)


@dataclasses.dataclass(repr=False)
class Run:
    """What training leaves in memory; `dir` is what it leaves on the disk (None without a run folder)."""

    agent: Agent
    metrics: list[Metrics]  # the rows of metrics.csv
    dir: Path | None
    evaluations: list[tuple[int, Evaluation]]  # (environment step, scores)
    ending: str = "an error"  # what ended it, a limit or else; in config.json and the checkpoint `last` too
    new_steps: int = 0  # environment steps of this call, without those before a resume
    seconds: float = 0.0  # that they took, evaluations and checkpoints included

    def __repr__(self) -> str:
        last = self.metrics[-1] if self.metrics else Metrics({}, [])
        score = f", mean return of the last episodes {last['episode/return_mean']:.1f}" if "episode/return_mean" in last else ""
        return f"Run({self.agent.name}, {self.agent.env_steps:,} steps{score}, ended by {self.ending}, dir={self.dir and str(self.dir)!r})"


@checks_arguments
def train(
    algo: str,
    env: Annotated[EnvSource, Elsewhere()],
    *,
    total_steps: Limit | None = None,
    total_episodes: Limit | None = None,
    seed: Seed | None = SEED,
    num_envs: NumEnvs | None = None,
    backend: str | None = None,
    env_kwargs: Mapping[str, Any] | None = None,
    max_episode_steps: Count | None = None,
    env_timeout: Positive | None = TIMEOUT,
    eval_every: Count | None = None,
    eval_episodes: Count = TEN,
    stop_at_return: Goal | None = None,
    stop_window: Window = TEN,
    save_every_episodes: Count | None = None,
    run_dir: bool | str | Path | None = None,
    resume: str | Path | None = None,
    agent: Agent | None = None,
    on_metrics: Callable[[Metrics], bool | None] | None = None,
    curve: bool | Callable[[Path], object] = True,
    threads: Count | None = None,
    workers: NumEnvs | None = None,
    worker_engine: WorkerEngine | None = None,
    max_policy_lag: Count | None = None,
    replay_shards: Count | None = None,
    samples_per_insert: Positive | None = None,
    remote_shards: bool | None = None,
    learners: Count | None = None,
    overlap: bool | None = None,
    address: str | None = None,
    **config: Unpack[AgentOptions],
) -> Run:
    """Train ``algo`` on ``env`` (an id, a callable, or a vector environment).

    total_steps, total_episodes: the first limit that is reached ends the run; without either, the preset's.
    seed: of everything random; None draws one, which is kept in the run's config.
    num_envs, config: as in `pyrl.make_agent`; what is not given comes from the preset for (algo, env), and where there is none from
        pyrl's general settings for the algorithm (`pyrl.experiment.presets`). A vector environment brings its ``num_envs``.
    backend, env_kwargs, max_episode_steps, env_timeout: as in `pyrl.envs.make`.
    eval_every: evaluate at every multiple of so many environment steps, and at the end: ``eval_episodes`` episodes, on
        environments of their own.
    stop_at_return: end when the mean return of the last ``stop_window`` episodes reaches this, with the parameters that did it.
    save_every_episodes: keep a checkpoint ``episode_<n>`` about every so many episodes, beside ``best`` and ``last``.
    run_dir: folder for config, metrics, curve and checkpoints; None makes one below ``runs/``, False writes nothing.
    resume: the folder of a stopped run to resume, with its own settings. New ones of limits, ``stop_*``, evaluations,
        ``save_every_episodes``, ``env_timeout``, ``address`` and learning_rate are taken, and noted in config.json; any other that
        differs is refused.
        A network, features_extractor, activation or optimizer of one's own is handed in again.
    agent: one that has learned already, to continue with (the object itself), in the same or another environment of the same spaces: by its
        own config, seed and num_envs, as a run of its own, whose limits and schedules begin anew.
    on_metrics: called with every record; return True to stop after it. The checkpoint ``last`` is written either way.
    curve: draw curve.png in the run's folder at the end (False: `pyrl plot` does it later); a function of the folder draws in its place.
    threads: of torch and of pyrl's own kernels while training. None takes one, the fastest for small networks (more pay from about
        256x256 at batches of 128 on), and leaves torch's as they are for networks of images.
    workers: that collect for the learner, num_envs / workers environments each (docs/scale.md); None: this process does it all.
    worker_engine: "local" (None): each worker is a process, and the learner takes what is ready; for impala and appo, which correct for
        weights that lag, and waits for all of them for ppo and a2c. "sync": all in this process, the same run for any number of workers.
        "ray": each worker is an actor of Ray (the extra ``ray``), on one machine or many.
    max_policy_lag: chunks by weights of more updates ago are discarded; None: 20.
    replay_shards: of agents with a replay and workers: its parts, num_envs / replay_shards environments each; None: one. A num_envs that is
        not given is the preset's, rounded up to a multiple of workers and of replay_shards.
    samples_per_insert: transitions drawn for each that is stored; None: as with one environment and no workers, by batch_size,
        train_freq and gradient_steps.
    remote_shards: with worker_engine="ray": each shard is an actor of Ray, on any node, whose memory it uses (docs/scale.md). None: in
        this process.
    learners: of impala and a2c, that share each update's environments and sum their gradients (docs/scale.md): this process and others
        that it starts, or those of torchrun. None: one.
    overlap: the environments step while the agent learns, on another core. What it acts by lags: off-policy by one step (the updates that
        follow it), on-policy by one rollout. The same run each time; refused for environments that step in this process's interpreter.
    address: of Ray's cluster ("auto": the one of this machine); None: the one that the program is connected to, or that RAY_ADDRESS names,
        else a Ray of its own on this machine.

    SIGINT (Ctrl-C), SIGTERM and SIGHUP end a run with a folder at the next step and save it; then they take their course: by default
    KeyboardInterrupt, or SystemExit with 128 + the signal's number. A second one does not wait. A save that the disk refuses is
    warned of and tried again; UnsavedError, whose ``run`` is the result, if something is unwritten at the end.
    """
    arguments = dict(locals())
    check_algorithm(algo, env)
    settings, folder, changes = told_settings(arguments, inspect.signature(train).parameters)
    options = _env_options(settings)
    settings["env_kwargs"] = None if run_dir is False else to_json(dict(settings["env_kwargs"] or {}), "env_kwargs")
    run: Run | None = None
    recorded: Mapping[str, Any] | None = None  # of a run that is resumed
    try:
        here = 1 if settings.get("workers") else settings["num_envs"]  # workers have the environments
        with make(env, here, seed=settings["seed"], **options) as stepper, ExitStack() as held:
            agent = _agent(stepper, settings) if agent is None else agent
            held.enter_context(use_threads(agent.threads if threads is None else threads))
            loop = _loop(agent, env, stepper, settings, options, held)
            signals = held.enter_context(StopSignals(loop.stop, saved=resume is not None or run_dir is not False))
            folder, run_dir = (None, False) if loop.follows else (folder, run_dir)
            if folder is not None:
                recorded = _resume(folder, agent, loop, settings, changes)
            elif run_dir is not False:
                settings |= {"config": config_to_json(agent.config), "num_envs": agent.num_envs, "engine": agent.engine}
                folder = _new_folder(settings, run_dir)
            run = _run(loop, folder, settings, _score(loop, env, settings, options), on_metrics, recorded, curve, signals)
    except Exception:
        if run is None or signals.received is None:  # else the signal went to the environments' processes too, and all is saved
            raise
    signals.deliver(run)
    return run


def _agent(stepper: Stepper, settings: Mapping[str, Any]) -> Agent:
    """A new one, of the settings."""
    num_envs = settings["num_envs"] if settings.get("workers") else stepper.num_envs
    spaces = stepper.single_observation_space, stepper.single_action_space
    return make_agent(settings["algo"], *spaces, seed=settings["seed"], num_envs=num_envs, **settings["config"])


def _score(loop: Loop, env: Any, settings: Mapping[str, Any], options: Mapping[str, Any]) -> Callable[[], Evaluation] | None:
    """What evaluates, where that is asked for."""
    if not settings["eval_every"]:
        return None
    return lambda: evaluate(loop.agent, env, settings["eval_episodes"], stop=lambda: loop.stopped, **options)


def _loop(agent: Agent, env: Any, stepper: Stepper, settings: Mapping[str, Any], options: Mapping[str, Any], held: ExitStack) -> Loop:
    """What trains; ``held`` ends its workers, if it has some."""
    if settings["eval_every"] and isinstance(env, VectorEnv):
        raise SettingError("train: eval_every needs environments of its own, expected env as an id or a callable, got a vector environment")
    limits = {k: settings[k] for k in ("total_steps", "total_episodes", "stop_at_return", "stop_window")}
    if not settings.get("workers"):
        return iterate(agent, stepper, **limits, overlap=settings.get("overlap", False))
    if settings.get("overlap"):
        raise SettingError(f"train: overlap is True, but workers is {settings['workers']}: they step while the agent learns; leave it out")
    loop = iterate_with_workers(agent, env, stepper, settings, limits, options)
    held.callback(loop.close)
    return loop


def _env_options(settings: Mapping[str, Any]) -> dict[str, Any]:
    options = {k: settings[k] for k in ("backend", "env_kwargs", "max_episode_steps") if settings.get(k)}
    return {**options, "env_timeout": settings.get("env_timeout", ENV_TIMEOUT)}


def _new_folder(settings: Mapping[str, Any], run_dir: bool | str | Path | None) -> RunFolder:
    path = None if run_dir in (None, True) else Path(str(run_dir))
    return RunFolder.create(settings["algo"], settings["env"], settings["seed"], settings, path=path)


def _resume(folder: RunFolder, agent: Agent, loop: Loop, settings: dict[str, Any], changes: Mapping[str, Any]) -> Mapping[str, Any]:
    """What `_restore` returns; config.json says from here on that the run was resumed, and with which settings."""
    recorded = _restore(folder, agent, loop)
    if changes:
        settings["resumed"] = [*settings.get("resumed", []), {"env_steps": agent.env_steps, "changes": changes}]
    folder.config = {k: v for k, v in settings.items() if k not in ("ending", "error", "save_failure")}
    folder.config["config"] = named(settings.get("config", {}))
    folder.write_config()
    return recorded


def _run(
    loop: Loop,
    folder: RunFolder | None,
    settings: Mapping[str, Any],
    score: Callable[[], Evaluation] | None,
    on_metrics: Callable[[Metrics], bool | None] | None,
    recorded: Mapping[str, Any] | None,
    curve: bool | Callable[[Path], object],
    signals: StopSignals,
) -> Run:
    agent, first_step, started = loop.agent, loop.agent.env_steps, time.perf_counter()
    run = Run(agent, [], None if folder is None else folder.path, [])
    recorder = Recorder(folder, loop, run.metrics, settings["total_steps"], recorded is not None)
    if recorded and folder is not None:
        with checkpoint.checkpoint_errors(folder.last, "does not resume"):
            recorder.load_state_dict(recorded)
    failed: BaseException | None = None
    try:
        _go_on(loop, recorder, run, settings, score, on_metrics)
        run.ending = loop.ending
    except BaseException as error:
        if signals.hurried:
            raise
        failed = _with_data(error, folder, loop) if isinstance(error, NonFiniteError) else error
        run.ending = ending_of(failed)
    if signals.received is not None:  # it may be why something failed: a signal to a group reaches the environments' processes too
        run.ending = signals.received.name
    run.new_steps, run.seconds = agent.env_steps - first_step, time.perf_counter() - started
    unsaved = recorder.close(run.ending, failed, curve)
    if failed is not None and signals.received is None:
        raise failed
    if unsaved is not None:
        unsaved.run = run
        raise unsaved
    return run


def _go_on(
    loop: Loop,
    recorder: Recorder,
    run: Run,
    settings: Mapping[str, Any],
    score: Callable[[], Evaluation] | None,
    on_metrics: Callable[[Metrics], bool | None] | None,
) -> None:
    agent, every = loop.agent, settings["eval_every"]
    before, score_key = agent.env_steps, "episode/return_mean" if score is None else "evaluation/return_mean"
    with closing(cast(Generator[Metrics, None, None], iter(loop))) as records:
        for metrics in records:
            if score is not None and not loop.stopped and (agent.env_steps // every > before // every or loop.finished):
                result = score()
                if not loop.stopped:
                    run.evaluations.append((agent.env_steps, result))
                    metrics |= result.metrics()
            before = agent.env_steps
            recorder.record(metrics, score_key, settings["save_every_episodes"])
            if on_metrics is not None and on_metrics(metrics):
                break


def _with_data(error: NonFiniteError, folder: RunFolder | None, loop: Loop) -> NonFiniteError:
    """``error``, with the place of the data that caused it."""
    if folder is None or loop.refused is None:
        return error
    where = f"the data lie in {folder.failure}"
    try:
        folder.check()
        checkpoint.save(folder.failure, {"data": _tree(loop.refused)}, {"error": str(error), "env_steps": loop.agent.env_steps})
    except OSError as refusal:
        where = f"the data could not be written ({refusal})"
    told = NonFiniteError(f"{error}; the weights are as they were before it, {where}")
    told.__cause__ = error
    return told


def _tree(value: Any) -> Any:
    """A batch or rollout as nested mappings of arrays."""
    if dataclasses.is_dataclass(value):
        return {f.name: _tree(getattr(value, f.name)) for f in dataclasses.fields(value) if getattr(value, f.name) is not None}
    if isinstance(value, Mapping | tuple):
        items = value.items() if isinstance(value, Mapping) else enumerate(value)
        return {str(key): _tree(entry) for key, entry in items}
    return value


def _restore(folder: RunFolder, agent: Agent, loop: Loop) -> Mapping[str, Any]:
    """Agent and loop as they were; the recorder's state, empty where an older version wrote none."""
    if not checkpoint.exists(folder.last) and not read_csv(folder.metrics_file):
        if folder.config.get("warm_start"):
            raise CheckpointError(f"{folder.last} is missing: the run began with an agent, which nothing else in {folder.path} holds")
        return {}  # killed before its first save: it begins
    tree, about = restore_agent(folder.last, agent, changed=CHANGEABLE_CONFIG)
    with checkpoint.checkpoint_errors(folder.last, "does not resume"):
        missing = agent.env_steps - about.get("replay_env_steps", agent.env_steps)
        state = dict(tree["loop"])
        replay = replay_of(tree)
        if replay is not None:  # as it was so many steps ago
            state |= {"buffer": replay, "stored": state["stored"] - missing}
        loop.load_state_dict(state)
    if replay is not None and missing:
        what = f"the replay in {folder.last} lacks the last {missing:,} steps before the run was killed"
        warnings.warn(f"{what}; it continues with what the replay held then", RuntimeWarning, stacklevel=4)
    return tree.get("recorder", {})
