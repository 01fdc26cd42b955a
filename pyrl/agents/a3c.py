"""Asynchronous advantage actor-critic (Mnih et al. 2016, arXiv:1602.01783, algorithm S3).

Several workers, each a process with an environment and a copy of the networks of its own:

    theta' <- theta                               copy the shared parameters
    act for n_steps or until the episode ends
    g = grad of A2C's loss at theta'              (`pyrl.agents.a2c`: E[-A log pi - c_2 H + c_1 (R - V)^2])
    theta <- optimiser(theta, g)                  with shared statistics, without a lock (Recht et al. 2011)

The workers see different states at the same time, which makes the updates less correlated than those of one; the parameters a
gradient is applied to may have moved since it was computed. The loop is `pyrl.loops.workers`: num_envs is the number of
workers.
"""

from __future__ import annotations

import dataclasses

import torch
from gymnasium import spaces

from pyrl import ops
from pyrl.agents.a2c import AdvantageAgent, AdvantageConfig
from pyrl.agents.checks import Count, Positive, Rate, Weight
from pyrl.agents.registry import register
from pyrl.agents.sharing import SharedWeights
from pyrl.engine.native import optimizer_step
from pyrl.errors import DeviceError, NetworkError, SettingError
from pyrl.own import name_of


@dataclasses.dataclass(frozen=True, kw_only=True)
class A3CConfig(AdvantageConfig):
    """Rates as in system S1 (docs/results.md)."""

    learning_rate: Rate = 5e-4  # of the shared optimiser
    n_steps: Count = 20  # of a worker between two updates; fewer at an episode's end
    ent_coef: Weight = 0.01  # c_2
    max_grad_norm: Positive | None = 40.0
    use_rms_prop: bool = False  # RMSprop in TensorFlow's form, alpha 0.99; False: Adam; with shared statistics


@register("a3c")
class A3C(AdvantageAgent):
    """Discrete, multi-discrete, multi-binary and continuous actions."""

    loop = "asynchronous"
    Config = A3CConfig

    def __init__(self, observation_space: spaces.Space, action_space: spaces.Space, config: A3CConfig, seed: int, num_envs: int) -> None:
        if config.normalize_observation or config.normalize_reward:
            what = "normalize_observation" if config.normalize_observation else "normalize_reward"
            raise ValueError(f"a3c: {what} is True, expected False: workers share weights, not statistics")
        if config.device not in ("auto", "cpu"):
            raise DeviceError(f"a3c: device is {config.device!r}, expected 'cpu': workers share its memory")
        config = dataclasses.replace(config, device="cpu")
        super().__init__(observation_space, action_space, config, seed, num_envs)
        if self.statistics() is None:
            raise SettingError(
                f"a3c: optimizer is {name_of(config.optimizer)!r}, expected 'adam' or 'rmsprop': workers share its statistics"
            )
        if (buffer := next((name for name, _ in self.network.named_buffers()), None)) is not None:
            raise NetworkError(
                f"a3c: the network has the buffer {buffer}, expected parameters only (no batch norm): workers share only those"
            )

    def share(self) -> SharedWeights:
        """theta and the optimiser's statistics, moved into shared memory; this agent goes on using them there."""
        self.arena.sync()
        statistics = self.statistics()
        assert statistics is not None
        for tensor in (self.arena.values, *statistics.values()):
            tensor.share_memory_()
        return SharedWeights(self.arena.values, statistics, torch.zeros(self.num_envs, dtype=torch.int64).share_memory_())

    def become_worker(self, index: int, generation: int) -> None:
        """Actions of its own; ``generation`` counts the workers that were here before."""
        self.worker = index
        self.random = self.acting.random = ops.RandomStream(self.seed, "worker", index, generation)
        if self.updater.practice is not None:
            self.updater.practice.random = ops.RandomStream(self.seed, "worker's modules", index, generation)

    def pull(self, shared: SharedWeights) -> None:
        """theta' <- theta"""
        self.arena.values.copy_(shared.values)

    def push(self, shared: SharedWeights) -> None:
        """theta <- optimiser(theta, g), with the gradient in this agent's arena."""
        optimizer = self.step.trainable.optimizer
        optimizer_step(optimizer, shared.statistics, shared.values, self.arena.gradients, self.config.max_grad_norm)
        shared.steps[self.worker] += 1
