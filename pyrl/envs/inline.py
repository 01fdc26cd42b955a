"""N plain Gymnasium environments stepped in this process with as little between agent and environment as possible.

No vector environment, no info dictionaries gathered, no wrapper that only checks or counts: `TimeLimit` becomes one
comparison of integers for all environments together. An ended episode restarts at once, from its environment's own
random stream.
"""

from __future__ import annotations

from typing import Any

import gymnasium
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers import OrderEnforcing, PassiveEnvChecker, TimeLimit

from pyrl.envs.observations import ObservationBuffer
from pyrl.envs.stepper import Stepper
from pyrl.envs.success import success_in
from pyrl.errors import EnvError, SpaceError
from pyrl.spaces import difference
from pyrl.types import Array, Episode, StepResult

_NEVER = 1 << 62


class LeanStepper(Stepper):
    """See the module. ``envs`` must be distinct objects of equal spaces."""

    autoreset = AutoresetMode.SAME_STEP

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
        self._limits = [limit for _, limit in peeled]
        self._step_functions = [env.step for env in self._inner]
        self._deadline = min(self._limits)  # no time limit strikes before the clock says so
        self._observations: list[Any] = [None] * len(envs)
        self._rewards: list[Any] = [0.0] * len(envs)
        self._infos: list[Any] = [None] * len(envs)
        self._flags_set = False
        self._valid.flags.writeable = False
        self._all_valid = self._valid

    def _reset(self, seeds: list[int] | None, buffer: ObservationBuffer) -> None:
        for i in range(self.num_envs):
            self._reset_one(i, buffer, None if seeds is None else seeds[i])
        self._check_numbers(buffer, "reset")
        self._flags_set = False

    def _reset_one(self, index: int, buffer: ObservationBuffer, seed: int | None = None) -> None:
        try:
            observation, _ = self._inner[index].reset(seed=seed)
        except Exception as error:
            raise self._error(index, f"reset raised {type(error).__name__}: {error}") from error
        try:
            buffer.write_row(index, observation)
        except (ValueError, TypeError, LookupError) as error:
            raise self._error(index, f"reset: {error}") from error

    def step(self, action: Array) -> StepResult:
        observation = self._begin()
        action = self._border.check(action)
        env_actions = self._border.each(action)
        observations, rewards, infos = self._observations, self._rewards, self._infos
        terminated, truncated = self._terminated, self._truncated
        if self._flags_set:
            terminated[:] = truncated[:] = self._flags_set = False
        ended: list[int] = []
        i = 0
        try:
            for i, (step, env_action) in enumerate(zip(self._step_functions, env_actions)):
                observations[i], rewards[i], over, cut, infos[i] = step(env_action)
                if over or cut:
                    terminated[i], truncated[i] = over, cut
                    ended.append(i)
        except Exception as error:
            raise self._error(i, f"step raised {type(error).__name__}: {error} (action {_shown(env_actions[i])})") from error
        current = (self._current + 1) % 3
        following = self._buffers[current]
        try:
            following.write(observations)
            self._reward[:] = rewards
        except Exception as error:
            raise self._output_error(env_actions) from error
        self._check_numbers(following, "step")
        self._clock += 1
        self._returns += self._reward
        if self._clock >= self._deadline:
            ended = self._cut_at_limits(ended)
        episodes: list[Episode] = []
        after = following
        if ended:
            current = (current + 1) % 3
            after = self._buffers[current]
            episodes = self._restart(ended, following, after)
        if self.episodic_life:
            self._valid = self._all_valid
            self._mark_lost_lives([info["lives"] for info in infos])
            self._flags_set = True
        self._current = current
        self.observation = after.value
        return StepResult(observation, action, self._reward, following.value, terminated, truncated, self._valid, episodes)

    def _cut_at_limits(self, ended: list[int]) -> list[int]:
        """The environments that ended, now with those whose time is over; a time limit is never terminal."""
        for i, limit in enumerate(self._limits):
            if self._clock - self._starts[i] >= limit:
                self._truncated[i] = True
                ended.append(i)
        # Later starts only put it off, so it need not follow every one of them.
        self._deadline = min(
            limit + (self._clock if i in ended else start) for i, (start, limit) in enumerate(zip(self._starts, self._limits))
        )
        return sorted(set(ended))

    def _restart(self, ended: list[int], following: ObservationBuffer, after: ObservationBuffer) -> list[Episode]:
        self._flags_set = True
        after.copy_from(following)
        episodes = []
        for i in ended:
            episodes.append(self._finish(i, self._clock, success_in(self._infos[i])))
            self._reset_one(i, after)
        if not after.finite():
            raise self._error(after.not_finite_rows()[0], "reset returned an observation that is not finite")
        return episodes

    def _output_error(self, env_actions: list[Any]) -> EnvError:
        """The batch could not be written: find the environment that returned something impossible."""
        for i, (observation, reward) in enumerate(zip(self._observations, self._rewards)):
            fault = self._buffers[0].fault(observation)
            if fault is None:
                try:
                    float(reward)
                    continue
                except (TypeError, ValueError):
                    fault = f"reward is {reward!r}, expected a number"
            return self._error(i, f"step: {fault} (action {_shown(env_actions[i])})")
        return EnvError(f"{self.name}: the observations of {self.num_envs} environments do not fit into one batch")

    def render(self) -> Any:
        if self.envs[0].render_mode is None:
            raise ValueError(f"{self.name}: render needs make(..., render_mode='rgb_array')")
        return self._inner[0].render()

    def _close(self) -> None:
        failed: list[Exception] = []
        for env in self.envs:
            try:
                env.close()
            except Exception as error:
                failed.append(error)
        if failed:
            raise EnvError(f"{self.name}: close raised {type(failed[0]).__name__}: {failed[0]}") from failed[0]


def peel(env: gymnasium.Env) -> tuple[gymnasium.Env, int]:
    """The environment below the outermost wrappers whose work is done here, and the time limit that they set."""
    limit = _NEVER
    while type(env) in (TimeLimit, OrderEnforcing, PassiveEnvChecker):
        if isinstance(env, TimeLimit):
            limit = min(limit, env._max_episode_steps)
        env = env.env  # type: ignore[attr-defined]
    return env, limit


def _shown(action: Any) -> Any:
    return action.tolist() if hasattr(action, "tolist") else action
