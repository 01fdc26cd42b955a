"""IMPALA, the importance-weighted actor-learner architecture (Espeholt et al. 2018, arXiv:1802.01561).

    symbol        here                   shape
    mu(a|o)       exp(behaviour)         [T, N]   the policy that acted, which may be older than the one that learns
    pi(a|o)       exp(log_prob)          [T, N]   the policy that learns, before this update
    V(o)          value                  [T+1, N]
    rho_t         min(rho_bar, pi / mu)  [T, N]   where V converges to: for rho_bar = inf to V^pi, for small ones to nearly V^mu
    c_t           lambda min(c_bar, pi / mu)      how far back a TD error reaches; does not change where V converges to
    v_t           return_                [T, N]   V-trace's target of V, eq. 1
    A_t           advantage              [T, N]   rho_t (r_t + gamma v_(t+1) - V(o_t)), section 4.2

One step per rollout down A2C's loss (`pyrl.agents.a2c`: E[-A log pi - c_2 H + c_1 (v - V)^2]) with these targets. Where the policy that
acted is the one that learns, pi / mu is 1 and V-trace is the n-step return: this is A2C then. In a process of its own
(``pyrl train impala ENV``) it is; with workers (`pyrl.distributed`) it lags behind by some updates, which is what V-trace corrects.
"""

from __future__ import annotations

import dataclasses
from typing import Protocol

import numpy as np

from pyrl import ops
from pyrl.agents.a2c import AdvantageAgent, AdvantageConfig
from pyrl.agents.actor_critic import Samples
from pyrl.agents.checks import Count, Positive, Rate, Weight
from pyrl.agents.registry import register
from pyrl.types import Array, Rollout


class VTraceBounds(Protocol):
    """What `vtrace` reads of a config."""

    @property
    def gamma(self) -> float: ...
    @property
    def gae_lambda(self) -> float: ...
    @property
    def rho_bar(self) -> float: ...
    @property
    def c_bar(self) -> float: ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class IMPALAConfig(AdvantageConfig):
    """Rates as in the paper's appendix D, but for the loss, which is a mean here and a sum there."""

    learning_rate: Rate = 6e-4  # "linear_6e-4" falls to zero over the run
    n_steps: Count = 20  # T, steps of each environment between two updates
    ent_coef: Weight = 0.01  # c_2
    max_grad_norm: Positive | None = 40.0
    rho_bar: Positive = 1.0  # bound of the importance weights of TD errors
    c_bar: Positive = 1.0  # bound of those of the traces; gae_lambda multiplies them (remark 2 of the paper)


def vtrace(
    config: VTraceBounds, log_prob: np.ndarray, rollout: Rollout, samples: Samples, reward: Array, value: Array, final_value: Array
) -> tuple[np.ndarray, np.ndarray]:
    """(v, A) [T, N], eq. 1, of the arguments of `ActorCriticAgent.targets`; ``log_prob`` [T N]: of the policy that learns."""
    shape = reward.shape
    return ops.vtrace(
        log_prob.reshape(shape), samples.log_prob.reshape(shape), reward, value, None, rollout.terminated, rollout.truncated,
        gamma=config.gamma, lambda_=config.gae_lambda, rho_bar=config.rho_bar, c_bar=config.c_bar,
        final_value=final_value, valid=rollout.valid,
    )  # fmt: skip


@register("impala")
class IMPALA(AdvantageAgent):
    """Discrete, multi-discrete, multi-binary and continuous actions."""

    corrects_lag = True
    Config = IMPALAConfig
    config: IMPALAConfig

    def targets(
        self, rollout: Rollout, samples: Samples, reward: Array, value: Array, final_value: Array, native: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        """(A, v), eq. 1."""
        return_, advantage = vtrace(self.config, self.log_prob(samples, native), rollout, samples, reward, value, final_value)
        return advantage, return_
