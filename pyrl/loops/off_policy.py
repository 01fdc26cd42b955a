"""Off-policy training: step, store, draw, learn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

import numpy as np
from gymnasium import spaces

from pyrl.agents.base import Agent
from pyrl.agents.checks import MOST
from pyrl.agents.storage import ReplaySpec
from pyrl.buffers import Hindsight, PrioritizedReplayBuffer, ReplayBuffer
from pyrl.envs import Stepper
from pyrl.envs.goals import reward_function
from pyrl.envs.notices import mask_is_ignored
from pyrl.errors import CheckpointError, SettingError
from pyrl.loops.base import Limits, Loop
from pyrl.seeding import stream_key
from pyrl.spaces import choices
from pyrl.types import Array, Batch, Observation


def newest_of(stack: Any) -> spaces.Box:
    """The space of one frame of a stack."""
    return spaces.Box(stack.low[-1], stack.high[-1], stack.shape[1:], stack.dtype)


def stored_space(agent: Agent, stepper: Stepper, masks: bool) -> Any:
    """Of the observations in the replay: of a stack of frames the newest. With ``masks`` each observation has its action mask beside it, so
    that a window's next mask comes as its next observation does."""
    space = agent.observation_space if stepper.frames is None else newest_of(agent.observation_space)
    if not masks:
        return space
    mask = spaces.Box(0, 1, (sum(choices(agent.action_space)),), np.bool_)  # type: ignore[arg-type]
    return spaces.Dict({"observation": space, "action_mask": mask})


def window_options(spec: ReplaySpec, stepper: Stepper) -> dict[str, Any]:
    """What windows a replay draws."""
    stack = {} if stepper.frames is None else dict(zip(("frame_stack", "stack_padding"), stepper.frames))
    return {"n_step": spec.n_step, "gamma": spec.gamma, **stack}


def make_replay(spec: ReplaySpec, capacity: int, space: Any, action_space: Any, **options: Any) -> ReplayBuffer:
    """By priority, where ``spec`` says so. ``options``: of the buffer."""
    options = {"extra": spec.extra, "device": spec.device, **options}
    if spec.prioritized is None:
        return ReplayBuffer(capacity, space, action_space, **options)
    alpha, beta = spec.prioritized.alpha, spec.prioritized.beta
    return PrioritizedReplayBuffer(capacity, space, action_space, alpha=alpha, beta=beta, **options)


def replay_for(agent: Agent, spec: ReplaySpec, stepper: Stepper, masks: bool = False) -> ReplayBuffer:
    """The replay that ``spec`` asks for."""
    options = {"num_envs": stepper.num_envs, "seed": stream_key(agent.seed, "replay") >> 1, **window_options(spec, stepper)}
    return make_replay(spec, spec.capacity, stored_space(agent, stepper, masks), agent.actions.stored, **options)


def without_masks(batch: Batch, stacked: bool) -> Batch:
    """A batch of such a replay as agents take it."""
    this, following = cast(dict[str, Any], batch.observation), cast(dict[str, Any], batch.next_observation)
    mask = following["action_mask"]
    mask = mask[:, -1] if stacked else mask
    return replace(batch, observation=this["observation"], next_observation=following["observation"], next_action_mask=mask)


def hindsight_for(spec: ReplaySpec, stepper: Stepper, buffer: ReplayBuffer) -> Hindsight | None:
    """How batches are relabelled, by the environments' reward."""
    if spec.hindsight is None:
        return None
    hindsight = Hindsight(reward_function(stepper), spec.hindsight.strategy, spec.hindsight.goals)
    hindsight.check(buffer)
    return hindsight


class OffPolicyLoop(Loop):
    """One round = train_freq steps of every environment, then gradient_steps calls of ``agent.learn`` (-1: as many as
    transitions were stored in the round) once learning_starts transitions were stored."""

    def __init__(self, agent: Agent, stepper: Stepper, limits: Limits) -> None:
        super().__init__(agent, stepper, limits)
        spec = agent.storage()
        if not isinstance(spec, ReplaySpec):
            raise TypeError(f"{agent.name}: storage returned {type(spec).__name__}, expected a ReplaySpec, as its loop is off_policy")
        self.spec = spec
        self._single = stepper.frames is not None
        self.buffer = replay_for(agent, spec, stepper)
        self._masks = False  # whether observations in the replay have their masks beside them
        self.hindsight = hindsight_for(spec, stepper, self.buffer)
        self._batch: Batch | None = None
        self._stored = 0  # transitions that were added to this buffer, however long the agent has lived

    def reset(self) -> None:
        super().reset()
        mask = self.stepper.action_mask
        if mask is None or self._masks or not self.agent.honours_masks:
            return
        if self._stored:
            mask_is_ignored(self.stepper.name, "the replay to continue with was stored without masks")
        else:
            self._store_masks()

    def _store_masks(self) -> None:
        if self.hindsight is not None:
            raise SettingError(f"{self.agent.name}: her is given, but {self.stepper.name} gives action masks, expected one of them")
        self.buffer, self._masks = replay_for(self.agent, self.spec, self.stepper, masks=True), True

    def _beside_mask(self, observation: Observation, mask: Array | None) -> Observation:
        if mask is None:  # of environments that gave none at their latest reset
            mask = np.ones((self.stepper.num_envs, sum(choices(self.agent.action_space))), bool)
        return {"observation": observation, "action_mask": mask}

    @property
    def ending(self) -> str:
        ending = super().ending
        if self._stored >= self.spec.learning_begins or not self.finished:
            return ending
        return f"{ending}; nothing was learned: updates begin after {self.spec.learning_begins:,} steps (learning_starts, batch_size)"

    def round(self) -> dict[str, float]:
        agent, spec = self.agent, self.spec
        stored_before = self._stored
        for _ in range(spec.train_freq):
            if self.finished:
                break
            first_step = agent.env_steps
            step, extra = self.step_envs()
            self._stored += agent.env_steps - first_step
            observation, next_observation = step.observation, step.next_observation
            if self._single:
                observation, next_observation = (np.ascontiguousarray(cast(np.ndarray, x)[:, -1]) for x in (observation, next_observation))
            if self._masks:
                observation = self._beside_mask(observation, step.action_mask)
                next_observation = self._beside_mask(next_observation, step.next_action_mask)
            self.buffer.add(
                observation, step.action, step.reward, next_observation, step.terminated, step.truncated, valid=step.valid, **extra
            )  # fmt: skip
        if self.stopped or self.goal_reached or self._stored < self.spec.learning_begins:
            return {}
        if isinstance(self.buffer, PrioritizedReplayBuffer):
            assert spec.prioritized is not None
            self.buffer.beta = spec.prioritized.beta_at(agent.progress.share)
        losses: dict[str, float] = {}
        for _ in range(spec.gradient_steps if spec.gradient_steps >= 0 else self._stored - stored_before):
            if self.stopped:
                break
            self._batch = self.buffer.sample(spec.batch_size, out=self._batch)
            if self.hindsight is not None:
                self.hindsight.relabel(self.buffer, self._batch)
            learned = self.learn(without_masks(self._batch, self._single) if self._masks else self._batch)
            losses = learned.metrics
            if isinstance(self.buffer, PrioritizedReplayBuffer):
                if learned.priority is None:
                    raise TypeError(f"{agent.name}: learn returned no priority, which prioritized replay needs")
                self.buffer.update_priorities(self._batch.index, learned.priority)
        return losses

    def state_dict(self, replay: bool = True) -> dict[str, Any]:
        masks = {"masks": True} if self._masks else {}
        return {**super().state_dict(), "stored": self._stored, **masks, **({"buffer": self.buffer.state_dict()} if replay else {})}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        rest = dict(state)
        buffer, masks = rest.pop("buffer", None), rest.pop("masks", False)
        stored = rest.pop("stored", self.agent.env_steps)  # older versions did not keep it
        if not isinstance(buffer, Mapping):
            raise CheckpointError("loop/buffer is missing: the state is no off-policy loop's")
        if type(stored) is not int or not 0 <= stored <= MOST:
            raise CheckpointError(f"loop/stored is {stored!r}, expected a count")
        if type(masks) is not bool or (masks and not self.agent.honours_masks):
            raise CheckpointError(f"loop/masks is {masks!r}, expected {False if not self.agent.honours_masks else 'True or False'}")
        if masks:
            self._store_masks()
        self.buffer.load_state_dict(buffer)
        super().load_state_dict(rest)
        self._stored = stored
