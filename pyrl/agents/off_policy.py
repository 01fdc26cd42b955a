"""What off-policy agents share: the replay that they ask for, batches as updates take them, priorities; and what those for continuous
actions share beyond: scaling, warm-up, exploration noise. Networks and losses are their own."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Literal, cast

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from pyrl import ops
from pyrl.agents.base import Agent, LearningConfig, OwnActivation, seeded_network, tensors
from pyrl.agents.checks import (
    Amount,
    BufferDevice,
    Count,
    Fraction,
    GradientSteps,
    Layers,
    NonNegative,
    NStep,
    PartLayers,
    Rate,
    Weight,
    check_range,
)
from pyrl.agents.continuous_actors import ContinuousActor
from pyrl.agents.storage import HindsightSpec, PrioritySpec, ReplaySpec
from pyrl.engine.native import Native
from pyrl.engine.step import LossReport, Step
from pyrl.engine.updater import Updater
from pyrl.errors import DeviceError, SettingError
from pyrl.nets.actor_critic_continuous import ActionScale, Actor, Critics, GaussianActor
from pyrl.nets.mlp import Activation, mlp
from pyrl.nets.noise import DeviceNoise, NoiseType, exploration_noise, standard_normal
from pyrl.nets.own import own_actor_and_critics
from pyrl.schedules import value_at
from pyrl.types import Array, Batch, Learned, Observation


@dataclasses.dataclass(frozen=True, kw_only=True)
class OffPolicyConfig(LearningConfig):
    """What `OffPolicyAgent` reads; names as in Stable-Baselines3."""

    learning_rate: Rate = 3e-4  # of every Adam; "linear_3e-4" falls to zero over the run
    buffer_size: Count = 1_000_000  # slots of the replay, all environments together
    buffer_device: BufferDevice = "cpu"  # where the replay is: cpu, cuda, cuda:1 (a build with CUDA, and networks there)
    learning_starts: Amount = 100  # transitions stored before the first update
    batch_size: Count = 256
    train_freq: Count = 1  # steps of each environment between two rounds of updates
    gradient_steps: GradientSteps = 1  # updates in a round; -1: one per transition stored since the last round
    n_step: NStep = 1  # length of the returns
    prioritized: bool = False  # prioritized replay (Schaul et al. 2016)
    priority_alpha: Fraction = 0.6  # how much priorities matter
    priority_beta: Fraction = 0.4  # how much importance weights make up for it: at the start of the run
    priority_beta_final: Fraction = 1.0  # and at its end
    her: Literal["none", "future", "final", "episode"] = "none"  # which achieved goals are learned from (Andrychowicz et al. 2017)
    n_sampled_goal: NonNegative = 4  # achieved goals for each desired one
    net_arch: Layers | PartLayers = (256, 256)  # hidden layers of each network, on the features; or actor=..., critic=...
    activation: Activation | OwnActivation = "relu"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, "batch_size", 1, self.buffer_size)
        for switch, off, fields in (
            ("her", "none", ("n_sampled_goal",)),
            ("prioritized", False, ("priority_alpha", "priority_beta", "priority_beta_final")),
        ):
            given = next((name for name in fields if getattr(self, name) != getattr(type(self), name)), None)
            if given is not None and getattr(self, switch) == off:
                what = f"{type(self).__name__}: {given} is {getattr(self, given):g}"
                raise SettingError(f"{what}, but {switch} is {off!r}, with which it has no effect; set {switch} or leave {given} out")


class OffPolicyAgent(Agent):
    """Learns from batches of a replay, prioritized or not.

    The priority of a transition is |td_error|; with several critics, the mean of theirs.
    """

    loop = "off_policy"
    acts_with: ClassVar[str]  # the name of the network that chooses actions
    updater: Updater

    def storage(self) -> ReplaySpec:
        """DeviceError where the agent could not learn from the replay's device."""
        c, device = self.config, self.config.buffer_device
        if device != "cpu" and self.device.type == "cpu":
            raise DeviceError(f"{self.name}: buffer_device is {device!r}, but the networks lie on the CPU; set device too")
        if device != "cpu" and (c.normalize_observation or c.normalize_reward):
            raise DeviceError(f"{self.name}: buffer_device is {device!r}, but the moments of observations or rewards lie on the CPU")
        if c.her != "none" and device != "cpu":
            raise DeviceError(f"{self.name}: buffer_device is {device!r} and her {c.her!r}, but rewards are computed on the CPU")
        hindsight = None if c.her == "none" else HindsightSpec(strategy=c.her, goals=c.n_sampled_goal)
        priority = PrioritySpec(alpha=c.priority_alpha, beta=c.priority_beta, beta_final=c.priority_beta_final)
        return ReplaySpec(
            capacity=c.buffer_size, batch_size=c.batch_size, n_step=c.n_step, gamma=c.gamma, device=device,
            prioritized=priority if c.prioritized else None, hindsight=hindsight,
            learning_starts=c.learning_starts, train_freq=c.train_freq, gradient_steps=c.gradient_steps,
        )  # fmt: skip

    @abstractmethod
    def update(self, batch: Batch, *data: Any) -> LossReport:
        """The steps and averages of one update, for every engine (`pyrl.engine.updater`), of a batch that `prepare` gave; ``data`` are what
        `update_data` gave. It reports ``td_error`` ([B] or [count, B]) where the batch is weighted."""

    def update_data(self, batch: Batch) -> tuple[Any, ...]:
        """What an update takes beside its batch: noise, flags."""
        return ()

    def learn(self, batch: Batch) -> Learned:
        native = self.updater.begin(value_at(self.config.learning_rate, self.progress.share))
        prepared = self.prepare(batch, native)
        metrics = self.updater(self.update, prepared, *self.update_data(prepared))
        td_error = metrics.pop("td_error", None)
        self.updates += 1
        self.after_update()
        if batch.weight is None:  # nobody asks for priorities
            return Learned(metrics)
        return Learned(metrics, None if td_error is None else priority_of(td_error, isinstance(batch.index, np.ndarray)))

    def after_update(self) -> None:
        """What an algorithm does beside the update, at intervals of its own."""

    def learned_action(self, action: Array) -> Array:
        """Stored actions [B, ...] as losses see them."""
        return action

    def prepare(self, batch: Batch, native: bool) -> Batch:
        """What an update reads of a batch: observation, action, reward, next_observation, discount, weight and next_action_mask. NumPy
        arrays with encoded observations if ``native``, else tensors, wherever they are."""
        normalizer = self.normalizer  # without generators and loops: they would take as long as what they do
        observation, next_observation = normalizer.observation(batch.observation), normalizer.observation(batch.next_observation)
        action, reward = self.learned_action(batch.action), normalizer.reward(batch.reward)
        discount, weight = batch.discount, batch.weight
        if native:
            acting = self.native[self.acts_with]
            encoder, dtype = acting.encoder, acting.dtype
            assert encoder is not None
            observation, next_observation = encoder.array(observation, dtype), encoder.array(next_observation, dtype)
            action = action.astype(dtype if self.actions.is_box else np.int64, copy=False)
            reward, discount = reward.astype(dtype, copy=False), discount.astype(dtype, copy=False)
            weight = None if weight is None else weight.astype(dtype, copy=False)
        else:
            observation, next_observation = tensors(observation), tensors(next_observation)
            action, reward, discount = map(torch.as_tensor, (action, reward, discount))
            action = action if self.actions.is_box else action.long()
            weight = None if weight is None else torch.as_tensor(weight)
        mask = batch.next_action_mask
        mask = mask if native or mask is None else torch.as_tensor(mask)
        return Batch(observation, action, reward, next_observation, None, discount, None, weight, next_action_mask=mask)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ContinuousConfig(OffPolicyConfig):
    """What `ContinuousAgent` reads; names as in Stable-Baselines3."""

    random_steps: Amount | None = None  # environment steps of uniform random actions at the beginning; None: learning_starts
    noise_type: NoiseType = "normal"  # of exploration, beyond the policy's own
    noise_std: Weight = 0.0  # its standard deviation (sigma), where every action has the range [-1, 1]; 0: none


class ContinuousAgent(OffPolicyAgent):
    """Box actions with finite bounds, any observation that the encoder takes.

    Networks and losses see actions in [-1, 1]; environment and replay see the Box's.
    """

    acts_with = "actor"
    Acting: ClassVar[type[ContinuousActor]]
    actor: Any

    def __init__(self, observation_space: spaces.Space, action_space: spaces.Space, config: Any, seed: int, num_envs: int) -> None:
        self.scale = ActionScale(self.name, action_space)
        super().__init__(observation_space, action_space, config, seed, num_envs)
        self.random_steps = config.learning_starts if config.random_steps is None else config.random_steps
        self.noise = exploration_noise(config.noise_type, value_at(config.noise_std, 0.0), seed)
        on_device = self.device.type == "cuda" and ops.cuda_built()
        self.learning = ops.RandomStream(seed, "learning", device=self.device if on_device else None)  # of actions drawn in losses

    def make_networks(
        self,
        num_critics: int,
        log_std_range: tuple[float, float] | None = None,
        *,
        num_outputs: int | None = None,
        make_critic: Callable[..., nn.Sequential] = mlp,
    ) -> tuple[Any, Any]:
        """(actor, critics); a Gaussian actor where there is a ``log_std_range``. The rest as in `Critics`."""
        space, size, config = self.observation_space, self.scale.size, self.config
        shape = space, size, config.net_arch, config.activation

        def build() -> nn.ModuleList:
            if config.network is not None:
                return nn.ModuleList(own_actor_and_critics(config, space, self.action_space, size, num_critics, log_std_range, num_outputs))
            if log_std_range is None:
                actor: nn.Module = Actor(*shape, config.features_extractor)
            else:
                actor = GaussianActor(*shape, log_std_range, config.features_extractor)
            return nn.ModuleList([actor, Critics(*shape, num_critics, config.features_extractor, num_outputs, make_critic)])

        networks: Any = seeded_network(self.seed, build, self.device, config.precision)
        return networks[0], networks[1]

    def streams(self) -> dict[str, Any]:
        return {**super().streams(), "noise": self.noise, "learning": self.learning}

    def make_actor(self) -> ContinuousActor:
        return self.Acting(self)

    def deterministic_action(self, observation: Observation) -> Tensor:
        center, half = (torch.as_tensor(x, device=self.device) for x in (self.scale.center, self.scale.half))
        return center + half * cast(ContinuousActor, self.acting).actor_action(observation, deterministic=True)

    def learned_action(self, action: Array) -> Array:
        """In [-1, 1]."""
        return self.scale.to_unit(action)

    def noise_like(self, action: Array) -> Array | DeviceNoise:
        """xi ~ N(0, 1) like ``action`` [B, A], for an update."""
        shape = tuple(action.shape)
        if isinstance(action, np.ndarray):
            return standard_normal(shape, self.learning).astype(action.dtype, copy=False)
        if self.learning.device is not None:
            return DeviceNoise(shape, self.learning)
        return torch.from_numpy(standard_normal(shape, self.learning))


class TargetActorAgent(ContinuousAgent):
    """An actor and critics, each with a target network that follows it: what DDPG and its relatives learn with.

    A subclass says the losses of ``critic_step`` and ``actor_step``, and in `update` when they are made.
    """

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        config: Any,
        seed: int,
        num_envs: int,
        *,
        num_critics: int = 1,
        log_std_range: tuple[float, float] | None = None,
    ) -> None:
        super().__init__(observation_space, action_space, config, seed, num_envs)
        self.actor, self.critic = self.make_networks(num_critics, log_std_range)
        critic = self.trainable("critic", self.critic, target="target_critic")
        actor = self.trainable("actor", self.actor, target="target_actor")
        self.target_actor, self.target_critic = actor.target_network, critic.target_network
        self.critic_step = Step(critic, self.critic_loss, self.native_critic_gradient)
        self.actor_step = Step(actor, self.actor_loss, self.native_actor_gradient)
        self.updater = self.make_updater(self.critic_step, self.actor_step)

    def average_targets(self) -> None:
        """theta' <- tau theta + (1 - tau) theta' for both."""
        for step in (self.actor_step, self.critic_step):
            step.trainable.average(self.config.tau)

    @abstractmethod
    def critic_loss(self, batch: Batch, *data: Any) -> tuple[Tensor, LossReport]:
        """The loss [] of the critics on a batch, and what to report."""

    @abstractmethod
    def native_critic_gradient(self, batch: Batch, *data: Any) -> LossReport:
        """Its gradient by kernels."""

    @abstractmethod
    def actor_loss(self, batch: Batch, *data: Any) -> tuple[Tensor, LossReport]:
        """The loss [] of the actor on a batch, and what to report."""

    @abstractmethod
    def native_actor_gradient(self, batch: Batch, *data: Any) -> LossReport:
        """Its gradient by kernels."""


def priority_of(td_error: Array, on_host: bool) -> Array:
    """|td_error| [B], the mean over the critics of [count, B]; a NumPy array if ``on_host``."""
    if on_host and isinstance(td_error, Tensor):
        td_error = td_error.cpu().numpy()
    return abs(td_error) if td_error.ndim == 1 else abs(td_error).mean(0)


def td_report(q: Tensor, target: Tensor, batch: Batch) -> LossReport:
    """Q - y of every critic, [count, B] or [B], where the batch is weighted."""
    return {} if batch.weight is None else {"td_error": q - target}


def native_critic_gradient(
    critic: Native, batch: Batch, target: np.ndarray, *, coefficient: float = 1.0, huber: bool = False
) -> LossReport:
    """The gradient of the distance of every critic from ``target`` [B]; the sum of their losses, the mean of Q and, where the batch is
    weighted, td_error [count, B]."""
    loss, q_mean, td_error = 0.0, 0.0, []
    for network in critic.networks:
        q = network.forward(critic.parameters, batch.observation, batch.action)
        own, d_q = ops.value_loss(q, target, weight=batch.weight, coefficient=coefficient, huber=huber)
        network.backward(critic.parameters, critic.gradients, d_q)
        loss, q_mean = loss + coefficient * own, q_mean + float(q.mean()) / len(critic.networks)
        if batch.weight is not None:
            td_error.append(q[:, 0] - target)
    report = {"loss/critic": loss, "train/q_mean": q_mean}
    return report if batch.weight is None else {**report, "td_error": np.stack(td_error)}


def native_action_gradient(critic: Native, observation: Array, action: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(min_i Q_i [B], the gradient of minus its mean w.r.t. the action [B, A])."""
    q = np.stack([network.forward(critic.parameters, observation, action)[:, 0] for network in critic.networks])
    smallest = q.argmin(0)
    d_action = np.zeros_like(action)
    for i, network in enumerate(critic.networks):
        d_q, by_action = np.where(smallest == i, -1.0 / len(action), 0.0).astype(action.dtype)[:, None], np.empty_like(action)
        network.backward(critic.parameters, None, d_q, None, by_action)
        d_action += by_action
    return q.min(0), d_action


def native_policy_gradient(actor: Native, critic: Native, observation: Any) -> np.ndarray:
    """The gradient of -E[Q_1(o, mu(o))], the deterministic policy gradient: grad_a Q_1, then grad_theta mu. Encoded
    observations [B, D] to Q_1 [B, 1]."""
    action = actor.networks[0].forward(actor.parameters, observation)
    q = critic.networks[0].forward(critic.parameters, observation, action)
    d_action = np.empty_like(action)
    critic.networks[0].backward(critic.parameters, None, np.full_like(q, -1.0 / len(q)), None, d_action)
    actor.networks[0].backward(actor.parameters, actor.gradients, d_action)
    return q
