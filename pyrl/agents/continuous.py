"""What off-policy agents for continuous actions share: scaling, warm-up, exploration noise. Networks and losses are their own."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from typing import Any, get_args

import torch
from gymnasium import spaces
from torch import Tensor, nn

from pyrl import ops
from pyrl.agents.base import Agent, AgentConfig, check_choice, check_layers, check_range, tensors
from pyrl.agents.random import uniform_actions
from pyrl.nets.arena import Arena
from pyrl.nets.continuous import ActionScale
from pyrl.nets.mlp import Activation
from pyrl.nets.noise import NoiseType, exploration_noise
from pyrl.schedules import Schedule, check_schedule, value_at
from pyrl.types import Array, Batch, Observation, first_leaf


@dataclasses.dataclass(frozen=True, kw_only=True)
class ContinuousConfig(AgentConfig):
    """What `ContinuousAgent` and its loop read; names as in Stable-Baselines3."""

    learning_rate: Schedule = 3e-4  # of every Adam; "linear_3e-4" falls to zero over the run
    buffer_size: int = 1_000_000  # slots of the replay, all environments together
    learning_starts: int = 100  # transitions stored before the first update
    random_steps: int | None = None  # environment steps of uniform random actions at the beginning; None: learning_starts
    batch_size: int = 256
    tau: float = 0.005  # Polyak factor of the target networks, after each update
    train_freq: int = 1  # steps of each environment between two rounds of updates
    gradient_steps: int = 1  # updates in a round; -1: as many as transitions were added since the last
    n_step: int = 1  # length of the returns
    noise_type: NoiseType = "normal"  # of exploration, beyond the policy's own
    noise_std: float = 0.0  # its standard deviation (sigma), where every action has the range [-1, 1]; 0: none
    net_arch: tuple[int, ...] = (256, 256)  # hidden layers of actor and critic each
    activation: Activation = "relu"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_layers(self)
        for name in ("buffer_size", "batch_size", "train_freq", "n_step"):
            check_range(self, name, 1, None)
        check_range(self, "batch_size", 1, self.buffer_size)
        check_range(self, "learning_starts", 0, None)
        check_range(self, "gradient_steps", -1, None)
        check_range(self, "tau", 0.0, 1.0, open_low=True)
        if self.random_steps is not None:
            check_range(self, "random_steps", 0, None)
        check_choice(self, "noise_type", get_args(NoiseType))
        check_range(self, "noise_std", 0.0, None)
        check_schedule(f"{type(self).__name__}: learning_rate", self.learning_rate)


class ContinuousAgent(Agent):
    """Box actions with finite bounds, any observation that the encoder takes.

    Networks and losses see actions in [-1, 1]; environment and replay see the Box's.
    """

    loop = "off_policy"

    def __init__(self, observation_space: spaces.Space, action_space: spaces.Space, config: Any, seed: int, num_envs: int) -> None:
        self.scale = ActionScale(self.name, action_space)
        super().__init__(observation_space, action_space, config, seed, num_envs)
        self.random_steps = config.learning_starts if config.random_steps is None else config.random_steps
        self.noise = exploration_noise(config.noise_type, config.noise_std, seed)
        self.learning = ops.RandomStream(seed, "learning")  # of actions drawn in losses

    def adam_arena(self, network: nn.Module) -> Arena:
        """The parameters of ``network`` with an Adam of their own."""
        arena = Arena(network)
        arena.optimizer = torch.optim.Adam([arena.values], lr=value_at(self.config.learning_rate, 0.0), fused=True)
        return arena

    def streams(self) -> dict[str, Any]:
        return {**super().streams(), "noise": self.noise, "learning": self.learning}

    @abstractmethod
    def choose(self, observation: Observation, deterministic: bool) -> Tensor:
        """Actions [N, A] in [-1, 1] for normalised observations."""

    @torch.no_grad()
    def policy(self, observation: Observation, deterministic: bool = False) -> dict[str, Array]:
        """The actor's choice and exploration noise; uniform actions while random_steps last."""
        if not deterministic and self.env_steps < self.random_steps:
            return {"action": uniform_actions(self.action_space, len(first_leaf(observation)), self.random)}
        action = self.choose(tensors(self.normalizer.observation(observation)), deterministic)
        if not deterministic and self.config.noise_std > 0:
            action = self.noise(action)
        return {"action": self.scale.to_box(action)}

    def prepare(self, batch: Batch) -> tuple[Observation, Tensor, Tensor, Tensor, Observation]:
        """o, a in [-1, 1], r, discount and o' as tensors [B, ...]. Sets the learning rates."""
        for optimizer in self.optimizers().values():
            optimizer.param_groups[0]["lr"] = value_at(self.config.learning_rate, self.progress)
        observation, next_observation = (tensors(self.normalizer.observation(o)) for o in (batch.observation, batch.next_observation))
        reward, discount = torch.as_tensor(self.normalizer.reward(batch.reward)), torch.as_tensor(batch.discount)
        return observation, self.scale.to_unit(batch.action), reward, discount, next_observation
