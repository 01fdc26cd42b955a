"""Native environments behind a `Stepper`: all N of them in one call, the interpreter's lock released where it is long."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode

from pyrl.envs.native import NativeEnv
from pyrl.envs.observations import ObservationBuffer
from pyrl.envs.processes import OneThread
from pyrl.envs.rows import Normalizes
from pyrl.envs.stepper import Stepper
from pyrl.errors import EnvError
from pyrl.ops.environments import EnvironmentPool, NativePolicy, collect
from pyrl.types import Array, Episode, StepResult, StepRows


class NativeStepper(Stepper):
    """N environments of one `NativeEnv`. An ended episode restarts at once."""

    autoreset = AutoresetMode.SAME_STEP
    overlaps = True  # in a thread, which handing over to takes some 20 us

    def __init__(self, native: NativeEnv, num_envs: int, *, seed: int, name: str, spec: Any) -> None:
        super().__init__(native.observation_space, native.action_space, num_envs, seed, name, spec)
        self.native = native
        try:
            self.pool = EnvironmentPool(native.description, native.parameters.tolist(), num_envs, native.max_episode_steps)
        except ValueError as error:
            raise EnvError(f"{name}: {error}") from error
        self._arrays = [buffer.leaves[0].array for buffer in self._buffers]
        box = isinstance(native.action_space, spaces.Box)
        self._bounds: tuple[Any, Any] = (None, None)
        if box:
            low, high = (np.ascontiguousarray(bound, np.float32).ravel() for bound in (self._border._low, self._border._high))
            self._bounds = low, high
        self._running = np.zeros((0, num_envs))  # returns of the episodes of a rollout, at each step
        self._thread: OneThread | None = None
        self._under_way: Future[StepResult] | None = None

    def _reset(self, seeds: list[int] | None, buffer: ObservationBuffer) -> None:
        if seeds is not None:
            self.pool.seed(seeds)
        fault = self.pool.reset(None, None, buffer.leaves[0].array)
        if fault is not None:
            raise self._error(*fault)

    def step(self, action: Array) -> StepResult:
        observation = self._begin()
        action = self._border.check(action)
        env_action = self._border.batch(action)
        current = (self._current + 1) % 3
        latest = (current + 1) % 3
        following, after = self._arrays[current], self._arrays[latest]
        try:
            told: Any = self.pool.step(env_action, following, after, self._reward, self._terminated, self._truncated, True)
        except BaseException:  # a signal's handler: some environments were stepped, some not
            self.observation = None
            raise
        if type(told) is tuple:
            raise self._error(told[0], f"{told[1]} (action {env_action[told[0]].tolist()})")
        self._book.step(None)
        first, restarted = self.first, self._nowhere
        episodes: list[Episode] = []
        shown = self._buffers[current].value
        if told:
            current = latest
            restarted = self._terminated | self._truncated
            episodes = [self._finish(i, self._book.clock, None) for i in np.flatnonzero(restarted).tolist()]
        self._current = current
        self.observation, self.first = self._buffers[current].value, restarted
        return StepResult(observation, action, self._reward, shown, self._terminated, self._truncated, self._valid, episodes, first=first)

    def _send(self, action: Array) -> None:
        if self._thread is None:
            self._thread = OneThread("pyrl-native")
        self._under_way = self._thread.submit(self.step, action)

    def _receive(self, action: Array) -> StepResult:
        assert self._under_way is not None
        return self._under_way.result()

    @property
    def rolls_out(self) -> bool:
        return True

    def rollout(
        self,
        policy: NativePolicy,
        steps: int,
        *,
        normalizer: Normalizes | None = None,
        stop_at_end: bool = False,
        stopped: Callable[[], bool] = lambda: False,
    ) -> StepRows:
        """Without Python: ``stopped`` is for the caller to look at, and nothing is normalised."""
        self._begin()
        if normalizer is not None:
            raise EnvError(f"{self.name}: rollout: normalizer is given, but native environments show their steps to none; see normalizes")
        columns = self._columns_for(policy, steps)
        steps = len(columns.reward)
        if len(self._running) < steps:
            self._running = np.zeros((steps, self.num_envs))
        observation, (returns, ages) = self._arrays[self._current], map(np.array, self._book.state())
        try:
            done, fault = collect(
                self.pool, policy, self._bounds, steps, observation, returns, (*columns[:4], self._running[:steps], *columns[4:]),
                stop_at_end=stop_at_end, seconds=self.at_once,
            )  # fmt: skip
        except BaseException:
            self.observation = None
            raise
        made = columns.rows(done)
        starts, episodes = -ages, []  # starts: by the steps of this call
        for t, i in np.argwhere(made.terminated | made.truncated).tolist():
            self._reward[i], self._terminated[i] = made.reward[t, i], made.terminated[t, i]
            episodes.append(self._episode(i, float(self._running[t, i]), int(t + 1 - starts[i])))
            starts[i] = t + 1
        self._book.load(returns.tolist(), (done - starts).tolist())
        error = None
        if fault is not None:
            error = self._error(fault[0], f"{fault[1]} (action {columns.action[done, fault[0]].tolist()})")
            if not done:
                raise error
        rows = columns.step_rows(done, self.first, episodes, error)
        self.first = made.terminated[-1] | made.truncated[-1]
        return rows

    def _environment_states(self) -> dict[str, Any]:
        if not self.native.description.plain:
            raise EnvError(f"{self.name}: no state to save: the environments' states are not plain bytes (they have an open function)")
        return {"pool": self.pool.state}

    def _set_environment_states(self, states: Mapping[str, Any]) -> None:
        try:
            self.pool.state = np.ascontiguousarray(states["pool"])
        except (LookupError, ValueError, TypeError) as error:
            raise EnvError(f"{self.name}: the environments take no such state: {error}") from error

    def render(self) -> Any:
        raise ValueError(f"{self.name}: native environments draw no pictures; take backend='lean'")

    def _close(self) -> None:
        del self.pool
