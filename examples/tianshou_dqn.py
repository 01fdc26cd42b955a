"""Tianshou's DQN with prioritized 3-step replay on pyrl's buffer, CartPole-v1; about a minute to a mean return of 150 and more.

Of a program of Tianshou's own two lines differ: the import of the buffer, and `install()`. Tianshou wants an environment of its own
(docs/coming_from/tianshou.md).
"""

import os

import gymnasium as gym
import numpy as np
import torch
from tianshou.algorithm import DQN
from tianshou.algorithm.modelfree.dqn import DiscreteQLearningPolicy
from tianshou.algorithm.optim import AdamOptimizerFactory
from tianshou.data import Collector
from tianshou.env import DummyVectorEnv
from tianshou.trainer import OffPolicyTrainerParams
from tianshou.utils.net.common import Net

from pyrl.adapters.tianshou import PrioritizedVectorReplayBuffer, install  # before: from tianshou.data import PrioritizedVectorReplayBuffer

install()
EPOCHS = int(os.environ.get("EPOCHS", 10))
np.random.seed(0)  # noqa: NPY002
torch.manual_seed(0)
envs, test_envs = (DummyVectorEnv([lambda: gym.make("CartPole-v1") for _ in range(count)]) for count in (10, 10))
envs.seed(0)
test_envs.seed(100)
space = envs.observation_space[0]
policy = DiscreteQLearningPolicy(
    model=Net(state_shape=space.shape, action_shape=2, hidden_sizes=[64, 64]), action_space=envs.action_space[0], observation_space=space,
    eps_training=0.1, eps_inference=0.0,
)  # fmt: skip
algorithm = DQN(policy=policy, optim=AdamOptimizerFactory(lr=1e-3), gamma=0.95, n_step_return_horizon=3, target_update_freq=320)
buffer = PrioritizedVectorReplayBuffer(20_000, buffer_num=10, alpha=0.6, beta=0.4)
collector = Collector(algorithm, envs, buffer, exploration_noise=True)
collector.reset()
collector.collect(n_step=640)
result = algorithm.run_training(
    OffPolicyTrainerParams(
        training_collector=collector, test_collector=Collector(algorithm, test_envs), max_epochs=EPOCHS, epoch_num_steps=2000,
        collection_step_num_env_steps=10, test_step_num_episodes=10, batch_size=64, update_step_num_gradient_steps_per_sample=0.1,
        show_progress=False,
    )
)  # fmt: skip
print(f"best mean return of 10 episodes: {result.best_reward:.0f}")
