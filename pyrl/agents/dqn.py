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
from typing import Annotated, Literal, cast

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor
from torch.nn import functional as F

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
    Positive,
    Range,
    Rate,
    Tau,
    check_range,
    check_spaces,
)
from pyrl.agents.registry import register
from pyrl.engine.native import native_q, native_q_backward
from pyrl.engine.step import LossReport, Step
from pyrl.engine.updater import Updater
from pyrl.nets.heads import QNetwork
from pyrl.nets.mlp import Activation
from pyrl.nets.own import OwnQNetwork
from pyrl.schedules import Schedule, linear, value_at
from pyrl.types import Array, Batch, Observation, first_leaf


@dataclasses.dataclass(frozen=True, kw_only=True)
class DQNConfig(LearningConfig):
    """Defaults as in Stable-Baselines3."""

    learning_rate: Rate = 1e-4  # of Adam; "linear_1e-4" falls to zero over the run
    buffer_size: Count = 1_000_000  # slots of the replay, all environments together
    buffer_device: BufferDevice = "cpu"  # where the replay lies: cpu, cuda, cuda:1 (a build with CUDA, and networks there)
    learning_starts: Amount = 100  # transitions stored before the first update
    batch_size: Count = 32
    tau: Tau = 1.0  # Polyak factor of the target update; 1 copies (hard update)
    train_freq: Count = 4  # steps of each environment between two rounds of updates
    gradient_steps: GradientSteps = 1  # updates in a round; -1: as many as transitions were added since the last
    target_update_interval: Count = 10_000  # environment steps between two target updates
    exploration_fraction: Fraction = 0.1  # share of the run over which epsilon falls
    exploration_initial_eps: Fraction = 1.0
    exploration_final_eps: Fraction = 0.05
    exploration_decay: NonNegative | None = None  # how much epsilon falls at each update; replaces exploration_fraction
    exploration: Annotated[Schedule, Range(0, 1)] | None = None  # epsilon as a schedule; replaces the other exploration_* fields
    n_step: NStep = 1  # length of the returns
    double: bool = False  # double Q-learning
    dueling: bool = False  # dueling head
    prioritized: bool = False  # prioritized replay (Schaul et al. 2016)
    priority_alpha: Fraction = 0.6  # how much priorities matter
    priority_beta: Fraction = 0.4  # how much importance weights make up for it: at the start of the run
    priority_beta_final: Fraction = 1.0  # and at its end
    loss: Literal["huber", "mse"] = "huber"
    max_grad_norm: Positive | None = 10.0  # clip of the gradient's global norm; None: off
    net_arch: Layers = (64, 64)  # hidden layers, on the features
    activation: Activation | OwnActivation = "relu"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, "batch_size", 1, self.buffer_size)


def q_target(reward: Tensor, discount: Tensor, next_q: Tensor, next_q_target: Tensor, double: bool) -> Tensor:
    """y = r + discount * Q^-(o', a'), a' = argmax of Q^- or, for double Q-learning, of Q. Rewards [B], Qs [B, A]."""
    chosen = (next_q if double else next_q_target).argmax(dim=1, keepdim=True)
    return reward + discount * next_q_target.gather(1, chosen).squeeze(1)


def q_loss(td_error: Tensor, weight: Tensor | None, huber: bool) -> Tensor:
    """Mean of delta^2 or Huber(delta), weighted by importance if the replay is prioritized. All [B]."""
    zero = torch.zeros_like(td_error)
    elementwise = F.smooth_l1_loss(td_error, zero, reduction="none") if huber else td_error.square()
    return (elementwise if weight is None else weight * elementwise).mean()


@register("dqn")
class DQN(Agent):
    """Discrete actions, any observation that the encoder takes."""

    loop = "off_policy"
    Config = DQNConfig

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
        self.updater: Updater = self.make_updater(self.step)
        self.last_target_update = 0  # env step of it

    def counters(self) -> dict[str, int]:
        return {**super().counters(), "last_target_update": self.last_target_update}

    @property
    def epsilon(self) -> float:
        """Probability of a random action now."""
        c = self.config
        if c.exploration is not None:
            return min(1.0, value_at(c.exploration, self.progress))
        if c.exploration_decay is not None:
            return max(c.exploration_final_eps, c.exploration_initial_eps - c.exploration_decay * self.updates)
        fraction = self.progress / c.exploration_fraction if c.exploration_fraction > 0 else 1.0
        return linear(c.exploration_initial_eps, c.exploration_final_eps, fraction)

    def status(self) -> dict[str, float]:
        return {"exploration/epsilon": self.epsilon}

    def policy(self, observation: Observation, deterministic: bool = False) -> dict[str, Array]:
        """argmax Q, or a uniform action with probability epsilon, for each environment on its own."""
        count = len(first_leaf(observation))
        observation = self.normalizer.observation(observation)
        native = self.native["q_network"]
        if native.sync() and self.updater.engine == "native":
            q = native_q(native, self.q_network.encoder.array(observation, native.dtype), keep=False)
        else:
            with torch.no_grad():
                q = self.q_network(tensors(observation, self.device)).cpu().numpy()
        action = q.argmax(axis=1)
        if not deterministic:
            uniform = ops.uniform_indices(count, 1 << 53, self.random) * 2.0**-53
            random_action = ops.uniform_indices(count, self.num_actions, self.random)
            action = np.where(uniform < self.epsilon, random_action, action)
        return {"action": action}

    def learn(self, batch: Batch) -> dict[str, float]:
        native = self.updater.begin(value_at(self.config.learning_rate, self.progress))
        metrics = self.updater(self.step, self.prepare(batch, native))
        td_error = metrics.pop("td_error")
        self.td_error = td_error.cpu().numpy() if isinstance(td_error, Tensor) and isinstance(batch.index, np.ndarray) else td_error
        self.updates += 1
        self._update_target()
        return metrics

    def prepare(self, batch: Batch, native: bool) -> Batch:
        """What an update reads of a batch: NumPy arrays with encoded observations if ``native``, else tensors, wherever they are."""
        observation, next_observation = (self.normalizer.observation(o) for o in (batch.observation, batch.next_observation))
        action, reward, discount, weight = batch.action, self.normalizer.reward(batch.reward), batch.discount, batch.weight
        if native:
            encoder, dtype = self.q_network.encoder, self.native["q_network"].dtype
            observation, next_observation = (encoder.array(o, dtype) for o in (observation, next_observation))
            reward, discount = (x.astype(dtype, copy=False) for x in (reward, discount))
            action = action.astype(np.int64, copy=False)
            weight = None if weight is None else weight.astype(dtype, copy=False)
        else:
            observation, next_observation = tensors(observation), tensors(next_observation)
            action, reward, discount = map(torch.as_tensor, (action, reward, discount))
            action = action.long()
            weight = None if weight is None else torch.as_tensor(weight)
        return Batch(observation, action, reward, next_observation, None, discount, None, weight)

    def loss(self, batch: Batch) -> tuple[Tensor, LossReport]:
        """The loss of a batch [B, ...]; it, the mean of Q, and delta [B]."""
        with torch.no_grad():
            next_q_target = self.target_network(batch.next_observation)
            next_q = self.q_network(batch.next_observation) if self.config.double else next_q_target
            target = q_target(batch.reward, batch.discount, next_q, next_q_target, self.config.double)
        q = self.q_network(batch.observation).gather(1, batch.action.unsqueeze(1)).squeeze(1)
        td_error = q - target
        loss = q_loss(td_error, batch.weight, self.config.loss == "huber")
        return loss, {"loss/q": loss, "train/q_mean": q.mean(), "td_error": td_error}

    def native_gradient(self, batch: Batch) -> LossReport:
        """The same by hand: forward, the gradient of the loss w.r.t. Q, backward."""
        online, target = self.native["q_network"], self.native["target_network"]
        loss, q_mean, d_q, td_error = ops.q_loss(
            native_q(online, batch.observation), batch.action, batch.reward, batch.discount,
            native_q(target, batch.next_observation, keep=False),
            next_q_online=native_q(online, batch.next_observation, keep=False) if self.config.double else None,
            weight=batch.weight, huber=self.config.loss == "huber",
        )  # fmt: skip
        native_q_backward(online, d_q)
        return {"loss/q": loss, "train/q_mean": q_mean, "td_error": td_error}

    def _update_target(self) -> None:
        """theta^- <- (1 - tau) theta^- + tau theta, when target_update_interval environment steps have passed."""
        if self.env_steps - self.last_target_update < self.config.target_update_interval:
            return
        self.last_target_update = self.env_steps
        self.step.trainable.average(self.config.tau)
