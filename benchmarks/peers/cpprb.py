"""cpprb: C++ replay buffers under Cython; samples turned into torch tensors."""

from itertools import cycle

import _data
import numpy as np
import torch
from _timing import contender, keep_one
from cpprb import PrioritizedReplayBuffer, ReplayBuffer


@keep_one
def full_buffer(kind, n_step, stack, made=ReplayBuffer, **options):
    shape, dtype, actions, capacity = _data.KINDS[kind]
    frames = (*shape, stack) if stack > 1 else shape
    columns = {
        "obs": {"shape": frames, "dtype": np.dtype(dtype)},
        "act": {"shape": actions, "dtype": np.float32} if actions else {"dtype": np.int64},
        "rew": {"dtype": np.float32},
        "done": {"dtype": np.bool_},
    }
    if stack > 1:
        options = {"next_of": "obs", "stack_compress": "obs"}
    else:
        columns["next_obs"] = columns["obs"]
    if n_step > 1:
        options["Nstep"] = {"size": n_step, "gamma": 0.99, "rew": "rew", "next": "next_obs"}
    buffer = made(capacity, columns, **options)
    fill(buffer, kind, stack)
    return buffer


def fill(buffer, kind, stack):
    block = 10_000 if stack == 1 else 500
    observation, action = _data.observations(kind, block), _data.actions(kind, block)
    if stack > 1:  # [B, 84, 84, 4], the newest frame last
        observation = np.stack([np.roll(observation, k, axis=0) for k in reversed(range(stack))], axis=-1)
    following = np.roll(observation, -1, axis=0)
    while buffer.get_stored_size() < buffer.get_buffer_size():
        before = buffer.get_stored_size()
        ends = np.arange(block) % _data.EPISODE == _data.EPISODE - 1
        # Nstep writes its sums into the caller's rewards, so they are made anew for each block.
        buffer.add(obs=observation, act=action, rew=_data.rewards(block), next_obs=following, done=ends)
        if buffer.get_stored_size() == before:
            break


@contender("replay.add", "cpprb")
def add(kind, batch):
    buffer, stream = full_buffer(kind, 1, 1), cycle(_data.stream(kind, batch))

    def call():
        step = next(stream)
        buffer.add(obs=step.observation, act=step.action, rew=step.reward, next_obs=step.next_observation, done=step.terminated)

    return call


def drawing(buffer, batch):
    return lambda: {name: torch.from_numpy(column) for name, column in buffer.sample(batch).items()}


@contender("replay.sample", "cpprb")
def sample(kind, batch):
    return drawing(full_buffer(kind, 1, 1), batch)


@contender("replay.prioritized_pair", "cpprb")
def prioritized_pair(kind, batch):
    buffer = full_buffer(kind, 1, 1, PrioritizedReplayBuffer, alpha=0.6)
    capacity = _data.KINDS[kind].capacity
    buffer.update_priorities(np.arange(capacity), np.random.default_rng(0).exponential(size=capacity))
    priorities = cycle(_data.priorities(batch))

    def call():
        rows = buffer.sample(batch, beta=0.4)
        index = rows.pop("indexes")
        _ = {name: torch.from_numpy(column) for name, column in rows.items()}
        buffer.update_priorities(index, next(priorities))

    return call


@contender("replay.nstep_sample", "cpprb")
def nstep_sample(kind, batch, n_step):
    return drawing(full_buffer(kind, n_step, 1), batch)


@contender("replay.stack_sample", "cpprb")
def stack_sample(kind, batch, stack):
    return drawing(full_buffer(kind, 1, stack), batch)
