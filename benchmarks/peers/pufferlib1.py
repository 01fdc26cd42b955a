"""PufferLib 1.0.1: `c_gae.pyx`, one flat array in Cython; the fastest peer on most GAE rows."""

from functools import partial

import _data
import numpy as np
from _timing import contender
from c_gae import compute_gae


@contender("returns.gae", "pufferlib1 c_gae")
def gae(T, N):
    # One flat stream, one environment after the other. Its rewards and flags belong to the step before, and sums run over
    # the seams between environments, so it gives no answer to compare; the arithmetic of an element is the same.
    rollout = _data.rollout(T, N)
    done, value, reward = (np.ascontiguousarray(x.T, np.float32).ravel() for x in (rollout.terminated, rollout.value, rollout.reward))
    return partial(compute_gae, done, value, reward, 0.99, 0.95)
