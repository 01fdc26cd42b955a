"""What a step of PPO costs beside its environments: microseconds of CPU time of each part, in turns.

    python benchmarks/step_parts.py [--envs 8] [--rounds 40]

`bare` steps CartPole-v1 in a plain loop, without wrappers; `round` is all of a step in a round of the loop that learns nothing, where
one call acts, steps and stores (`Stepper.rollout`). The rest is what happens where a policy or an environment does not allow that: `one
by one` is all of a step, `step` the lean stepper on the same environments, `free` a lean stepper whose environments cost nothing (and
`bare free` these alone), `choose` acting, `add` storing a row. The parts alone take less than they take together: what lies between them
leaves the processor's caches to others.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import torch
from _report import machine_facts

import pyrl
from pyrl.envs.inline import LeanStepper
from pyrl.loops.base import Limits
from pyrl.loops.on_policy import OnPolicyLoop
from pyrl.types import Learned

CALLS = STEPS = 128  # of a part, in a round of the loop


class Free(gymnasium.Env[Any, Any]):
    """Costs a Python call."""

    observation_space = gymnasium.spaces.Box(-1, 1, (4,))
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self) -> None:
        self.observation = np.zeros(4, np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        return self.observation, {}

    def step(self, action: Any) -> Any:
        return self.observation, 1.0, False, False, {}


def plain(envs: list[Any], actions: list[list[int]]) -> Callable[[], None]:
    """A step of all of them, and nothing else."""
    rows = itertools.cycle(actions)

    def step() -> None:
        for env, action in zip(envs, next(rows)):
            _, _, terminated, truncated, _ = env.step(action)
            if terminated or truncated:
                env.reset()

    return step


def parts(num_envs: int) -> dict[str, Callable[[], object]]:
    actions = np.random.default_rng(0).integers(0, 2, (4096, num_envs))
    bare: list[Any] = [gymnasium.make("CartPole-v1").unwrapped for _ in range(num_envs)]
    for env in bare:
        env.reset(seed=0)

    def loop() -> OnPolicyLoop:
        stepper = pyrl.envs.make("CartPole-v1", num_envs, backend="lean", seed=0)
        spaces = stepper.single_observation_space, stepper.single_action_space
        made = OnPolicyLoop(pyrl.make_agent("ppo", *spaces, num_envs=num_envs, n_steps=STEPS), stepper, Limits(total_steps=10**12))
        made.reset()
        return made

    alone, whole, single = loop(), loop(), loop()
    whole.learn = single.learn = lambda data: Learned({})  # type: ignore[method-assign]
    single.agent.native_policy = lambda: None  # type: ignore[method-assign]
    rows = itertools.cycle(actions)
    row = alone.step_envs()
    player = alone.agent.player(num_envs, deterministic=False)
    observation, first = np.zeros((num_envs, 4), np.float32), np.zeros(num_envs, bool)

    def add(to: OnPolicyLoop, *of: Any) -> None:
        if to.buffer.full:
            to.buffer.take(observation)
        to.buffer.add(*of)

    free = LeanStepper([Free() for _ in range(num_envs)], seed=0, name="free", spec=None)
    free.reset()
    stepper = pyrl.envs.make("CartPole-v1", num_envs, backend="lean", seed=0)
    stepper.reset()
    return {
        "bare": plain(bare, actions.tolist()),
        "step": lambda: stepper.step(next(rows)),
        "bare free": plain([Free() for _ in range(num_envs)], actions.tolist()),
        "free": lambda: free.step(actions[0]),
        "choose": lambda: player.choose(observation, first, None),
        "add": lambda: add(alone, *row),
        "one by one": single.round,
        "round": whole.round,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--envs", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=40)
    options = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, list[float]] = {}
    calls = parts(options.envs)
    for _ in range(options.rounds):
        for name, call in calls.items():
            start = time.process_time()
            for _ in range(1 if name in ("one by one", "round") else CALLS):
                call()
            found.setdefault(name, []).append(1e6 * (time.process_time() - start) / CALLS)
    about = machine_facts()
    print(f"{about['cpu']}, {about['date']}: {options.envs} environments, us a step, median (least) of {options.rounds}")
    for name, values in found.items():
        print(f"{name:10} {statistics.median(values):7.2f} ({min(values):.2f})")
    for kind, of in (("median", statistics.median), ("least", min)):
        us = {name: of(values) for name, values in found.items()}
        print(
            f"{kind}: step by bare {us['step'] / us['bare']:.2f}; the stepper's own part {us['free'] - us['bare free']:.2f}; "
            f"ours an environment step {(us['round'] - us['bare']) / options.envs:.2f}, "
            f"one by one {(us['one by one'] - us['bare']) / options.envs:.2f}"
        )


if __name__ == "__main__":
    main()
