"""``pyrl play``: a trained agent in a window, or in a video."""

from __future__ import annotations

import os
import shlex
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pyrl.cli.chosen import RunArgument, env_options, trained_run
from pyrl.cli.own import objects_of, require_given
from pyrl.cli.parsing import parse
from pyrl.cli.progress import score

_VIDEOS = (".mp4", ".mkv", ".mov")  # what holds H.264
_DRAWN_BY_PYGAME = ("gymnasium.envs.classic_control", "gymnasium.envs.box2d", "gymnasium.envs.toy_text")


@dataclass(frozen=True, kw_only=True)
class PlayOptions:
    run: RunArgument  # run folder, or one of its checkpoints
    episodes: int = 3  # how many
    video: Path | None = None  # write this file (.mp4, .mkv, .mov) instead of opening a window
    seed: int = 20_000  # of the environment
    stochastic: bool = False  # draw actions from the policy, instead of its best
    device: str | None = None  # of the networks (cpu, cuda); None: as in training
    network: str | None = None  # MODULE:NAME, where the run was trained with one; so for the next three
    features_extractor: str | None = None
    activation: str | None = None
    optimizer: str | None = None


def play(arguments: list[str]) -> int:
    options = parse(PlayOptions, arguments, "play", "Watch the best checkpoint of a run, or the one named.")
    if options.video is not None and options.video.suffix.lower() not in _VIDEOS:
        raise ValueError(f"play: --video is {options.video}, expected a file that ends in {', '.join(_VIDEOS)}")
    run, path = trained_run(options.run)
    own = objects_of(options, "play")
    require_given(run, own, "play")
    remedy = missing_to_draw(run.config["env"])
    if remedy is not None:
        raise ModuleNotFoundError(f"play: drawing {run.config['env']} needs a package that is not installed: {remedy}")
    unseen = None if options.video is not None else why_no_display()
    if unseen is not None:
        raise ValueError(f"play: there is no display for a window ({unseen}); {_instead(options.run)}")
    if options.video is not None and find_spec("moviepy") is None:
        raise ModuleNotFoundError("play: --video needs a package that is not installed: pip install 'pyrl[video]'")

    from pyrl.agents.checkpoints import load_agent
    from pyrl.envs import make
    from pyrl.spaces.masks import MASK_KEY, MaskReader

    agent = load_agent(path, device=options.device, **own)
    mode = "human" if options.video is None else "rgb_array"
    if options.video is not None:
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # a video needs no screen
    stepper: Any = make(run.config["env"], 1, render_mode=mode, **env_options(run) | {"backend": "lean"})
    env = stepper.envs[0]  # by itself: a stepper restarts an episode before its last frame is seen
    player, reader = agent.player(deterministic=not options.stochastic), MaskReader(agent.action_space)
    video = None if options.video is None else _Video(options.video, env.metadata.get("render_fps", 30))
    try:
        for episode in range(options.episodes):
            observation, info = env.reset(seed=options.seed + episode)
            player.reset()
            total, length, over = 0.0, 0, False
            while not over:
                if video is not None:
                    video.add(env.render())
                mask = reader.read(info[MASK_KEY]) if agent.honours_masks and MASK_KEY in info else None
                action = player.act(observation, action_mask=mask)
                observation, reward, terminated, truncated, info = env.step(action)
                total, length, over = total + float(reward), length + 1, terminated or truncated
            if video is not None:
                video.add(env.render())
            print(f"episode {episode + 1}: return {score(total)}, {length} steps")
        if video is not None:
            print(f"wrote {video.finish()}")
    except Exception as error:
        if video is None and type(error).__module__.partition(".")[0] == "pygame":
            raise ValueError(f"play: no window could be opened ({error}); {_instead(options.run)}") from error
        raise
    finally:
        env.close()
        if video is not None:
            video.abandon()
    return 0


def missing_to_draw(env: str) -> str | None:
    """The command that installs what drawing ``env`` needs; None where nothing is known to be missing."""
    from pyrl.envs.ids import find_spec as find_env

    drawn_by_pygame = str(find_env(env).entry_point).startswith(_DRAWN_BY_PYGAME)
    return "pip install 'pyrl[video]'" if drawn_by_pygame and find_spec("pygame") is None else None


def why_no_display() -> str | None:
    """Why a window could not be seen; None where nothing speaks against it."""
    driver = os.environ.get("SDL_VIDEODRIVER", "")
    if driver in ("dummy", "offscreen"):
        return f"SDL_VIDEODRIVER is {driver!r}"
    if sys.platform != "linux" or driver not in ("", "x11", "wayland") or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"):
        return None
    return "neither DISPLAY nor WAYLAND_DISPLAY is set"


def _instead(run: Path) -> str:
    return f"write a video instead: pyrl play {shlex.quote(str(run))} --video play.mp4"


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
