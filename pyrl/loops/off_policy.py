"""Off-policy training: step, store, draw, learn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces

from pyrl.agents.base import Agent
from pyrl.agents.checks import MOST
from pyrl.buffers import PrioritizedReplayBuffer, ReplayBuffer
from pyrl.envs import Stepper
from pyrl.errors import CheckpointError, DeviceError
from pyrl.loops.base import Limits, Loop
from pyrl.schedules import linear
from pyrl.seeding import stream_key
from pyrl.types import Batch


def newest_of(stack: Any) -> spaces.Box:
    """The space of one picture of a stack."""
    return spaces.Box(stack.low[-1], stack.high[-1], stack.shape[1:], stack.dtype)


def buffer_device(agent: Agent) -> str:
    """Where the replay of ``agent`` lies. DeviceError if it could not learn from there."""
    device: str = agent.config.buffer_device
    if device != "cpu" and agent.device.type == "cpu":
        raise DeviceError(f"{agent.name}: buffer_device is {device!r}, but the networks lie on the CPU; set device too")
    if device != "cpu" and (agent.config.normalize_observation or agent.config.normalize_reward):
        raise DeviceError(f"{agent.name}: buffer_device is {device!r}, but the moments of observations or rewards lie on the CPU")
    return device


class OffPolicyLoop(Loop):
    """One round = train_freq steps of every environment, then gradient_steps calls of ``agent.learn`` (-1: as many as
    transitions were stored in the round) once learning_starts transitions were stored."""

    def __init__(self, agent: Agent, stepper: Stepper, limits: Limits) -> None:
        super().__init__(agent, stepper, limits)
        config = agent.config
        options: dict[str, Any] = {
            "num_envs": stepper.num_envs,
            "n_step": config.n_step,
            "gamma": config.gamma,
            "seed": stream_key(agent.seed, "replay") >> 1,
            "device": buffer_device(agent),
        }
        self._single = stepper.frames is not None  # of a stack of pictures the replay stores the newest, and stacks them again
        if stepper.frames is not None:
            options["frame_stack"], options["stack_padding"] = stepper.frames
        both = newest_of(agent.observation_space) if self._single else agent.observation_space, agent.actions.stored
        self.buffer: ReplayBuffer = (
            PrioritizedReplayBuffer(config.buffer_size, *both, alpha=config.priority_alpha, beta=config.priority_beta, **options)
            if getattr(config, "prioritized", False)
            else ReplayBuffer(config.buffer_size, *both, **options)
        )
        self._batch: Batch | None = None
        self._stored = 0  # transitions that were added to this buffer, however long the agent has lived
        self._learning_begins = max(config.learning_starts, config.batch_size)  # of them

    @property
    def ending(self) -> str:
        ending = super().ending
        if self._stored >= self._learning_begins or not self.finished:
            return ending
        return f"{ending}; nothing was learned: updates begin after {self._learning_begins:,} steps (learning_starts, batch_size)"

    def round(self) -> dict[str, float]:
        agent, config = self.agent, self.agent.config
        stored_before = self._stored
        for _ in range(config.train_freq):
            if self.finished:
                break
            first_step = agent.env_steps
            step, extra = self.step_envs()
            self._stored += agent.env_steps - first_step
            observation, next_observation = step.observation, step.next_observation
            if self._single:
                observation, next_observation = (np.ascontiguousarray(x[:, -1]) for x in (observation, next_observation))
            self.buffer.add(
                observation, step.action, step.reward, next_observation, step.terminated, step.truncated, valid=step.valid, **extra
            )  # fmt: skip
        if self.stopped or self.goal_reached or self._stored < self._learning_begins:
            return {}
        if isinstance(self.buffer, PrioritizedReplayBuffer):
            self.buffer.beta = linear(config.priority_beta, config.priority_beta_final, agent.progress)
        losses: dict[str, float] = {}
        for _ in range(config.gradient_steps if config.gradient_steps >= 0 else self._stored - stored_before):
            if self.stopped:
                break
            self._batch = self.buffer.sample(config.batch_size, out=self._batch)
            learned = self.learn(self._batch)
            losses = learned.metrics
            if isinstance(self.buffer, PrioritizedReplayBuffer):
                if learned.priority is None:
                    raise TypeError(f"{agent.name}: learn returned no priority, which prioritized replay needs")
                self.buffer.update_priorities(self._batch.index, learned.priority)
        return losses

    def state_dict(self, replay: bool = True) -> dict[str, Any]:
        return {**super().state_dict(), "stored": self._stored, **({"buffer": self.buffer.state_dict()} if replay else {})}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        rest = dict(state)
        buffer, stored = rest.pop("buffer", None), rest.pop("stored", self.agent.env_steps)  # older versions did not keep the latter
        if not isinstance(buffer, Mapping):
            raise CheckpointError("loop/buffer is missing: the state is no off-policy loop's")
        if type(stored) is not int or not 0 <= stored <= MOST:
            raise CheckpointError(f"loop/stored is {stored!r}, expected a count")
        self.buffer.load_state_dict(buffer)
        super().load_state_dict(rest)
        self._stored = stored
