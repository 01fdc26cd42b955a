"""The same loop, opened: callbacks are the body of the `for`."""

import pyrl

env = pyrl.envs.make("CartPole-v1", num_envs=8, seed=1)
agent = pyrl.make_agent("ppo", env.single_observation_space, env.single_action_space, seed=1, num_envs=8, n_steps=64, batch_size=128)

for metrics in pyrl.iterate(agent, env, total_steps=50_000):
    print(f"{metrics['time/env_steps']:>6.0f} steps, return {metrics.get('episode/return_mean', float('nan')):6.1f}")
    if metrics.get("episode/return_mean", 0.0) > 150:
        break
