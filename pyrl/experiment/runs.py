"""The run folder: everything that training leaves behind, found again by its name.

runs/ppo_CartPole-v1_20261121-050000_s0/
    config.json          what was run: algorithm, environment, seed, every setting, versions, command line, what ended it
    metrics.csv          one row a metrics record
    episodes.csv         step, return, length, success of every episode
    failure/             the data of an update that was not finite
    curve.png            `pyrl.experiment.plots.plot_run`
    checkpoints/best/    the best evaluation (or 100-episode mean) so far
    checkpoints/last/    where training stopped: what ``pyrl train --resume`` goes on from
    events.out.*         TensorBoard, when the extra is installed
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from pyrl import checkpoint

ROOT = Path("runs")


class RunFolder:
    """One run on the disk. `create` makes a new one, `open` finds an old one."""

    def __init__(self, path: Path, config: dict[str, Any]) -> None:
        self.path = path
        self.config = config

    @classmethod
    def create(
        cls,
        algo: str,
        env: str,
        seed: int,
        config: Mapping[str, Any],
        *,
        root: str | Path = ROOT,
        path: str | Path | None = None,
    ) -> RunFolder:
        """A new folder, ``root/<algo>_<env>_<time>_s<seed>`` or ``path``, with its config.json.

        ``config`` is JSON: whatever else training was told. FileExistsError when ``path`` already holds a run.
        """
        if path is None:
            name = f"{algo}_{re.sub(r'[^A-Za-z0-9.-]+', '-', env)}_{time.strftime('%Y%m%d-%H%M%S')}_s{seed}"
            folder = _new_folder(Path(root), name)
        else:
            folder = Path(path)
            folder.mkdir(parents=True, exist_ok=True)
            if (folder / "config.json").exists():
                raise FileExistsError(f"{folder} holds a run already; go on with it (resume) or choose another folder")
        about = {"algo": algo, "env": env, "seed": seed}
        run = cls(folder, {**about, **config, "versions": checkpoint.library_versions(), "command": sys.argv})
        run.write_config()
        return run

    @classmethod
    def open(cls, path: str | Path) -> RunFolder:
        """The run in ``path``, or the run that the checkpoint ``path`` belongs to."""
        path = Path(path)
        folder = path.parent.parent if path.parent.name == "checkpoints" else path
        file = folder / "config.json"
        if not file.is_file():
            saved = "; it is a saved agent, for pyrl.load" if checkpoint.exists(path) else ""
            raise FileNotFoundError(f"there is no run in {path}: no config.json{saved}")
        try:
            config = json.loads(file.read_text())
        except ValueError as error:
            raise ValueError(f"{file} is damaged: {error}") from error
        if not isinstance(config, dict) or not {"algo", "env", "seed"} <= set(config):
            raise ValueError(f"{file} does not describe a run of pyrl")
        return cls(folder, config)

    def write_config(self) -> None:
        temporary = self.path / ".config.json.tmp"
        temporary.write_text(json.dumps(self.config, indent=2, allow_nan=False) + "\n")
        os.replace(temporary, self.path / "config.json")

    @property
    def best(self) -> Path:
        """The checkpoint of the best score."""
        return self.path / "checkpoints" / "best"

    @property
    def last(self) -> Path:
        """The checkpoint that training goes on from."""
        return self.path / "checkpoints" / "last"

    def after_episode(self, count: int) -> Path:
        """One of the checkpoints that are kept at intervals."""
        return self.path / "checkpoints" / f"episode_{count}"

    def trained(self) -> Path:
        """The checkpoint to evaluate and play: `best` where there is one, else `last`."""
        for path in (self.best, self.last):
            if checkpoint.exists(path):
                return path
        raise FileNotFoundError(f"{self.path} holds no checkpoint")

    @property
    def failure(self) -> Path:
        """The data of an update that was not finite, readable by `pyrl.checkpoint.load`."""
        return self.path / "failure"

    @property
    def metrics_file(self) -> Path:
        return self.path / "metrics.csv"

    @property
    def episodes_file(self) -> Path:
        return self.path / "episodes.csv"

    @property
    def curve_file(self) -> Path:
        return self.path / "curve.png"

    def __repr__(self) -> str:
        return f"RunFolder({str(self.path)!r})"


def list_runs(root: str | Path = ROOT) -> list[RunFolder]:
    """The runs below ``root``, oldest first."""
    runs = []
    for file in sorted(Path(root).glob("*/config.json"), key=lambda f: f.stat().st_mtime):
        with suppress(ValueError):  # not ours, or damaged: `RunFolder.open` says so to whoever asks for it
            runs.append(RunFolder.open(file.parent))
    return runs


def _new_folder(root: Path, name: str) -> Path:
    for attempt in range(1, 1000):
        folder = root / (name if attempt == 1 else f"{name}-{attempt}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        return folder
    raise FileExistsError(f"{root / name} and 998 more like it exist")
