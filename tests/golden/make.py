"""Writes the golden runs: ``python tests/golden/make.py [name ...]``, with the pyrl that is to be remembered on PYTHONPATH.

Each folder here is a short run with its checkpoint `last`, as an older pyrl left it, and ``expected.json``: what the agent did
there. `test_golden.py` holds every later pyrl to them: the same weights, the same actions, and training goes on. The folders
that are here now were written by commit 8b30366, those of tqc, crossq and appo by the commits that brought these agents. They are never
written again: a change of the format gets folders of its own.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from golden_envs import ENVS  # noqa: E402

import pyrl  # noqa: E402

STEPS = 96
OFF_POLICY: dict[str, Any] = {"net_arch": (6, 4), "learning_starts": 16, "batch_size": 8, "buffer_size": 48}
ON_POLICY: dict[str, Any] = {"net_arch": (6, 4), "n_steps": 16}
PPO: dict[str, Any] = {**ON_POLICY, "batch_size": 16, "n_epochs": 2}

RUNS: dict[str, tuple[str, str, int, dict[str, Any]]] = {  # name: algorithm, environment, num_envs, config
    "random": ("random", "CartPole-v1", 1, {"n_steps": 16}),
    "random_continuous": ("random", "Pendulum-v1", 1, {"n_steps": 16}),
    "ppo": ("ppo", "CartPole-v1", 2, PPO),
    "ppo_continuous": ("ppo", "Pendulum-v1", 2, {**PPO, "normalize_observation": True, "normalize_reward": True}),
    "ppo_mixed": ("ppo", "Mixed", 2, {**PPO, "normalize_observation": True}),
    "a2c": ("a2c", "CartPole-v1", 2, ON_POLICY),
    "a2c_adam": ("a2c", "Pendulum-v1", 1, {**ON_POLICY, "use_rms_prop": False, "net_arch": ()}),
    "impala": ("impala", "CartPole-v1", 2, ON_POLICY),
    "appo": ("appo", "CartPole-v1", 2, PPO),
    "a3c": ("a3c", "CartPole-v1", 1, ON_POLICY),
    "dqn": ("dqn", "CartPole-v1", 1, {**OFF_POLICY, "target_update_interval": 20}),
    "dqn_prioritized": (
        "dqn", "CartPole-v1", 2,
        {**OFF_POLICY, "target_update_interval": 20, "prioritized": True, "dueling": True, "double": True, "n_step": 3},
    ),
    "ddpg": ("ddpg", "Pendulum-v1", 1, OFF_POLICY),
    "ddpg_noise": ("ddpg", "Pendulum-v1", 2, {**OFF_POLICY, "noise_type": "ornstein-uhlenbeck", "noise_std": 0.3}),
    "td3": ("td3", "Pendulum-v1", 1, OFF_POLICY),
    "sac": ("sac", "Pendulum-v1", 1, {**OFF_POLICY, "normalize_observation": True}),
    "sac_fixed": ("sac", "Pendulum-v1", 1, {**OFF_POLICY, "ent_coef": 0.1}),
    "svg": ("svg", "Pendulum-v1", 1, OFF_POLICY),
    "tqc": ("tqc", "Pendulum-v1", 1, {**OFF_POLICY, "n_quantiles": 5}),
    "crossq": ("crossq", "Pendulum-v1", 1, {**OFF_POLICY, "normalize_observation": True}),
}  # fmt: skip


def env_of(name: str) -> Any:
    return ENVS.get(name, name)


def observations(space: Any, count: int = 4) -> Any:
    """A batch of ``space``, the same for ever: its own arithmetic, not a generator that may change."""
    if hasattr(space, "spaces"):
        entries = space.spaces
        if hasattr(entries, "items"):
            return {key: observations(entry, count) for key, entry in entries.items()}
        return tuple(observations(entry, count) for entry in entries)
    shape = tuple(space.shape)
    unit = (np.arange(count * int(np.prod(shape))) * 0.6180339887498949 % 1.0).reshape(count, *shape)
    if hasattr(space, "low"):
        low, high = np.maximum(space.low, -3.0), np.minimum(space.high, 3.0 if space.dtype.kind == "f" else 255)
        return (low + unit * (high - low)).astype(space.dtype)
    size = space.n if not hasattr(space, "nvec") and shape == () else getattr(space, "nvec", 2)
    return (getattr(space, "start", 0) + (unit * size).astype(np.int64)).astype(space.dtype)


def digests(agent: Any) -> dict[str, str]:
    """SHA-256 of every array in the agent's state."""
    found: dict[str, str] = {}

    def walk(tree: Any, path: str) -> None:
        if isinstance(tree, dict):
            for key, value in tree.items():
                walk(value, f"{path}/{key}" if path else str(key))
        elif isinstance(tree, np.ndarray | torch.Tensor):
            array = np.ascontiguousarray(tree.detach().cpu().numpy() if isinstance(tree, torch.Tensor) else tree)
            about = f"{array.dtype} {list(array.shape)} "
            found[path] = about + hashlib.sha256(array.tobytes()).hexdigest()[:32]
        else:
            found[path] = json.dumps(tree)

    walk(agent.state_dict(), "")
    return found


def behaviour(agent: Any) -> dict[str, Any]:
    """What the agent does: its best actions, and the next two that it draws."""
    batch = observations(agent.observation_space)
    acted = {
        "deterministic": agent.act(batch, deterministic=True),
        "drawn": [agent.act(batch, deterministic=False) for _ in range(2)],
    }
    return {name: np.asarray(action).tolist() for name, action in acted.items()}


def write(name: str) -> None:
    algo, env, num_envs, config = RUNS[name]
    folder = HERE / name
    sys.argv = ["pyrl"]
    run = pyrl.train(algo, env_of(env), total_steps=STEPS, seed=7, num_envs=num_envs, backend="sync", run_dir=folder, **config)
    for file in folder.iterdir():
        if file.suffix == ".png" or file.name.startswith("events"):
            file.unlink()
    agent = pyrl.load(folder / "checkpoints" / "last")
    expected = {"env": env, "env_steps": run.agent.env_steps, "state": digests(agent), **behaviour(agent)}
    (folder / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")


if __name__ == "__main__":
    for chosen in sys.argv[1:] or RUNS:
        write(chosen)
