"""A run's checkpoints, written while it runs, at little cost, and again after the disk has failed.

``last`` holds all that a run needs to resume: the agent, the loop's counters, the replay. It is written when the run starts, every
SAVE_SECONDS, and when the run ends. A replay of gigabytes is written less often, so that it takes at most SHARE of the time; in
between, its file stays as it is beside the agent of now. A killed process then loses some seconds of learning, and of its
experience what came since the replay was written. The same share bounds how often large agents are written.

``best`` and ``episode_<n>`` are copied in memory at their moment and written with the next ``last``, or at the end.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pyrl import checkpoint
from pyrl.agents.checkpoints import agent_tree
from pyrl.errors import CheckpointError, NonFiniteError
from pyrl.experiment.runs import RunFolder
from pyrl.loops.base import Loop
from pyrl.trees import map_tree

SAVE_SECONDS = 5.0  # between two saves
SHARE = 0.02  # share of the time that one kind of save may take
WAITING = 8  # checkpoints kept in memory while the disk fails


class Pace:
    """Decides when something costly may be done again."""

    def __init__(self, least: float) -> None:
        self.seconds = 0.0  # that it took the last time
        self._least = least
        self._next = -math.inf

    @property
    def due(self) -> bool:
        return time.monotonic() >= self._next

    @property
    def wait(self) -> float:
        return max(self._least, self.seconds / SHARE)

    def took(self, seconds: float) -> None:
        self.seconds = seconds
        self._next = time.monotonic() + self.wait


class Failures:
    """What could not be written yet, by name."""

    def __init__(self) -> None:
        self.now: dict[str, Exception] = {}
        self.last: str | None = None  # the latest one, whether or not it was written later

    def attempt(self, name: str, write: Callable[[], object]) -> bool:
        """Whether ``write`` worked. A failure is reported once, and forgotten when the same name works."""
        try:
            write()
        except (OSError, CheckpointError, NonFiniteError) as error:
            known = name in self.now
            self.now[name], self.last = error, f"{name}: {error}"
            if not known:
                what = f"{name} was not written; training continues, and the save is tried again: {error}"
                warnings.warn(what, RuntimeWarning, stacklevel=2)
            return False
        self.now.pop(name, None)
        return True


class Saver:
    """Writes the checkpoints of one run. See the module."""

    def __init__(self, folder: RunFolder, loop: Loop, failures: Failures, recorder_state: Callable[[], dict[str, Any]]) -> None:
        self.folder = folder
        self._recorder_state = recorder_state
        self.failures = failures
        self.best = -math.inf  # score of `best`, or of the checkpoint that is waiting to become it
        if checkpoint.exists(folder.best):
            self.best = checkpoint.read_metadata(folder.best).get("score", folder.config.get("best", -math.inf))
        self._loop = loop
        self._waiting: dict[str, Callable[[], object]] = {}  # name of a checkpoint -> what writes it
        self._agent_pace, self._replay_pace, self._copy_pace = Pace(SAVE_SECONDS), Pace(SAVE_SECONDS), Pace(0.0)
        self._replay_steps: int | None = None  # environment steps in the replay that `last` holds
        self._replay_files: tuple[str, ...] = ("replay",)

    def begin(self, resumed: bool) -> None:
        """From here on the run can be resumed."""
        if not resumed:
            self._write_last(whole=True)
        self._loop.saved_replay = self._read_replay
        self._agent_pace.took(0.0)

    def offer(self, score: float, rare: bool) -> None:
        """The current agent is the best so far, unless an older score was as high. Scores that are not ``rare`` are passed over where
        copying the agent would take more than SHARE of the time."""
        if score > self.best and (rare or self._copy_pace.due):
            started, self.best = time.monotonic(), score
            self._waiting["best"] = self._snapshot(self.folder.best, score=float(score))
            self._copy_pace.took(time.monotonic() - started)

    def keep(self, episodes: int) -> None:
        """Keeps the current agent as ``episode_<n>``."""
        path = self.folder.after_episode(episodes)
        self._waiting[path.name] = self._snapshot(path)
        self._write_waiting()
        if len(self._waiting) > WAITING:  # the failure stays in the list
            del self._waiting[next(name for name in self._waiting if name != "best")]

    def save_if_due(self, flush: Callable[[], object]) -> None:
        """``flush`` writes the metrics that belong to it."""
        if not self._agent_pace.due:
            return
        flush()
        self._write_waiting()
        whole, started = self._replay_steps is None or self._replay_pace.due, time.monotonic()
        if not self.failures.attempt("last", lambda: self._write_last(whole)) and not whole:
            self._replay_steps = None  # perhaps the file is gone
        seconds = time.monotonic() - started
        if whole:
            self._replay_pace.took(seconds)
        only_agent = not whole or self._replay_steps is None or self._replay_pace.wait == SAVE_SECONDS
        self._agent_pace.took(seconds if only_agent else self._agent_pace.seconds)

    def finish(self, ending: str) -> None:
        """Everything that is still to be written."""
        self._write_waiting()
        if self._replay_steps is not None and self._replay_pace.wait > SAVE_SECONDS:  # a user who stops a run may not wait for its replay
            self.failures.attempt("last", lambda: self._write_last(whole=False, ending=ending))
        self.failures.attempt("last", lambda: self._write_last(whole=True, ending=ending))

    def _write_last(self, whole: bool, **about: Any) -> None:
        """The agent and what its loop needs to resume: the replay too, or the one on the disk stays."""
        self.folder.check()
        tree, metadata = agent_tree(self._loop.agent)
        state = self._loop.state_dict(replay=whole)
        replay = state.pop("buffer", None)
        steps = self._loop.agent.env_steps if whole else self._replay_steps
        tree |= {"loop": state, "recorder": self._recorder_state()}
        if replay is not None:
            files = replay_files(replay)
            tree |= files
            self._replay_files = tuple(files)
        about |= {**metadata, "replay_env_steps": steps}
        checkpoint.save(self.folder.last, tree, about, keep=() if whole else self._replay_files, parents=False)
        if replay is not None:
            self._replay_steps = steps

    def _read_replay(self, part: str) -> Any:
        """Of a shard, by its name."""
        group = f"replay-{part}"
        return checkpoint.load(self.folder.last, [group])[0][group]

    def _write_waiting(self) -> None:
        for name, write in list(self._waiting.items()):
            if self.failures.attempt(name, write):
                del self._waiting[name]

    def _snapshot(self, path: Path, **about: Any) -> Callable[[], object]:
        """A function that writes the current agent to ``path`` later."""
        tree, metadata = agent_tree(self._loop.agent)
        tree = _copied(tree)

        def write() -> None:
            self.folder.check()
            checkpoint.save(path, tree, {**metadata, **about}, parents=False)

        return write


def replay_files(replay: Mapping[str, Any]) -> dict[str, Any]:
    """What of a replay goes into which file of the checkpoint: each shard has its own."""
    shards = replay.get("shards")
    return {"replay": replay} if shards is None else {f"replay-{name}": shard for name, shard in shards.items()}


def replay_of(tree: Mapping[str, Any]) -> dict[str, Any] | None:
    """What `replay_files` made ``tree`` hold; None: nothing."""
    shards = {name.removeprefix("replay-"): tree[name] for name in tree if name.startswith("replay-")}
    return {"shards": shards} if shards else tree.get("replay")


def _copied(tree: Any) -> Any:
    """``tree`` with arrays and tensors of its own."""
    return map_tree(lambda x: x.detach().clone() if hasattr(x, "detach") else x.copy() if hasattr(x, "copy") else x, tree)
