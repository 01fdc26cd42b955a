"""Stable-Baselines3's DQN with prioritized three-step replay, which it has not: `pip install 'pyrl[sb3]'`.

What differs from its own quickstart is marked.
"""

from stable_baselines3.common.evaluation import evaluate_policy

from pyrl.adapters.sb3 import PrioritizedDQN, PrioritizedReplayBuffer  # instead of stable_baselines3.DQN

model = PrioritizedDQN(  # instead of DQN
    "MlpPolicy",
    "CartPole-v1",
    replay_buffer_class=PrioritizedReplayBuffer,  # new; so are the settings of the replay
    replay_buffer_kwargs={
        "n_steps": 3,
        "gamma": 0.99,
        "alpha": 0.6,
        "beta": 0.4,
    },
    learning_rate=1e-3,
    buffer_size=50_000,
    learning_starts=500,
    batch_size=64,
    train_freq=4,
    target_update_interval=250,
    exploration_fraction=0.3,
    policy_kwargs={"net_arch": [64, 64]},
    seed=0,
    device="cpu",
)
model.learn(total_timesteps=12_000)
mean, deviation = evaluate_policy(model, model.get_env(), n_eval_episodes=5)
print(f"return of five episodes: {mean:.0f} +- {deviation:.0f}")

model.save_replay_buffer("replay")  # the host's own file; inside are our bytes with their checksum
model.load_replay_buffer("replay")
print(model.replay_buffer.replay)
