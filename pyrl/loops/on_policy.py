"""On-policy training: collect n_steps of every environment, learn from them, forget them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

from pyrl.agents.base import Agent
from pyrl.agents.storage import RolloutSpec
from pyrl.buffers.rollout import RolloutBuffer
from pyrl.envs import Stepper
from pyrl.loops.base import Limits, Loop
from pyrl.ops.environments import NativePolicy
from pyrl.types import Progress


def rollout_buffer(agent: Agent, num_envs: int) -> RolloutBuffer:
    """What ``agent`` asks for, for ``num_envs`` environments."""
    spec = agent.storage()
    if not isinstance(spec, RolloutSpec):
        raise TypeError(f"{agent.name}: storage returned {type(spec).__name__}, expected a RolloutSpec, as its loop is {agent.loop}")
    return RolloutBuffer(spec.n_steps, num_envs, agent.observation_space, agent.action_space, extra=spec.extra)


class OnPolicyLoop(Loop):
    """One round = one rollout [n_steps, num_envs] and one call of ``agent.learn``."""

    def __init__(self, agent: Agent, stepper: Stepper, limits: Limits) -> None:
        super().__init__(agent, stepper, limits)
        self.buffer = rollout_buffer(agent, stepper.num_envs)

    def reset(self) -> None:
        super().reset()
        # A rollout that was broken off belongs to other episodes than the ones that start now.
        if len(self.buffer):
            self.buffer.take(self.stepper.observation, self.stepper.first)

    def state_dict(self, replay: bool = True) -> dict[str, Any]:
        state = super().state_dict(replay)
        return {**state, "rollout": self.buffer.state_dict()} if len(self.buffer) and "stepper" in state else state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        rest = dict(state)
        rollout = rest.pop("rollout", None)
        if rollout is not None:  # which was broken off; its episodes continue
            self.buffer.load_state_dict(rollout)
        super().load_state_dict(rest)

    def round(self) -> dict[str, float]:
        self.collect()
        if self.stopped or self.goal_reached:  # by these parameters: no last step on a scrap of a rollout
            return {}
        return self.learn(self.buffer.take(self.stepper.observation, self.stepper.first)).metrics

    def collect(self) -> None:
        """Step until the buffer is full or a limit is reached."""
        agent, buffer = self.agent, self.buffer
        agent.progress = Progress(agent.env_steps, self.limits.share(agent.env_steps, self.episodes))
        own = type(self).step_envs is Loop.step_envs and "step_envs" not in vars(self)
        policy = agent.native_policy(self.stepper.normalizes) if own and self.stepper.rolls_out else None
        with agent.unwatched() if policy is None else nullcontext():
            while not (buffer.full or self.stopped or self.goal_reached or agent.progress.share >= 1.0):
                if policy is None:
                    buffer.add(*self.step_envs())
                else:
                    self._step_many(policy)

    def _step_many(self, policy: NativePolicy) -> None:
        """What `step_envs` does, for as many steps as no limit can break off."""
        agent, stepper, limits = self.agent, self.stepper, self.limits
        left = (limits.first_step + limits.total_steps - agent.env_steps) / stepper.num_envs
        steps = math.ceil(min(self.buffer.num_steps - len(self.buffer), left))
        stop_at_end = min(limits.total_episodes, limits.stop_at_return) < math.inf
        normalizer = agent.normalizer if agent.normalizer.active else None
        rows = stepper.rollout(policy, steps, normalizer=normalizer, stop_at_end=stop_at_end, stopped=lambda: self.stopped)
        env_steps = agent.env_steps + rows.reward.size
        if rows.episodes:
            self._count(rows.episodes)
        agent.progress = Progress(env_steps, limits.share(env_steps, self.episodes))
        self.buffer.extend(rows)
