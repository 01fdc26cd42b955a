"""Peers that compile environment and trainer into one program, beside native environments, one core each, in turns.

    python benchmarks/compiled_peers.py purejaxrl --source purejaxrl/purejaxrl --python /opt/purejax/bin/python
    python benchmarks/compiled_peers.py rltools --binary rl_environments_pendulum_sac_benchmark

PureJaxRL (github.com/luchris429/purejaxrl) wants a Python with "jax<0.5", flax, optax, distrax and gymnax; ``--source`` is the folder of
its ppo.py. It trains PPO on CartPole-v1 with 8 environments, 128 steps an update, 4 epochs of minibatches of 256; figures are environment
steps a second after its compilation. RLtools (github.com/rl-tools/rl-tools) is built by the user with its own CMake and a BLAS; its
benchmark trains SAC on Pendulum-v1, 64 x 64, batch 100, for 10,000 steps; figures are seconds of the whole run.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

STEPS = 102_400  # of a PPO run

PUREJAXRL = """
import os, sys, time
os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
sys.path.insert(0, sys.argv[1])
import jax, ppo
steps = int(sys.argv[2])
train = jax.jit(ppo.make_train({
    "LR": 3e-4, "NUM_ENVS": 8, "NUM_STEPS": 128, "TOTAL_TIMESTEPS": steps, "UPDATE_EPOCHS": 4, "NUM_MINIBATCHES": 4, "GAMMA": 0.99,
    "GAE_LAMBDA": 0.95, "CLIP_EPS": 0.2, "ENT_COEF": 0.0, "VF_COEF": 0.5, "MAX_GRAD_NORM": 0.5, "ACTIVATION": "tanh",
    "ENV_NAME": "CartPole-v1", "ANNEAL_LR": False, "DEBUG": False,
}))
for seed in iter(sys.stdin.readline, ""):
    began = time.perf_counter()
    jax.block_until_ready(train(jax.random.PRNGKey(int(seed))))
    print(time.perf_counter() - began, flush=True)
"""


def purejaxrl(options: argparse.Namespace) -> None:
    import pyrl

    stepper = pyrl.envs.make("CartPole-v1", 8, backend="native", seed=0)
    spaces = stepper.single_observation_space, stepper.single_action_space
    config = dict(n_steps=128, batch_size=256, n_epochs=4, learning_rate=3e-4)
    agent = pyrl.make_agent("ppo", *spaces, seed=0, num_envs=8, net_arch=(64, 64), **config)
    loop = iter(pyrl.iterate(agent, stepper, total_steps=10**9))
    command = [options.python, "-c", PUREJAXRL, str(options.source), str(STEPS)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as peer:
        assert peer.stdin is not None
        assert peer.stdout is not None

        def theirs(seed: int) -> float:
            print(seed, file=peer.stdin, flush=True)
            return float(peer.stdout.readline())  # type: ignore[union-attr]

        def ours() -> float:
            began, until = time.perf_counter(), agent.env_steps + STEPS
            while agent.env_steps < until:
                next(loop)
            return time.perf_counter() - began

        print(f"PureJaxRL's first run, with compiling: {theirs(0):.1f} s")
        ours()
        runs = [(STEPS / ours(), STEPS / theirs(1 + i)) for i in range(options.rounds)]
        peer.stdin.close()
    show("PPO CartPole-v1, steps/s", runs)


def rltools(options: argparse.Namespace) -> None:
    import pyrl

    runs = []
    for seed in range(options.rounds):
        began = time.perf_counter()
        run = pyrl.train(
            "sac", "Pendulum-v1", backend="native", total_steps=10_000, num_envs=1, net_arch=(64, 64), batch_size=100, learning_starts=100,
            buffer_size=10_000, train_freq=1, gradient_steps=1, learning_rate=1e-3, seed=seed, run_dir=False, threads=1,
        )  # fmt: skip
        ours = time.perf_counter() - began
        began = time.perf_counter()
        subprocess.run([options.binary], env={**os.environ, "OPENBLAS_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL, check=True)
        runs.append((ours, time.perf_counter() - began))
        print(f"seed {seed}: pyrl's evaluation {pyrl.evaluate(run.agent, 'Pendulum-v1', episodes=20).mean:.0f}")
    show("SAC Pendulum-v1, 10,000 steps, seconds", runs)


def show(what: str, runs: list[tuple[float, float]]) -> None:
    ours, theirs = (statistics.median(column) for column in zip(*runs))
    print(f"{what}: pyrl {ours:,.3g}, peer {theirs:,.3g}; pyrl / peer {ours / theirs:.2f} (medians of {len(runs)} alternating runs)")
    print([(round(a, 2), round(b, 2)) for a, b in runs])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    jax = commands.add_parser("purejaxrl")
    jax.add_argument("--source", type=Path, required=True)
    jax.add_argument("--python", default=sys.executable)
    jax.set_defaults(call=purejaxrl)
    tools = commands.add_parser("rltools")
    tools.add_argument("--binary", type=Path, required=True)
    tools.set_defaults(call=rltools)
    for command in (jax, tools):
        command.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    options.call(options)


if __name__ == "__main__":
    main()
