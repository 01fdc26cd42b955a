"""On-policy training that does not wait for its environments: one rollout is learned from while the next one is collected."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pyrl.agents.actor import Actor
from pyrl.agents.base import Agent
from pyrl.envs import Stepper
from pyrl.envs.processes import OneThread
from pyrl.errors import CheckpointError, SettingError
from pyrl.loops.base import Limits
from pyrl.loops.on_policy import OnPolicyLoop, rollout_buffer
from pyrl.ops.random import RandomStream
from pyrl.types import Episode, PolicyInput, Progress


@dataclass
class Collected:
    """What a rollout that is not learned from yet counted."""

    steps: int = 0
    episodes: list[Episode] = field(default_factory=list)


class DoubleRolloutLoop(OnPolicyLoop):
    """One round = one rollout learned from and, in a thread meanwhile, the next one collected, by the weights from before the round.

    So the weights that a rollout is collected by lag behind those that learn from it by one call of ``agent.learn``. The rollout's
    ``log_prob`` is of the weights that acted, and values and advantages are computed when it is learned from: PPO's ratio and IMPALA's
    V-trace correct for the lag, A2C's gradient does not. The thread has an actor, a random stream and a rollout of its own and shares
    nothing with the learner, so the run repeats bit for bit. The first round only collects, and the last rollout of a run is left to
    the run that resumes it.
    """

    def __init__(self, agent: Agent, stepper: Stepper, limits: Limits) -> None:
        super().__init__(agent, stepper, limits)
        _check(agent)
        self.actor: Actor = pickle.loads(pickle.dumps(agent.acting))
        self.actor.random = RandomStream(agent.seed, "overlap")
        self._next = rollout_buffer(agent, stepper.num_envs)
        self._thread = OneThread("pyrl-rollout")
        self._broken_off = False

    def reset(self) -> None:
        super().reset()
        if len(self._next):  # of a round that an error interrupted
            self._next = rollout_buffer(self.agent, self.stepper.num_envs)

    def round(self) -> dict[str, float]:
        weights, normalizer = self.agent.weights(), self.agent.normalizer.state_dict()
        if not self.buffer.full:
            self._book(self._collect(self.buffer, weights, normalizer, self.agent.progress))
            return {}
        rollout = self.buffer.take(self.stepper.observation, self.stepper.first)
        ahead = self._thread.submit(self._collect, self._next, weights, normalizer, self.agent.progress)
        try:
            losses = self.learn(rollout).metrics
        except BaseException:
            self._break_off(ahead)
            raise
        collected = ahead.result()
        self.buffer, self._next = self._next, self.buffer
        self._book(collected)
        return losses

    def _collect(self, buffer: Any, weights: Any, normalizer: Mapping[str, Any], progress: Progress) -> Collected:
        """Fill ``buffer``, or as much of it as the limit on steps and `stop` allow. Touches nothing of the agent, and of the loop its
        actor, its player's memory and its stepper."""
        stepper, actor, limits = self.stepper, self.actor, self.limits
        actor.load_weights(weights)
        actor.normalizer.load_state_dict(normalizer)
        most = limits.first_step + limits.total_steps - progress.env_steps
        collected = Collected()
        while not (buffer.full or self.stopped or self._broken_off or collected.steps >= most):
            policy = actor.native_policy() if stepper.rolls_out else None
            if policy is not None:
                wanted = min(buffer.num_steps - len(buffer), -(-(most - collected.steps) // stepper.num_envs))
                rows = stepper.rollout(policy, int(wanted), stopped=lambda: self.stopped or self._broken_off)
                buffer.extend(rows)
                collected.steps += rows.reward.size
                collected.episodes += rows.episodes
                continue
            moments = actor.normalizer
            if moments.active:
                moments.update(stepper.observation)
            given = PolicyInput(stepper.observation, stepper.first, stepper.action_mask, self.player.state)
            choice = actor.choose(given, False, progress)
            self.player.state = choice.state
            step = stepper.step(choice.action)
            if moments.active:
                moments.observe_reward(step.reward, step.terminated | step.truncated, step.valid)
            buffer.add(step, choice.stored)
            collected.steps += int(np.count_nonzero(step.valid))
            collected.episodes += step.episodes
        return collected

    def _book(self, collected: Collected) -> None:
        """Count what was collected, as `Loop.step_envs` counts each step."""
        self.agent.normalizer.load_state_dict(self.actor.normalizer.state_dict())
        self._count(collected.episodes)
        env_steps = self.agent.env_steps + collected.steps
        self.agent.progress = Progress(env_steps, self.limits.share(env_steps, self.episodes))

    def _break_off(self, ahead: Future[Collected]) -> None:
        """An error interrupted the round: what the thread collects belongs to nothing."""
        self._broken_off = True
        ahead.exception()  # when it has ended
        self._broken_off = False
        self.stepper.abandon()

    def state_dict(self, replay: bool = True) -> dict[str, Any]:
        return {**super().state_dict(replay), "acting": list(self.actor.random.state)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        rest = dict(state)
        try:
            random = RandomStream(self.agent.seed, "overlap")
            random.state = rest.pop("acting")
        except (LookupError, ValueError, TypeError) as error:
            raise CheckpointError(f"loop/acting is no state of a random stream (overlap is True): {error}") from error
        super().load_state_dict(rest)
        self.actor.random = random


def _check(agent: Agent) -> None:
    """SettingError for an agent whose actor cannot act beside it."""
    if not agent.trainables or type(agent).choose is not Agent.choose or "choose" in vars(agent):
        raise SettingError(f"iterate: overlap is True, but {agent.name} has no actor that acts while it learns (make_actor); leave it out")
