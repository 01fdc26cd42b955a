"""Asynchronous PPO: PPO's clipped surrogate on rollouts that lag behind, by V-trace (IMPACT: Luo et al. 2020, arXiv:1912.00167).

    symbol        here                   shape
    mu(a|o)       rollout's log_prob     [T, N]   the policy that acted, which may be some updates older than the one that learns
    pi_old(a|o)   samples' log_prob      [B]      the policy that learns, before this update: the paper's target network, renewed here at
                                                  each update
    pi(a|o)       log_prob               [B]      the policy that learns, at each minibatch
    rho_t         min(rho_bar, pi_old / mu)  [T, N]
    c_t           lambda min(c_bar, pi_old / mu)
    v_t           return_                [T, N]   V-trace's target of V: V(o_t) + sum_k gamma^k (prod of c) rho_k delta_k
    A_t           advantage              [T, N]   v_t - V(o_t), the paper's V-trace-GAE

n_epochs passes in minibatches down eq. 9 of PPO (`pyrl.agents.ppo`), with these A and v, and with the ratio pi / pi_old: the weight
pi_old / mu is in A already, bounded, and the surrogate's clip says how far one update may go, however old the rollout is. (The ratio
pi / mu would count the lag twice, and a rollout by an older policy would come clipped.)

Where the policy that acted is the one that learns, rho and c / lambda are 1 and A is GAE(gamma, lambda): this is PPO then. In a process of
its own (``pyrl train appo ENV``) it is; with workers (`pyrl.distributed`) PPO waits for all of them, and this does not.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from pyrl.agents.actor_critic import Samples
from pyrl.agents.checks import Count, Positive
from pyrl.agents.impala import vtrace
from pyrl.agents.ppo import SurrogateAgent, SurrogateConfig
from pyrl.agents.registry import register
from pyrl.types import Array, Rollout


@dataclasses.dataclass(frozen=True, kw_only=True)
class APPOConfig(SurrogateConfig):
    """PPO's, but for shorter rollouts: the shorter, the newer the policy that acted."""

    n_steps: Count = 256  # T, steps of each environment between two updates
    rho_bar: Positive = 1.0  # bound of the importance weights of TD errors
    c_bar: Positive = 1.0  # bound of those of the traces; gae_lambda multiplies them


@register("appo")
class APPO(SurrogateAgent):
    """Discrete, multi-discrete, multi-binary and continuous actions."""

    corrects_lag = True
    Config = APPOConfig
    config: APPOConfig

    def targets(
        self, rollout: Rollout, samples: Samples, reward: Array, value: Array, final_value: Array, native: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        """(A, v). From here on ``samples.log_prob`` is that of pi_old, which the surrogate's ratio is to."""
        log_prob = self.log_prob(samples, native)
        return_, _ = vtrace(self.config, log_prob, rollout, samples, reward, value, final_value)
        samples.log_prob = log_prob
        return return_ - value[: len(return_)], return_
