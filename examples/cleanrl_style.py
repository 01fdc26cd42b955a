"""PPO in one file, as CleanRL writes it, with pyrl's `gae` in the place of its loop over time. About 10 seconds.

Replay goes the same way: `from pyrl.adapters.cleanrl import ReplayBuffer` for `from cleanrl_utils.buffers import ReplayBuffer`.
"""

import gymnasium as gym
import numpy as np
import torch
from torch import nn
from torch.distributions import Categorical

from pyrl.adapters.cleanrl import gae

num_envs, num_steps, num_updates, gamma, gae_lambda = 8, 128, 40, 0.99, 0.95
torch.manual_seed(0)
torch.set_num_threads(1)
same_step = {"autoreset_mode": gym.vector.AutoresetMode.SAME_STEP}
envs = gym.make_vec("CartPole-v1", num_envs, vectorization_mode="sync", vector_kwargs=same_step)
critic = nn.Sequential(nn.Linear(4, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 1))
actor = nn.Sequential(nn.Linear(4, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 2))
parameters = [*actor.parameters(), *critic.parameters()]
optimizer = torch.optim.Adam(parameters, lr=1e-3, eps=1e-5)

obs = torch.zeros(num_steps, num_envs, 4)
actions, logprobs, rewards, dones, values = (torch.zeros(num_steps, num_envs) for _ in range(5))
next_obs, next_done = torch.from_numpy(envs.reset(seed=0)[0]), torch.zeros(num_envs)
running, finished = np.zeros(num_envs), []
for _ in range(num_updates):
    for step in range(num_steps):
        obs[step], dones[step] = next_obs, next_done
        with torch.no_grad():
            policy = Categorical(logits=actor(next_obs))
            action = policy.sample()
            values[step] = critic(next_obs).flatten()
            logprobs[step] = policy.log_prob(action)
        actions[step] = action
        observation, reward, terminations, truncations, _ = envs.step(action.numpy())
        done = terminations | truncations
        rewards[step] = torch.from_numpy(reward)
        next_obs, next_done = torch.from_numpy(observation), torch.from_numpy(done).float()
        running += reward
        finished += running[done].tolist()
        running[done] = 0

    with torch.no_grad():
        advantages, returns = gae(rewards, values, dones, critic(next_obs), next_done, gamma, gae_lambda)  # was: 12 lines

    b_obs, b_actions, b_logprobs = obs.flatten(0, 1), actions.flatten(), logprobs.flatten()
    b_advantages, b_returns = advantages.flatten(), returns.flatten()
    for _ in range(4):
        for index in torch.randperm(num_steps * num_envs).split(256):
            policy = Categorical(logits=actor(b_obs[index]))
            ratio = (policy.log_prob(b_actions[index]) - b_logprobs[index]).exp()
            weight = b_advantages[index]
            weight = (weight - weight.mean()) / (weight.std() + 1e-8)
            pg_loss = torch.max(-weight * ratio, -weight * ratio.clamp(0.8, 1.2)).mean()
            v_loss = 0.5 * (critic(b_obs[index]).flatten() - b_returns[index]).pow(2).mean()
            loss = pg_loss - 0.01 * policy.entropy().mean() + 0.5 * v_loss
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 0.5)
            optimizer.step()

print(f"{num_updates * num_steps * num_envs} steps; mean return of the last 30 episodes: {np.mean(finished[-30:]):.0f}")
assert np.mean(finished[-30:]) > 100
