"""Tianshou 2: replay buffers (samples turned into torch tensors) and its numba GAE."""

from itertools import cycle

import _data
import numpy as np
from _timing import Unsupported, contender, keep_one
from tianshou.algorithm.algorithm_base import _gae
from tianshou.data import Batch, PrioritizedReplayBuffer, ReplayBuffer, VectorReplayBuffer


def as_batch(step, row=slice(None)):
    return Batch(
        obs=step.observation[row], act=step.action[row], rew=step.reward[row], obs_next=step.next_observation[row],
        terminated=step.terminated[row], truncated=step.truncated[row],
    )  # fmt: skip


@keep_one
def full_buffer(kind, batch, stack, made=ReplayBuffer, **options):
    capacity = _data.KINDS[kind].capacity // batch * batch
    options = {"stack_num": stack, "ignore_obs_next": stack > 1, **options}
    buffer = VectorReplayBuffer(capacity, batch, **options) if batch > 1 else made(capacity, **options)
    first = _data.stream(kind, batch)[0]
    if batch > 1:
        buffer.add(as_batch(first), buffer_ids=np.arange(batch))
    else:
        buffer.add(as_batch(first, 0))
    stored = buffer._meta
    stored.obs[:] = _data.observations(kind, capacity)
    if stack == 1:
        stored.obs_next[:] = np.roll(stored.obs, -1, axis=0)
    stored.act[:], stored.rew[:] = _data.actions(kind, capacity), _data.rewards(capacity)
    stored.terminated[:] = stored.done[:] = np.arange(capacity) % _data.EPISODE == _data.EPISODE - 1
    for part in buffer.buffers if batch > 1 else (buffer,):
        part._size = part.maxsize
    if batch > 1:
        buffer._lengths[:] = capacity // batch
    return buffer


@contender("replay.add", "tianshou")
def add(kind, batch):
    buffer, stream = full_buffer(kind, batch, 1), cycle(_data.stream(kind, batch))
    if batch == 1:
        return lambda: buffer.add(as_batch(next(stream), 0))
    environments = np.arange(batch)
    return lambda: buffer.add(as_batch(next(stream)), buffer_ids=environments)


@contender("replay.sample", "tianshou")
def sample(kind, batch):
    buffer = full_buffer(kind, 1, 1)
    return lambda: buffer.sample(batch)[0].to_torch_()


@contender("replay.prioritized_pair", "tianshou")
def prioritized_pair(kind, batch):
    buffer = full_buffer(kind, 1, 1, PrioritizedReplayBuffer, alpha=0.6, beta=0.4)
    buffer.update_weight(np.arange(_data.KINDS[kind].capacity), np.random.default_rng(0).exponential(size=_data.KINDS[kind].capacity))
    priorities = cycle(_data.priorities(batch))

    def call():
        rows, index = buffer.sample(batch)
        rows.to_torch_()
        buffer.update_weight(index, next(priorities))

    return call


@contender("replay.nstep_sample", "tianshou")
def nstep_sample(kind, batch, n_step):
    raise Unsupported("n-step returns are computed with the target network")


@contender("replay.stack_sample", "tianshou")
def stack_sample(kind, batch, stack):
    buffer = full_buffer(kind, 1, stack)
    return lambda: buffer.sample(batch)[0].to_torch_()


@contender("returns.gae", "tianshou")
def gae(T, N):
    # `compute_episodic_return` on a flat buffer, one environment after the other, less the lookups in the buffer.
    rollout = _data.rollout(T, N)
    ends = rollout.terminated.copy()
    ends[-1] = True
    reward, value, next_value, done, end = (
        np.ascontiguousarray(x.T).ravel() for x in (rollout.reward, rollout.value, rollout.next_value, rollout.terminated, ends)
    )
    alive = ~done

    def call():
        advantage = _gae(value, next_value * alive, reward, end, 0.99, 0.95)
        return advantage, advantage + value

    return call, lambda: float(np.abs(call()[0]).mean())
