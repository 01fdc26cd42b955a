"""How the parent of asynchronous workers detects that one hangs or dies: pulses in shared memory, and a budget of replacements."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any

import gymnasium
import torch
from torch import Tensor

from pyrl.envs.processes import exit_in_words, late_in_words
from pyrl.errors import EnvError
from pyrl.seeding import stream_seed

START_SECONDS = 120.0  # that a new process gets before its environment's time counts
DEATHS = 3  # of one worker in a row, each with fewer than ENOUGH steps made, that end the run
ENOUGH = 1000
_PHASES = ("start", "agent", "make", "reset", "step", "close")  # what a worker is doing; the last four are calls of the environment


@dataclass
class Pulses:
    """Shared memory; each worker writes its own element. All int64 [workers]."""

    phase: Tensor  # index into _PHASES
    beats: Tensor  # changes of phase
    age: Tensor  # steps begun in the environment's episode

    @classmethod
    def shared(cls, workers: int) -> Pulses:
        return cls(*(torch.zeros(workers, dtype=torch.int64).share_memory_() for _ in range(3)))


class Pulse:
    """The worker's side: reports what it is doing."""

    def __init__(self, pulses: Pulses, index: int) -> None:
        self._phase, self._beats, self._age = (tensor.numpy()[index : index + 1] for tensor in (pulses.phase, pulses.beats, pulses.age))

    def at(self, phase: str) -> None:
        self._phase[0] = _PHASES.index(phase)
        self._beats[0] += 1

    def begin_step(self) -> None:
        self._age[0] += 1
        self.at("step")

    def begin_episode(self) -> None:
        self._age[0] = 0
        self.at("reset")


class Pulsing(gymnasium.Wrapper):
    """An environment whose calls are seen by the parent. An interrupt that it raises is its own: workers get none."""

    def __init__(self, env: gymnasium.Env, pulse: Pulse) -> None:
        super().__init__(env)
        self._pulse = pulse

    def reset(self, **options: Any) -> Any:
        self._pulse.begin_episode()
        return self._call(lambda: self.env.reset(**options))

    def step(self, action: Any) -> Any:
        self._pulse.begin_step()
        return self._call(lambda: self.env.step(action))

    def close(self) -> None:
        self._pulse.at("close")
        self._call(self.env.close)

    def _call(self, function: Any) -> Any:
        try:
            result = function()
        except KeyboardInterrupt as error:
            raise RuntimeError("KeyboardInterrupt") from error
        self._pulse.at("agent")
        return result


class Watch:
    """The parent's side."""

    def __init__(self, pulses: Pulses, name: str, seed: int, timeout: float | None) -> None:
        workers = len(pulses.beats)
        self.pulses, self.name, self.seed = pulses, name, seed
        self.timeout = math.inf if timeout is None else timeout
        self.generation = [0] * workers
        self._seen: list[tuple[int, float]] = [(-1, 0.0)] * workers  # beats, and when they were seen first
        self._deaths = [0] * workers
        self._steps = [0] * workers  # of the worker when its process began
        self._first_death: list[str] = [""] * workers

    def begin(self, index: int, generation: int, steps: int) -> None:
        """A new process is worker ``index``."""
        self.generation[index], self._steps[index] = generation, steps
        self.pulses.phase[index] = self.pulses.age[index] = 0
        self._seen[index] = -1, time.monotonic()

    def check(self, index: int) -> None:
        """EnvError if the environment of a living worker has not returned in time."""
        beats, now = int(self.pulses.beats[index]), time.monotonic()
        if beats != self._seen[index][0]:
            self._seen[index] = beats, now
            return
        phase = _PHASES[self.pulses.phase[index]]
        allowed = {"agent": math.inf, "start": self.timeout + START_SECONDS}.get(phase, self.timeout)
        if now - self._seen[index][1] > allowed:
            raise EnvError(self.where(index, late_in_words(phase, self.timeout)))

    def died(self, index: int, code: int | None, steps: int, done: bool) -> None:
        """EnvError if worker ``index`` died too often without progress, or in its environment when all is ``done``; else it
        may be replaced."""
        phase = _PHASES[self.pulses.phase[index]]
        text = self.where(index, f"{phase}: its process {exit_in_words(code)}")
        if done and phase not in ("start", "agent"):
            raise EnvError(text)
        if steps - self._steps[index] >= ENOUGH:
            self._deaths[index] = 0
        if self._deaths[index] == 0:
            self._first_death[index] = text
        self._deaths[index] += 1
        if self._deaths[index] >= DEATHS:
            raise EnvError(f"{self._first_death[index]}; so did {DEATHS - 1} that replaced it, each within {ENOUGH:,} steps")

    def where(self, index: int, what: str) -> str:
        seed = env_seed(self.seed, index, self.generation[index])
        return f"{self.name}: environment {index} (seed {seed}, step {int(self.pulses.age[index])}): {what}"


def worker_seed(seed: int, index: int, generation: int) -> int:
    """Of the stepper of a worker; the generations of one worker see different episodes."""
    return stream_seed(seed, "worker", index, generation)


def env_seed(seed: int, index: int, generation: int) -> int:
    return stream_seed(worker_seed(seed, index, generation), "env", 0)
