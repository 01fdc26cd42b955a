"""Other people's buffers against ours through their own interface, in turns: a table of rows, each with the host's call and ours.

python benchmarks/bench_adapters.py [--hosts stable-baselines3,...] [--only REGEX] [--quick]
python benchmarks/bench_adapters.py --memory    # a million Atari-shaped transitions: 7 GB
python benchmarks/bench_adapters.py --learning [--only REGEX] [--seeds 5]    # learning curves of both (learning_adapters.py)

Every host has one function that yields `Row`s (`HOSTS`); it imports the host itself, so that a host that is not installed is reported
and left out. Both calls of a row are prepared, warmed up and timed in turns, in CPU time of this process, one thread; the figure is the
median over the rounds of *host's time / ours in the same round*.
"""

from __future__ import annotations

import argparse
import collections
import datetime
import gc
import importlib.metadata
import itertools
import os
import platform
import re
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import _data
import adapter_rows
import numpy as np
import rllib_rows
import torch
from _timing import keep_one
from learning_adapters import compare

Call = Callable[[], object]


class Row(NamedTuple):
    """One line of the table. ``prepare`` gives (the host's call, ours), which do the same work; it is not timed."""

    name: str
    prepare: Callable[[], tuple[Call, Call]]
    goal: float = 3.0  # times faster


# -- stable-baselines3 ----------------------------------------------------------------------------------------------------


@keep_one
def sb3_pair(kind: str, num_envs: int = 1, n_steps: int = 1) -> tuple[Any, Any]:
    """Full buffers with the same transitions: the host's, ours."""
    from stable_baselines3.common.buffers import NStepReplayBuffer, ReplayBuffer

    from pyrl.adapters import sb3

    capacity, options = _data.KINDS[kind].capacity, {"n_envs": num_envs, "device": "cpu"}
    returns: dict[str, Any] = {"n_steps": n_steps, "gamma": 0.99} if n_steps > 1 else {}
    host = (NStepReplayBuffer if n_steps > 1 else ReplayBuffer)(capacity, *_data.spaces(kind), **options, **returns)
    rows = host.buffer_size * num_envs
    host.observations[:] = _data.observations(kind, rows).reshape(host.observations.shape)
    host.next_observations[:] = np.roll(host.observations, -1, axis=0)
    host.actions[:] = _data.actions(kind, rows).reshape(host.actions.shape)
    host.rewards[:] = _data.rewards(rows).reshape(host.rewards.shape)
    host.dones[_data.EPISODE - 1 :: _data.EPISODE] = 1.0
    host.full = True
    ours = sb3.ReplayBuffer(capacity, *_data.spaces(kind), **options, **returns)
    sb3_fill(ours.replay, host)
    return host, ours


def sb3_fill(replay: Any, host: Any) -> None:
    """What the host's buffer holds, as far as it fits."""
    never = np.zeros(host.n_envs, bool)
    for start in range(0, host.buffer_size, 1000):
        rows = slice(start, start + 1000)
        action = host.actions[rows].reshape(-1, host.n_envs, *replay.action_space.shape)
        columns = host.observations[rows], action, host.rewards[rows], host.next_observations[rows], host.dones[rows] > 0
        replay.extend(*columns, np.broadcast_to(never, columns[2].shape).copy())


def sb3_add(kind: str, num_envs: int) -> tuple[Call, Call]:
    infos = [{} for _ in range(num_envs)]

    def adding(buffer: Any) -> Call:
        stream = itertools.cycle(_data.stream(kind, num_envs))

        def call() -> None:
            step = next(stream)
            buffer.add(step.observation, step.next_observation, step.action, step.reward, step.terminated, infos)

        return call

    host, ours = sb3_pair(kind, num_envs)
    return adding(host), adding(ours)


def sb3_sample(kind: str, batch: int, n_steps: int = 1) -> tuple[Call, Call]:
    host, ours = sb3_pair(kind, 1, n_steps)
    return partial(host.sample, batch), partial(ours.sample, batch)


def sb3_floor(kind: str, batch: int) -> tuple[Call, Call]:
    """In the place of the host: copies of the drawn rows and of those after them, into arrays that exist, and nothing else."""
    host, ours = sb3_pair(kind)
    rows, rng = host.observations.reshape(host.buffer_size, -1), np.random.default_rng(0)
    current, following = (np.empty((batch, rows.shape[1]), rows.dtype) for _ in range(2))

    def copy() -> None:
        index = rng.integers(0, len(rows) - 1, batch)
        np.take(rows, index, 0, out=current, mode="clip")
        np.take(rows, index + 1, 0, out=following, mode="clip")

    return copy, partial(ours.sample, batch)


def sb3_add_floor(kind: str, num_envs: int) -> tuple[Call, Call]:
    """In the place of the host: each column copied to where it is kept, observations once, and nothing else."""
    _, ours = sb3_add(kind, num_envs)
    buffer, _ = sb3_pair(kind, num_envs)
    stream, places = itertools.cycle(_data.stream(kind, num_envs)), itertools.cycle(range(buffer.buffer_size))

    def copy() -> None:
        step, at = next(stream), next(places)
        buffer.observations[at], buffer.rewards[at], buffer.dones[at] = step.observation, step.reward, step.terminated
        buffer.actions[at] = step.action.reshape(num_envs, -1)

    return copy, ours


@keep_one
def sb3_prioritized_pair(kind: str) -> tuple[Any, Any]:
    from pyrl.adapters import sb3

    host, _ = sb3_pair(kind)
    ours = sb3.PrioritizedReplayBuffer(_data.KINDS[kind].capacity, *_data.spaces(kind), device="cpu")
    sb3_fill(ours.replay, host)
    return host, ours


def sb3_prioritized(kind: str, batch: int) -> tuple[Call, Call]:
    """The host has no priorities: its uniform draw stands beside our draw and update."""
    host, ours = sb3_prioritized_pair(kind)
    errors = itertools.cycle([torch.from_numpy(each) for each in _data.priorities(batch)])
    return partial(host.sample, batch), lambda: ours.update_priorities(ours.sample(batch).indices, next(errors))


def sb3_rollouts(T: int, N: int) -> tuple[Any, Any]:
    from stable_baselines3.common.buffers import RolloutBuffer

    from pyrl.adapters import sb3

    rollout, both = _data.rollout(T, N), []
    for made in (RolloutBuffer, sb3.RolloutBuffer):
        buffer = made(T, *_data.spaces("obs17"), device="cpu", gae_lambda=0.95, n_envs=N)
        starts = np.concatenate([np.zeros((1, N), bool), rollout.terminated[:-1]])
        observation, action = _data.observations("obs17", N), _data.actions("obs17", N)
        for t in range(T):
            value, log_prob = torch.from_numpy(rollout.value[t]), torch.zeros(N)
            buffer.add(observation, action, rollout.reward[t], starts[t], value, log_prob)
        both.append(buffer)
    return both[0], both[1]


def sb3_gae(T: int, N: int) -> tuple[Call, Call]:
    rollout = _data.rollout(T, N)
    last = torch.from_numpy(rollout.last_value), rollout.terminated[-1]
    host, ours = (partial(buffer.compute_returns_and_advantage, *last) for buffer in sb3_rollouts(T, N))
    return host, ours


def sb3_epoch(T: int, N: int, batch: int) -> tuple[Call, Call]:
    host, ours = (lambda buffer=buffer: collections.deque(buffer.get(batch), 1) for buffer in sb3_rollouts(T, N))
    return host, ours


def sb3_epoch_floor(T: int, N: int, batch: int) -> tuple[Call, Call]:
    """In the place of the host: the same rows of each column into arrays that exist, and nothing else."""
    _, buffer = sb3_rollouts(T, N)
    columns = [column.reshape(T * N, -1) for column in (buffer.observations, buffer.actions, *(np.ones((4, T, N), np.float32)))]
    out = [np.empty((batch, column.shape[1]), column.dtype) for column in columns]
    parts = np.split(np.random.default_rng(0).permutation(T * N), range(batch, T * N, batch))

    def copy() -> None:
        for index in parts:
            for column, rows in zip(columns, out):
                np.take(column, index, 0, out=rows, mode="clip")

    return copy, sb3_epoch(T, N, batch)[1]


def sb3_her(batch: int) -> tuple[Call, Call]:
    from stable_baselines3 import HerReplayBuffer
    from stable_baselines3.common.envs import BitFlippingEnv
    from stable_baselines3.common.vec_env import DummyVecEnv

    from pyrl.adapters import sb3

    both = []
    for made in (HerReplayBuffer, sb3.HerReplayBuffer):
        env = DummyVecEnv([lambda: BitFlippingEnv(n_bits=50, continuous=True)])
        buffer, observation = made(100_000, env.observation_space, env.action_space, env, device="cpu"), env.reset()
        action = np.random.default_rng(0).uniform(-1, 1, (1, 50)).astype(np.float32)
        following, reward, _, _ = env.step(action)
        for step in range(100_000):
            buffer.add(dict(observation), dict(following), action, reward, np.array([step % 50 == 49]), [{}])
            observation, following = following, observation
        both.append(partial(buffer.sample, batch))
    return both[0], both[1]


def sb3_training(steps: int) -> tuple[Call, Call]:
    """Steps and updates of DQN, one update a step, networks included."""
    from stable_baselines3 import DQN

    from pyrl.adapters import sb3

    settings = {
        "learning_starts": 100,
        "batch_size": 64,
        "train_freq": 1,
        "policy_kwargs": {"net_arch": [64, 64]},
        "device": "cpu",
        "seed": 0,
    }
    models = [DQN("MlpPolicy", "CartPole-v1", replay_buffer_class=made, **settings) for made in (None, sb3.ReplayBuffer)]
    host, ours = (partial(model.learn, steps, reset_num_timesteps=False, log_interval=None) for model in models)
    return host, ours


def sb3_rows() -> Iterator[Row]:
    import stable_baselines3  # noqa: F401

    for kind in ("obs4", "obs17", "obs376", "img4x84x84"):
        for batch in (32, 256, 4096):
            yield Row(f"sample {batch}, {kind}", partial(sb3_sample, kind, batch))
        for num_envs in (1, 8):
            yield Row(f"add {num_envs} environments, {kind}", partial(sb3_add, kind, num_envs))
    for kind in ("obs376", "img4x84x84"):
        for batch in (32, 256, 4096):
            yield Row(f"copy alone / sample {batch}, {kind}", partial(sb3_floor, kind, batch), goal=0)
    for kind in ("obs4", "obs376", "img4x84x84"):
        for num_envs in (1, 8):
            yield Row(f"copy alone / add {num_envs} environments, {kind}", partial(sb3_add_floor, kind, num_envs), goal=0)
    yield Row("3-step sample 256, obs17", partial(sb3_sample, "obs17", 256, 3))
    yield Row("uniform sample 256 / prioritized + update, obs17", partial(sb3_prioritized, "obs17", 256), goal=1)
    yield Row("hindsight sample 256, 50 bits", partial(sb3_her, 256))
    for T, N in ((2048, 1), (128, 8), (128, 64)):
        yield Row(f"GAE {T} x {N}", partial(sb3_gae, T, N))
    yield Row("minibatches of 64 of 2048 x 1, obs17", partial(sb3_epoch, 2048, 1, 64))
    yield Row("copy alone / minibatches of 64 of 2048 x 1, obs17", partial(sb3_epoch_floor, 2048, 1, 64), goal=0)
    yield Row("DQN CartPole-v1, 500 steps and updates", partial(sb3_training, 500), goal=1)


def sb3_memory(transitions: int) -> str:
    """Stacks of four 84 x 84 frames, episodes of 1000 steps, through the adapter: what was forecast, and what the process took."""
    from gymnasium.spaces import Box, Discrete
    from stable_baselines3.common.buffers import ReplayBuffer

    from pyrl.adapters import sb3

    spaces = Box(0, 255, (4, 84, 84), np.uint8), Discrete(18)
    forecast = sb3.ReplayBuffer.forecast(transitions, *spaces, frame_stack=4)
    before = resident_bytes()
    buffer = sb3.ReplayBuffer(transitions, *spaces, device="cpu", frame_stack=4)
    frames, stack = np.random.default_rng(0).integers(0, 256, (7, 84, 84), np.uint8), np.zeros((1, 4, 84, 84), np.uint8)
    for step in range(transitions + transitions // 1000):
        if step % 1000 == 0:
            stack = np.concatenate([np.zeros((1, 3, 84, 84), np.uint8), frames[:1][None]], 1)
        following = np.concatenate([stack[:, 1:], frames[(step + 1) % 7][None, None]], 1)
        buffer.add(stack, following, np.zeros(1, np.int64), np.ones(1, np.float32), np.array([step % 1000 == 999]), [{}])
        stack = following
    taken = resident_bytes() - before
    host = ReplayBuffer(1000, *spaces, device="cpu")
    columns = (host.observations, host.next_observations, host.actions, host.rewards, host.dones, host.timeouts)
    theirs = sum(column.nbytes for column in columns) * transitions // 1000
    ours = f"ours {forecast / 1e9:.3f} GB forecast, {taken / 1e9:.3f} GB measured with {len(buffer.replay):,} transitions in it"
    return f"{transitions:,} Atari-shaped transitions: {ours}; the host's {theirs / 1e9:.3f} GB"


def resident_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


MEMORY = {"stable-baselines3": partial(sb3_memory, 1_000_000), "ray": partial(rllib_rows.memory, 1_000_000, 100_000)}


def others(host: str) -> Iterator[Row]:
    yield from (Row(*row) for row in OTHERS[host]())


OTHERS = {**adapter_rows.HOSTS, "ray": rllib_rows.rllib_rows}


HOSTS: dict[str, Callable[[], Iterator[Row]]] = {
    "stable-baselines3": sb3_rows,
    **{host: partial(others, host) for host in OTHERS},
}


def cpu_time(call: Call, loops: int) -> float:
    result = None
    start = time.process_time()
    for _ in range(loops):
        result = call()  # the last result stays alive during the next call, as a batch does in training
    elapsed = time.process_time() - start
    del result
    return elapsed


def loops_for(call: Call, seconds: float) -> int:
    loops = 1
    while (elapsed := cpu_time(call, loops)) < seconds:
        loops = max(loops + 1, min(20 * loops, round(1.1 * loops * seconds / max(elapsed, 1e-6))))
    return loops


def measure(row: Row, rounds: int, seconds: float) -> tuple[float, float, float]:
    """(seconds of a call of the host, of ours, median ratio)"""
    gc.collect()
    host, ours = row.prepare()
    host_loops, our_loops = loops_for(host, seconds), loops_for(ours, seconds)
    times = [(cpu_time(host, host_loops) / host_loops, cpu_time(ours, our_loops) / our_loops) for _ in range(rounds)]
    host_time, our_time = (statistics.median(column) for column in zip(*times))
    return host_time, our_time, statistics.median(theirs / own for theirs, own in times)


def version(host: str) -> str:
    try:
        return importlib.metadata.version(host)
    except importlib.metadata.PackageNotFoundError:
        return "(a checkout)"


def machine() -> str:
    with open("/proc/cpuinfo") as lines:
        names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()}, {datetime.date.today()}"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hosts", default=",".join(HOSTS), help=f"comma-separated, of {', '.join(HOSTS)}; default: all")
    parser.add_argument("--only", metavar="REGEX", default="", help="rows whose name matches")
    parser.add_argument("--quick", action="store_true", help="3 rounds of 0.05 s instead of 7 of 0.2 s")
    parser.add_argument("--rounds", type=int, help="more of them, for trainings")
    parser.add_argument("--memory", action="store_true", help="bytes of a million Atari-shaped transitions instead of times")
    parser.add_argument("--learning", action="store_true", help="learning curves instead of times: minutes a task")
    parser.add_argument("--seeds", type=int, default=5, help="of learning curves")
    return parser.parse_args()


def main() -> None:
    options = arguments()
    if options.memory:
        print(machine())
        for host in options.hosts.split(","):
            try:
                print(f"{host}: {MEMORY[host]()}" if host in MEMORY else f"{host}: not measured")
            except ImportError as missing:
                print(f"{host}: not measured ({missing})")
        return
    if options.learning:
        print(machine())
        compare(options.only, options.seeds, options.hosts.split(","))
        return
    rounds, seconds = (3, 0.05) if options.quick else (7, 0.2)
    rounds = options.rounds or rounds
    print(f"{machine()}; CPU time, one thread, {rounds} rounds in turns")
    for host in options.hosts.split(","):
        try:
            rows = [row for row in HOSTS[host]() if re.search(options.only, row.name)]
        except ImportError as missing:
            print(f"\n{host}: not measured ({missing})")
            continue
        print(f"\n{host} {version(host)}{'host us':>48}{'ours us':>11}{'times':>8}")
        for row in rows:
            theirs, own, ratio = measure(row, rounds, seconds)
            times = f"{ratio:8.2f}" if row.goal == 1 else f"{ratio:8.1f}"
            missed = "" if ratio >= row.goal else f"   goal {row.goal:g}"
            print(f"{row.name:60}{1e6 * theirs:11.1f}{1e6 * own:11.1f}{times}{missed}", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
