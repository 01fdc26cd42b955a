"""On-policy training: collect n_steps of every environment, learn from them, forget them."""

from __future__ import annotations

import math

from pyrl.agents.base import Agent
from pyrl.buffers.rollout import RolloutBuffer
from pyrl.envs import Stepper
from pyrl.envs.native_stepper import NativeStepper
from pyrl.loops.base import Limits, Loop
from pyrl.ops.environments import NativePolicy


class OnPolicyLoop(Loop):
    """One round = one rollout [n_steps, num_envs] and one call of ``agent.learn``."""

    def __init__(self, agent: Agent, stepper: Stepper, limits: Limits) -> None:
        super().__init__(agent, stepper, limits)
        self.buffer = RolloutBuffer(agent.config.n_steps, stepper.num_envs, agent.observation_space, agent.action_space)

    def begin(self) -> None:
        # A rollout that was broken off belongs to other episodes than the ones that start now.
        if len(self.buffer):
            self.buffer.take(self.stepper.observation)

    def round(self) -> dict[str, float]:
        while not self.buffer.full and not self.finished:
            policy = self.agent.native_policy() if isinstance(self.stepper, NativeStepper) else None
            if policy is None:
                self.buffer.add(*self.act())
            else:
                self._act_many(policy)
        if self.stopped or self.goal_reached:  # by these parameters: no last step on a scrap of a rollout
            return {}
        return self.learn(self.buffer.take(self.stepper.observation))

    def _act_many(self, policy: NativePolicy) -> None:
        """What `act` does, for as many steps as no limit can break off."""
        agent, stepper, limits = self.agent, self.stepper, self.limits
        assert isinstance(stepper, NativeStepper)
        left = (limits.first_step + limits.total_steps - agent.env_steps) / stepper.num_envs
        steps = math.ceil(min(self.buffer.num_steps - len(self.buffer), left))
        rows = stepper.rollout(policy, steps, stop_at_end=min(limits.total_episodes, limits.stop_at_return) < math.inf)
        self.buffer.extend(
            rows.observation, rows.action, rows.reward, rows.next_observation, rows.terminated, rows.truncated, {"log_prob": rows.log_prob}
        )
        agent.env_steps += rows.reward.size
        if rows.episodes:
            self._count(rows.episodes)
        self._update_progress()
