"""Losses of networks' outputs, and their gradients w.r.t. these outputs: what `pyrl.ops.Network.backward` takes.

Arrays are NumPy arrays or torch CPU tensors, contiguous, of one dtype (float32 or float64); actions of discrete spaces are
int64. Gradients are fresh arrays unless the caller hands in some, which must not share memory with an input or each other.
NonFiniteError names the array that holds a NaN or an infinity; gradients that were handed in are overwritten then.
"""

from __future__ import annotations

from collections.abc import Sequence

from pyrl import _core
from pyrl.types import Array

__all__ = [
    "dueling",
    "dueling_backward",
    "policy_loss",
    "q_loss",
    "squashed_gaussian",
    "squashed_gaussian_backward",
    "value_loss",
]


def policy_loss(
    output: Array,
    action: Array,
    advantage: Array,
    *,
    nvec: Sequence[int] | None = None,
    log_std: Array | None = None,
    log_prob_old: Array | None = None,
    clip_range: float = 0.2,
    ent_coef: float = 0.0,
    normalize_advantage: bool = False,
    d_output: Array | None = None,
    d_log_std: Array | None = None,
) -> tuple[float, float, float, float, Array]:
    """``-mean(surrogate) - ent_coef mean(entropy)`` -> (surrogate's part of it, entropy, KL estimate, share clipped, d_output).

    The surrogate is PPO's clipped one (Schulman et al. 2017, eq. 7), or A log pi (actor-critic) without ``log_prob_old`` [B].

    - Categorical actions: ``nvec`` has the number of each component's choices, ``output`` [B, sum(nvec)] the logits, ``action``
      is int64 [B, M], or [B] for one component.
    - Diagonal Gaussian: ``output`` [B, A] is the mean, ``log_std`` [A]; its gradient is written to ``d_log_std`` [A].
    """
    return _core.policy_loss(
        output, nvec, log_std, action, log_prob_old, advantage, normalize_advantage, clip_range, ent_coef, d_output, d_log_std
    )  # fmt: skip


def value_loss(
    value: Array,
    return_: Array,
    *,
    value_old: Array | None = None,
    weight: Array | None = None,
    clip_range: float = 0.0,
    coefficient: float = 1.0,
    huber: bool = False,
    d_value: Array | None = None,
) -> tuple[float, Array]:
    """``mean((V - R)^2)``, or the mean Huber loss, of ``value`` [B] or [B, 1] -> (loss, ``coefficient`` times its gradient [B, 1]).

    With ``value_old`` [B], V is kept within ``clip_range`` of it (the value clip of PPO). ``weight`` [B]: importance weights.
    """
    return _core.value_loss(value, return_, value_old, weight, clip_range, coefficient, huber, d_value)


def q_loss(
    q: Array,
    action: Array,
    reward: Array,
    discount: Array,
    next_q_target: Array,
    *,
    next_q_online: Array | None = None,
    weight: Array | None = None,
    huber: bool = True,
    d_q: Array | None = None,
    td_error: Array | None = None,
) -> tuple[float, float, Array, Array]:
    """Q-learning -> (loss, mean of Q(o, a), d_q [B, A], td_error [B]), td_error = Q(o, a) - (r + discount Q^-(o', a')).

    ``q``, ``next_q_target`` and ``next_q_online`` are [B, A], the others [B]. a' is the best action by ``next_q_target`` (Mnih et
    al. 2015), or by ``next_q_online`` (double Q-learning, van Hasselt et al. 2016). ``weight``: importance weights.
    """
    return _core.q_loss(q, action, reward, discount, next_q_target, next_q_online, weight, huber, d_q, td_error)


def dueling(value: Array, advantage: Array, out: Array | None = None) -> Array:
    """Q [B, A] = V [B, 1] + A - mean of A (Wang et al. 2016, eq. 9); ``out`` may be ``advantage``."""
    return _core.dueling(value, advantage, out)


def dueling_backward(d_q: Array, d_value: Array | None = None, d_advantage: Array | None = None) -> tuple[Array, Array]:
    """(d_value [B, 1], d_advantage [B, A]) from d_q [B, A]; ``d_advantage`` may be ``d_q``."""
    return _core.dueling_backward(d_q, d_value, d_advantage)


def squashed_gaussian(
    output: Array, noise: Array, *, log_std_range: tuple[float, float] = (-20.0, 2.0), out: tuple[Array, Array] | None = None
) -> tuple[Array, Array]:
    """(action [B, A], log_prob [B]) of a Gaussian squashed by tanh (Haarnoja et al. 2018, appendix C), a function of ``noise`` [B, A].

    ``output`` [B, 2 A] holds the means, then the log_stds, which are kept within ``log_std_range``.
    """
    return _core.squashed_gaussian(output, noise, log_std_range, out)


def squashed_gaussian_backward(
    output: Array,
    noise: Array,
    action: Array,
    d_action: Array | None,
    d_log_prob: float,
    *,
    log_std_range: tuple[float, float] = (-20.0, 2.0),
    d_output: Array | None = None,
) -> Array:
    """d_output [B, 2 A] from the gradients w.r.t. action [B, A] (None: zero) and w.r.t. every row's log_prob."""
    return _core.squashed_gaussian_backward(output, noise, log_std_range, action, d_action, d_log_prob, d_output)
