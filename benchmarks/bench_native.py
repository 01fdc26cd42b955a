"""Environments of yours in C and by Numba (the examples) beside the built-in ones of the same kind of action: whole PPO training.

They are not the same environments: what is compared is what a native environment costs that pyrl did not compile itself. The rows
"rollout" are acting and stepping, without learning.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from _timing import Case, contender
from bench_train import PPO, training

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "examples"))
_folder = tempfile.TemporaryDirectory()


def example_in_c() -> Any:
    import native_env

    return f"{native_env.build(_folder.name)}:Lander"


def example_by_numba() -> Any:
    import numba_env

    return numba_env.follow


def cases(kind: str, name: str) -> list[Case]:
    goals = (f"pyrl {name} 0.77x pyrl built-in",)  # within 1.3 times
    return [
        Case(f"ppo {kind} 8 envs 64x64", f"native.{kind}", {"num_envs": 8, "env_steps": 16_384}, 16_384, "env steps", goals, once=True),
        Case(f"rollout {kind} 8 envs", f"rollout.{kind}", {"num_envs": 8, "steps": 512}, 4_096, "env steps", goals),
    ]


CASES = [*cases("discrete", "C"), *cases("continuous", "Numba")]


def register(kind: str, name: str, source: Callable[[], Any]) -> None:
    @contender(f"native.{kind}", f"pyrl {name}")
    def train(num_envs: int, env_steps: int) -> Callable[[], None]:
        return training("ppo", "native", source(), num_envs, env_steps, {**PPO, "net_arch": (64, 64)})

    @contender(f"rollout.{kind}", f"pyrl {name}")
    def rollout(num_envs: int, steps: int) -> Callable[[], object]:
        import pyrl

        stepper: Any = pyrl.envs.make(source(), num_envs, backend="native")
        agent = pyrl.make_agent("ppo", stepper.single_observation_space, stepper.single_action_space, num_envs=num_envs, net_arch=(64, 64))
        stepper.reset()
        policy = agent.native_policy()
        return lambda: stepper.rollout(policy, steps, stop_at_end=False)


register("discrete", "built-in", lambda: "CartPole-v1")
register("discrete", "C", example_in_c)
register("continuous", "built-in", lambda: "Pendulum-v1")
register("continuous", "Numba", example_by_numba)
