"""Environment steps/s of whole training runs on CartPole-v1: acting, stepping, storing, learning; start-up not counted.

A call goes on with the run by ``env_steps`` steps, so the time lies between two step marks of a run that is under way.
All contenders have done the same number of steps at each round. Stable-Baselines3 runs its own ``learn`` on its own
vector environment (``peers/sb3.py``), without logger and progress bar. The hyper-parameters are those of both: pyrl uses
Stable-Baselines3's names.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from _timing import Case, contender

PPO = dict(
    n_steps=128, batch_size=256, n_epochs=4, learning_rate=3e-4, gamma=0.99, gae_lambda=0.95, clip_range=0.2,
    ent_coef=0.0, vf_coef=0.5, max_grad_norm=0.5,
)  # fmt: skip
DQN = dict(
    buffer_size=100_000, batch_size=64, train_freq=4, gradient_steps=1, learning_starts=1_000, learning_rate=1e-3,
    gamma=0.99, target_update_interval=500, max_grad_norm=10.0, exploration_initial_eps=0.1, exploration_final_eps=0.1,
)  # fmt: skip

CASES = [
    Case(
        "ppo CartPole-v1 8 envs 64x64",
        op="train.ppo_cartpole",
        params={"env_id": "CartPole-v1", "num_envs": 8, "env_steps": 8_192, "config": PPO, "net_arch": [64, 64]},
        units=8_192,
        unit="env steps",
        goals=("pyrl lean 1x sb3", "pyrl vector 1x sb3"),
        once=True,
    ),
    Case(
        "dqn CartPole-v1 b64 f4 256x256",
        op="train.dqn_cartpole",
        params={"env_id": "CartPole-v1", "num_envs": 1, "env_steps": 2_000, "config": DQN, "net_arch": [256, 256]},
        units=2_000,
        unit="env steps",
        goals=("pyrl lean 1x sb3",),
        once=True,
    ),
]


def training(algorithm: str, backend: str, env_id: str, num_envs: int, env_steps: int, options: dict[str, Any]) -> Callable[[], None]:
    import pyrl

    stepper = pyrl.envs.make(env_id, num_envs, backend=backend, seed=0)
    spaces = stepper.single_observation_space, stepper.single_action_space
    agent = pyrl.make_agent(algorithm, *spaces, seed=0, num_envs=num_envs, **options)
    rounds = iter(pyrl.iterate(agent, stepper, total_steps=100_000_000))

    def call() -> None:
        mark = agent.env_steps + env_steps
        while agent.env_steps < mark:
            next(rounds)

    return call


def register(algorithm: str, backend: str) -> None:
    @contender(f"train.{algorithm}_cartpole", f"pyrl {backend}")
    def make(env_id: str, num_envs: int, env_steps: int, config: dict[str, Any], net_arch: list[int]) -> Callable[[], None]:
        return training(algorithm, backend, env_id, num_envs, env_steps, {**config, "net_arch": tuple(net_arch)})


for backend in ("lean", "vector", "envpool"):
    register("ppo", backend)
register("dqn", "lean")
