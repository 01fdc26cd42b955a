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

import copy
import dataclasses
from typing import Annotated, Any, Literal, cast

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor
from torch.nn import functional as F

from pyrl import ops
from pyrl.agents.base import Agent, AgentConfig, seeded_network, tensors
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
from pyrl.engine.arena import Arena, polyak
from pyrl.engine.native import Native, native_q, native_q_backward
from pyrl.engine.update import Report, Update
from pyrl.nets.heads import QNetwork
from pyrl.nets.mlp import Activation
from pyrl.schedules import Schedule, linear, value_at
from pyrl.types import Array, Batch, Observation, first_leaf


@dataclasses.dataclass(frozen=True, kw_only=True)
class DQNConfig(AgentConfig):
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
    activation: Activation = "relu"

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

        def build() -> QNetwork:
            shape = config.net_arch, config.activation, config.dueling, config.features_extractor
            return QNetwork(observation_space, self.num_actions, *shape)

        self.q_network = cast(QNetwork, seeded_network(seed, build, self.device, config.precision))
        self.target_network = copy.deepcopy(self.q_network).requires_grad_(False)
        self.arena, self.target_arena = Arena(self.q_network), Arena(self.target_network)
        self.optimizer = self.arena.optimizer = torch.optim.Adam([self.arena.values], lr=value_at(config.learning_rate, 0.0), fused=True)
        self.online = Native(self.arena, *self.q_network.parts())
        self.target = Native(self.target_arena, *self.target_network.parts())
        self.engine = self.choose_engine(self.online.possible)
        self.update = Update(self.arena, self.loss, max_grad_norm=config.max_grad_norm, compiled=self.engine == "compile")
        self.run = self.runner(self.arena)
        self.last_target_update = 0  # env step of it

    def modules(self) -> dict[str, torch.nn.Module]:
        return {"q_network": self.q_network, "target_network": self.target_network}

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        return {"optimizer": self.optimizer}

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
        if self.engine == "native" and self.online.ready():
            q = native_q(self.online, self.q_network.encoder.array(observation, self.online.dtype), keep=False)
        else:
            with torch.no_grad():
                q = self.q_network(tensors(observation, self.device)).cpu().numpy()
        action = q.argmax(axis=1)
        if not deterministic:
            uniform = ops.uniform_indices(count, 1 << 53, self.random) * 2.0**-53
            random_action = ops.uniform_indices(count, self.num_actions, self.random)
            action = np.where(uniform < self.epsilon, random_action, action)
        return {"action": action}

    def loss(
        self,
        observation: Observation,
        action: Tensor,
        reward: Tensor,
        discount: Tensor,
        next_observation: Observation,
        weight: Tensor | None,
    ) -> tuple[Tensor, Report]:
        """The loss of a batch [B, ...], and a report: it, the mean of Q, and delta [B]."""
        with torch.no_grad():
            next_q_target = self.target_network(next_observation)
            next_q = self.q_network(next_observation) if self.config.double else next_q_target
            target = q_target(reward, discount, next_q, next_q_target, self.config.double)
        q = self.q_network(observation).gather(1, action.unsqueeze(1)).squeeze(1)
        td_error = q - target
        loss = q_loss(td_error, weight, self.config.loss == "huber")
        return loss, (loss, q.mean(), td_error)

    def learn(self, batch: Batch) -> dict[str, float]:
        self.run.set_learning_rate(value_at(self.config.learning_rate, self.progress))
        native = self.engine == "native" and self.online.ready_to_learn() and self.target.ready()
        metrics = self.native_update(batch) if native else self.torch_update(batch)
        self.td_error = metrics.pop("td_error")
        self.updates += 1
        self._update_target()
        return metrics

    def torch_update(self, batch: Batch) -> dict[str, Any]:
        observation, next_observation = (tensors(self.normalizer.observation(o)) for o in (batch.observation, batch.next_observation))
        action, reward, discount = map(torch.as_tensor, (batch.action, self.normalizer.reward(batch.reward), batch.discount))
        action = action.long()
        weight = None if batch.weight is None else torch.as_tensor(batch.weight)
        report = self.run(self.tensor_update, observation, action, reward, discount, next_observation, weight)
        if isinstance(batch.index, np.ndarray):
            report["td_error"] = report["td_error"].cpu().numpy()
        return report

    def tensor_update(self, *batch: Any) -> dict[str, Tensor]:
        """A step down the gradient of `loss`."""
        loss, q_mean, td_error = self.update(*batch)
        return {"loss/q": loss, "train/q_mean": q_mean, "td_error": td_error}

    def native_update(self, batch: Batch) -> dict[str, Any]:
        """The same step by hand: forward, the gradient of the loss by Q, backward, Adam."""
        online, encoder, dtype = self.online, self.q_network.encoder, self.online.dtype
        observation, next_observation = (
            encoder.array(self.normalizer.observation(o), dtype) for o in (batch.observation, batch.next_observation)
        )
        reward, discount = (x.astype(dtype, copy=False) for x in (self.normalizer.reward(batch.reward), batch.discount))
        action = batch.action.astype(np.int64, copy=False)
        loss, q_mean, d_q, td_error = ops.q_loss(
            native_q(online, observation), action, reward, discount, native_q(self.target, next_observation, keep=False),
            next_q_online=native_q(online, next_observation, keep=False) if self.config.double else None,
            weight=None if batch.weight is None else batch.weight.astype(dtype, copy=False), huber=self.config.loss == "huber",
        )  # fmt: skip
        native_q_backward(online, d_q)
        online.step(self.config.max_grad_norm)
        return {"loss/q": loss, "train/q_mean": q_mean, "td_error": td_error}

    def _update_target(self) -> None:
        """theta^- <- (1 - tau) theta^- + tau theta, when target_update_interval environment steps have passed."""
        if self.env_steps - self.last_target_update < self.config.target_update_interval:
            return
        self.last_target_update = self.env_steps
        polyak(self.target_arena, self.arena, self.config.tau)
