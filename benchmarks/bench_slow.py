"""Environments that take 1 ms of a core a step, in Python: the backends that step them, and learning while they step.

    python benchmarks/run.py slow --threads 2

A step spins until its thread has used 1 ms of processor time, with the interpreter lock held, so a busy machine does not make it cheaper.
The training rows take settings whose updates cost about as much as a step: there overlap gains most, since it hides the shorter of the
two. Both contenders of a pair step in the same worker process.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from itertools import cycle
from typing import Any

import gymnasium
import numpy as np
from _timing import Case, contender

import pyrl
from pyrl.envs import make

SECONDS = 1e-3
DQN = dict(
    buffer_size=100_000, batch_size=128, train_freq=1, gradient_steps=1, learning_starts=200, learning_rate=1e-3, net_arch=(256, 256),
    target_update_interval=500, exploration_initial_eps=0.1, exploration_final_eps=0.1,
)  # fmt: skip
SAC = dict(buffer_size=100_000, batch_size=128, learning_starts=200, train_freq=1, gradient_steps=1, learning_rate=1e-3, net_arch=(64, 64))
PPO = dict(n_steps=128, batch_size=64, n_epochs=10, net_arch=(256, 256))


class Slow(gymnasium.Wrapper):
    """The same environment, with ``seconds`` of processor time added to each step."""

    def __init__(self, env: gymnasium.Env, seconds: float = SECONDS) -> None:
        super().__init__(env)
        self.seconds = seconds

    def step(self, action: Any) -> Any:
        end = time.thread_time() + self.seconds
        while time.thread_time() < end:
            pass
        return self.env.step(action)


def stepping_case(num_envs: int, *goals: str, seconds: float = SECONDS) -> Case:
    params = {"num_envs": num_envs, "seconds": seconds}
    return Case(f"step CartPole-v1 + {1e3 * seconds:g} ms x{num_envs}", "slow.step", params, num_envs, "env steps", goals)


def training_case(algorithm: str, env_id: str, config: dict[str, Any], env_steps: int, num_envs: int, *goals: str) -> Case:
    params = {"algorithm": algorithm, "env_id": env_id, "config": config, "env_steps": env_steps, "num_envs": num_envs}
    return Case(f"{algorithm} {env_id} + 1 ms x{num_envs}", "slow.train", params, env_steps, "env steps", goals, once=True)


CASES = [
    stepping_case(1), stepping_case(2, "pyrl processes 1.8x pyrl lean"), stepping_case(8, "pyrl processes 1.8x pyrl lean"),
    stepping_case(2, "pyrl processes 1.9x pyrl lean", seconds=5e-3),
    training_case("dqn", "CartPole-v1", DQN, 1_000, 1, "pyrl overlap 1.6x pyrl processes"),
    training_case("sac", "Pendulum-v1", SAC, 1_000, 1, "pyrl overlap 1.6x pyrl processes"),
    training_case("ppo", "CartPole-v1", PPO, 1_024, 1),
]  # fmt: skip


def register_stepping(backend: str) -> None:
    @contender("slow.step", f"pyrl {backend}")
    def step(num_envs: int, seconds: float) -> Callable[[], object]:
        stepper = make("CartPole-v1", num_envs, backend=backend, wrapper=partial(Slow, seconds=seconds))
        stepper.reset()
        actions = cycle([np.full(num_envs, k % 2) for k in range(7)])
        return lambda: stepper.step(next(actions))


def register_training(name: str, backend: str, overlap: bool) -> None:
    @contender("slow.train", f"pyrl {name}")
    def training(algorithm: str, env_id: str, config: dict[str, Any], env_steps: int, num_envs: int) -> Callable[[], None]:
        config = {key: tuple(value) if isinstance(value, list) else value for key, value in config.items()}
        stepper = make(env_id, num_envs, backend=backend, wrapper=Slow, seed=0)
        agent = pyrl.make_agent(
            algorithm, stepper.single_observation_space, stepper.single_action_space, seed=0, num_envs=num_envs, **config
        )  # fmt: skip
        rounds = iter(pyrl.iterate(agent, stepper, total_steps=100_000_000, overlap=overlap))
        mark = 0

        def call() -> None:
            nonlocal mark
            mark += env_steps
            while agent.env_steps < mark:
                next(rounds)

        return call


for _backend in ("lean", "processes", "async"):
    register_stepping(_backend)
for _name, _backend, _overlap in (("lean", "lean", False), ("processes", "processes", False), ("overlap", "processes", True)):
    register_training(_name, _backend, _overlap)
