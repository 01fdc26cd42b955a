"""The run folder: everything that training leaves behind, found again by its name.

runs/ppo_CartPole-v1_20261121-050000_s0/
    config.json          what was run: algorithm, environment, seed, every setting, versions, command line, what ended it
    metrics.csv          one row a metrics record
    episodes.csv         step, return, length, success of every episode
    failure/             the data of an update that was not finite
    curve.png            `pyrl.experiment.plots.plot_run`
    checkpoints/best/    the best evaluation (or 100-episode mean) so far
    checkpoints/last/    where training stopped: what ``pyrl train --resume`` resumes from
    events.out.*         TensorBoard, when the extra is installed
"""

from __future__ import annotations

import json
import os
import re
import secrets
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from errno import ENOENT
from pathlib import Path
from typing import Any

from pyrl import checkpoint
from pyrl.experiment.files import replacing

ROOT = Path("runs")


class RunFolder:
    """One run on the disk. `create` makes a new one, `open` finds an old one."""

    def __init__(self, path: Path, config: dict[str, Any]) -> None:
        self.path = Path(os.path.abspath(path))  # an environment may change the working directory
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
        about = {"algo": algo, "env": env, "seed": seed, "id": secrets.token_hex(8)}
        run = cls(folder, {**about, **config, "versions": checkpoint.library_versions(), "command": sys.argv})
        run._claim()
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
        self.check()
        with replacing(self._config_file) as temporary:
            temporary.write_text(self._config_text())

    def check(self) -> None:
        """FileNotFoundError if the folder was deleted, moved or replaced: nothing of this run is written elsewhere."""
        try:
            found = json.loads(self._config_file.read_text()).get("id")
        except (FileNotFoundError, NotADirectoryError, ValueError):
            found = None
        if found != self.config.get("id"):
            raise FileNotFoundError(ENOENT, "the run folder was deleted or moved", str(self.path))

    @property
    def _config_file(self) -> Path:
        return self.path / "config.json"

    def _config_text(self) -> str:
        return json.dumps(self.config, indent=2, allow_nan=False) + "\n"

    def _claim(self) -> None:
        """Write config.json where there is none; of two processes only one succeeds."""
        (self.path / "checkpoints").mkdir(exist_ok=True)
        temporary = self.path / f".config.{self.config['id']}.json"
        try:
            temporary.write_text(self._config_text())
            try:
                os.link(temporary, self._config_file)
            except FileExistsError:
                raise
            except OSError:  # not every file system has hard links
                if self._config_file.exists():
                    raise FileExistsError from None
                os.replace(temporary, self._config_file)
        except FileExistsError:
            raise FileExistsError(f"{self.path} holds a run already; resume it or choose another folder") from None
        finally:
            temporary.unlink(missing_ok=True)

    @property
    def best(self) -> Path:
        """The checkpoint of the best score."""
        return self.path / "checkpoints" / "best"

    @property
    def last(self) -> Path:
        """The checkpoint that training resumes from."""
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


def shown(path: Path) -> str:
    """As a user in the working directory would type it."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def list_runs(root: str | Path = ROOT) -> list[RunFolder]:
    """The runs below ``root``, oldest first."""
    runs = []
    for file in sorted(Path(root).glob("*/config.json"), key=lambda f: f.stat().st_mtime):
        with suppress(ValueError):  # not ours, or damaged: `RunFolder.open` reports it
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
