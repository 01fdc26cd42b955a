"""Rows of bench_adapters.py for CleanRL, cpprb, TorchRL and Tianshou: (name, prepare, goal), prepare() -> (the host's call, ours).

CleanRL is no package: put a checkout of it on PYTHONPATH. Tianshou has an environment of its own (tests/adapters).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import cycle
from typing import Any

import _data
import numpy as np
import training_rows as training
from _timing import keep_one

Call = Callable[[], object]
Rows = Iterator[tuple[str, Callable[[], tuple[Call, Call]], float]]
KINDS, BATCHES = ("obs4", "obs17", "obs376", "img4x84x84"), (32, 256, 4096)
ROLLOUTS = ((2048, 1), (128, 8), (128, 64))


def blocks(kind: str, size: int) -> Iterator[tuple[np.ndarray, ...]]:
    """`size` transitions in blocks: (observation, action, reward, next observation, terminated)."""
    block = 800 if "img" in kind else 10_000  # divides by 8 environments
    observation, action, reward = _data.observations(kind, block), _data.actions(kind, block), _data.rewards(block)
    ends = np.arange(block) % _data.EPISODE == _data.EPISODE - 1
    for _ in range(0, size, block):
        yield observation, action, reward, np.roll(observation, -1, axis=0), ends


# -- cpprb ----------------------------------------------------------------------------------------------------------------


@keep_one
def cpprb_pair(kind: str, prioritized: bool = False, n_step: int = 1) -> list[Any]:
    import cpprb as host

    from pyrl.adapters import cpprb as ours

    shape, dtype, actions, capacity = _data.KINDS[kind]
    made = []
    for module in (host, ours):
        about = {
            "obs": {"shape": shape, "dtype": np.dtype(dtype)},
            "act": {"shape": actions or 1, "dtype": np.float32 if actions else np.int64},
            "rew": {},
            "next_obs": {"shape": shape, "dtype": np.dtype(dtype)},
            "done": {"dtype": np.bool_},
        }
        options = {"Nstep": {"size": n_step, "gamma": 0.99, "rew": "rew", "next": "next_obs"}} if n_step > 1 else {}
        buffer = (module.PrioritizedReplayBuffer if prioritized else module.ReplayBuffer)(capacity, about, **options)
        for obs, act, rew, next_obs, done in blocks(kind, capacity):
            buffer.add(obs=obs, act=act, rew=rew.copy(), next_obs=next_obs, done=done)  # the host sums into the caller's rewards
        made.append(buffer)
    return made


def cpprb_adding(buffer: Any, kind: str) -> Call:
    stream = cycle(_data.stream(kind, 1))

    def call() -> None:
        step = next(stream)
        buffer.add(
            obs=step.observation[0], act=step.action[0], rew=step.reward[0], next_obs=step.next_observation[0], done=step.terminated[0]
        )
        if step.terminated[0]:
            buffer.on_episode_end()

    return call


def cpprb_add(kind: str, n_step: int = 1) -> tuple[Call, Call]:
    host, ours = cpprb_pair(kind, n_step=n_step)
    return cpprb_adding(host, kind), cpprb_adding(ours, kind)


def cpprb_sample(kind: str, batch: int) -> tuple[Call, Call]:
    host, ours = cpprb_pair(kind)
    return partial(host.sample, batch), partial(ours.sample, batch)


def cpprb_prioritized(kind: str, batch: int) -> tuple[Call, Call]:
    def updating(buffer: Any) -> Call:
        errors = cycle(_data.priorities(batch))
        return lambda: buffer.update_priorities(buffer.sample(batch, beta=0.4)["indexes"], next(errors))

    host, ours = cpprb_pair(kind, prioritized=True)
    return updating(host), updating(ours)


def cpprb_rows() -> Rows:
    import cpprb  # noqa: F401

    for kind in KINDS:
        for batch in BATCHES:
            yield f"sample {batch}, {kind}", partial(cpprb_sample, kind, batch), 3
        yield f"add, {kind}", partial(cpprb_add, kind), 3
    yield "add, 3-step, obs17", partial(cpprb_add, "obs17", 3), 3
    for batch in BATCHES:
        yield f"prioritized sample + update {batch}, obs17", partial(cpprb_prioritized, "obs17", batch), 3
    yield "examples/cpprb_unchanged.py, 400 episodes", training.cpprb_example, 1
    yield "prioritized DQN CartPole-v1, 1,000 steps and updates", partial(training.cpprb_dqn, 1000), 1


# -- CleanRL --------------------------------------------------------------------------------------------------------------


@keep_one
def cleanrl_pair(kind: str, num_envs: int = 1) -> list[Any]:
    from cleanrl_utils.buffers import ReplayBuffer as Host

    from pyrl.adapters.cleanrl import ReplayBuffer as Ours

    capacity = _data.KINDS[kind].capacity
    made = [buffer(capacity, *_data.spaces(kind), "cpu", num_envs, handle_timeout_termination=False) for buffer in (Host, Ours)]
    host, ours = made
    for count, (obs, act, rew, next_obs, done) in enumerate(blocks(kind, capacity)):
        rows = slice(count * len(rew) // num_envs, (count + 1) * len(rew) // num_envs)
        for own, column in (
            (host.observations, obs),
            (host.next_observations, next_obs),
            (host.actions, act),
            (host.rewards, rew),
            (host.dones, done),
        ):
            own[rows] = column.reshape(own[rows].shape)
        block = [
            column.reshape(-1, num_envs, *column.shape[1:]) for column in (obs, act if act.ndim > 1 else act[:, None], rew, next_obs, done)
        ]
        ours.replay.extend(*block, np.zeros_like(block[-1]))
    host.full = True
    return made


def cleanrl_add(kind: str, num_envs: int) -> tuple[Call, Call]:
    def adding(buffer: Any) -> Call:
        stream = cycle(_data.stream(kind, num_envs))

        def call() -> None:
            step = next(stream)
            buffer.add(step.observation, step.next_observation, step.action, step.reward, step.terminated, {})

        return call

    host, ours = cleanrl_pair(kind, num_envs)
    return adding(host), adding(ours)


def cleanrl_sample(kind: str, batch: int) -> tuple[Call, Call]:
    host, ours = cleanrl_pair(kind)
    return partial(host.sample, batch), partial(ours.sample, batch)


def cleanrl_gae(T: int, N: int) -> tuple[Call, Call]:
    import torch

    from pyrl.adapters.cleanrl import gae

    rollout = _data.rollout(T, N)
    rewards, values, dones = map(torch.from_numpy, (rollout.reward, rollout.value, rollout.terminated.astype(np.float32)))
    next_value, next_done = torch.from_numpy(rollout.last_value)[None], torch.zeros(N)

    def loop() -> object:
        """What the scripts write out."""
        advantages, carry = torch.zeros_like(rewards), 0
        for t in reversed(range(T)):
            alive = 1.0 - (next_done if t == T - 1 else dones[t + 1])
            following = next_value if t == T - 1 else values[t + 1]
            carry = rewards[t] + 0.99 * following * alive - values[t] + 0.99 * 0.95 * alive * carry
            advantages[t] = carry
        return advantages, advantages + values

    return loop, partial(gae, rewards, values, dones, next_value, next_done, 0.99, 0.95)


def cleanrl_rows() -> Rows:
    for T, N in ROLLOUTS:
        yield f"GAE {T} x {N}, the scripts' loop", partial(cleanrl_gae, T, N), 3
    yield "PPO CartPole-v1, ten updates of 128 x 4", partial(training.cleanrl_ppo, 10), 1
    from importlib.util import find_spec

    if find_spec("cleanrl_utils") is None:
        print("\ncleanrl: of its buffer nothing is measured (no cleanrl_utils: put a checkout of vwxyzjn/cleanrl on PYTHONPATH)")
        return
    yield "DQN CartPole-v1, 5,000 steps, an update each ten", partial(training.cleanrl_dqn, 5000, 10), 1
    yield "DQN CartPole-v1, 1,500 steps, an update each", partial(training.cleanrl_dqn, 1500, 1), 1
    for kind in KINDS:
        for batch in BATCHES:
            yield f"sample {batch}, {kind}", partial(cleanrl_sample, kind, batch), 3
        for num_envs in (1, 8):
            yield f"add {num_envs} environments, {kind}", partial(cleanrl_add, kind, num_envs), 3


# -- TorchRL --------------------------------------------------------------------------------------------------------------


@keep_one
def torchrl_pair(kind: str, prioritized: bool = False, storages: bool = False) -> list[Any]:
    """Host and ours: samplers over the host's storage, or the host's sampler over either's storage."""
    from tensordict import TensorDict
    from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer
    from torchrl.data.replay_buffers import samplers as host

    from pyrl.adapters import torchrl as ours

    capacity, made = _data.KINDS[kind].capacity, []
    for module in (host, ours):
        samplers = host if storages else module
        sampler = samplers.PrioritizedSampler(capacity, 0.6, 0.4) if prioritized else samplers.RandomSampler()
        storage = (ours.RecordStorage if storages and module is ours else LazyTensorStorage)(capacity)
        buffer = TensorDictReplayBuffer(storage=storage, sampler=sampler)
        for observation, action, reward, following, terminated in blocks(kind, capacity):
            after = {"observation": following, "reward": reward[:, None], "terminated": terminated[:, None], "done": terminated[:, None]}
            rows = {"observation": observation, "action": action, "next": after}
            buffer.extend(TensorDict(rows, [len(reward)]).apply(lambda column: column.clone()), update_priority=prioritized)
        made.append(buffer)
    return made


def torchrl_sample(kind: str, batch: int) -> tuple[Call, Call]:
    host, ours = torchrl_pair(kind)
    return partial(host.sample, batch), partial(ours.sample, batch)


def torchrl_storage(kind: str, batch: int, whole: bool) -> tuple[Call, Call]:
    """Reads of the storage alone, or samples of the whole buffer."""
    import torch

    index = cycle(torch.randint(_data.KINDS[kind].capacity, (20, batch)))
    host, ours = torchrl_pair(kind, storages=True)
    if whole:
        return partial(host.sample, batch), partial(ours.sample, batch)
    return lambda: host._storage.get(next(index)), lambda: ours._storage.get(next(index))


def torchrl_extend(kind: str, batch: int) -> tuple[Call, Call]:
    host, ours = torchrl_pair(kind, storages=True)
    rows = host[:][:batch].exclude("index").clone()  # of their own: not the memory that they are written to
    return lambda: host.extend(rows.clone(False)), lambda: ours.extend(rows.clone(False))


def torchrl_prioritized(kind: str, batch: int, whole: bool) -> tuple[Call, Call]:
    import torch

    def updating(buffer: Any) -> Call:
        errors = cycle([torch.from_numpy(each) for each in _data.priorities(batch)])
        sampler, storage = buffer.sampler, buffer._storage
        if whole:
            return lambda: buffer.update_priority(buffer.sample(batch)["index"], next(errors))
        return lambda: sampler.update_priority(sampler.sample(storage, batch)[0], next(errors), storage=storage)

    host, ours = torchrl_pair(kind, prioritized=True)
    return updating(host), updating(ours)


def torchrl_returns(name: str, T: int, N: int) -> tuple[Call, Call]:
    import torch
    from torchrl.objectives.value import functional as host

    from pyrl.adapters import torchrl as ours

    r = _data.vtrace_rollout(T, N)
    columns = (r.log_prob, r.behaviour_log_prob, r.value, r.next_value, r.reward, r.terminated, r.terminated)
    tensors = [torch.from_numpy(np.ascontiguousarray(x.T)).unsqueeze(-1) for x in columns]  # [N, T, 1]
    arguments = (0.99, *tensors) if name.startswith("vtrace") else (0.99, 0.95, *tensors[2:])
    return partial(getattr(host, name), *arguments), partial(getattr(ours, name.removeprefix("vec_")), *arguments)


def torchrl_rows() -> Rows:
    from torchrl import logger
    from torchrl.data.replay_buffers.samplers import prioritized

    logger.setLevel("WARNING")  # it reports each storage
    for T, N in ROLLOUTS:
        yield f"GAE {T} x {N}", partial(torchrl_returns, "generalized_advantage_estimate", T, N), 3
        yield f"GAE {T} x {N}, the host's vectorized", partial(torchrl_returns, "vec_generalized_advantage_estimate", T, N), 3
        yield f"V-trace {T} x {N}", partial(torchrl_returns, "vtrace_advantage_estimate", T, N), 3
    for batch in BATCHES:
        yield f"uniform sample {batch}, obs17 (the host's storage)", partial(torchrl_sample, "obs17", batch), 1
    for kind in KINDS:
        for batch in BATCHES:
            yield f"storage, read {batch}, {kind}", partial(torchrl_storage, kind, batch, False), 3
        yield f"extend by 1,000, {kind}", partial(torchrl_extend, kind, 1000), 1
    for batch in BATCHES:
        yield f"sample {batch} over our storage, obs17", partial(torchrl_storage, "obs17", batch, True), 1
    for batch in (128, 4096):
        yield f"DQN CartPole-v1, 1,000 steps, 100 updates of {batch}", partial(training.torchrl_dqn, 1000, batch), 1
    yield "PPO CartPole-v1, two updates of 512 x 1", partial(training.torchrl_ppo, 2), 1
    if prioritized.SumSegmentTreeFp32 is None:
        print("\ntorchrl: priorities are not measured (its C++ extension does not load beside this torch)")
        return
    for batch in BATCHES:
        yield f"prioritized indices + update {batch} of 10^6", partial(torchrl_prioritized, "obs17", batch, False), 3
        yield f"prioritized sample + update {batch}, obs17", partial(torchrl_prioritized, "obs17", batch, True), 1


# -- Tianshou -------------------------------------------------------------------------------------------------------------


def tianshou_tree(batch: int) -> tuple[Call, Call]:
    from tianshou.data import SegmentTree as Host

    from pyrl.adapters.tianshou import SegmentTree as Ours

    def using(tree: Any) -> Call:
        tree[np.arange(1_000_000)] = np.random.default_rng(0).exponential(size=1_000_000)
        errors, rng = cycle(_data.priorities(batch)), np.random.default_rng(0)

        def call() -> None:
            index = tree.get_prefix_sum_idx(rng.random(batch) * tree.reduce() * 0.999999)
            tree[index] = next(errors)

        return call

    return using(Host(1_000_000)), using(Ours(1_000_000))


@keep_one
def tianshou_pair(name: str, kind: str, num_envs: int = 1) -> list[Any]:
    """Full buffers with the same columns."""
    import tianshou.data as host

    from pyrl.adapters import tianshou as ours

    capacity, made = _data.KINDS[kind].capacity, []
    options = {"alpha": 0.6, "beta": 0.4} if "Prioritized" in name else {}
    for module in (host, ours):
        buffer = getattr(module, name)(capacity, *((num_envs,) if "Vector" in name else ()), **options)
        tianshou_adding(buffer, kind, num_envs)()
        rows = buffer._meta
        rows.obs[:], rows.act[:], rows.rew[:] = _data.observations(kind, capacity), _data.actions(kind, capacity), _data.rewards(capacity)
        rows.obs_next[:] = np.roll(rows.obs, -1, axis=0)
        rows.terminated[:] = rows.done[:] = np.arange(capacity) % _data.EPISODE == _data.EPISODE - 1
        for each in getattr(buffer, "buffers", [buffer]):
            each._size = each.maxsize
        if "Vector" in name:
            buffer._lengths[:] = capacity // num_envs
        if options:
            buffer.update_weight(np.arange(capacity), np.random.default_rng(0).exponential(size=capacity))
        made.append(buffer)
    return made


def tianshou_adding(buffer: Any, kind: str, num_envs: int) -> Call:
    """A step of a collector: a batch of rows for the subbuffers."""
    from tianshou.data import Batch

    ids = np.arange(num_envs)
    steps = cycle(
        [
            Batch(
                obs=step.observation, act=step.action, rew=step.reward.astype(float), obs_next=step.next_observation,
                terminated=step.terminated, truncated=step.truncated, info=Batch(env_id=ids),
            )
            for step in _data.stream(kind, num_envs)
        ]
    )  # fmt: skip
    return lambda: buffer.add(next(steps), buffer_ids=ids)


def tianshou_add(name: str, kind: str, num_envs: int) -> tuple[Call, Call]:
    host, ours = tianshou_pair(name, kind, num_envs)
    return tianshou_adding(host, kind, num_envs), tianshou_adding(ours, kind, num_envs)


def tianshou_sample(name: str, kind: str, batch: int, num_envs: int) -> tuple[Call, Call]:
    host, ours = tianshou_pair(name, kind, num_envs)
    return partial(host.sample, batch), partial(ours.sample, batch)


def tianshou_prioritized(kind: str, batch: int) -> tuple[Call, Call]:
    def updating(buffer: Any) -> Call:
        errors = cycle(_data.priorities(batch))
        return lambda: buffer.update_weight(buffer.sample(batch)[1], next(errors))

    host, ours = tianshou_pair("PrioritizedReplayBuffer", kind)
    return updating(host), updating(ours)


def tianshou_gae(T: int) -> tuple[Call, Call]:
    from tianshou.algorithm.algorithm_base import _gae as host

    from pyrl.adapters.tianshou import gae as ours

    r = _data.rollout(T, 1)
    call = (r.value[:, 0].copy(), r.next_value[:, 0].copy(), r.reward[:, 0].astype(np.float64), r.terminated[:, 0].copy(), 0.99, 0.95)
    return partial(host, *call), partial(ours, *call)


def tianshou_nstep(batch: int) -> tuple[Call, Call]:
    from tianshou.algorithm.algorithm_base import _nstep_return as host

    from pyrl.adapters.tianshou import nstep_return as ours

    rng = np.random.default_rng(0)
    first = rng.integers(0, 999_000, batch)
    reward, ends = rng.normal(size=1_000_000), np.arange(1_000_000) % _data.EPISODE == 0
    call = (reward, ends, rng.normal(size=(batch, 1)).astype(np.float32), np.stack([first + i for i in range(3)]), 0.99, 3)
    return partial(host, *call), partial(ours, *call)


# Floors stand in the place of the host: what must be done, and nothing else.


def tianshou_copy(buffer: Any, batch: int) -> Call:
    """The rows of every column, drawn uniformly, into arrays that exist."""
    from pyrl.adapters.tianshou.nested import leaves

    columns = [column.reshape(len(column), -1) for column in leaves(buffer._meta.__dict__)]
    out, rng = [np.empty((batch, column.shape[1]), column.dtype) for column in columns], np.random.default_rng(0)

    def copy() -> None:
        index = rng.integers(0, len(columns[0]), batch)
        for column, rows in zip(columns, out):
            np.take(column, index, 0, out=rows, mode="clip")

    return copy


def tianshou_copy_floor(kind: str, batch: int) -> tuple[Call, Call]:
    host, ours = tianshou_pair("ReplayBuffer", kind)
    return tianshou_copy(host, batch), partial(ours.sample, batch)


def tianshou_add_floor(name: str, kind: str, num_envs: int) -> tuple[Call, Call]:
    """A row of every column written by NumPy to positions that are known."""
    from pyrl.adapters.tianshou.nested import leaves

    host, ours = tianshou_pair(name, kind, num_envs)
    columns = list(leaves(host._meta.__dict__))
    rows = [np.ascontiguousarray(column[:num_envs]) for column in columns]
    starts = np.arange(num_envs) * (len(columns[0]) // num_envs)
    places = cycle(range(len(columns[0]) // num_envs))

    def copy() -> None:
        position = starts + next(places)
        for column, row in zip(columns, rows):
            column[position] = row

    return copy, tianshou_adding(ours, kind, num_envs)


def tree_kernels(batch: int) -> Call:
    """Finding and setting in a tree of 10^6 weights: the kernels, on arrays that they take as they are."""
    from pyrl.ops import SumTree

    tree, rng, errors = SumTree(1_000_000), np.random.default_rng(0), cycle([x.astype(float) for x in _data.priorities(batch)])
    tree.set(np.arange(1_000_000), rng.exponential(size=1_000_000))

    def call() -> None:
        values = rng.random(batch)
        values *= tree.total * 0.999999
        tree.set(tree.find(values), next(errors))

    return call


def tianshou_tree_floor(batch: int) -> tuple[Call, Call]:
    return tree_kernels(batch), tianshou_tree(batch)[1]


def tianshou_prioritized_floor(kind: str, batch: int) -> tuple[Call, Call]:
    _, ours = tianshou_prioritized(kind, batch)
    copy, tree = tianshou_copy(tianshou_pair("PrioritizedReplayBuffer", kind)[0], batch), tree_kernels(batch)
    return lambda: (copy(), tree()), ours


def tianshou_gae_floor(T: int) -> tuple[Call, Call]:
    """One multiplication and addition a step, each of which waits for the one before; errors and factors are there."""
    from numba import njit

    @njit
    def recursion(delta: Any, factor: Any, out: Any) -> None:
        carry = 0.0
        for t in range(len(delta) - 1, -1, -1):
            carry = delta[t] + factor[t] * carry
            out[t] = carry

    call = partial(recursion, np.random.default_rng(0).normal(size=T), np.full(T, 0.94), np.empty(T))
    call()  # compiles
    return call, tianshou_gae(T)[1]


def tianshou_nstep_floor(batch: int) -> tuple[Call, Call]:
    """Rewards and flags of the steps, taken."""
    _, ours = tianshou_nstep(batch)
    reward, ends, _, steps = ours.args[:4]  # type: ignore[attr-defined]
    out = np.empty(steps.shape), np.empty(steps.shape, bool)

    def copy() -> None:
        np.take(reward, steps, out=out[0], mode="clip")
        np.take(ends, steps, out=out[1], mode="clip")

    return copy, ours


def tianshou_floors() -> Rows:
    for batch in BATCHES:
        yield f"kernels alone / SegmentTree draw + update {batch} of 10^6", partial(tianshou_tree_floor, batch), 0
    for kind in KINDS:
        for batch in BATCHES:
            yield f"copy alone / sample {batch}, {kind}", partial(tianshou_copy_floor, kind, batch), 0
        yield f"copy alone / add, {kind}", partial(tianshou_add_floor, "ReplayBuffer", kind, 1), 0
    yield "copy alone / add 8 environments, obs17", partial(tianshou_add_floor, "VectorReplayBuffer", "obs17", 8), 0
    for batch in BATCHES:
        yield f"copy and kernels alone / prioritized {batch}, obs17", partial(tianshou_prioritized_floor, "obs17", batch), 0
    yield "recursion alone / _gae 16384", partial(tianshou_gae_floor, 16384), 0
    yield "copy alone / _nstep_return 4096, 3 steps", partial(tianshou_nstep_floor, 4096), 0


def tianshou_rows() -> Rows:
    import tianshou  # noqa: F401

    for batch in BATCHES:
        yield f"SegmentTree draw + update {batch} of 10^6", partial(tianshou_tree, batch), 3
    for kind in KINDS:
        for batch in BATCHES:
            yield f"sample {batch}, {kind}", partial(tianshou_sample, "ReplayBuffer", kind, batch, 1), 3
        yield f"add, {kind}", partial(tianshou_add, "ReplayBuffer", kind, 1), 3
    for batch in BATCHES:
        yield f"sample {batch} of 8 subbuffers, obs17", partial(tianshou_sample, "VectorReplayBuffer", "obs17", batch, 8), 3
    yield "add 8 environments, obs17", partial(tianshou_add, "VectorReplayBuffer", "obs17", 8), 3
    for batch in BATCHES:
        yield f"prioritized sample + update {batch}, obs17", partial(tianshou_prioritized, "obs17", batch), 3
    for T in (2048, 16384):
        yield f"_gae {T}", partial(tianshou_gae, T), 3
    for batch in (256, 4096):
        yield f"_nstep_return {batch}, 3 steps", partial(tianshou_nstep, batch), 3
    for name in ("DQN", "prioritized DQN"):
        yield f"{name} CartPole-v1, 1,500 steps", partial(training.tianshou_dqn, name, 1500), 1
    yield from tianshou_floors()


HOSTS = {"cpprb": cpprb_rows, "cleanrl": cleanrl_rows, "torchrl": torchrl_rows, "tianshou": tianshou_rows}
