"""Networks of a user's own: every agent's kinds, the toys they learn on, and pieces that torch trains in special ways.

Everything is found by its name, so that the command line and other processes can take it: ``own_networks:shared_trunk``.
"""

from __future__ import annotations

import copy
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from agent_envs import CONTINUOUS
from gymnasium import spaces
from torch import Tensor, nn

import pyrl

DISCRETE = ("ppo", "a2c", "a3c", "impala", "appo", "dqn")
AGENTS = DISCRETE + CONTINUOUS
OBSERVATION = spaces.Dict({"kind": spaces.Discrete(4, start=3), "pair": spaces.MultiDiscrete([2, 3]), "place": spaces.Box(-1, 1, (3,))})
ACTION: dict[str, Any] = {
    **dict.fromkeys(DISCRETE, spaces.Discrete(2)),
    **dict.fromkeys(CONTINUOUS, spaces.Box(np.float32([-1, 0]), np.float32([1, 3]))),
}


class Features(nn.Module):
    """An embedding beside a layer, for OBSERVATION; ``piece`` is something in between."""

    features_dim = 6

    def __init__(self, space: Any, piece: nn.Module | None = None) -> None:
        super().__init__()
        self.embedding = nn.Embedding(4, 2)
        self.place = nn.Linear(3, 4)
        self.piece = nn.Identity() if piece is None else piece

    def forward(self, observation: Any) -> Tensor:
        assert observation["kind"].dtype == observation["pair"].dtype == torch.int64
        assert observation["place"].dtype == torch.float32
        return self.piece(torch.cat([torch.tanh(self.place(observation["place"])), self.embedding(observation["kind"] - 3)], 1))


def actions_of(space: Any) -> int:
    return int(space.n) if isinstance(space, spaces.Discrete) else space.shape[0]


class SharedTrunk(nn.Module):
    """An actor-critic: two heads on one trunk."""

    def __init__(self, features: nn.Module, action_space: Any) -> None:
        super().__init__()
        self.features, self.calls = features, 0
        self.hidden = nn.Sequential(nn.Linear(6, 32), nn.Tanh())
        self.policy = nn.Linear(32, actions_of(action_space))  # a layer, not the protocol's method
        self.value = nn.Linear(32, 1)

    def forward(self, observation: Any) -> tuple[Tensor, Tensor]:
        self.calls += 1
        hidden = self.hidden(self.features(observation))
        return self.policy(hidden), self.value(hidden).squeeze(1)


class QValues(nn.Module):
    def __init__(self, features: nn.Module, action_space: Any) -> None:
        super().__init__()
        self.features, self.last = features, nn.Linear(6, actions_of(action_space))

    def forward(self, observation: Any) -> Tensor:
        return self.last(self.features(observation))


class Actor(nn.Module):
    def __init__(self, features: nn.Module, action_space: Any, gaussian: bool) -> None:
        super().__init__()
        self.features, self.gaussian = features, gaussian
        self.last = nn.Linear(6, actions_of(action_space) * (2 if gaussian else 1))

    def forward(self, observation: Any) -> Any:
        output = self.last(self.features(observation))
        return tuple(output.chunk(2, 1)) if self.gaussian else torch.tanh(output)


class Critics(nn.Module):
    def __init__(self, features: nn.Module, action_space: Any, count: int, outputs: int | None = None) -> None:
        super().__init__()
        self.features, self.outputs = features, outputs
        self.last = nn.ModuleList([nn.Linear(6 + actions_of(action_space), outputs or 1) for _ in range(count)])

    def forward(self, observation: Any, action: Tensor) -> Tensor:
        x = torch.cat([self.features(observation), action], 1)
        q = torch.stack([last(x) for last in self.last])
        return q.squeeze(2) if self.outputs is None else q


def actor_and_critics(algo: str, **options: Any) -> tuple[Any, Any]:
    """The actor and the critics that pyrl makes for an agent of continuous actions."""
    agent: Any = pyrl.make_agent(algo, OBSERVATION, ACTION[algo], **{"net_arch": (), **options})
    return copy.deepcopy(agent.actor), copy.deepcopy(agent.critic)


def network_of(algo: str, piece: Any = nn.Identity) -> Any:
    """A factory of everything that ``algo`` learns; ``piece()`` makes what lies within the features."""

    def make(observation_space: Any, action_space: Any, config: Any) -> Any:
        def features() -> nn.Module:
            return Features(observation_space, piece())

        if algo == "dqn":
            return QValues(features(), action_space)
        if algo in DISCRETE:
            return SharedTrunk(features(), action_space)
        actor, critic = actor_and_critics(algo)
        gaussian, outputs = hasattr(actor, "log_std_range"), critic.num_outputs
        return Actor(features(), action_space, gaussian), Critics(features(), action_space, len(critic.networks), outputs)

    return make


def shared_trunk(observation_space: Any, action_space: Any, config: Any) -> nn.Module:
    return SharedTrunk(Features(observation_space), action_space)


class Frozen(nn.Linear):
    """A layer that is not to be learned."""

    def __init__(self) -> None:
        super().__init__(6, 6)
        self.requires_grad_(False)


class Tied(nn.Module):
    """Two layers with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.tanh(self.first(x)))


class BatchNorm(nn.BatchNorm1d):
    """Features with buffers: means, variances, and a count that is no float."""

    features_dim: int


def batch_norm(space: spaces.Box) -> BatchNorm:
    network = BatchNorm(space.shape[0])
    network.features_dim = space.shape[0]
    return network


# What torch trains in special ways, as the piece within the features.
PIECES: dict[str, Any] = {
    "frozen": Frozen,
    "tied": Tied,
    "batch norm": lambda: nn.BatchNorm1d(6),
    "dropout": lambda: nn.Dropout(0.3),
    "layer norm": lambda: nn.LayerNorm(6),
    "lazy": lambda: nn.LazyLinear(6),
    "weight norm": lambda: nn.utils.parametrizations.weight_norm(nn.Linear(6, 6)),
}


class Toy(gym.Env):
    """Which way to push: to the right beyond 0.4 where kind is even, beyond -0.4 where it is odd. Ten steps an episode, one point each."""

    observation_space = OBSERVATION

    def __init__(self, continuous: bool = False) -> None:
        self.action_space = ACTION["ddpg" if continuous else "ppo"]
        self.continuous = continuous

    def see(self) -> dict[str, Any]:
        random = self.np_random
        self.kind, self.place = int(random.integers(4)), random.uniform(-1, 1, 3).astype(np.float32)
        return {"kind": np.int64(self.kind + 3), "pair": np.array([random.integers(2), random.integers(3)]), "place": self.place}

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        self.t = 0
        return self.see(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        right = self.place[0] > (0.4 if self.kind % 2 == 0 else -0.4)
        pushed = action[0] > 0 if self.continuous else action == 1
        self.t += 1
        return self.see(), float(pushed == right), self.t == 10, False, {}


class Pictures(gym.Env):
    """A dict of a small picture, whose left or right half is bright, and a switch that says which half pays."""

    observation_space = spaces.Dict({"picture": spaces.Box(0, 255, (1, 8, 8), np.uint8), "switch": spaces.MultiBinary(1)})
    action_space = spaces.Discrete(2)

    def see(self) -> dict[str, Any]:
        self.side, self.switch = (int(x) for x in self.np_random.integers(0, 2, 2))
        picture = self.np_random.integers(0, 100, (1, 8, 8)) + 150 * (np.arange(8) // 4 == self.side)
        return {"picture": picture.astype(np.uint8), "switch": np.array([self.switch], np.int8)}

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        self.t = 0
        return self.see(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        reward = float(action == (self.side ^ self.switch))
        self.t += 1
        return self.see(), reward, self.t == 10, False, {}


class PictureFeatures(nn.Module):
    """A small convolutional network for the dict of `Pictures`."""

    def __init__(self, space: Any) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(space["picture"].shape[0], 4, 4, stride=4)
        self.features_dim = 16 + 1

    def forward(self, observation: Any) -> Tensor:
        assert observation["picture"].dtype == torch.uint8
        assert observation["switch"].dtype == torch.int8
        seen = torch.relu(self.convolution(observation["picture"] / 255)).flatten(1)
        return torch.cat([seen, observation["switch"].float()], 1)


class Corridor(gym.Env):
    """Twelve cells and no order among them to see: a cell pays for one of two actions; 12 steps."""

    observation_space = spaces.Discrete(12)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[int, dict]:
        super().reset(seed=seed)
        self.cell = 0
        return 0, {}

    def step(self, action: int) -> tuple[int, float, bool, bool, dict]:
        reward = float(action == (self.cell * self.cell // 3) % 2)
        self.cell += 1
        return self.cell % 12, reward, self.cell == 12, False, {}


class EmbeddedQ(nn.Module):
    """A Q-network on an embedding of the cells of `Corridor`."""

    def __init__(self, observation_space: Any, action_space: Any, config: Any) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Embedding(int(observation_space.n), 16), nn.ReLU(), nn.Linear(16, int(action_space.n)))

    def forward(self, cell: Tensor) -> Tensor:
        return self.layers(cell)


gym.register("OwnToy-v0", Toy)
gym.register("OwnPictures-v0", Pictures)
gym.register("OwnCorridor-v0", Corridor)
