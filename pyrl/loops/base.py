"""What on-policy and off-policy training share: counting, stopping, reporting, and resuming."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import Annotated, Any, ClassVar, TypeAlias

import numpy as np

from pyrl.agents.base import Agent
from pyrl.agents.checks import MOST, Amount, Goal, Limit, Range, check_fields
from pyrl.envs import Stepper
from pyrl.envs.notices import mask_is_ignored
from pyrl.errors import CheckpointError, EnvError, NonFiniteError, SettingError
from pyrl.seeding import stream_seed
from pyrl.types import Array, Episode, Learned, Metrics, Progress, StepResult

WINDOW = 100  # episodes in the running means, as in the literature
Window: TypeAlias = Annotated[int, Range(1, WINDOW)]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What ends a run; whichever is reached first."""

    total_steps: Limit = math.inf  # environment steps, beyond first_step
    total_episodes: Limit = math.inf
    stop_at_return: Goal = math.inf  # the mean return of the last stop_window episodes
    stop_window: Window = 10
    first_step: Amount = 0  # environment steps that the agent had made before the run

    def __post_init__(self) -> None:
        check_fields(self)
        if math.isinf(min(self.total_steps, self.total_episodes)):
            raise SettingError("total_steps and total_episodes are both None, expected at least one")

    def share(self, env_steps: int, episodes: int) -> float:
        """Of the run that is done, when the agent has made so many steps in all: 1 where a limit is reached."""
        return min(1.0, max((env_steps - self.first_step) / self.total_steps, episodes / self.total_episodes))


class Loop(ABC):
    """Iterate over it: each item is one `Metrics` record, after one round of acting and learning.

    Breaking out leaves agent, loop and environments whole; iterating again continues from there, as if nothing had been. The
    environments are reset where there is nothing to continue: in a new loop, after an error, where other code has reset them
    meanwhile, and where `reset` asks for it. The seeds of a reset depend on the environment steps done, so that stopping at step N and
    resuming from a checkpoint gives the same run as `reset` at step N (cut mode); where the environments' state is in the checkpoint,
    the same run as never stopping (exact mode).
    """

    follows: ClassVar[bool] = False  # another process has the run: this one writes and says nothing of it

    def __init__(self, agent: Agent, stepper: Stepper, limits: Limits) -> None:
        self.agent = agent
        self.stepper = stepper
        self.limits = limits
        self.player = agent.player(stepper.num_envs, deterministic=False)
        self.goal_reached = False  # stop_at_return
        self.stopped = False  # `stop`
        self.seconds = 0.0  # of training, evaluations and saves included, up to the last record
        self._recorded, self._speed = agent.env_steps, 0.0  # at the last record
        self.episodes = 0
        self.window: deque[Episode] = deque(maxlen=WINDOW)
        self.refused: Any = None  # the data of an update that was not finite
        self.saved_replay: Callable[[str], Any] | None = None  # what the run's last checkpoint has of a part of its replay
        self._ended: list[Episode] = []
        self._window_means: dict[str, float] = {}
        self._continues: int | None = None  # the stepper's count of resets while its episodes are ours and no round was interrupted

    def __iter__(self) -> Iterator[Metrics]:
        start, first_step, before = time.perf_counter(), self.agent.env_steps, self.seconds
        self.agent.progress = Progress(first_step, self.limits.share(first_step, self.episodes))
        if not self.finished and not self.can_continue:
            self.reset()
        while not self.finished:
            self._continues, resets = None, self._continues
            losses = self.round()
            self._continues = resets
            elapsed = max(time.perf_counter() - start, 1e-9)
            self.seconds, self._speed = before + elapsed, (self.agent.env_steps - first_step) / elapsed
            yield self._record(losses)

    def stop(self) -> None:
        """End before any limit: after the current step, without another update. For signal handlers."""
        self.stopped = True

    def rest(self) -> Metrics | None:
        """The record of a round that an error interrupted: its steps and episodes were counted."""
        return self._record({}) if self.agent.env_steps > self._recorded else None

    @property
    def finished(self) -> bool:
        return self.stopped or self.goal_reached or self.limits.share(self.agent.env_steps, self.episodes) >= 1.0

    @property
    def ending(self) -> str:
        """Which limit ended the run: its name, and how."""
        limits = self.limits
        if self.goal_reached:
            mean = f"{self._recent_return():.6g}, the mean return of the last {limits.stop_window} episodes"
            return f"stop_at_return: {mean}, reached {limits.stop_at_return:g}"
        if self.episodes >= limits.total_episodes:
            return f"total_episodes: {limits.total_episodes:,.0f} reached"
        if self.agent.env_steps - limits.first_step >= limits.total_steps:
            return f"total_steps: {limits.total_steps:,.0f} reached"
        return "stopped before any limit"

    @property
    def can_continue(self) -> bool:
        """Whether the next round continues the episodes that the environments are in; else it begins with a `reset`."""
        return self.stepper.observation is not None and self._continues == self.stepper.resets

    def reset(self) -> None:
        """Begin new episodes everywhere, seeded by the environment steps done."""
        self.stepper.reset(seed=stream_seed(self.agent.seed, "environments", self.agent.env_steps))
        self._continues = self.stepper.resets
        self.player.reset()
        self.agent.normalizer.begin()
        if self.stepper.action_mask is not None and not self.agent.honours_masks:
            mask_is_ignored(self.stepper.name, f"{self.agent.name} does not honour masks")

    @abstractmethod
    def round(self) -> dict[str, float]:
        """Act, store, learn; what `learn` reported."""

    def learn(self, data: Any) -> Learned:
        """``agent.learn``; on a non-finite update the data are kept for debugging."""
        try:
            learned = self.update(data)
        except NonFiniteError:
            self.refused = data
            raise
        if not isinstance(learned, Learned):
            raise TypeError(f"{self.agent.name}: learn returned {type(learned).__name__}, expected Learned(metrics, priority)")
        return learned

    def update(self, data: Any) -> Learned:
        """Where the agent learns."""
        return self.agent.learn(data)

    def step_envs(self, meanwhile: Callable[[], None] | None = None) -> tuple[StepResult, Mapping[str, Array]]:
        """One step of all environments, and what the agent wants stored beside it. ``meanwhile`` is called while they step."""
        agent, stepper, moments = self.agent, self.stepper, self.agent.normalizer
        if moments.active:
            moments.update(stepper.observation)
        choice = self.player.choose(stepper.observation, stepper.first, stepper.action_mask)
        step = stepper.step(choice.action) if meanwhile is None else self._step_meanwhile(choice.action, meanwhile)
        if moments.active:
            moments.observe_reward(step.reward, step.terminated | step.truncated, None if step.valid.all() else step.valid)
        env_steps = agent.progress.env_steps + int(np.count_nonzero(step.valid))
        if step.episodes:
            self._count(step.episodes)
        agent.progress = Progress(env_steps, self.limits.share(env_steps, self.episodes))
        return step, choice.stored

    def _step_meanwhile(self, action: Array, meanwhile: Callable[[], None]) -> StepResult:
        self.stepper.send(action)
        try:
            meanwhile()
        except BaseException:
            self.stepper.abandon()
            raise
        return self.stepper.receive()

    def state_dict(self, replay: bool = True) -> dict[str, Any]:
        """The state of the loop itself, beside the agent: arrays and JSON values only; ``buffer`` is the replay, if it has one
        and if it is wanted."""
        return {
            "episodes": self.episodes,
            "seconds": self.seconds,
            "first_step": self.limits.first_step,
            "window": [[e.episode_return, e.length, e.env_index, e.success] for e in self.window],
            **self._episodes_under_way(),
        }

    def _episodes_under_way(self) -> dict[str, Any]:
        """What exact mode needs too: the states of the environments and the agent's memory; nothing where they are not available."""
        memory = self.player.state
        if not self.can_continue or not isinstance(memory, np.ndarray | Mapping | None):
            return {}
        try:
            state = {"stepper": self.stepper.state_dict()}
        except EnvError:
            return {}
        return state if memory is None else {**state, "memory": memory}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """CheckpointError, and no change, for a state that `state_dict` does not give."""
        state = dict(state)
        stepper, memory = state.pop("stepper", None), state.pop("memory", None)
        episodes, window = state.get("episodes"), state.get("window")
        seconds, first_step = state.get("seconds", 0.0), state.get("first_step", 0)  # older versions did not keep them
        if further := sorted(state.keys() - {"episodes", "first_step", "seconds", "window"}):
            raise CheckpointError(f"loop has an entry {further[0]!r}, which this loop does not know")
        if type(episodes) is not int or not 0 <= episodes <= MOST:
            raise CheckpointError(f"loop/episodes is {episodes!r}, expected a count")
        if type(first_step) is not int or not 0 <= first_step <= MOST:
            raise CheckpointError(f"loop/first_step is {first_step!r}, expected a count")
        if type(seconds) not in (float, int) or not 0 <= seconds < math.inf:
            raise CheckpointError(f"loop/seconds is {seconds!r}, expected a time")
        if not isinstance(window, list) or len(window) > WINDOW or not all(map(_is_episode, window)):
            raise CheckpointError(f"loop/window is not a list of at most {WINDOW} episodes (return, length, environment, success)")
        if stepper is not None and not isinstance(stepper, Mapping):
            raise CheckpointError(f"loop/stepper is a {type(stepper).__name__}, expected the state of environments")
        if stepper is not None:
            self.stepper.load_state_dict(stepper)
            self.player.state, self._continues = memory, self.stepper.resets
        self.episodes, self.seconds, self._recorded = episodes, float(seconds), self.agent.env_steps
        self.limits = replace(self.limits, first_step=first_step)
        self.window = deque((Episode(*values) for values in window), maxlen=WINDOW)
        self._window_means = _means(self.window)
        self.goal_reached = self._recent_return() >= self.limits.stop_at_return

    def _count(self, ended: list[Episode]) -> None:
        """Count episodes one by one until one of them ends the run."""
        for episode in ended:
            if self.goal_reached or self.episodes >= self.limits.total_episodes:
                break
            self.episodes += 1
            self.window.append(episode)
            self._ended.append(episode)
            self.goal_reached = self._recent_return() >= self.limits.stop_at_return

    def _recent_return(self) -> float:
        """Mean return of the last stop_window episodes; -inf before there are enough."""
        count = self.limits.stop_window
        if len(self.window) < count:
            return -math.inf
        return math.fsum(episode.episode_return for episode in islice(reversed(self.window), count)) / count

    def _record(self, losses: Mapping[str, float]) -> Metrics:
        ended, self._ended = self._ended, []
        self._recorded = self.agent.env_steps
        if ended:
            self._window_means = _means(self.window)
        values = {
            "time/env_steps": self.agent.env_steps,
            "time/seconds": self.seconds,
            "time/env_steps_per_second": self._speed,
            "time/updates": self.agent.updates,
            "time/episodes": self.episodes,
            **self._window_means,
            **self.agent.status(),
            **losses,
        }
        return Metrics(values, ended)


def _is_episode(values: Any) -> bool:
    kinds = ((float, int), (int,), (int,), (bool, type(None)))
    return (
        isinstance(values, list)
        and len(values) == 4
        and all(type(v) in kind for v, kind in zip(values, kinds))
        and values[1] > 0
        and values[2] >= 0
    )


def _means(window: deque[Episode]) -> dict[str, float]:
    if not window:
        return {}
    means = {
        "episode/return_mean": float(np.mean([e.episode_return for e in window])),
        "episode/length_mean": float(np.mean([e.length for e in window])),
    }
    successes = [e.success for e in window if e.success is not None]
    if successes:
        means["episode/success_rate"] = float(np.mean(successes))
    return means
