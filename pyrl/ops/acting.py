"""Acting in one call: observations are normalised, go through a network, and become actions.

Each function does what its parts do one after the other, bit for bit: `RunningMoments.normalize`, `Network.infer`, `FORBIDDEN` logits or
values where a mask is False, and a sampler of `pyrl.ops.sampling`.

- ``parameters``: the network's arena. ``features``: NumPy array [N, D] of the network's dtype, contiguous; with ``moments`` float32 or
  float64, and the network is of float32. ``moments``: `Moments` that normalise the features first, or None. ``mask``: bool [N, M] over
  the network's outputs, False where an action is forbidden, or None.
- ``random`` gives as many draws as the samplers take, and none where an action is deterministic. Errors are those of the parts; neither
  the stream nor anything else has changed then.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from pyrl import _core
from pyrl.ops.networks import Network
from pyrl.ops.random import RandomStream
from pyrl.types import Array

__all__ = ["Moments", "act", "act_greedily"]


class Moments(NamedTuple):
    """What `RunningMoments.normalize` computes with: the arrays of the moments, and its arguments."""

    number: np.ndarray  # int64 [], of rows seen
    mean: np.ndarray  # float64 [D]
    m2: np.ndarray  # float64 [D]
    clip: float | None
    epsilon: float


def act(
    network: Network,
    parameters: Array,
    features: np.ndarray,
    moments: Moments | None,
    mask: np.ndarray | None,
    nvec: int | tuple[int, ...] | None,
    log_std: Array | None,
    random: RandomStream,
    deterministic: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """(action, log_prob float32 [N]) of the distribution that the network puts out.

    ``nvec``: its outputs are the logits of one Discrete action of so many choices (action int64 [N]), or side by side those of several
    (int64 [N, M]); M outputs for M components of two are the logits of the ones. ``log_std`` float32 [A]: they are the means of a Gaussian
    (float32 [N, A]). One of the two is None.
    """
    return _core.act(network._core, parameters, features, moments, mask, nvec, log_std, random, deterministic)  # type: ignore[no-any-return]


def act_greedily(
    network: Network,
    parameters: Array,
    features: np.ndarray,
    moments: Moments | None,
    mask: np.ndarray | None,
    epsilon: float | None,
    random: RandomStream,
) -> np.ndarray:
    """int64 [N]: the action of the largest output, the first of equal ones, or with probability ``epsilon`` a uniform one of those that
    may be chosen (two draws). None: always the former, and no draw."""
    return _core.act_greedily(network._core, parameters, features, moments, mask, epsilon, random)  # type: ignore[no-any-return]
