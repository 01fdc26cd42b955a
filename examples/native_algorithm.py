"""A new algorithm on the native kernels: REINFORCE with a baseline (Williams 1992), in fifty lines without autograd.

    theta <- theta + alpha (R - V(o)) grad log pi(a|o),   V <- towards R

Networks are ordinary torch modules; the kernels read and write the same weights through the arena.
"""

import numpy as np
import torch
from torch import nn

import pyrl
from pyrl import ops
from pyrl.engine.arena import Arena
from pyrl.engine.native import Native
from pyrl.nets.mlp import mlp

torch.manual_seed(0)
env = pyrl.envs.make("CartPole-v1", num_envs=8)
networks = nn.ModuleList([mlp((4, 64, 2), "tanh"), mlp((4, 64, 1), "tanh")])
arena = Arena(networks)
arena.optimizer = torch.optim.Adam([arena.values], lr=3e-3)
native = Native(arena, networks)
actor, critic = native.networks
w, g = native.parameters, native.gradients
random = ops.RandomStream(0, "actions")

T = 200
observation, action = np.empty((T + 1, 8, 4), np.float32), np.empty((T, 8), np.int64)
reward, terminated, truncated = np.empty((T, 8), np.float32), np.empty((T, 8), bool), np.empty((T, 8), bool)
env.reset(seed=0)
for update in range(100):
    episodes, final_value = [], np.zeros((T, 8), np.float32)
    for t in range(T):
        observation[t] = env.observation
        action[t], _ = ops.sample_categorical(actor.infer(w, observation[t]), random)
        step = env.step(action[t])
        reward[t], terminated[t], truncated[t] = step.reward, step.terminated, step.truncated
        if step.truncated.any():  # the next row belongs to another episode: value what was cut off
            final_value[t] = critic.infer(w, step.next_observation)[:, 0]
        episodes += step.episodes
    observation[T] = env.observation
    value = critic.infer(w, observation.reshape(-1, 4)).reshape(T + 1, 8)
    return_ = ops.discounted_return(reward, terminated, truncated, gamma=0.99, value=value, final_value=final_value)

    x, advantage = observation[:T].reshape(-1, 4), (return_ - value[:T]).reshape(-1)
    _, _, _, _, d_logits = ops.policy_loss(
        actor.forward(w, x), action.reshape(-1), advantage, nvec=[2], normalize_advantage=True, ent_coef=0.01
    )
    _, d_value = ops.value_loss(critic.forward(w, x), return_.reshape(-1), coefficient=0.5)
    actor.backward(w, g, d_logits)
    critic.backward(w, g, d_value)
    native.step(max_grad_norm=0.5)
    if update % 20 == 19:
        print(f"update {update + 1}: mean return {np.mean([e.episode_return for e in episodes]):.0f}")
