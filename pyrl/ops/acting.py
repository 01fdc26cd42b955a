"""Acting in one call: observations are normalised, go through a network, and become actions.

Each function does what its parts do one after the other, bit for bit: `RunningMoments.normalize`, `Network.infer`, `dueling`,
`squashed_gaussian`, `FORBIDDEN` logits or values where a mask is False, and a sampler of `pyrl.ops.sampling`.

- ``parameters``: the network's arena. ``features``: NumPy array [N, D] of the network's dtype, contiguous; with ``moments`` float32 or
  float64, and the network is of float32. ``moments``: `Moments` that normalise the features first, or None. ``mask``: bool [N, M] over
  the network's outputs, False where an action is forbidden, or None.
- ``random`` gives as many draws as the samplers take, and none where an action is deterministic. Errors are those of the parts; neither
  the stream nor anything else has changed then.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from pyrl import _core
from pyrl.ops.networks import Network
from pyrl.ops.random import RandomStream
from pyrl.types import Array

__all__ = ["Moments", "Scale", "act", "act_continuously", "act_greedily", "is_plain"]


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
    networks: tuple[Network, ...],
    parameters: Array,
    features: np.ndarray,
    moments: Moments | None,
    mask: np.ndarray | None,
    epsilon: float | np.ndarray | None,
    random: RandomStream,
    tells: bool = False,
) -> Any:
    """int64 [N]: the action of the largest output, the first of equal ones, or with probability ``epsilon`` (of all rows, or float64 [N])
    a uniform one of those that may be chosen (two draws). None: always the former, and no draw.

    ``networks``: one, or (value, advantage) or (value, advantage, trunk) of a dueling one. ``tells``: (action, its output [N], the largest
    output [N]), in the network's dtype.
    """
    core = networks[0]._core if len(networks) == 1 else tuple([network._core for network in networks])
    return _core.act_greedily(core, parameters, features, moments, mask, epsilon, random, tells)


class Scale(NamedTuple):
    """How actions in [-1, 1] become those of a Box: center + half * action."""

    center: np.ndarray  # float32 [A]
    half: np.ndarray  # float32 [A]
    is_double: bool  # whether they become float64


def act_continuously(
    network: Network,
    parameters: Array,
    features: np.ndarray,
    moments: Moments | None,
    log_std_range: tuple[float, float] | None,
    noise: tuple[float, RandomStream] | None,
    scale: Scale,
    random: RandomStream,
    deterministic: bool,
) -> np.ndarray:
    """Actions [N, A] of a Box: the network's outputs in [-1, 1], with noise, scaled.

    ``log_std_range``: the outputs are mean and log_std of a Gaussian; the action is tanh of what is drawn from it (a draw of ``random``),
    or of the mean if ``deterministic``. None: the outputs are the actions. ``noise``: (std, its stream) of Gaussian noise (a draw), after
    which the action is clipped to [-1, 1].
    """
    return _core.act_continuously(  # type: ignore[no-any-return]
        network._core, parameters, features, moments, None, log_std_range, noise, scale, random, deterministic
    )


def is_plain(observation: Any, like: np.ndarray) -> bool:
    """Whether ``observation`` is a NumPy array [N, ...] with the dtype and the row's shape of ``like`` [n, ...] (floats), contiguous, of
    finite numbers: in one look. No says nothing: what is not plain may be right too."""
    return _core.is_plain(observation, like)  # type: ignore[no-any-return]
