"""The parts, inside someone else's loop: a replay buffer and returns on plain NumPy arrays, no agent and no torch."""

import numpy as np
from gymnasium.spaces import Box, Discrete

from pyrl.buffers import ReplayBuffer
from pyrl.ops import gae

rng = np.random.default_rng(0)
buffer = ReplayBuffer(10_000, Box(-1, 1, (4,)), Discrete(2), num_envs=2, n_step=3, gamma=0.99, seed=0)
observation = rng.uniform(-1, 1, (2, 4)).astype(np.float32)
for t in range(1, 1001):
    next_observation = rng.uniform(-1, 1, (2, 4)).astype(np.float32)
    truncated = np.full(2, t % 50 == 0)
    buffer.add(observation, rng.integers(2, size=2), np.ones(2), next_observation, np.zeros(2, bool), truncated)
    observation = rng.uniform(-1, 1, (2, 4)).astype(np.float32) if truncated[0] else next_observation
batch = buffer.sample(256)
print(batch)
batch = buffer.sample(256, out=batch)  # the same memory again

reward, value = np.ones((128, 8), np.float32), np.zeros((129, 8), np.float32)
terminated = rng.random((128, 8)) < 0.02
advantage, return_ = gae(reward, value, None, terminated, np.zeros_like(terminated), gamma=0.99, gae_lambda=0.95)
print(advantage.shape, return_.mean())
