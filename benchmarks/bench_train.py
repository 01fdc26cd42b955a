"""Environment steps/s of whole training runs: acting, stepping, storing, learning; start-up not counted.

A call continues the run by ``env_steps`` steps, so the time is taken between two step marks of a run that is under way.
All contenders have done the same number of steps at each round. Stable-Baselines3 runs its own ``learn`` on its own
vector environment (``peers/sb3.py``), without logger and progress bar. The hyper-parameters are those of both: pyrl uses
Stable-Baselines3's names. Pendulum's updates are nearly all of its time: `bench_engines.py` has their floor.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from _timing import Case, Unsupported, contender

PPO = dict(
    n_steps=128, batch_size=256, n_epochs=4, learning_rate=3e-4, gamma=0.99, gae_lambda=0.95, clip_range=0.2,
    ent_coef=0.0, vf_coef=0.5, max_grad_norm=0.5,
)  # fmt: skip
DQN = dict(
    buffer_size=100_000, batch_size=64, train_freq=4, gradient_steps=1, learning_starts=1_000, learning_rate=1e-3,
    gamma=0.99, target_update_interval=500, max_grad_norm=10.0, exploration_initial_eps=0.1, exploration_final_eps=0.1,
)  # fmt: skip

A2C = dict(n_steps=5, learning_rate=7e-4, gamma=0.99, gae_lambda=1.0, ent_coef=0.0, vf_coef=0.5, max_grad_norm=0.5)
OFF_POLICY = dict(buffer_size=100_000, batch_size=256, learning_starts=300, train_freq=1, gradient_steps=1, learning_rate=1e-3, gamma=0.99)


def case(
    name: str, algorithm: str, env_id: str, num_envs: int, env_steps: int, config: dict[str, Any], net_arch: list[int], *goals: str
) -> Case:
    params = {"env_id": env_id, "num_envs": num_envs, "env_steps": env_steps, "config": config, "net_arch": net_arch}
    return Case(name, f"train.{algorithm}", params, env_steps, "env steps", goals, once=True)


CASES = [
    case(
        "ppo CartPole-v1 8 envs 64x64", "ppo", "CartPole-v1", 8, 8_192, PPO, [64, 64],
        "pyrl lean 5x sb3", "pyrl envpool 7x sb3", "pyrl native 20x sb3",
    ),
    case(
        "ppo CartPole-v1 64 envs x 16 steps", "ppo", "CartPole-v1", 64, 16_384, {**PPO, "n_steps": 16}, [64, 64],
        "pyrl vector <= 96376 us",  # 170,000 steps/s
    ),
    case("ppo Pendulum-v1 8 envs 64x64", "ppo", "Pendulum-v1", 8, 8_192, PPO, [64, 64], "pyrl native 20x sb3"),
    case("ppo FrozenLake-v1 8 envs 64x64", "ppo", "FrozenLake-v1", 8, 8_192, PPO, [64, 64], "pyrl native 20x sb3"),
    case(
        "ppo HalfCheetah-v5 1 env 64x64", "ppo", "HalfCheetah-v5", 1, 4_096,
        {**PPO, "n_steps": 2_048, "batch_size": 64, "n_epochs": 10}, [64, 64],
    ),
    case("a2c CartPole-v1 8 envs 64x64", "a2c", "CartPole-v1", 8, 8_000, A2C, [64, 64], "pyrl lean 7.5x sb3"),
    case("dqn CartPole-v1 b64 f4 256x256", "dqn", "CartPole-v1", 1, 2_000, DQN, [256, 256], "pyrl lean 4.5x sb3"),
    case(
        "dqn CartPole-v1 b256 f1 256x256", "dqn", "CartPole-v1", 1, 600, {**DQN, "batch_size": 256, "train_freq": 1}, [256, 256],
        "pyrl lean 1.9x sb3",
    ),
    case("ddpg Pendulum-v1 b256 400x300", "ddpg", "Pendulum-v1", 1, 300, OFF_POLICY, [400, 300]),
    case("sac Pendulum-v1 b256 256x256", "sac", "Pendulum-v1", 1, 300, OFF_POLICY, [256, 256]),
]  # fmt: skip


def training(algorithm: str, backend: str, env_id: str, num_envs: int, env_steps: int, options: dict[str, Any]) -> Callable[[], None]:
    import pyrl

    # EnvPool's own default hands each cheap step from core to core.
    options_of_env = {"env_kwargs": {"num_threads": 1}} if backend == "envpool" else {}
    stepper = pyrl.envs.make(env_id, num_envs, backend=backend, seed=0, **options_of_env)
    spaces = stepper.single_observation_space, stepper.single_action_space
    agent = pyrl.make_agent(algorithm, *spaces, seed=0, num_envs=num_envs, **options)
    rounds = iter(pyrl.iterate(agent, stepper, total_steps=100_000_000))
    mark = 0

    def call() -> None:
        nonlocal mark
        mark += env_steps  # from mark to mark: what a round went too far is not done twice
        while agent.env_steps < mark:
            next(rounds)

    return call


def register(algorithm: str, backend: str) -> None:
    @contender(f"train.{algorithm}", f"pyrl {backend}")
    def make(env_id: str, num_envs: int, env_steps: int, config: dict[str, Any], net_arch: list[int]) -> Callable[[], None]:
        options = {**config, "net_arch": tuple(net_arch)}
        if backend != "bfloat16":
            return training(algorithm, backend, env_id, num_envs, env_steps, options)
        from pyrl import ops

        if not ops.bfloat16_products():
            raise Unsupported("this processor has no AMX")
        return training(algorithm, "lean", env_id, num_envs, env_steps, {**options, "precision": "bfloat16"})


for _algorithm in ("ppo", "a2c"):
    for _backend in ("lean", "native", "vector", "envpool"):
        register(_algorithm, _backend)
for _algorithm in ("dqn", "ddpg", "sac"):
    register(_algorithm, "lean")
    register(_algorithm, "bfloat16")
