"""Deep Q-learning (Mnih et al. 2015) with the ingredients of its successors, each an option.

    symbol        here                shape
    Q(o, a)       q                   [B]     the online network's value of the action taken
    y             target              [B]     r + discount * Q^-(o', a'), discount = gamma^k (1 - terminated)
    theta^-       target network      copied every target_update_interval steps (tau = 1) or averaged (tau < 1)
    epsilon       exploration rate

Double Q-learning (van Hasselt et al. 2016) takes a' from the online network; dueling (Wang et al. 2016) is in the network;
n-step returns (Sutton 1988) come summed from the replay, whose discount already is gamma^k; prioritized replay (Schaul et al.
2016) draws by |delta| and hands over the importance weights w.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, Literal, cast

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor
from torch.nn import functional as F

from pyrl import ops
from pyrl.agents.actor import LADDER, Actor
from pyrl.agents.base import seeded_network, tensors
from pyrl.agents.checks import Count, Fraction, Layers, NonNegative, Positive, Range, Rate, Tau, check_spaces
from pyrl.agents.off_policy import OffPolicyAgent, OffPolicyConfig
from pyrl.agents.registry import register
from pyrl.engine.native import Native, native_q, native_q_backward
from pyrl.engine.step import LossReport, Step
from pyrl.nets.distributions import masked
from pyrl.nets.heads import QNetwork
from pyrl.nets.own import OwnQNetwork
from pyrl.ops.acting import act_greedily
from pyrl.schedules import Schedule, linear, value_at
from pyrl.types import Batch, Choice, Observation, PolicyInput, Progress


@dataclasses.dataclass(frozen=True, kw_only=True)
class DQNConfig(OffPolicyConfig):
    """Defaults as in Stable-Baselines3."""

    learning_rate: Rate = 1e-4  # of Adam; "linear_1e-4" falls to zero over the run
    batch_size: Count = 32
    tau: Tau = 1.0  # Polyak factor of the target update; 1 copies (hard update)
    train_freq: Count = 4  # steps of each environment between two rounds of updates
    target_update_interval: Count = 10_000  # environment steps between two target updates
    exploration_fraction: Fraction = 0.1  # share of the run over which epsilon falls
    exploration_initial_eps: Fraction = 1.0
    exploration_final_eps: Fraction = 0.05
    exploration_decay: NonNegative | None = None  # how much epsilon falls at each update; replaces exploration_fraction
    exploration: Annotated[Schedule, Range(0, 1)] | None = None  # epsilon as a schedule; replaces the other exploration_* fields
    double: bool = False  # double Q-learning
    dueling: bool = False  # dueling head
    loss: Literal["huber", "mse"] = "huber"
    max_grad_norm: Positive | None = 10.0  # clip of the gradient's global norm; None: off
    net_arch: Layers = (64, 64)  # hidden layers, on the features


def q_target(
    reward: Tensor, discount: Tensor, next_q: Tensor, next_q_target: Tensor, double: bool, next_action_mask: Tensor | None = None
) -> Tensor:
    """y = r + discount * Q^-(o', a'), a' = argmax of Q^- or, for double Q-learning, of Q, over the actions that may be chosen at o'.
    Rewards [B], Qs and mask [B, A]."""
    chosen = masked(next_q if double else next_q_target, next_action_mask).argmax(dim=1, keepdim=True)
    return reward + discount * next_q_target.gather(1, chosen).squeeze(1)


def q_loss(td_error: Tensor, weight: Tensor | None, huber: bool) -> Tensor:
    """Mean of delta^2 or Huber(delta), weighted by importance if the replay is prioritized. All [B]."""
    zero = torch.zeros_like(td_error)
    elementwise = F.smooth_l1_loss(td_error, zero, reduction="none") if huber else td_error.square()
    return (elementwise if weight is None else weight * elementwise).mean()


def exploration_rate(config: DQNConfig, progress: Progress, updates: int) -> float:
    """epsilon, the probability of a random action."""
    c = config
    if c.exploration is not None:
        return min(1.0, value_at(c.exploration, progress.share))
    if c.exploration_decay is not None:
        return max(c.exploration_final_eps, c.exploration_initial_eps - c.exploration_decay * updates)
    fraction = progress.share / c.exploration_fraction if c.exploration_fraction > 0 else 1.0
    return linear(c.exploration_initial_eps, c.exploration_final_eps, fraction)


class QActor(Actor):
    """argmax Q, or a uniform action with probability epsilon, for each environment on its own."""

    can_tell_values = True

    def native_choice(self, native: Native, given: PolicyInput, deterministic: bool, progress: Progress) -> Choice:
        epsilon: Any = None
        if not deterministic:
            epsilon = max(0.0, float(exploration_rate(self.config, progress, self.updates)))
            epsilon = epsilon if self.rungs is None else epsilon ** (1 + LADDER * self.rungs)
        if not self.tells_values:
            return Choice(self._greedily(native, given, epsilon))
        action, q, value = self._greedily(native, given, epsilon, tells=True)
        return Choice(action, stored={"q": q, "value": value})

    def _greedily(self, native: Native, given: PolicyInput, epsilon: Any, tells: bool = False) -> Any:
        features, moments = self.features(given.observation, native)
        return act_greedily(native.networks, native.parameters, features, moments, given.action_mask, epsilon, self.random, tells)

    def torch_choice(self, given: PolicyInput, deterministic: bool, progress: Progress) -> Choice:
        return self._choice(self._torch_q(given), given, deterministic, progress)

    def value(self, given: PolicyInput) -> np.ndarray:
        native = self.native_form()
        if native is not None:
            return self._greedily(native, given, None, tells=True)[2]
        return masked(self._torch_q(given), given.action_mask).max(axis=1)

    def _torch_q(self, given: PolicyInput) -> np.ndarray:
        with torch.no_grad():
            return self.network(tensors(self.normalizer.observation(given.observation), self.device)).cpu().numpy()

    def _choice(self, q: np.ndarray, given: PolicyInput, deterministic: bool, progress: Progress) -> Choice:
        """What `act_greedily` chooses, of Q [N, A]."""
        mask = given.action_mask
        q = masked(q, mask)
        action = q.argmax(axis=1)
        if not deterministic:
            count, num_actions = q.shape
            uniform = ops.uniform_indices(count, 1 << 53, self.random) * 2.0**-53
            if mask is None:
                random_action = ops.uniform_indices(count, num_actions, self.random)
            else:
                random_action = ops.sample_categorical(np.zeros_like(q), self.random, mask=mask)[0]
            epsilon = exploration_rate(self.config, progress, self.updates)
            action = np.where(uniform < (epsilon if self.rungs is None else epsilon ** (1 + LADDER * self.rungs)), random_action, action)
        if not self.tells_values:
            return Choice(action)
        return Choice(action, stored={"q": np.take_along_axis(q, action[:, None], 1)[:, 0], "value": q.max(axis=1)})


@register("dqn")
class DQN(OffPolicyAgent):
    """Discrete actions, any observation that the encoder takes."""

    Config = DQNConfig
    acts_with = "q_network"
    honours_masks = True

    def __init__(self, observation_space: spaces.Space, action_space: spaces.Space, config: DQNConfig, seed: int, num_envs: int) -> None:
        check_spaces("dqn", action_space, (spaces.Discrete,))
        super().__init__(observation_space, action_space, config, seed, num_envs)
        self.num_actions = int(cast(spaces.Discrete, action_space).n)

        def build() -> QNetwork | OwnQNetwork:
            if config.network is not None:
                return OwnQNetwork(config.network, observation_space, action_space, config)
            shape = config.net_arch, config.activation, config.dueling, config.features_extractor
            return QNetwork(observation_space, self.num_actions, *shape)

        self.q_network = cast(QNetwork, seeded_network(seed, build, self.device, config.precision))
        trainable = self.trainable("q_network", self.q_network, target="target_network")
        self.target_network: QNetwork = trainable.target_network
        self.step = Step(trainable, self.loss, self.native_gradient, max_grad_norm=config.max_grad_norm)
        self.updater = self.make_updater(self.step)
        self.last_target_update = 0  # env step of it

    def counters(self) -> dict[str, int]:
        return {**super().counters(), "last_target_update": self.last_target_update}

    @property
    def epsilon(self) -> float:
        """Probability of a random action now."""
        return exploration_rate(self.config, self.progress, self.updates)

    def status(self) -> dict[str, float]:
        return {"exploration/epsilon": self.epsilon}

    def make_actor(self) -> QActor:
        return QActor(self, self.step.trainable)

    def deterministic_action(self, observation: Observation) -> Tensor:
        return self.q_network(observation).argmax(1)

    def update(self, batch: Batch) -> LossReport:  # type: ignore[override]
        """One step down the gradient of `loss`."""
        return self.step(batch)

    def loss(self, batch: Batch) -> tuple[Tensor, LossReport]:
        """The loss of a batch [B, ...]; it, the mean of Q, and delta [B]."""
        with torch.no_grad():
            next_q_target = self.target_network(batch.next_observation)
            next_q = self.q_network(batch.next_observation) if self.config.double else next_q_target
            target = q_target(batch.reward, batch.discount, next_q, next_q_target, self.config.double, batch.next_action_mask)
        q = self.q_network(batch.observation).gather(1, batch.action.unsqueeze(1)).squeeze(1)
        td_error = q - target
        loss = q_loss(td_error, batch.weight, self.config.loss == "huber")
        return loss, {"loss/q": loss, "train/q_mean": q.mean(), "td_error": td_error}

    def native_gradient(self, batch: Batch) -> LossReport:
        """The same by hand: forward, the gradient of the loss w.r.t. Q, backward."""
        online, target, mask = self.native["q_network"], self.native["target_network"], batch.next_action_mask
        loss, q_mean, d_q, td_error = ops.q_loss(
            native_q(online, batch.observation), batch.action, batch.reward, batch.discount,
            masked(native_q(target, batch.next_observation, keep=False), mask),
            next_q_online=masked(native_q(online, batch.next_observation, keep=False), mask) if self.config.double else None,
            weight=batch.weight, huber=self.config.loss == "huber",
        )  # fmt: skip
        native_q_backward(online, d_q)
        return {"loss/q": loss, "train/q_mean": q_mean, "td_error": td_error}

    def after_update(self) -> None:
        """theta^- <- (1 - tau) theta^- + tau theta, when target_update_interval environment steps have passed."""
        if self.env_steps - self.last_target_update < self.config.target_update_interval:
            return
        self.last_target_update = self.env_steps
        self.step.trainable.average(self.config.tau)
