"""TorchRL: replay buffers over TensorDict, GAE (vectorised and looped), V-trace."""

from functools import partial
from itertools import cycle

import _data
import numpy as np
import torch
from _timing import Unsupported, contender, keep_one
from tensordict import TensorDict
from torchrl.data import LazyTensorStorage, TensorDictPrioritizedReplayBuffer, TensorDictReplayBuffer
from torchrl.objectives.value.functional import (
    generalized_advantage_estimate,
    vec_generalized_advantage_estimate,
    vtrace_advantage_estimate,
)


def as_tensordict(observation, action, reward, next_observation, terminated, truncated):
    def column(x):
        return torch.from_numpy(np.ascontiguousarray(x)).unsqueeze(-1)

    after = TensorDict(
        {
            "observation": torch.from_numpy(next_observation),
            "reward": column(reward),
            "terminated": column(terminated),
            "truncated": column(truncated),
        },
        batch_size=len(reward),
    )
    return TensorDict(
        {"observation": torch.from_numpy(observation), "action": torch.from_numpy(action), "next": after},
        batch_size=len(reward),
    )


@keep_one
def full_buffer(kind, made=TensorDictReplayBuffer, **options):
    capacity, block = _data.KINDS[kind].capacity, 10_000
    buffer = made(storage=LazyTensorStorage(capacity), **options)
    observation, never = _data.observations(kind, block), np.zeros(block, bool)
    ends = np.arange(block) % _data.EPISODE == _data.EPISODE - 1
    rows = as_tensordict(
        observation.copy(),
        _data.actions(kind, block),
        _data.rewards(block),
        np.roll(observation, -1, axis=0),
        ends,
        never,
    )
    for _ in range(capacity // block):
        buffer.extend(rows)
    return buffer


@contender("replay.add", "torchrl")
def add(kind, batch):
    buffer = full_buffer(kind)
    steps = cycle([as_tensordict(*(x.copy() for x in step)) for step in _data.stream(kind, batch)[:4]])
    if batch == 1:
        return lambda: buffer.add(next(steps)[0])
    return lambda: buffer.extend(next(steps))


@contender("replay.sample", "torchrl")
def sample(kind, batch):
    return partial(full_buffer(kind).sample, batch)


@contender("replay.prioritized_pair", "torchrl")
def prioritized_pair(kind, batch):
    try:
        buffer = full_buffer(kind, TensorDictPrioritizedReplayBuffer, alpha=0.6, beta=0.4, batch_size=batch)
    except (ImportError, RuntimeError, NameError) as error:
        raise Unsupported(f"its extension does not load: {error}") from error
    capacity = _data.KINDS[kind].capacity
    buffer.update_priority(torch.arange(capacity), torch.from_numpy(np.random.default_rng(0).exponential(size=capacity)))
    priorities = cycle([torch.from_numpy(p) for p in _data.priorities(batch)])

    def call():
        rows = buffer.sample()
        buffer.update_priority(rows["index"], next(priorities))

    return call


@contender("replay.nstep_sample", "torchrl")
def nstep_sample(kind, batch, n_step):
    raise Unsupported("n-step is a transform before the buffer")


@contender("replay.stack_sample", "torchrl")
def stack_sample(kind, batch, stack):
    raise Unsupported("stacks before the buffer")


def gae_call(function, T, N):
    rollout = _data.rollout(T, N)
    value, next_value, reward, done = (
        torch.from_numpy(np.ascontiguousarray(x.T)).unsqueeze(-1)  # [N, T, 1]
        for x in (rollout.value, rollout.next_value, rollout.reward, rollout.terminated)
    )
    call = partial(function, 0.99, 0.95, value, next_value, reward, done, done)
    return call, lambda: float(call()[0].abs().mean())


@contender("returns.gae", "torchrl vec")
def vec_gae(T, N):
    if T * N > 2_000_000:
        raise Unsupported("45 s a call at 1024 x 16384")
    return gae_call(vec_generalized_advantage_estimate, T, N)


@contender("returns.gae", "torchrl loop")
def loop_gae(T, N):
    return gae_call(generalized_advantage_estimate, T, N)


@contender("returns.vtrace", "torchrl")
def vtrace(T, N):
    r = _data.vtrace_rollout(T, N)
    data = r.log_prob, r.behaviour_log_prob, r.value, r.next_value, r.reward, r.terminated
    log_pi, log_mu, value, next_value, reward, done = (torch.from_numpy(np.ascontiguousarray(x.T)).unsqueeze(-1) for x in data)
    call = partial(vtrace_advantage_estimate, 0.99, log_pi, log_mu, value, next_value, reward, done, done)
    return call, lambda: float(call()[1].abs().mean())


@contender("sampling.categorical", "torch.distributions")
def categorical(batch, count):
    logits = torch.from_numpy(_data.logits(batch, count))

    def call():
        policy = torch.distributions.Categorical(logits=logits)
        action = policy.sample()
        return action, policy.log_prob(action)

    return call


@contender("sampling.gaussian", "torch.distributions")
def gaussian(batch, size):
    mean, log_std = map(torch.from_numpy, _data.gaussians(batch, size))

    def call():
        policy = torch.distributions.Independent(torch.distributions.Normal(mean, log_std.exp()), 1)
        action = policy.sample()
        return action, policy.log_prob(action)

    return call
