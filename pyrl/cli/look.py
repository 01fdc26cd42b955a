"""``pyrl eval``, ``play``, ``plot`` and ``list``: looking at what was trained."""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from rich.console import Console
from rich.table import Table

from pyrl.agents.registry import available_agents
from pyrl.cli.flags import parse
from pyrl.cli.progress import score
from pyrl.errors import UnknownNameError
from pyrl.schedules import function_named, is_name

if TYPE_CHECKING:
    from pyrl.experiment.runs import RunFolder

_VIDEOS = (".mp4", ".mkv", ".mov")  # what holds H.264
_DRAWN_BY_PYGAME = ("gymnasium.envs.classic_control", "gymnasium.envs.box2d", "gymnasium.envs.toy_text")

RunArgument = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]


@dataclass(frozen=True, kw_only=True)
class EvalOptions:
    run: RunArgument  # run folder, or one of its checkpoints
    episodes: int = 20  # how many
    seed: int = 10_000  # of the environments; training uses others
    stochastic: bool = False  # draw actions from the policy, instead of its best
    device: str | None = None  # of the networks (cpu, cuda); None: as in training


@dataclass(frozen=True, kw_only=True)
class PlayOptions:
    run: RunArgument  # run folder, or one of its checkpoints
    episodes: int = 3  # how many
    video: Path | None = None  # write this file (.mp4, .mkv, .mov) instead of opening a window
    seed: int = 20_000  # of the environment
    stochastic: bool = False  # draw actions from the policy, instead of its best
    device: str | None = None  # of the networks (cpu, cuda); None: as in training


@dataclass(frozen=True, kw_only=True)
class PlotOptions:
    runs: Annotated[list[Path], tyro.conf.Positional, tyro.conf.arg(metavar="RUN...")]  # one run folder, or several
    out: Path | None = None  # picture; None: curve.png in the run folder, or comparison.png here


@dataclass(frozen=True, kw_only=True)
class ListOptions:
    pass


def evaluate(arguments: list[str]) -> int:
    options = parse(EvalOptions, arguments, "eval", "Evaluate the best checkpoint of a run, or the one named.")
    run, path = _trained(options.run)
    from pyrl.agents.checkpoints import load_agent
    from pyrl.loops import evaluate as run_episodes

    result = run_episodes(
        load_agent(path, device=options.device),
        run.config["env"],
        options.episodes,
        seed=options.seed,
        deterministic=not options.stochastic,
        **_env_options(run),
    )
    lowest, highest = score(result.returns.min()), score(result.returns.max())
    table = Table.grid(padding=(0, 2))
    table.add_row("checkpoint", str(path))
    table.add_row("return", f"{score(result.mean, result.std)} (lowest {lowest}, highest {highest})")
    table.add_row("length", f"{result.lengths.mean():.1f}")
    if result.success_rate is not None:
        table.add_row("success", f"{result.success_rate:.1%}")
    actions = "drawn from the policy" if options.stochastic else "deterministic"
    table.add_row("episodes", f"{options.episodes}, seed {options.seed}, actions {actions}")
    Console().print(table, highlight=False)
    return 0


def play(arguments: list[str]) -> int:
    options = parse(PlayOptions, arguments, "play", "Watch the best checkpoint of a run, or the one named.")
    if options.video is not None and options.video.suffix.lower() not in _VIDEOS:
        raise ValueError(f"play: --video is {options.video}, expected a file that ends in {', '.join(_VIDEOS)}")
    run, path = _trained(options.run)
    remedy = missing_to_draw(run.config["env"])
    if remedy is not None:
        raise ModuleNotFoundError(f"play: drawing {run.config['env']} needs a package that is not installed: {remedy}")
    if options.video is not None and find_spec("moviepy") is None:
        raise ModuleNotFoundError("play: --video needs a package that is not installed: pip install 'pyrl[video]'")

    from pyrl.agents.checkpoints import load_agent
    from pyrl.envs import make

    agent = load_agent(path, device=options.device)
    mode = "human" if options.video is None else "rgb_array"
    if options.video is not None:
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # a video needs no screen
    stepper: Any = make(run.config["env"], 1, render_mode=mode, **_env_options(run) | {"backend": "lean"})
    env = stepper.envs[0]  # by itself: a stepper restarts an episode before its last frame is seen
    video = None if options.video is None else _Video(options.video, env.metadata.get("render_fps", 30))
    try:
        for episode in range(options.episodes):
            observation, _ = env.reset(seed=options.seed + episode)
            total, length, over = 0.0, 0, False
            while not over:
                if video is not None:
                    video.add(env.render())
                action = agent.act(observation, deterministic=not options.stochastic)
                observation, reward, terminated, truncated, _ = env.step(action)
                total, length, over = total + float(reward), length + 1, terminated or truncated
            if video is not None:
                video.add(env.render())
            print(f"episode {episode + 1}: return {score(total)}, {length} steps")
        if video is not None:
            print(f"wrote {video.finish()}")
    finally:
        env.close()
        if video is not None:
            video.abandon()
    return 0


def missing_to_draw(env: str) -> str | None:
    """The command that installs what drawing ``env`` needs; None where nothing is known to be missing."""
    from pyrl.envs.make import find_spec as find_env

    drawn_by_pygame = str(find_env(env).entry_point).startswith(_DRAWN_BY_PYGAME)
    return "pip install 'pyrl[video]'" if drawn_by_pygame and find_spec("pygame") is None else None


class _Video:
    """Frames to a file that appears when it is complete; no more than one frame is held."""

    def __init__(self, path: Path, fps: float) -> None:
        self._path = path
        self._temporary = path.with_name(f".{path.stem}.tmp{path.suffix}")
        self._fps = fps
        self._writer: Any = None

    def add(self, frame: Any) -> None:
        frame = frame[: frame.shape[0] // 2 * 2, : frame.shape[1] // 2 * 2]  # H.264 wants even sides
        if self._writer is None:
            from moviepy.video.io.ffmpeg_writer import FFMPEG_VideoWriter

            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._writer = FFMPEG_VideoWriter(str(self._temporary), frame.shape[1::-1], self._fps)
        self._writer.write_frame(frame)

    def finish(self) -> Path:
        self._writer.close()
        os.replace(self._temporary, self._path)
        return self._path

    def abandon(self) -> None:
        if self._writer is not None:
            self._writer.close()
        self._temporary.unlink(missing_ok=True)


def plot(arguments: list[str]) -> int:
    options = parse(PlotOptions, arguments, "plot", "Draw the learning curve of a run, or compare several runs.")
    from pyrl.experiment.plots import plot_run, plot_runs

    if len(options.runs) == 1:
        print(plot_run(options.runs[0], options.out))
    else:
        print(plot_runs(options.runs, options.out or Path("comparison.png")))
    return 0


def list_all(arguments: list[str]) -> int:
    parse(ListOptions, arguments, "list", "What there is: algorithms, presets, environments, and the latest runs.")
    from pyrl.experiment.presets import available_presets, describe
    from pyrl.experiment.runs import list_runs

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
    table = Table("runs", "score", box=None)
    for run in list_runs()[-10:]:
        table.add_row(str(run.path), _last_score(run))
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


def _trained(path: Path) -> tuple[RunFolder, Path]:
    """The run, and its checkpoint to look at: the one named, else the best."""
    from pyrl.experiment.runs import RunFolder

    run = RunFolder.open(path)
    if not run.config.get("by_id", True):
        raise UnknownNameError(
            f"{run.path} was trained on {run.config['env']}, an environment of its program: evaluate it there, "
            f"pyrl.evaluate(pyrl.load({str(run.trained())!r}), {run.config['env']})"
        )
    for value in run.config.get("config", {}).values():
        if is_name(value):
            function_named(value)  # a schedule of the user's module, which a checkpoint alone would not import
    return run, path if path.parent.name == "checkpoints" else run.trained()


def _env_options(run: RunFolder) -> dict[str, Any]:
    """How `pyrl.envs.make` was told to make the run's environments."""
    names = ("backend", "env_kwargs", "max_episode_steps")
    from pyrl.experiment.settings import from_json

    return {name: from_json(run.config[name]) for name in names if run.config.get(name) is not None}
