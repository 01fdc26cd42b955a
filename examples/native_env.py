"""An environment in C: compiled, trained by PPO and DQN, and stepped in a loop of one's own.

The environment is native_env.c beside this file; docs/native_environments.md explains it.
"""

import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np

import pyrl

SOURCE = Path(__file__).with_suffix(".c")


def build(folder: str) -> str:
    library = str(Path(folder) / "libnative_env.so")
    compiler = shutil.which("cc") or shutil.which("gcc") or "clang"
    subprocess.run(
        [compiler, "-O2", "-shared", "-fPIC", "-I", pyrl.envs.include_dir(), str(SOURCE), "-o", library], check=True, timeout=120
    )
    return library


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        env = f"{build(folder)}:Lander"

        run = pyrl.train("ppo", env, total_steps=40_000, seed=0, run_dir=False)
        score = pyrl.evaluate(run.agent, env, episodes=20)
        print(f"ppo: mean return {score.mean:.2f} after {run.agent.env_steps:,} steps")
        assert score.mean > 0.5

        run = pyrl.train("dqn", env, total_steps=3_000, seed=0, run_dir=False, env_kwargs={"gravity": 1.0})
        print(f"dqn: {run.agent.env_steps:,} steps under another gravity")

        envs = pyrl.envs.NativeVectorEnv(env, 64)
        observation, _ = envs.reset(seed=0)
        rewards = [envs.step(np.zeros(64, np.int64))[1] for _ in range(100)]
        print(f"64 landers in free fall: {np.sum(rewards) / 64:.2f} each in 100 steps")
