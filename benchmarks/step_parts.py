"""What a step of PPO costs beside its environments: microseconds of CPU time of each part, in turns.

    python benchmarks/step_parts.py [--envs 8] [--env CartPole-v1] [--normalize] [--rounds 40]

`bare` steps the environments in a plain loop, without wrappers; `round` is all of a step in a round of the loop that learns nothing, where
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


def plain(envs: list[Any], actions: list[Any]) -> Callable[[], None]:
    """A step of all of them, and nothing else."""
    rows = itertools.cycle(actions)

    def step() -> None:
        for env, action in zip(envs, next(rows)):
            _, _, terminated, truncated, _ = env.step(action)
            if terminated or truncated:
                env.reset()

    return step


def parts(env_id: str, num_envs: int, normalize: bool) -> dict[str, Callable[[], object]]:
    bare: list[Any] = [gymnasium.make(env_id).unwrapped for _ in range(num_envs)]
    for env in bare:
        env.reset(seed=0)
        env.action_space.seed(0)
    space = bare[0].observation_space
    actions = np.array([[env.action_space.sample() for env in bare] for _ in range(1024)])
    config = {"normalize_observation": True, "normalize_reward": True} if normalize else {}

    def loop() -> OnPolicyLoop:
        stepper = pyrl.envs.make(env_id, num_envs, backend="lean", seed=0)
        spaces = stepper.single_observation_space, stepper.single_action_space
        agent = pyrl.make_agent("ppo", *spaces, num_envs=num_envs, n_steps=STEPS, **config)
        made = OnPolicyLoop(agent, stepper, Limits(total_steps=10**12))
        made.reset()
        return made

    alone, whole, single = loop(), loop(), loop()
    whole.learn = single.learn = lambda data: Learned({})  # type: ignore[method-assign]
    single.agent.native_policy = lambda normalizes=False: None  # type: ignore[method-assign]
    rows = itertools.cycle(actions)
    row = alone.step_envs()
    player = alone.agent.player(num_envs, deterministic=False)
    observation, first = np.zeros((num_envs, *space.shape), space.dtype), np.zeros(num_envs, bool)

    def add(to: OnPolicyLoop, *of: Any) -> None:
        if to.buffer.full:
            to.buffer.take(observation)
        to.buffer.add(*of)

    free = LeanStepper([Free() for _ in range(num_envs)], seed=0, name="free", spec=None)
    free.reset()
    stepper = pyrl.envs.make(env_id, num_envs, backend="lean", seed=0)
    stepper.reset()
    discrete = np.zeros(num_envs, np.int64)
    return {
        "bare": plain(bare, actions.tolist() if actions.ndim == 2 else list(actions)),
        "step": lambda: stepper.step(next(rows)),
        "bare free": plain([Free() for _ in range(num_envs)], [discrete.tolist()]),
        "free": lambda: free.step(discrete),
        "choose": lambda: player.choose(observation, first, None),
        "add": lambda: add(alone, *row),
        "one by one": single.round,
        "round": whole.round,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--envs", type=int, default=8)
    parser.add_argument("--env", default="CartPole-v1", help="whose observations are one array")
    parser.add_argument("--normalize", action="store_true", help="observations and rewards")
    parser.add_argument("--rounds", type=int, default=40)
    options = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, list[float]] = {}
    calls = parts(options.env, options.envs, options.normalize)
    for _ in range(options.rounds):
        for name, call in calls.items():
            start = time.process_time()
            for _ in range(1 if name in ("one by one", "round") else CALLS):
                call()
            found.setdefault(name, []).append(1e6 * (time.process_time() - start) / CALLS)
    about = machine_facts()
    what = f"{options.envs} x {options.env}{', normalized' * options.normalize}"
    print(f"{about['cpu']}, {about['date']}: {what}, us a step, median (least) of {options.rounds}")
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
