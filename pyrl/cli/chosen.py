"""The run that a command looks at."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from pyrl.errors import UnknownNameError

if TYPE_CHECKING:
    from pyrl.experiment.runs import RunFolder

RunArgument = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]


def trained_run(path: Path) -> tuple[RunFolder, Path]:
    """The run, and its checkpoint to look at: the one named, else the best."""
    from pyrl.experiment.runs import RunFolder

    run = RunFolder.open(path)
    if not run.config.get("by_id", True):
        raise UnknownNameError(
            f"{run.path} was trained on {run.config['env']}, an environment of its program: evaluate it there, "
            f"pyrl.evaluate(pyrl.load({str(run.trained())!r}), {run.config['env']})"
        )
    return run, path if path.parent.name == "checkpoints" else run.trained()


def env_options(run: RunFolder) -> dict[str, Any]:
    """How `pyrl.envs.make` was told to make the run's environments."""
    names = ("backend", "env_kwargs", "max_episode_steps")
    return {name: run.config[name] for name in names if run.config.get(name) is not None}
