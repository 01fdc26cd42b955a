"""Any Gymnasium environment works: pass the class."""

import gymnasium as gym
import numpy as np

import pyrl


class Corridor(gym.Env):
    """Walk right for eight cells; every step costs 0.1, the end pays 1."""

    observation_space = gym.spaces.Discrete(8)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.cell = 0
        return self.cell, {}

    def step(self, action):
        self.cell = min(max(self.cell + (1 if action == 1 else -1), 0), 7)
        arrived = self.cell == 7
        return self.cell, 1.0 if arrived else -0.1, arrived, False, {"is_success": arrived}


run = pyrl.train("dqn", Corridor, total_steps=4_000, max_episode_steps=50, run_dir=False, learning_starts=200, exploration_fraction=0.5)
result = pyrl.evaluate(run.agent, Corridor, episodes=5, max_episode_steps=50)
print(result)
assert np.isclose(result.mean, 1.0 - 0.6)
