"""RLlib's DQN on pyrl's prioritized episode buffer: `pip install 'pyrl[rllib]'`, in an environment of its own (docs/coming_from/rllib.md).

What differs from RLlib's own is marked.
"""

import ray
from ray.rllib.algorithms.dqn import DQNConfig
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig

ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False)
config = (
    DQNConfig()
    .environment("CartPole-v1")
    .env_runners(num_env_runners=0, rollout_fragment_length=16)
    .training(
        replay_buffer_config={
            "type": "pyrl.adapters.rllib.PrioritizedEpisodeReplayBuffer",  # instead of "PrioritizedEpisodeReplayBuffer"
            "capacity": 50_000,
            "alpha": 0.6,
            "beta": 0.4,
        },
        n_step=3,
        lr=1e-3,
        train_batch_size_per_learner=64,
        training_intensity=16,
        target_network_update_freq=250,
        num_steps_sampled_before_learning_starts=500,
        epsilon=[(0, 1.0), (3000, 0.04)],
    )
    .rl_module(model_config=DefaultModelConfig(fcnet_hiddens=[64, 64], fcnet_activation="relu"))
    .reporting(min_sample_timesteps_per_iteration=1000, min_time_s_per_iteration=0)
    .debugging(seed=0, log_level="ERROR")
)
algorithm = config.build_algo()
for _ in range(4):
    runners = algorithm.train()["env_runners"]
    print(f"{runners['num_env_steps_sampled_lifetime']:.0f} steps, return {runners['episode_return_mean']:.0f}")
print(algorithm.local_replay_buffer.replay)
algorithm.stop()
ray.shutdown()
