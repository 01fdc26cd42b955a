"""Stable-Baselines3: buffers, GAE, distributions, and whole training loops on its own vector environment."""

from functools import partial
from itertools import cycle

import _data
import numpy as np
import stable_baselines3 as sb3
import torch
from _timing import Unsupported, contender, keep_one
from stable_baselines3.common.buffers import NStepReplayBuffer, ReplayBuffer, RolloutBuffer
from stable_baselines3.common.distributions import CategoricalDistribution, DiagGaussianDistribution
from stable_baselines3.common.env_util import make_vec_env


@keep_one
def full_buffer(kind, batch, n_step):
    observation_space, action_space = _data.spaces(kind)
    capacity = _data.KINDS[kind].capacity
    options = {"n_envs": batch, "handle_timeout_termination": False, "device": "cpu"}
    if n_step > 1:
        buffer = NStepReplayBuffer(capacity, observation_space, action_space, n_steps=n_step, gamma=0.99, **options)
    else:
        buffer = ReplayBuffer(capacity, observation_space, action_space, **options)
    rows = capacity // batch * batch
    buffer.observations[:] = _data.observations(kind, rows).reshape(buffer.observations.shape)
    buffer.next_observations[:] = np.roll(buffer.observations, -1, axis=0)
    buffer.actions[:] = _data.actions(kind, rows).reshape(buffer.actions.shape)
    buffer.rewards[:] = _data.rewards(rows).reshape(buffer.rewards.shape)
    buffer.dones[_data.EPISODE - 1 :: _data.EPISODE] = 1.0
    buffer.full = True
    return buffer


@contender("replay.add", "sb3")
def add(kind, batch):
    buffer, infos = full_buffer(kind, batch, 1), [{} for _ in range(batch)]
    stream = cycle(_data.stream(kind, batch))

    def call():
        step = next(stream)
        buffer.add(step.observation, step.next_observation, step.action, step.reward, step.terminated, infos)

    return call


@contender("replay.sample", "sb3")
def sample(kind, batch):
    return partial(full_buffer(kind, 1, 1).sample, batch)


@contender("replay.nstep_sample", "sb3")
def nstep_sample(kind, batch, n_step):
    return partial(full_buffer(kind, 1, n_step).sample, batch)


@contender("replay.stack_sample", "sb3")
def stack_sample(kind, batch, stack):
    raise Unsupported("stores whole stacks; no stacking at the draw")


@contender("returns.gae", "sb3")
def gae(T, N):
    rollout = _data.rollout(T, N)
    buffer = RolloutBuffer.__new__(RolloutBuffer)  # its __init__ would allocate observations too
    buffer.buffer_size, buffer.gamma, buffer.gae_lambda = T, 0.99, 0.95
    buffer.rewards, buffer.values = rollout.reward, rollout.value
    buffer.advantages = np.zeros((T, N), np.float32)
    buffer.episode_starts = np.concatenate([np.zeros((1, N)), rollout.terminated[:-1]]).astype(np.float32)
    last_value, done = torch.from_numpy(rollout.last_value), rollout.terminated[-1]
    call = partial(buffer.compute_returns_and_advantage, last_value, done)
    return call, lambda: float(np.abs(buffer.advantages).mean())


@contender("sampling.categorical", "sb3")
def categorical(batch, count):
    logits, distribution = torch.from_numpy(_data.logits(batch, count)), CategoricalDistribution(count)

    def call():
        policy = distribution.proba_distribution(logits)
        action = policy.sample()
        return action, policy.log_prob(action)

    return call


@contender("sampling.gaussian", "sb3")
def gaussian(batch, size):
    mean, log_std = map(torch.from_numpy, _data.gaussians(batch, size))
    distribution = DiagGaussianDistribution(size)

    def call():
        policy = distribution.proba_distribution(mean, log_std)
        action = policy.sample()
        return action, policy.log_prob(action)

    return call


@contender("envs.step", "sb3 DummyVecEnv")
def step(env_id, num_envs):
    env = make_vec_env(env_id, num_envs, vec_env_cls=None)
    env.reset()
    actions = cycle([np.array([env.action_space.sample() for _ in range(num_envs)]) for _ in range(64)])
    return lambda: env.step(next(actions))


def training(algorithm, env_id, num_envs, env_steps, config, net_arch):
    """Whole training on its own vector environment. `make_vec_env` opens one with a render mode, which slows LunarLander down."""
    policy = {"net_arch": list(net_arch)}
    if algorithm in ("ppo", "a2c"):
        policy = {"net_arch": {"pi": list(net_arch), "vf": list(net_arch)}, "activation_fn": torch.nn.Tanh}
    model = getattr(sb3, algorithm.upper())(
        "MlpPolicy", make_vec_env(env_id, num_envs), policy_kwargs=policy, seed=0, device="cpu", **config
    )
    return partial(model.learn, env_steps, reset_num_timesteps=False, log_interval=None)


for _algorithm in ("ppo", "a2c", "dqn", "ddpg", "sac"):
    contender(f"train.{_algorithm}", "sb3")(partial(training, _algorithm))
