"""Advantage actor-critic: the synchronous form of A3C (Mnih et al. 2016, arXiv:1602.01783).

    symbol        here             shape
    pi(a|o)       exp(log_prob)    [B]
    V(o)          value            [B]
    A             advantage        [B]      GAE(gamma, lambda) of Schulman et al. 2016; lambda = 1 gives R - V
    R             return_          [B]      n-step return: r_t + gamma r_(t+1) + .. + gamma^k V(o_(t+k)), k up to n_steps
    H             entropy          [B]

One step per rollout of n_steps in each environment, on the whole of it: the policy gradient theorem's
E[A grad log pi] (Sutton et al. 2000) with the value as baseline, which changes its variance and not its mean.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor
from torch.nn import functional as F

from pyrl import ops
from pyrl.agents.actor_critic import ActorCriticAgent, ActorCriticConfig, Samples, standardized
from pyrl.agents.checks import Count, Fraction, Positive, Rate
from pyrl.agents.registry import register
from pyrl.engine.optimizers import TensorFlowRMSprop
from pyrl.engine.update import Report, Update
from pyrl.schedules import value_at
from pyrl.types import Rollout


@dataclasses.dataclass(frozen=True, kw_only=True)
class A2CConfig(ActorCriticConfig):
    """Defaults as in Stable-Baselines3."""

    learning_rate: Rate = 7e-4  # "linear_7e-4" falls to zero over the run
    n_steps: Count = 5  # T, steps of each environment between two updates
    gae_lambda: Fraction = 1.0  # 1: n-step returns
    normalize_advantage: bool = False
    use_rms_prop: bool = True  # RMSprop in TensorFlow's form, alpha 0.99; False: Adam
    rms_prop_eps: Positive = 1e-5


def policy_loss(log_prob: Tensor, advantage: Tensor) -> Tensor:
    """-E[A log pi(a|o)], whose gradient is that of the return. All [B]."""
    return -(advantage * log_prob).mean()


def value_loss(value: Tensor, return_: Tensor) -> Tensor:
    """E[(R - V)^2]. All [B]."""
    return F.mse_loss(value, return_)


REPORT = ("loss/policy", "loss/value", "loss/entropy")


@register("a2c")
class A2C(ActorCriticAgent):
    """Discrete, multi-discrete, multi-binary and continuous actions."""

    Config = A2CConfig
    config: A2CConfig

    def __init__(self, observation_space: spaces.Space, action_space: spaces.Space, config: A2CConfig, seed: int, num_envs: int) -> None:
        super().__init__(observation_space, action_space, config, seed, num_envs)
        self.update = Update(self.arena, self.loss, max_grad_norm=config.max_grad_norm, compiled=self.engine == "compile")

    def make_optimizer(self, parameters: Tensor, learning_rate: float) -> torch.optim.Optimizer:
        if self.config.use_rms_prop:
            return TensorFlowRMSprop([parameters], lr=learning_rate, alpha=0.99, eps=self.config.rms_prop_eps)
        return super().make_optimizer(parameters, learning_rate)

    def learn(self, rollout: Rollout) -> dict[str, float]:
        metrics = self.descend(rollout, step=True)
        self.updates += 1
        return metrics

    def gradient(self, rollout: Rollout) -> dict[str, float]:
        """The gradient of the loss of a rollout, into the arena; the learning rate of now."""
        return self.descend(rollout, step=False)

    def descend(self, rollout: Rollout, step: bool) -> dict[str, float]:
        learning_rate = value_at(self.config.learning_rate, self.progress)
        self.run.set_learning_rate(learning_rate)
        samples, ent_coef = self.samples(rollout).steps(), value_at(self.config.ent_coef, self.progress)
        if isinstance(samples.advantage, np.ndarray):
            report = self.native_gradient(samples, ent_coef)
            if step:
                self.native.step(self.config.max_grad_norm)
        else:
            report = self.run(self.tensor_update, samples.columns(), self.scalar(ent_coef), step)
        about = {"train/explained_variance": samples.explained_variance, "train/learning_rate": learning_rate}
        return {**report, **about}

    def tensor_update(self, columns: tuple[Any, ...], ent_coef: Tensor, step: bool) -> dict[str, Tensor]:
        """The gradient of `loss`, and the step down it if that is asked for."""
        report = (self.update if step else self.update.gradient)(Samples(*columns), ent_coef)
        return dict(zip(REPORT, report))

    def loss(self, batch: Samples, ent_coef: Tensor) -> tuple[Tensor, Report]:
        """The loss of a rollout, and a report: its three terms."""
        config, network = self.config, self.network
        output, value = network(batch.observation)
        log_prob, entropy = network.distribution.log_prob_and_entropy(output, network.log_std, batch.action)
        A = standardized(batch.advantage) if config.normalize_advantage else batch.advantage
        actor_loss, critic_loss = policy_loss(log_prob, A), value_loss(value, batch.return_)
        entropy = entropy.mean()
        loss = actor_loss + config.vf_coef * critic_loss - ent_coef * entropy
        return loss, (actor_loss, critic_loss, entropy)

    def native_gradient(self, batch: Samples, ent_coef: float) -> dict[str, float]:
        """The same by hand: forward, the gradients of the loss by the outputs, backward."""
        config, native = self.config, self.native
        (actor, critic), w, g = native.networks, native.parameters, native.gradients
        output, value = actor.forward(w, batch.observation), critic.forward(w, batch.observation)
        actor_loss, entropy, _, _, d_output = ops.policy_loss(
            self.distribution.logits(output), batch.action, batch.advantage, ent_coef=ent_coef,
            normalize_advantage=config.normalize_advantage, **self.native_distribution(),
        )  # fmt: skip
        critic_loss, d_value = ops.value_loss(value, batch.return_, coefficient=config.vf_coef)
        actor.backward(w, g, self.distribution.by_output(d_output))
        critic.backward(w, g, d_value)
        return dict(zip(REPORT, (actor_loss, critic_loss, entropy)))
