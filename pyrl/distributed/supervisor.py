"""The role that keeps collectors alive: it sees who hangs or died, and says whether another takes the place."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import torch
from torch import Tensor

from pyrl.envs.processes import late_in_words
from pyrl.errors import EnvError
from pyrl.loops.supervision import DEATHS, ENOUGH, START_SECONDS

WAITING, STARTING, STEPPING = 0, 1, 2  # what a collector is at: for the learner; making its environments; in them


@dataclass
class Vitals:
    """Shared memory; each collector writes its own element. All int64 [collectors]."""

    phase: Tensor
    beats: Tensor  # changes of phase
    collected: Tensor  # environment steps, of all incarnations

    @classmethod
    def shared(cls, collectors: int) -> Vitals:
        return cls(*(torch.zeros(collectors, dtype=torch.int64).share_memory_() for _ in range(3)))


class Vital:
    """A collector's side: its own elements, as NumPy arrays, which are written at every step, or every `pyrl.envs.Stepper.rollout`, in a
    tenth of a tensor's time."""

    def __init__(self, vitals: Vitals, index: int) -> None:
        self._phase, self._beats, self._collected = (
            tensor.numpy()[index : index + 1] for tensor in (vitals.phase, vitals.beats, vitals.collected)
        )

    def at(self, phase: int) -> None:
        self._phase[0] = phase
        self._beats[0] += 1

    def made(self, steps: int) -> None:
        self._collected[0] += steps
        self.at(WAITING)


@dataclass
class Failure:
    """Why a collector ended: words, with the traceback where there is one; and the environment, where one is to blame."""

    text: str
    env_index: int | None = None
    env_seed: int | None = None

    def error(self, beside: str = "") -> EnvError:
        error = EnvError(self.text + beside)
        error.index, error.seed = self.env_index, self.env_seed
        return error


class Supervisor:
    """A budget for each collector: of DEATHS failures in a row, each with fewer than ENOUGH steps made, the first one ends the run."""

    def __init__(self, vitals: Vitals, timeout: float | None) -> None:
        collectors = len(vitals.beats)
        self.vitals, self.timeout = vitals, math.inf if timeout is None else timeout
        self._beats, self._phase, self._collected = (tensor.numpy() for tensor in (vitals.beats, vitals.phase, vitals.collected))
        self.restarts = 0
        self.incarnation = [-1] * collectors
        self._seen = [(-1, 0.0)] * collectors  # beats, and when they were seen first
        self._steps, self._failures = [0] * collectors, [0] * collectors
        self._first: list[Failure | None] = [None] * collectors

    def begin(self, index: int) -> int:
        """A new process is collector ``index``; its incarnation."""
        self._phase[index] = STARTING
        self._seen[index], self._steps[index] = (-1, time.monotonic()), self.collected(index)
        self.incarnation[index] += 1
        self.restarts += self.incarnation[index] > 0
        return self.incarnation[index]

    def collected(self, index: int | None = None) -> int:
        """Environment steps that collector ``index`` has made in all its incarnations; None: those of all together."""
        return int(self._collected.sum() if index is None else self._collected[index])

    def late(self, index: int) -> str | None:
        """Words, if collector ``index`` has not moved for longer than its environments may take."""
        beats, now = int(self._beats[index]), time.monotonic()
        if beats != self._seen[index][0]:
            self._seen[index] = beats, now
            return None
        phase = int(self._phase[index])
        allowed = {WAITING: math.inf, STARTING: self.timeout + START_SECONDS}.get(phase, self.timeout)
        if now - self._seen[index][1] <= allowed:
            return None
        return late_in_words("start" if phase == STARTING else "step", self.timeout)

    def failed(self, index: int, failure: Failure) -> None:
        """EnvError, the first of a row of failures, if another process would not help."""
        if self.collected(index) - self._steps[index] >= ENOUGH:
            self._failures[index] = 0
        if self._failures[index] == 0:
            self._first[index] = failure
        self._failures[index] += 1
        if self._failures[index] >= DEATHS:
            first = self._first[index]
            assert first is not None
            raise first.error(f"\nso did {DEATHS - 1} that replaced it, each within {ENOUGH:,} steps")
