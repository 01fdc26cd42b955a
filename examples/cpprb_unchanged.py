"""A program written for cpprb: prioritized n-step Q-learning of a table. One line differs, the import.

from cpprb import PrioritizedReplayBuffer                       # before
from pyrl.adapters.cpprb import PrioritizedReplayBuffer         # after
"""

import gymnasium as gym
import numpy as np

from pyrl.adapters.cpprb import PrioritizedReplayBuffer

N_STEP, GAMMA = 3, 0.95
env = gym.make("FrozenLake-v1", is_slippery=False)
env_dict = {"obs": {"dtype": np.int64}, "act": {"dtype": np.int64}, "rew": {}, "next_obs": {"dtype": np.int64}, "done": {}}
nstep = {"size": N_STEP, "gamma": GAMMA, "rew": "rew", "next": "next_obs"}
rb = PrioritizedReplayBuffer(1e4, env_dict, Nstep=nstep, alpha=0.6, eps=1e-3)

rng = np.random.default_rng(0)
q = np.zeros((env.observation_space.n, env.action_space.n))
returns = []
for episode in range(400):
    obs, _ = env.reset(seed=episode)
    score, terminated, truncated = 0.0, False, False
    while not (terminated or truncated):
        explores = rng.random() < max(0.05, 1 - episode / 200)
        act = rng.integers(env.action_space.n) if explores else int(rng.choice(np.flatnonzero(q[obs] == q[obs].max())))
        next_obs, rew, terminated, truncated, _ = env.step(int(act))
        rb.add(obs=obs, act=act, rew=rew, next_obs=next_obs, done=terminated)
        obs, score = next_obs, score + float(rew)
    rb.on_episode_end()
    returns.append(score)
    for _ in range(5):
        s = rb.sample(32, beta=0.4)
        state, action, after = (s[name][:, 0] for name in ("obs", "act", "next_obs"))
        target = s["rew"][:, 0] + GAMMA**N_STEP * (1 - s["done"][:, 0]) * q[after].max(1)
        error = target - q[state, action]
        np.add.at(q, (state, action), 0.2 * s["weights"] * error)
        rb.update_priorities(s["indexes"], np.abs(error))

print(f"{rb.get_stored_size()} transitions stored; the goal is reached in {np.mean(returns[-50:]):.0%} of the last 50 episodes")
assert np.mean(returns[-50:]) > 0.5
