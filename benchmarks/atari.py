"""Atari on a CPU: Pong by pyrl, by pyrl with overlap, and by Stable-Baselines3, in turns in one process; and the network alone.

    python benchmarks/atari.py ppo --threads 2 --rounds 7
    python benchmarks/atari.py dqn --threads 2 --rounds 8
    python benchmarks/atari.py network --threads 1

Stable-Baselines3 runs its own wrappers around PongNoFrameskip-v4, pyrl ale-py's vector environment. Needs both packages and ale-py.
`network` gives milliseconds of NatureCNN forward and backward: of planes of floats, as pyrl has it, in bfloat16.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

CONFIGS: dict[str, tuple[int, int, dict[str, Any]]] = {  # environments, steps a round, settings of both
    "ppo": (8, 256, dict(n_steps=32, batch_size=256, n_epochs=4, learning_rate=2.5e-4, clip_range=0.1, ent_coef=0.01)),
    "dqn": (
        1, 100,
        dict(
            buffer_size=5000, batch_size=32, learning_starts=200, train_freq=4, gradient_steps=1, target_update_interval=1000,
            learning_rate=1e-4,
        ),
    ),
}  # fmt: skip


def ours(algorithm: str, **options: Any) -> Callable[[int], None]:
    import pyrl

    num_envs, _, config = CONFIGS[algorithm]
    stepper = pyrl.envs.make("ALE/Pong-v5", num_envs, seed=0)
    spaces = stepper.single_observation_space, stepper.single_action_space
    overlap = options.pop("overlap", False)
    agent = pyrl.make_agent(algorithm, *spaces, seed=0, num_envs=num_envs, **config, **options)
    rounds = iter(pyrl.iterate(agent, stepper, total_steps=100_000_000, overlap=overlap))

    def run(steps: int) -> None:
        mark = agent.env_steps + steps
        while agent.env_steps < mark:
            next(rounds)

    return run


def theirs(algorithm: str) -> Callable[[int], Any]:
    import ale_py
    import gymnasium
    import stable_baselines3 as sb3
    from stable_baselines3.common.env_util import make_atari_env
    from stable_baselines3.common.vec_env import VecFrameStack

    gymnasium.register_envs(ale_py)
    num_envs, _, config = CONFIGS[algorithm]
    env = VecFrameStack(make_atari_env("PongNoFrameskip-v4", n_envs=num_envs, seed=0), 4)
    model = getattr(sb3, algorithm.upper())("CnnPolicy", env, seed=0, device="cpu", **config)
    return lambda steps: model.learn(steps, reset_num_timesteps=False, log_interval=None)


def trainings(algorithm: str, rounds: int) -> None:
    steps = CONFIGS[algorithm][1]
    contenders = {"sb3": theirs(algorithm), "pyrl": ours(algorithm), "pyrl overlap": ours(algorithm, overlap=True)}
    contenders["pyrl bfloat16"] = ours(algorithm, precision="bfloat16")
    contenders["pyrl bfloat16, overlap"] = ours(algorithm, precision="bfloat16", overlap=True)
    for run in contenders.values():
        run(300)  # past learning_starts
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, run in contenders.items():
            start = time.perf_counter()
            run(steps)
            rates[name].append(steps / (time.perf_counter() - start))
    for name, found in rates.items():
        ratio = np.median(np.array(found) / np.array(rates["sb3"]))
        print(f"{algorithm} Pong  {name:22} {np.median(found):7.1f} steps/s (best {max(found):.1f}), {ratio:.2f} times sb3")


def network() -> None:
    from pyrl.nets.convolutional import ImageFeatures, NatureCNN

    class Planes(ImageFeatures):
        """As it was: planes of floats."""

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return self.network(image.float() / 255.0)

    networks = {kind.__name__: kind((4, 84, 84), NatureCNN) for kind in (Planes, ImageFeatures)}
    networks["bfloat16"] = ImageFeatures((4, 84, 84), NatureCNN)
    networks["bfloat16"].precision = "bfloat16"
    for batch, calls in ((8, 10), (32, 3), (256, 1)):
        images = torch.randint(0, 256, (batch, 4, 84, 84), dtype=torch.uint8)
        least = dict.fromkeys(networks, np.inf)
        for _ in range(6):  # the first is the warm-up
            for name, features in networks.items():
                start = time.perf_counter()
                for _ in range(calls):
                    features.zero_grad()
                    features(images).square().mean().backward()
                least[name] = min(least[name], 1e3 * (time.perf_counter() - start) / calls)
        print(f"batch {batch:3}  " + "  ".join(f"{name} {ms:.1f} ms" for name, ms in least.items()))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=[*CONFIGS, "network"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.what == "network":
        network()
    else:
        trainings(options.what, options.rounds)
