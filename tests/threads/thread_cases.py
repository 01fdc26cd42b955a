"""Every kernel family and every object with a state, as a call without arguments: `CASES[name](scale)` makes one.

`scale` multiplies the work: 1 is some microseconds, 10_000 tens of milliseconds or more. What a call makes belongs to it, so two calls
of one case share nothing unless they are the same object.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable

import numpy as np
from gymnasium import spaces

from pyrl import ops
from pyrl.buffers import Hindsight, PrioritizedReplayBuffer, ReplayBuffer

Case = Callable[[int], Callable[[], object]]
CASES: dict[str, Case] = {}


def case(make: Case) -> Case:
    CASES[make.__name__] = make
    return make


def floats(*shape: int) -> np.ndarray:
    """Some numbers again and again: to draw millions would take longer than the call."""
    some = np.random.default_rng(0).standard_normal(min(math.prod(shape), 1 << 16))
    return np.resize(some.astype(np.float32), shape)


def flags(*shape: int) -> np.ndarray:
    return np.zeros(shape, bool)


@case
def gae(scale):
    value, flag = floats(8 * scale, 4), flags(8 * scale, 4)
    return lambda: ops.gae(value, value, value, flag, flag, gamma=0.99, gae_lambda=0.95)


@case
def gae_wide(scale):
    value, flag = floats(8, 64 * scale), flags(8, 64 * scale)
    return lambda: ops.gae(value, value, value, flag, flag, gamma=0.99, gae_lambda=0.95)


@case
def vtrace(scale):
    value, flag = floats(8 * scale, 4), flags(8 * scale, 4)
    return lambda: ops.vtrace(value, value, value, value, value, flag, flag, gamma=0.99)


@case
def n_step_return(scale):
    value, flag = floats(8 * scale, 4), flags(8 * scale, 4)
    return lambda: ops.n_step_return(value, value, value, flag, flag, gamma=0.99, n=5)


@case
def lambda_return(scale):
    value, flag = floats(8 * scale, 4), flags(8 * scale, 4)
    return lambda: ops.lambda_return(value, value, value, flag, flag, gamma=0.99, lambda_=0.9)


@case
def uniform_indices(scale):
    random = ops.RandomStream(0)
    return lambda: ops.uniform_indices(64 * scale, 1 << 40, random)


@case
def distinct_indices(scale):
    random = ops.RandomStream(0)
    return lambda: ops.uniform_indices(64 * scale, 100 * scale, random, replacement=False)


@case
def permutation(scale):
    random = ops.RandomStream(0)
    return lambda: ops.permutation(64 * scale, random)


@case
def take_rows(scale):
    columns, index = (floats(64 * scale, 4), flags(64 * scale)), np.arange(64 * scale)[::-1].copy()
    return lambda: ops.take_rows(columns, index)


@case
def sample_categorical(scale):
    logits, random = floats(16 * scale, 6), ops.RandomStream(0)
    return lambda: ops.sample_categorical(logits, random)


@case
def sample_gaussian(scale):
    mean, random = floats(16 * scale, 6), ops.RandomStream(0)
    return lambda: ops.sample_gaussian(mean, np.zeros(6, np.float32), random)


@case
def moments(scale):
    moments, batch = ops.RunningMoments((8,)), floats(16 * scale, 8)
    moments.update(batch)
    return lambda: (moments.update(batch), moments.normalize(batch))


@case
def policy_loss(scale):
    output, action, advantage = floats(16 * scale, 4), np.zeros(16 * scale, np.int64), floats(16 * scale)
    return lambda: ops.policy_loss(output, action, advantage, nvec=(4,))


@case
def gaussian_policy_loss(scale):
    output, advantage, log_std = floats(16 * scale, 4), floats(16 * scale), np.zeros(4, np.float32)
    return lambda: ops.policy_loss(output, output + 1, advantage, log_std=log_std, d_log_std=np.empty(4, np.float32))


@case
def value_loss(scale):
    value, target = floats(64 * scale), floats(64 * scale)
    return lambda: ops.value_loss(value, target)


@case
def q_loss(scale):
    q, action, reward = floats(16 * scale, 4), np.zeros(16 * scale, np.int64), floats(16 * scale)
    return lambda: ops.q_loss(q, action, reward, reward, q)


@case
def dueling(scale):
    value, advantage = floats(16 * scale, 1), floats(16 * scale, 4)
    return lambda: ops.dueling_backward(ops.dueling(value, advantage))


@case
def squashed_gaussian(scale):
    output, noise = floats(16 * scale, 8), floats(16 * scale, 4)

    def call():
        action, log_prob = ops.squashed_gaussian(output, noise)
        return log_prob, ops.squashed_gaussian_backward(output, noise, action, None, 1.0)

    return call


@case
def adam(scale):
    size = 64 * scale
    arrays, step = [floats(size), floats(size), np.zeros(size, np.float32), np.zeros(size, np.float32)], np.zeros((), np.float32)
    return lambda: ops.adam(*arrays, step, lr=1e-3)


@case
def rmsprop(scale):
    arrays, step = [floats(64 * scale), floats(64 * scale), np.zeros(64 * scale, np.float32)], np.zeros((), np.float32)
    return lambda: ops.rmsprop(*arrays, step, lr=1e-3)


@case
def polyak(scale):
    target, online = floats(64 * scale), floats(64 * scale)
    return lambda: ops.polyak(target, online, 0.01)


@case
def network(scale):
    net = ops.Network([ops.Layer(8, 32, 0, 256, activation="tanh"), ops.Layer(32, 4, 320, 448)])
    parameters, x = floats(512), floats(4 * scale, 8)

    def call():
        y = net.forward(parameters, x)
        net.infer(parameters, x)
        net.backward(parameters, np.empty_like(parameters), y)
        return y

    return call


def _filled(kind, scale, **options):
    observation, action = spaces.Box(-1, 1, (5,), np.float32), spaces.Discrete(3)
    buffer = kind(64 * scale, observation, action, num_envs=2, seed=0, **options)
    row = (floats(2, 5), np.zeros(2, np.int64), floats(2), floats(2, 5), flags(2), flags(2))
    for _ in range(min(24 * scale, 2000)):
        buffer.add(*row)
    return buffer, row


@case
def replay(scale):
    buffer, row = _filled(ReplayBuffer, scale)

    def call():
        buffer.add(*row)
        index = buffer.sample(16 * min(scale, 20)).index
        with contextlib.suppress(ValueError):  # another thread's add may have overwritten one
            return buffer.get(index)

    return call


@case
def replay_without_replacement(scale):
    buffer, row = _filled(ReplayBuffer, scale)

    def call():
        buffer.add(*row)
        with contextlib.suppress(ValueError):  # another thread's add may have overwritten one
            return buffer.sample(16, replacement=False), list(buffer.epoch(16 * scale))

    return call


@case
def replay_state(scale):
    buffer, row = _filled(ReplayBuffer, scale, n_step=3)

    def call():
        buffer.add(*row)
        buffer.load_state_dict(buffer.state_dict())

    return call


@case
def hindsight(scale):
    goal = spaces.Box(-1, 1, (2,))
    space = spaces.Dict({name: goal for name in ("observation", "achieved_goal", "desired_goal")})
    buffer, relabels = ReplayBuffer(64 * scale, space, spaces.Discrete(3)), Hindsight(lambda achieved, desired, info: achieved[..., 0])
    steps = min(32 * scale, 2000)
    rows = floats(steps, 1, 2)
    observation, flag = dict.fromkeys(space.spaces, rows), flags(steps, 1)
    buffer.extend(observation, np.zeros((steps, 1), np.int64), floats(steps, 1), observation, flag, flag)

    def call():
        batch = buffer.sample(16 * min(scale, 20))
        return relabels.relabel(buffer, batch)

    return call


@case
def sum_tree(scale):
    tree, random = ops.SumTree(64 * scale), ops.RandomStream(0)
    index, weight = np.arange(64 * scale), np.abs(floats(64 * scale)) + 1e-3

    def call():
        tree.set_priority(index, weight, alpha=0.6)
        return tree.importance(tree.draw(16 * scale, random), 0.4)

    return call


@case
def prioritized(scale):
    buffer, row = _filled(PrioritizedReplayBuffer, scale)

    def call():
        buffer.add(*row)
        batch = buffer.sample(16 * min(scale, 20))
        buffer.update_priorities(batch.index, np.ones(len(batch.index)))
        return batch

    return call
