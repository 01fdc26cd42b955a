"""Learning curves of a host with its own buffer and with ours: the same seeds, settings and environments, one table a task.

python benchmarks/bench_adapters.py --learning [--only REGEX] [--seeds 5] [--hosts stable-baselines3,tianshou,ray]
"""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from copy import deepcopy  # of settings, which the host writes into
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import rllib_rows

POINTS = 5  # at which curves are compared, evenly spaced


class Task(NamedTuple):
    """``curve(ours, seed)`` gives the mean return of the last 20 training episodes after each fifth of the steps."""

    name: str
    steps: int
    curve: Callable[[bool, int], list[float]]


def sb3_tasks() -> list[Task]:
    import stable_baselines3 as sb3
    from stable_baselines3.common.envs import BitFlippingEnv
    from stable_baselines3.common.monitor import Monitor
    from stable_baselines3.common.noise import NormalActionNoise
    from stable_baselines3.her import HerReplayBuffer

    from pyrl.adapters import sb3 as ours

    small = {"net_arch": [64, 64]}
    continuous = dict(learning_rate=1e-3, learning_starts=500, batch_size=64, buffer_size=20_000, gamma=0.98, policy_kwargs=small)
    dqn = dict(
        learning_rate=2.3e-3, batch_size=64, buffer_size=100_000, learning_starts=1000, target_update_interval=10, train_freq=256,
        gradient_steps=64, exploration_fraction=0.16, exploration_final_eps=0.04, policy_kwargs=small,
    )  # fmt: skip
    her = dict(learning_rate=1e-3, learning_starts=500, batch_size=128, buffer_size=50_000, gamma=0.98, policy_kwargs=small, train_freq=4)

    noise = {"action_noise": NormalActionNoise(np.zeros(1), 0.1 * np.ones(1))}

    def plain(algorithm: str, env: str, settings: dict[str, Any]) -> Callable[[bool, int], Any]:
        def make(own: bool, seed: int) -> Any:
            buffer = ours.ReplayBuffer if own else None
            return getattr(sb3, algorithm)("MlpPolicy", env, seed=seed, device="cpu", replay_buffer_class=buffer, **deepcopy(settings))

        return make

    def hindsight(own: bool, seed: int) -> Any:
        buffer: Any = ours.HerReplayBuffer if own else HerReplayBuffer
        env = Monitor(BitFlippingEnv(n_bits=10))
        return sb3.DQN(
            "MultiInputPolicy", env, seed=seed, device="cpu", replay_buffer_class=buffer, target_update_interval=500, **deepcopy(her)
        )

    def task(name: str, steps: int, make: Callable[[bool, int], Any]) -> Task:
        return Task(name, steps, lambda own, seed: sb3_curve(make(own, seed), steps))

    return [
        task("DQN CartPole-v1", 30_000, plain("DQN", "CartPole-v1", dqn)),
        task("TD3 Pendulum-v1", 6_000, plain("TD3", "Pendulum-v1", {**continuous, **noise})),
        task("SAC Pendulum-v1", 5_000, plain("SAC", "Pendulum-v1", continuous)),
        task("DQN HER BitFlipping(10)", 10_000, hindsight),
    ]


def sb3_curve(model: Any, steps: int) -> list[float]:
    from stable_baselines3.common.callbacks import BaseCallback

    class Record(BaseCallback):
        def _on_step(self) -> bool:
            if self.num_timesteps % (steps // POINTS) == 0:
                returns.append(float(np.mean([episode["r"] for episode in list(self.model.ep_info_buffer)[-20:]])))
            return True

    returns: list[float] = []
    model.learn(steps, callback=Record())
    return returns


def rllib_tasks() -> list[Task]:
    import ray  # noqa: F401

    def task(name: str, n_step: int, *buffers: str) -> Task:
        return Task(f"RLlib DQN CartPole-v1, {name}", 5_000, partial(rllib_rows.learning_curve, 5_000, POINTS, n_step, buffers))

    return [
        task("1 step", 1, "host", "ours"),
        task("3 steps", 3, "host", "ours"),
        task("3 steps, host: ours drawing whole windows only", 3, "whole", "ours"),
    ]


def tianshou_tasks() -> list[Task]:
    import tianshou  # noqa: F401

    return [Task(f"Tianshou {name} CartPole-v1", 10_000, partial(tianshou_curve, name, 10_000)) for name in ("DQN", "prioritized DQN")]


def tianshou_curve(name: str, steps: int, own: bool, seed: int) -> list[float]:
    """3-step returns, ten environments, the settings of Tianshou's own test of its DQN with a smaller network."""
    import gymnasium as gym
    import torch
    from tianshou import data as host
    from tianshou.algorithm import DQN, algorithm_base
    from tianshou.algorithm.modelfree.dqn import DiscreteQLearningPolicy
    from tianshou.algorithm.optim import AdamOptimizerFactory
    from tianshou.env import DummyVectorEnv
    from tianshou.trainer import OffPolicyTrainerParams
    from tianshou.utils.net.common import Net

    from pyrl.adapters import tianshou as ours

    class Recorded(gym.Wrapper):
        total = 0.0

        def step(self, action: Any) -> Any:
            result = super().step(action)
            self.total += float(result[1])
            if result[2] or result[3]:
                episodes.append(self.total)
                self.total = 0.0
            return result

    episodes: list[float] = []
    returns: list[float] = []
    theirs = algorithm_base._gae, algorithm_base._nstep_return
    np.random.seed(seed)  # noqa: NPY002
    torch.manual_seed(seed)
    envs = DummyVectorEnv([lambda: Recorded(gym.make("CartPole-v1")) for _ in range(10)])
    envs.seed(seed)
    space = envs.observation_space[0]
    policy = DiscreteQLearningPolicy(
        model=Net(state_shape=space.shape, action_shape=2, hidden_sizes=[64, 64]), action_space=envs.action_space[0],
        observation_space=space, eps_training=0.1,
    )  # fmt: skip
    algorithm = DQN(policy=policy, optim=AdamOptimizerFactory(lr=1e-3), gamma=0.9, n_step_return_horizon=3, target_update_freq=320)
    made: Any = ours if own else host
    prioritized = name.startswith("prioritized")
    buffer = (
        made.PrioritizedVectorReplayBuffer(20_000, buffer_num=10, alpha=0.6, beta=0.4)
        if prioritized
        else made.VectorReplayBuffer(20_000, 10)
    )
    collector = host.Collector(algorithm, envs, buffer, exploration_noise=True)
    collector.reset()
    collector.collect(n_step=640)

    def record(epoch: int, env_step: int) -> None:
        if env_step >= (len(returns) + 1) * (steps // POINTS):
            returns.append(float(np.mean(episodes[-20:])))

    try:
        if own:
            ours.install()
        algorithm.run_training(
            OffPolicyTrainerParams(
                training_collector=collector, test_collector=None, max_epochs=1, epoch_num_steps=steps + 10,
                collection_step_num_env_steps=10, test_step_num_episodes=1, batch_size=64,
                update_step_num_gradient_steps_per_sample=0.1, training_fn=record,
                show_progress=False, test_in_training=False,
            )
        )  # fmt: skip
    finally:
        algorithm_base._gae, algorithm_base._nstep_return = theirs
    return returns


TASKS: dict[str, Callable[[], list[Task]]] = {"stable-baselines3": sb3_tasks, "tianshou": tianshou_tasks, "ray": rllib_tasks}


def tasks_of(hosts: Iterable[str]) -> Iterator[Task]:
    for host in hosts:
        try:
            yield from TASKS[host]() if host in TASKS else ()
        except ImportError as missing:
            print(f"{host}: not measured ({missing})")


def compare(only: str, seeds: int, hosts: Iterable[str]) -> None:
    for task in tasks_of(hosts):
        if not re.search(only, task.name):
            continue
        curves: dict[bool, list[list[float]]] = {False: [], True: []}
        seconds = {False: 0.0, True: 0.0}
        for seed in range(seeds):
            for own in (False, True):
                start = time.process_time()
                curves[own].append(task.curve(own, seed))
                seconds[own] += (time.process_time() - start) / seeds
                print(
                    f"  {task.name}, {'ours' if own else 'host'}, seed {seed}: {[round(value, 1) for value in curves[own][-1]]}", flush=True
                )
        print(f"{task.name}, {seeds} seeds, mean +- standard deviation over seeds after each fifth of {task.steps:,} steps")
        for own, name in ((False, "host"), (True, "ours")):
            columns = [f"{statistics.mean(c):9.1f} +-{statistics.stdev(c) if seeds > 1 else 0:6.1f}" for c in zip(*curves[own])]
            print(f"  {name}  {'  '.join(columns)}   {seconds[own]:.1f} s of CPU a run", flush=True)
