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

from torch import Tensor
from torch.nn import functional as F

from pyrl import ops
from pyrl.agents.actor_critic import ActorCriticAgent, ActorCriticConfig, Samples, standardized
from pyrl.agents.checks import Count, Fraction, Positive, Rate
from pyrl.agents.registry import register
from pyrl.engine.optimizers import is_known, optimizer_state
from pyrl.engine.step import LossReport
from pyrl.engine.updater import Update
from pyrl.nets.distributions import masked
from pyrl.schedules import value_at
from pyrl.types import Learned, Rollout


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdvantageConfig(ActorCriticConfig):
    """What `AdvantageAgent` reads."""

    gae_lambda: Fraction = 1.0  # 1: n-step returns
    normalize_advantage: bool = False
    use_rms_prop: bool = True  # RMSprop in TensorFlow's form, alpha 0.99; False: Adam; optimizer takes its place
    rms_prop_eps: Positive = 1e-5


@dataclasses.dataclass(frozen=True, kw_only=True)
class A2CConfig(AdvantageConfig):
    """Defaults as in Stable-Baselines3."""

    learning_rate: Rate = 7e-4  # "linear_7e-4" falls to zero over the run
    n_steps: Count = 5  # T, steps of each environment between two updates


def policy_loss(log_prob: Tensor, advantage: Tensor) -> Tensor:
    """-E[A log pi(a|o)], whose gradient is that of the return. All [B]."""
    return -(advantage * log_prob).mean()


def value_loss(value: Tensor, return_: Tensor) -> Tensor:
    """E[(R - V)^2]. All [B]."""
    return F.mse_loss(value, return_)


class AdvantageAgent(ActorCriticAgent):
    """What the synchronous form, the asynchronous one (`pyrl.agents.a3c`) and IMPALA share: the gradient of a whole rollout."""

    honours_masks = True

    def usual_optimizer(self) -> tuple[str, dict[str, Any]]:
        if self.config.optimizer == "rmsprop" or (self.config.optimizer is None and self.config.use_rms_prop):
            return "rmsprop", {"alpha": 0.99, "eps": self.config.rms_prop_eps}
        return super().usual_optimizer()

    def statistics(self) -> dict[str, Tensor] | None:
        """What the optimiser keeps of the weights, by name, for others to share; None of an optimiser that pyrl does not know."""
        optimizer = self.step.trainable.optimizer
        return optimizer_state(optimizer) if is_known(optimizer) else None

    def learn(self, rollout: Rollout) -> Learned:
        metrics = self.descend(self.step, rollout)
        self.updates += 1
        return Learned(metrics)

    def gradient(self, rollout: Rollout) -> dict[str, float]:
        """The gradient of the loss of a rollout, into the arena; the current learning rate."""
        return self.descend(self.step.gradient, rollout)

    def descend(self, update: Update, rollout: Rollout) -> dict[str, float]:
        learning_rate = value_at(self.config.learning_rate, self.progress.share)
        native = self.updater.begin(learning_rate)
        samples, valid_index, explained = self.samples(rollout, native)
        if valid_index is not None:
            samples = samples.rows(*self.updater.to_device(valid_index))
        ent_coef = self.scalar(value_at(self.config.ent_coef, self.progress.share))
        report = self.updater(update, samples, ent_coef)
        return {**report, "train/explained_variance": explained, "train/learning_rate": learning_rate}

    def loss(self, batch: Samples, ent_coef: Tensor) -> tuple[Tensor, LossReport]:  # type: ignore[override]
        """The loss of a rollout, and its three terms."""
        config, network = self.config, self.network
        output, value = network(batch.observation)
        output = masked(output, batch.action_mask)
        log_prob, entropy = network.distribution.log_prob_and_entropy(output, network.log_std, batch.action)
        A = standardized(batch.advantage) if config.normalize_advantage else batch.advantage
        actor_loss, critic_loss = policy_loss(log_prob, A), value_loss(value, batch.return_)
        entropy = entropy.mean()
        loss = actor_loss + config.vf_coef * critic_loss - ent_coef * entropy
        return loss, {"loss/policy": actor_loss, "loss/value": critic_loss, "loss/entropy": entropy}

    def native_gradient(self, batch: Samples, ent_coef: float) -> LossReport:  # type: ignore[override]
        """The same by hand: forward, the gradients of the loss w.r.t. the outputs, backward."""
        config, native = self.config, self.native["network"]
        (actor, critic), w, g = native.networks, native.parameters, native.gradients
        output, value = actor.forward(w, batch.observation), critic.forward(w, batch.observation)
        logits = masked(self.distribution.logits(output), batch.action_mask)
        actor_loss, entropy, _, _, d_output = ops.policy_loss(
            logits, batch.action, batch.advantage, ent_coef=ent_coef,
            normalize_advantage=config.normalize_advantage, **self.native_distribution(),
        )  # fmt: skip
        critic_loss, d_value = ops.value_loss(value, batch.return_, coefficient=config.vf_coef)
        actor.backward(w, g, self.distribution.by_output(d_output))
        critic.backward(w, g, d_value)
        return {"loss/policy": actor_loss, "loss/value": critic_loss, "loss/entropy": entropy}


@register("a2c")
class A2C(AdvantageAgent):
    """Discrete, multi-discrete, multi-binary and continuous actions."""

    Config = A2CConfig
