"""N plain Gymnasium environments stepped in this process with as little between agent and environment as possible.

No vector environment, no info dictionaries gathered, no wrapper that only checks or counts: `TimeLimit` becomes one
comparison of integers for all environments together. An ended episode restarts at once, from its environment's own
random stream.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from itertools import combinations
from typing import Any, NoReturn

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers import OrderEnforcing, PassiveEnvChecker, TimeLimit

from pyrl.envs.guard import FROM_ENVS, described, read_flag, read_info, read_number, read_reset, read_step, share_memory
from pyrl.envs.notices import late_mask_is_ignored
from pyrl.envs.observations import ObservationBuffer, finite_test
from pyrl.envs.rows import Normalizes
from pyrl.envs.stepper import NEVER, Stepper
from pyrl.envs.success import success_in
from pyrl.errors import EnvError, SpaceError
from pyrl.ops.environments import NativePolicy
from pyrl.ops.steps import StepBook, StepCalls, rollout_calls
from pyrl.spaces import difference
from pyrl.spaces.masks import MASK_KEY
from pyrl.types import Array, Episode, StepResult, StepRows, map_observation

_LARGEST = float(np.finfo(np.float32).max)
_STATE_METHODS = ("state_dict", "load_state_dict")  # of environments whose state can be saved


class LeanStepper(Stepper):
    """See the module. ``envs`` must be distinct objects of equal spaces."""

    autoreset = AutoresetMode.SAME_STEP
    normalizes = True

    def __init__(self, envs: list[gymnasium.Env], *, seed: int, name: str, spec: Any) -> None:
        first = envs[0]
        super().__init__(first.observation_space, first.action_space, len(envs), seed, name, spec)
        for i, env in enumerate(envs):
            for kind in ("observation_space", "action_space"):
                text = difference(getattr(first, kind), getattr(env, kind))
                if text is not None:
                    raise SpaceError(f"{name}: the {kind} of environment {i} differs from that of environment 0: {text}")
        self.envs = envs
        peeled = [peel(env) for env in envs]
        self._inner = [env for env, _ in peeled]
        self._step_functions: list[Callable[[Any], Any]] = []
        self._observations: list[Any] = [None] * len(envs)
        self._raw = self._observations.__getitem__
        # One more than there are: NumPy takes [[1.0]] for [1.0], but not [[1.0], 0.0].
        self._rewards: list[Any] = [0.0] * (len(envs) + 1)
        self._all_rewards = np.zeros(len(envs) + 1)
        self._reward = self._all_rewards[:-1]
        self._finite_reward = finite_test(self._reward)
        self._book = StepBook(self._reward, self._truncated, [limit for _, limit in peeled])
        self._infos: list[Any] = [None] * len(envs)
        buffers = [array for buffer in self._buffers if (array := buffer.plain_array()) is not None]
        self._rolls = len(buffers) == len(self._buffers) and buffers[0].dtype in (np.float32, np.float64)
        self._calls = StepCalls(self._book, self._observations, self._rewards, self._infos, self._terminated, buffers)
        self._given: list[tuple[Any, Any]] = [(None, None)] * len(envs)  # observation and info of the first step, as returned
        self._flags_set = False
        self._first_step = self._special = True  # after a reset: it is checked in full
        self._valid.flags.writeable = False
        self._all_valid = self._valid

    def _reset(self, seeds: list[int] | None, buffer: ObservationBuffer) -> list[Any]:
        for i in range(self.num_envs):
            self._reset_one(i, buffer, None if seeds is None else seeds[i])
        self._check_numbers(buffer, "reset")
        self._flags_set = False
        self._first_step = self._special = True
        self._step_functions = [self._closely(i) for i in range(self.num_envs)]
        return self._given_masks()

    def _given_masks(self) -> list[Any]:
        """Of the current observations."""
        return [info.get(MASK_KEY) if isinstance(info, dict) else None for info in self._infos]

    def _given_mask(self) -> Array | None:
        return None if self._masks is None else self._mask_rows(self._given_masks())

    def _reset_one(self, index: int, buffer: ObservationBuffer, seed: int | None = None) -> None:
        try:
            result = self._inner[index].reset(seed=seed)
            usual = type(result) is tuple and len(result) == 2 and type(result[1]) is dict
            observation, info = result if usual else read_reset(result)
        except FROM_ENVS as error:
            raise self._error(index, str(error) if isinstance(error, EnvError) else f"reset raised {described(error)}") from error
        try:
            buffer.write_row(index, observation)
        except (ValueError, TypeError, LookupError) as error:
            raise self._error(index, f"reset: {error}") from error
        self._infos[index] = info

    def _closely(self, index: int) -> Callable[[Any], Any]:
        """``step`` of one environment, with every part of its result checked and what it may write to again copied."""
        step = self._inner[index].step

        def closely(action: Any) -> Any:
            observation, reward, terminated, truncated, info = read_step(step(action))
            self._given[index] = observation, info
            return map_observation(_copy, observation), reward, terminated, truncated, dict(info)

        return closely

    def _step_freely(self) -> None:
        """After the first step the environments are called directly, unless some return the same object; and all there is to do after a
        step as usual is to move on, unless there are masks or lives."""
        self._first_step, self._special = False, self._masks is not None or self.episodic_life
        shared = (a[1] is b[1] or share_memory(a[0], b[0]) for a, b in combinations(self._given, 2))
        if not any(shared):
            self._step_functions = [env.step for env in self._inner]
        self._given = [(None, None)] * self.num_envs

    def step(self, action: Array) -> StepResult:
        observation = self._begin()
        action = self._border.check(action)
        env_actions = self._border.each(action)
        if self._flags_set:
            self._terminated[:] = self._truncated[:] = self._flags_set = False
        ended: list[int] = []
        try:
            at = self._calls.run(self._step_functions, env_actions, (self._current + 1) % 3, ended)
        except BaseException as error:
            self._raise(error, env_actions)
        if at >= 0 or ended or self._special:
            return self._settled(observation, action, env_actions, at, ended)
        self._current, first = (self._current + 1) % 3, self.first
        self.observation, self.first = self._buffers[self._current].value, self._nowhere
        return StepResult(
            observation, action, self._reward, self.observation, self._terminated, self._truncated, self._valid, [], first=first
        )  # fmt: skip

    def _settled(self, observation: Array, action: Array, env_actions: list[Any], at: int, ended: list[int]) -> StepResult:
        """The step that `StepCalls.run` made, as it says by ``at`` and ``ended``, where it was not as usual."""
        terminated, truncated = self._terminated, self._truncated
        current = (self._current + 1) % 3
        following = self._buffers[current]
        if at >= 0:
            self._read_results(at, env_actions, following, ended)
        if self._first_step:
            self._step_freely()
        episodes: list[Episode] = []
        after, first, mask, restarted = following, self.first, self.action_mask, self._nowhere
        next_mask = after_mask = self._given_mask()
        lives = [info["lives"] for info in self._infos] if self.episodic_life else None
        if ended:
            current = (current + 1) % 3
            after = self._buffers[current]
            episodes = self._restart(ended, following, after)
            restarted, after_mask = terminated | truncated, self._given_mask()
        if lives is not None:
            self._valid = self._all_valid
            self._mark_lost_lives(lives)
            self._flags_set, restarted = True, restarted | self._lost
        self._current = current
        self.observation, self.first, self.action_mask = after.value, restarted, after_mask
        return StepResult(
            observation, action, self._reward, following.value, terminated, truncated, self._valid, episodes, mask, next_mask, first=first
        )  # fmt: skip

    @property
    def rolls_out(self) -> bool:
        own = type(self).step is LeanStepper.step and "step" not in vars(self)
        return self._rolls and own and self._masks is None and not self.episodic_life

    def rollout(
        self,
        policy: NativePolicy,
        steps: int,
        *,
        normalizer: Normalizes | None = None,
        stop_at_end: bool = False,
        stopped: Callable[[], bool] = lambda: False,
    ) -> StepRows:
        self._begin()
        columns, border, end = self._columns_for(policy, steps), self._border, time.perf_counter() + self.at_once
        calls = rollout_calls(self._calls, policy, border.counted or border.each, columns)
        done, over, first = 0, False, self.first
        episodes: list[Episode] = []
        fault: BaseException | None = None
        try:
            while not over:
                ended: list[int] = []
                if self._flags_set:
                    self._terminated[:] = self._truncated[:] = self._flags_set = False
                if normalizer is not None:
                    normalizer.update(self.observation)
                try:
                    at = calls.row(done, self._current, self._step_functions, ended)
                except BaseException as error:
                    self._raise(error, calls.actions)
                if at >= 0 or ended or self._special:
                    step = self._settled(self.observation, columns.action[done], calls.actions, at, ended)
                    columns.following[done], columns.reward[done] = step.next_observation, step.reward
                    columns.terminated[done], columns.truncated[done] = step.terminated, step.truncated
                    episodes += step.episodes
                    at = -1 if (np.abs(step.reward) <= _LARGEST).all() else -2
                else:
                    self._current = (self._current + 1) % 3
                    self.observation, self.first = self._buffers[self._current].value, self._nowhere
                if normalizer is not None:
                    normalizer.observe_reward(self._reward, self.first)
                done += 1
                over = at == -2 or done == len(columns.reward) or (stop_at_end and bool(ended)) or stopped() or time.perf_counter() >= end
        except BaseException as error:
            if not done:
                raise
            fault = error
        return columns.step_rows(done, first, episodes, fault)

    def _read_results(self, at: int, env_actions: list[Any], following: ObservationBuffer, ended: list[int]) -> None:
        """What `StepCalls.run` does, of results of any form, from environment ``at`` on, which has returned ``_observations[at]``."""
        observations, rewards, terminated, truncated = self._observations, self._rewards, self._terminated, self._truncated
        i, result = at, None
        try:
            for i in range(at, self.num_envs):
                result = observations[i] if i == at else self._step_functions[i](env_actions[i])
                observations[i], rewards[i], over, cut, self._infos[i] = result
                if over or cut:
                    if type(over) is not bool or type(cut) is not bool:
                        over, cut = read_flag(over, "terminated"), read_flag(cut, "truncated")
                    terminated[i], truncated[i] = over, cut
                    ended.append(i)
                elif over is None or cut is None:
                    read_flag(over, "terminated"), read_flag(cut, "truncated")
        except FROM_ENVS as error:
            raise self._step_error(i, error, env_actions, (result,)) from error
        try:
            following.write(observations)
            due = self._book.step(rewards) if following.finite() else None
            if due is None:  # maybe numbers of another type, maybe not numbers
                self._all_rewards[:] = rewards
        except Exception as error:
            raise self._output_error(env_actions) from error
        if due is None:
            self._check_numbers(following, "step", self._raw)
            due = self._book.step(None)
        if due:
            self._book.cut(ended)

    def _restart(self, ended: list[int], following: ObservationBuffer, after: ObservationBuffer) -> list[Episode]:
        self._flags_set = True
        after.copy_from(following)
        episodes = []
        for i in ended:
            try:
                info = self._infos[i]
                info = info if type(info) is dict else read_info(info, "step")
                success = success_in(info)
            except EnvError as error:
                raise self._error(i, str(error)) from error
            if self._late_masks and MASK_KEY in info:
                late_mask_is_ignored(self.name)
            episodes.append(self._finish(i, self._book.clock, success))
            self._reset_one(i, after)
        if not after.finite():
            raise self._error(after.not_finite_rows()[0], "reset returned an observation that is not finite")
        return episodes

    def _raise(self, error: BaseException, env_actions: list[Any]) -> NoReturn:
        """What ended a call of the environments: an error of the one under call, else ``error`` itself: of the policy, before them, or of a
        signal's handler."""
        at = self._calls.at
        if 0 <= at < self.num_envs and isinstance(error, FROM_ENVS):
            raise self._step_error(at, error, env_actions) from error
        if at >= 0:  # some were stepped, maybe not all
            self.observation = None
        raise error

    def _step_error(self, index: int, error: BaseException, env_actions: list[Any], results: tuple[Any, ...] = ()) -> EnvError:
        """The error of stepping one environment: it raised, or returned a result of the wrong form, one of ``results``."""
        place = error.__traceback__
        if isinstance(error, TypeError | ValueError) and place is not None and place.tb_next is None:  # not in its code
            try:
                for result in results:
                    read_step(result)
            except EnvError as fault:
                error = fault
        text = str(error) if isinstance(error, EnvError) else f"step raised {described(error)}"
        return self._error(index, f"{text} (action {_shown(env_actions[index])})")

    def _reward_fault(self, index: int) -> str | None:
        try:
            read_number(self._rewards[index])
        except EnvError as error:
            return str(error)
        return None

    def _output_error(self, env_actions: list[Any]) -> EnvError:
        """The batch could not be written: find the environment that returned something impossible."""
        for i, (observation, reward) in enumerate(zip(self._observations, self._rewards)):
            fault = self._buffers[0].fault(observation)
            text = None if fault is None else f"step: {fault}"
            if text is None:
                try:
                    read_number(reward)
                    continue
                except EnvError as error:
                    text = str(error)
            return self._error(i, f"{text} (action {_shown(env_actions[i])})")
        return EnvError(f"{self.name}: the observations of {self.num_envs} environments do not fit into one batch")

    def _environment_states(self) -> dict[str, Any]:
        mute = next((env for env in self._inner if not all(hasattr(type(env), name) for name in _STATE_METHODS)), None)
        if mute is not None:
            raise EnvError(f"{self.name}: no state to save: {type(mute).__name__} has no state_dict and load_state_dict")
        return {str(i): env.state_dict() for i, env in enumerate(self._inner)}  # type: ignore[attr-defined]

    def _set_environment_states(self, states: Mapping[str, Any]) -> None:
        self._environment_states()
        for i, env in enumerate(self._inner):
            try:
                env.load_state_dict(states[str(i)])  # type: ignore[attr-defined]
            except FROM_ENVS as error:
                raise self._error(i, f"load_state_dict raised {described(error)}") from error
        self._flags_set = self._first_step = self._special = True
        self._step_functions = [self._closely(i) for i in range(self.num_envs)]

    def render(self) -> Any:
        if self.envs[0].render_mode is None:
            raise ValueError(f"{self.name}: render needs make(..., render_mode='rgb_array')")
        return self._inner[0].render()

    def _close(self) -> None:
        failed: list[tuple[int, BaseException]] = []
        for i, env in enumerate(self.envs):
            try:
                env.close()
            except FROM_ENVS as error:
                failed.append((i, error))
        if failed:
            index, first = failed[0]
            raise self._error(index, f"close raised {described(first)}") from first


def peel(env: gymnasium.Env) -> tuple[gymnasium.Env, int]:
    """The environment without its outermost wrappers, which this file replaces, and the time limit that they set."""
    limit = NEVER
    while type(env) in (TimeLimit, OrderEnforcing, PassiveEnvChecker):
        if isinstance(env, TimeLimit):
            limit = min(limit, env._max_episode_steps)
        env = env.env  # type: ignore[attr-defined]
    return env, limit


def _shown(action: Any) -> Any:
    return action.tolist() if hasattr(action, "tolist") else action


def _copy(leaf: Any) -> Any:
    return leaf.copy() if isinstance(leaf, np.ndarray) else leaf
