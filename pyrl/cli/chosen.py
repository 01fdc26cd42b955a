"""The run that a command reads."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from pyrl.cli.flags import check_by_id, import_from_here
from pyrl.own import BROUGHT
from pyrl.schedules import function_named, is_name

if TYPE_CHECKING:
    from pyrl.experiment.runs import RunFolder

RunArgument = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]


def trained_run(path: Path) -> tuple[RunFolder, Path]:
    """The run, and its checkpoint to load: the one named, else the best."""
    from pyrl.experiment.runs import RunFolder

    run = RunFolder.open(path)
    check_by_id(run, f"evaluate it there, pyrl.evaluate(pyrl.load({str(run.trained())!r}), {{env}})")
    import_from_here()
    for name, value in run.config.get("config", {}).items():
        if is_name(value) and name not in BROUGHT:
            function_named(value)  # a schedule of the user's module, which a checkpoint alone would not import
    return run, path if path.parent.name == "checkpoints" else run.trained()


def env_options(run: RunFolder) -> dict[str, Any]:
    """How `pyrl.envs.make` was asked to make the run's environments."""
    names = ("backend", "env_kwargs", "max_episode_steps", "env_timeout")
    from pyrl.experiment.settings import from_json

    return {name: from_json(run.config[name]) for name in names if run.config.get(name) is not None}
