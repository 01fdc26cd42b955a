"""SBX, Stable-Baselines3's algorithms in JAX: whole training loops. The first calls compile; they are the warm-up."""

from functools import partial

import flax.linen as nn
import sbx
from _timing import contender
from stable_baselines3.common.env_util import make_vec_env


def training(algorithm, env_id, num_envs, env_steps, config, net_arch):
    policy = {"net_arch": list(net_arch)}
    if algorithm == "ppo":
        policy = {"net_arch": {"pi": list(net_arch), "vf": list(net_arch)}, "activation_fn": nn.tanh}
    if algorithm == "dqn":
        config = {name: value for name, value in config.items() if name != "max_grad_norm"}  # it does not clip
    model = getattr(sbx, algorithm.upper())("MlpPolicy", make_vec_env(env_id, num_envs), policy_kwargs=policy, seed=0, **config)
    return partial(model.learn, env_steps, reset_num_timesteps=False, log_interval=None)


for _algorithm in ("ppo", "dqn", "ddpg", "sac"):
    contender(f"train.{_algorithm}", "sbx")(partial(training, _algorithm))
