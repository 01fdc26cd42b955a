"""Networks of your own, in torch: features of a dict, an actor-critic with a shared trunk, a Q-network on an embedding."""

import tempfile

import gymnasium as gym
import numpy as np
import torch
from torch import nn

import pyrl


class Picture(gym.Env):
    """A small picture, whose bright side pays; while the switch is on, the right side pays."""

    observation_space = gym.spaces.Dict({"picture": gym.spaces.Box(0, 255, (1, 8, 8), np.uint8), "switch": gym.spaces.Discrete(2)})
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self._see(), {}

    def step(self, action):
        reward = float(action == (self.side | self.switch))
        self.t += 1
        return self._see(), reward, False, self.t == 10, {}

    def _see(self):
        self.side, self.switch = (int(x) for x in self.np_random.integers(0, 2, 2))
        picture = self.np_random.integers(0, 100, (1, 8, 8)) + 150 * (np.arange(8) // 4 == self.side)
        return {"picture": picture.astype(np.uint8), "switch": self.switch}


class Features(nn.Module):
    """Any module with ``features_dim``; what comes is described in docs/your_own_network.md."""

    def __init__(self, space):
        super().__init__()
        self.picture = nn.Sequential(nn.Conv2d(space["picture"].shape[0], 8, 4, stride=4), nn.ReLU(), nn.Flatten())
        self.switch = nn.Embedding(int(space["switch"].n), 4)
        self.features_dim = 8 * 4 + 4

    def forward(self, observation):
        return torch.cat([self.picture(observation["picture"] / 255), self.switch(observation["switch"])], dim=1)


class SharedTrunk(nn.Module):
    """What ``network=`` makes for PPO: (policy output [B, actions], value [B])."""

    def __init__(self, observation_space, action_space, config):
        super().__init__()
        features = Features(observation_space)
        self.trunk = nn.Sequential(features, nn.Linear(features.features_dim, 32), nn.Mish())
        self.actor, self.critic = nn.Linear(32, int(action_space.n)), nn.Linear(32, 1)

    def forward(self, observation):
        hidden = self.trunk(observation)
        return self.actor(hidden), self.critic(hidden).squeeze(1)


class QNetwork(nn.Module):
    """What it makes for DQN: Q [B, actions]."""

    def __init__(self, observation_space, action_space, config):
        super().__init__()
        features = Features(observation_space)
        self.layers = nn.Sequential(features, nn.Linear(features.features_dim, 32), nn.ReLU(), nn.Linear(32, int(action_space.n)))

    def forward(self, observation):
        return self.layers(observation)


# On a shared trunk the value's gradient is the larger one, and the norm of both is clipped: a small vf_coef leaves room to the policy.
ppo = {"total_steps": 2_000, "num_envs": 4, "n_steps": 64, "batch_size": 64, "n_epochs": 5, "learning_rate": 5e-3, "run_dir": False}
runs = {
    "features_extractor": pyrl.train("ppo", Picture, features_extractor=Features, **ppo),
    "network (ppo)": pyrl.train("ppo", Picture, network=SharedTrunk, vf_coef=0.02, **ppo),
    "network (dqn)": pyrl.train(
        "dqn", Picture, total_steps=2_000, network=QNetwork, gamma=0.1, learning_rate=3e-3, learning_starts=100,
        exploration_fraction=0.5, target_update_interval=200, run_dir=False, optimizer=torch.optim.NAdam,
    ),
}  # fmt: skip
for name, run in runs.items():
    result = pyrl.evaluate(run.agent, Picture, episodes=20)
    print(f"{name:20} {result}")
    assert result.mean > 9  # chance has 5, one answer for all pictures 7.5

with tempfile.TemporaryDirectory() as folder:  # a checkpoint knows the network by its name only, and asks for it
    path = runs["network (ppo)"].agent.save(f"{folder}/agent")
    again = pyrl.load(path, network=SharedTrunk)
    assert pyrl.evaluate(again, Picture, episodes=5).mean == pyrl.evaluate(runs["network (ppo)"].agent, Picture, episodes=5).mean
