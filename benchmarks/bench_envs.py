"""One step of N environments with random actions, autoreset included: pyrl's backends, Gymnasium, EnvPool, DummyVecEnv.

The floor is a loop that calls ``step`` of the unwrapped environments with ready actions, resets what ended, and keeps
nothing; environments that do not run in Python (EnvPool, NumPy entry points) can be below it. A call is a vector step;
those of Gymnasium and EnvPool (NEXT_STEP autoreset) include dead rows, one an episode: 4 % of CartPole's with random
actions, less elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import cycle
from typing import Any

import gymnasium
import numpy as np
from _timing import Case, Unsupported, contender

from pyrl.envs import make
from pyrl.errors import EnvError, UnknownNameError

SIZES = {
    "CartPole-v1": (1, 8, 64),
    "Pendulum-v1": (8,),
    "FrozenLake-v1": (8,),
    "Acrobot-v1": (8,),
    "LunarLander-v3": (8,),
}
CASES = [
    Case(f"step {env_id} x{num_envs}", "envs.step", {"env_id": env_id, "num_envs": num_envs}, num_envs, "env steps")
    for env_id, sizes in SIZES.items()
    for num_envs in sizes
]


def random_actions(space: Any, num_envs: int) -> list[np.ndarray]:
    space.seed(0)
    return [np.stack([np.asarray(space.sample()) for _ in range(num_envs)]) for _ in range(257)]


def register_pyrl(backend: Any) -> None:
    @contender("envs.step", f"pyrl {backend}")
    def step(env_id: str, num_envs: int) -> Callable[[], object]:
        if backend == "async" and num_envs > 8:
            raise Unsupported("a process for each environment")
        try:
            stepper = make(env_id, num_envs, backend=backend)
        except (EnvError, UnknownNameError, ValueError) as error:
            raise Unsupported(str(error)) from error
        stepper.reset()
        actions = cycle(random_actions(stepper.single_action_space, num_envs))
        return lambda: stepper.step(next(actions))


for backend in ("lean", "sync", "async", "vector", "envpool"):
    register_pyrl(backend)


@contender("envs.step", "floor: bare loop")
def bare(env_id: str, num_envs: int) -> Callable[[], object]:
    made = [gymnasium.make(env_id) for _ in range(num_envs)]
    envs = [env.unwrapped for env in made]
    for i, env in enumerate(envs):
        env.reset(seed=i)
    batches = random_actions(made[0].action_space, num_envs)
    actions = cycle([batch.tolist() if batch.dtype.kind == "i" else list(batch) for batch in batches])
    steps, limit, age = [env.step for env in envs], made[0].spec.max_episode_steps or 1 << 60, 0

    def call() -> None:
        nonlocal age
        age += 1
        for i, (step, action) in enumerate(zip(steps, next(actions))):
            _, _, terminated, truncated, _ = step(action)
            if terminated or truncated:
                envs[i].reset()
        if age >= limit:  # the bare environments have no time limit of their own
            age = 0
            for env in envs:
                env.reset()

    return call


def stepping(env: Any) -> Callable[[], object]:
    env.reset()
    actions = cycle(random_actions(env.single_action_space, env.num_envs))
    return lambda: env.step(next(actions))


@contender("envs.step", "gymnasium sync")
def sync(env_id: str, num_envs: int) -> Callable[[], object]:
    return stepping(gymnasium.make_vec(env_id, num_envs, vectorization_mode="sync"))


@contender("envs.step", "envpool")
def envpool(env_id: str, num_envs: int) -> Callable[[], object]:
    import envpool

    return stepping(envpool.make_gymnasium(env_id, num_envs=num_envs, seed=0))
