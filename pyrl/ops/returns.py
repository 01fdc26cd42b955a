"""Advantages and returns over rollouts: arrays [T, N] (T steps, N environments), time first, row-major.

All functions share their first arguments and their rules.

- Arrays are NumPy arrays or torch tensors, contiguous, all on the CPU or (in a build with CUDA) on one GPU; floats all float32
  or all float64, flags bool (or uint8). Results are of the kind and dtype of ``reward``, on its device. Nothing is
  copied, and the interpreter lock is released meanwhile.
- ``terminated`` says that there is no future; ``truncated`` that the future exists and was cut off. Both end a sum,
  only ``terminated`` removes the bootstrap value. A step that is both counts as terminated.
- The value after a step comes in one of two forms:

  * ``value`` [T, N] and ``next_value`` [T, N] = V(next_observation), with the *final* one where an episode ended;
  * ``value`` [T+1, N] and ``next_value=None``: row t+1 serves for step t, except where step t was truncated. There row
    t+1 may belong to the next episode, so ``final_value`` [T, N] = V(final observation) is read there, and only there:
    the rest may be uninitialised. If any step is truncated and ``final_value`` is missing, ValueError is raised. (With
    NEXT_STEP autoreset row t+1 *is* the final observation: pass ``final_value=value[1:]``.)

- ``valid`` [T, N], if given, is False where a step is not a transition (the dead step of NEXT_STEP autoreset). Its results
  are 0, its inputs are used for no other step, and the step before it bootstraps as at the end of the rollout.
- ``out`` takes arrays [T, N] to write to, which are returned; they must not share memory with an input or each other.
- A NaN in ``reward`` or ``value`` spreads to the results of earlier steps of its episode, and no further.
- Errors: `ShapeError`, `DTypeError`, `DeviceError`, ValueError; they name the argument, and nothing has been written.

Results are bitwise the same for any number of threads and any instruction set, and within 1e-5 on a GPU. There the work goes
onto torch's current stream, and nothing waits for it or looks at the data: a truncated step without ``final_value`` is no
error but gives NaN, back to the start of its episode.
"""

from __future__ import annotations

from pyrl import _core
from pyrl.types import Array

__all__ = ["discounted_return", "gae", "lambda_return", "n_step_return", "vtrace"]


def gae(
    reward: Array,
    value: Array,
    next_value: Array | None,
    terminated: Array,
    truncated: Array,
    *,
    gamma: float,
    gae_lambda: float,
    final_value: Array | None = None,
    valid: Array | None = None,
    out: tuple[Array, Array] | None = None,
) -> tuple[Array, Array]:
    """Generalized advantage estimation (Schulman et al., 2016): ``(advantage, return_)``, both [T, N].

    ``delta = reward + gamma (1 - terminated) next_value - value``;
    ``advantage_t = delta_t + gamma gae_lambda (1 - done_t) advantage_{t+1}``; ``return_ = advantage + value``.
    ``gamma`` and ``gae_lambda`` are in [0, 1].

    >>> advantage, return_ = gae(reward, value, next_value, terminated, truncated, gamma=0.99, gae_lambda=0.95)
    """
    return _core.gae(reward, value, next_value, terminated, truncated, final_value, valid, gamma, gae_lambda, out)


def lambda_return(
    reward: Array,
    value: Array | None,
    next_value: Array | None,
    terminated: Array,
    truncated: Array,
    *,
    gamma: float,
    lambda_: float,
    final_value: Array | None = None,
    valid: Array | None = None,
    out: Array | None = None,
) -> Array:
    """Lambda returns (Sutton and Barto, 2018, section 12.1), [T, N].

    ``return_t = reward_t + gamma ((1 - lambda_) next_value_t + lambda_ return_{t+1})``, which ends in
    ``reward_t + gamma (1 - terminated_t) next_value_t`` at the end of an episode and of the rollout. ``value`` is read
    only in the form without ``next_value`` and may be None otherwise. Equals ``gae(...)[1]`` up to rounding.
    """
    return _core.lambda_return(reward, value, next_value, terminated, truncated, final_value, valid, gamma, lambda_, out)


def discounted_return(
    reward: Array,
    terminated: Array,
    truncated: Array,
    *,
    gamma: float,
    value: Array | None = None,
    next_value: Array | None = None,
    final_value: Array | None = None,
    valid: Array | None = None,
    out: Array | None = None,
) -> Array:
    """Discounted returns [T, N]: the sum of ``gamma^i reward_{t+i}`` up to the end of the episode or rollout.

    With ``value`` or ``next_value`` (either form), ``gamma^k`` times the value after the last step is added unless it
    terminated; only these values count, others may be NaN. Without any, the sum holds the rewards seen and no more:
    exact for terminated episodes, short otherwise.
    """
    return _core.discounted_return(reward, value, next_value, terminated, truncated, final_value, valid, gamma, out)


def n_step_return(
    reward: Array,
    value: Array | None,
    next_value: Array | None,
    terminated: Array,
    truncated: Array,
    *,
    n: int,
    gamma: float,
    final_value: Array | None = None,
    valid: Array | None = None,
    out: Array | None = None,
) -> Array:
    """n-step returns (Sutton and Barto, 2018, equation 7.1), [T, N].

    ``reward_t + ... + gamma^(k-1) reward_{t+k-1} + gamma^k (1 - terminated_{t+k-1}) next_value_{t+k-1}``, where k is n,
    or less where the episode or the rollout ends before. ``value`` is read only in the form without ``next_value``; if
    both are None the bootstrap is 0.
    """
    return _core.n_step_return(reward, value, next_value, terminated, truncated, final_value, valid, gamma, n, out)


def vtrace(
    log_prob: Array,
    behaviour_log_prob: Array,
    reward: Array,
    value: Array,
    next_value: Array | None,
    terminated: Array,
    truncated: Array,
    *,
    gamma: float,
    lambda_: float = 1.0,
    rho_bar: float = 1.0,
    c_bar: float = 1.0,
    final_value: Array | None = None,
    valid: Array | None = None,
    out: tuple[Array, Array] | None = None,
) -> tuple[Array, Array]:
    """V-trace (Espeholt et al., 2018, equation 1): ``(vs, pg_advantage)``, both [T, N].

    ``log_prob`` and ``behaviour_log_prob`` [T, N] are those of the policy being learned and of the one that acted. With
    ``ratio = exp(log_prob - behaviour_log_prob)``, ``rho = min(rho_bar, ratio)`` and ``c = lambda_ min(c_bar, ratio)``:
    ``vs_t = value_t + rho_t td_error_t + gamma c_t (1 - done_t) (vs_{t+1} - value_{t+1})`` and
    ``pg_advantage_t = rho_t (reward_t + gamma vs_{t+1} - value_t)``, with ``(1 - terminated_t) next_value_t`` for
    ``vs_{t+1}`` at the end of an episode and of the rollout. The bars may be ``inf``; the paper assumes
    ``rho_bar >= c_bar``. With equal policies and bars of 1 or more, ``vs = gae(..., gae_lambda=lambda_)[1]``.
    """
    return _core.vtrace(
        reward,
        value,
        next_value,
        terminated,
        truncated,
        final_value,
        valid,
        log_prob,
        behaviour_log_prob,
        gamma,
        lambda_,
        rho_bar,
        c_bar,
        out,
    )
