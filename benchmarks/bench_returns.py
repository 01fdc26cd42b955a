"""Returns over rollouts [T, N], float32: pyrl against short numba, NumPy and torch references.

Every contender starts from its own kind of array and makes its outputs afresh unless its name says ``out=``. The floor
copies as many bytes as the work must move: every input read once, every output written once.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import _data
import numpy as np
from _timing import Case, contender, keep_one

from pyrl.ops import returns

GAMMA, LAMBDA, N_STEPS = 0.99, 0.95, 5
BYTES = {"gae": 22, "lambda_return": 14, "n_step_return": 14, "vtrace": 30}  # of an element: inputs, flags, outputs
GOALS = {(2048, 64): ("pyrl 3x peers", "pyrl 3x references")}
SHAPES = {
    "gae": [(128, 8), (2048, 1), (2048, 64), (128, 4096), (1024, 16384)],
    "lambda_return": [(128, 8), (2048, 64), (128, 4096)],
    "n_step_return": [(128, 8), (2048, 64), (128, 4096)],
    "vtrace": [(80, 32), (20, 256), (128, 4096)],
}
CASES = [
    Case(
        f"{family} {T}x{N}", f"returns.{family}", {"T": T, "N": N}, T * N, "elements",
        goals=GOALS.get((T, N), ()) if family == "gae" else (),
    )
    for family, shapes in SHAPES.items()
    for T, N in shapes
]  # fmt: skip

rollout, vtrace_rollout = keep_one(_data.rollout), keep_one(_data.vtrace_rollout)


def with_answer(call: Callable[[], Any], part: int | None = None) -> tuple[Callable[[], Any], Callable[[], float]]:
    """The call, and the number that all contenders must agree on: the mean size of the result, or of a part of it."""
    return call, lambda: float(abs(call() if part is None else call()[part]).mean())


def arguments(family: str, T: int, N: int) -> tuple[tuple[Any, ...], dict[str, float]]:
    """What pyrl's function of that name is called with."""
    if family == "vtrace":
        data = vtrace_rollout(T, N)
        logs = data.log_prob, data.behaviour_log_prob
        return (*logs, data.reward, data.value, data.next_value, data.terminated, data.truncated), {"gamma": GAMMA}
    data = rollout(T, N)
    options = {
        "gae": {"gae_lambda": LAMBDA}, "lambda_return": {"lambda_": LAMBDA}, "n_step_return": {"n": N_STEPS},
    }[family]  # fmt: skip
    return (data.reward, data.value, data.next_value, data.terminated, data.truncated), {"gamma": GAMMA, **options}


def register_pyrl(family: str) -> None:
    function, pair = getattr(returns, family), family in ("gae", "vtrace")
    part = 0 if pair else None

    @contender(f"returns.{family}", "pyrl")
    def fresh(T: int, N: int) -> Any:
        inputs, options = arguments(family, T, N)
        return with_answer(partial(function, *inputs, **options), part)

    @contender(f"returns.{family}", "pyrl out=")
    def in_place(T: int, N: int) -> Any:
        inputs, options = arguments(family, T, N)
        out = [np.empty((T, N), np.float32) for _ in range(2)]
        return with_answer(partial(function, *inputs, **options, out=tuple(out) if pair else out[0]), part)

    @contender(f"returns.{family}", "floor: a copy")
    def floor(T: int, N: int) -> Any:
        return _data.copying(BYTES[family] * T * N)


for family in SHAPES:
    register_pyrl(family)


@contender("returns.gae", "pyrl torch")
def pyrl_on_torch(T: int, N: int) -> Any:
    import torch

    inputs, options = arguments("gae", T, N)
    return with_answer(partial(returns.gae, *map(torch.from_numpy, inputs), **options), 0)


# -- references --------------------------------------------------------------------------------------------------------


def gae_loop(reward: Any, value: Any, next_value: Any, terminated: Any, truncated: Any, zeros_like: Any) -> tuple[Any, Any]:
    """One step at a time over rows [N], as Stable-Baselines3 and CleanRL do it; for NumPy and torch alike."""
    advantage, last = zeros_like(reward), 0.0
    discount, trace = GAMMA * (1 - terminated), GAMMA * LAMBDA * (1 - (terminated + truncated))
    delta = reward + discount * next_value - value
    for t in range(len(reward) - 1, -1, -1):
        last = delta[t] + trace[t] * last
        advantage[t] = last
    return advantage, advantage + value


@contender("returns.gae", "ref numpy loop")
def numpy_loop(T: int, N: int) -> Any:
    inputs, _ = arguments("gae", T, N)
    floats = [array.astype(np.float32, copy=False) for array in inputs]
    return with_answer(partial(gae_loop, *floats, np.zeros_like), 0)


@contender("returns.gae", "ref torch loop")
def torch_loop(T: int, N: int) -> Any:
    import torch

    inputs, _ = arguments("gae", T, N)
    return with_answer(partial(gae_loop, *(torch.from_numpy(array).float() for array in inputs), torch.zeros_like), 0)


@contender("returns.gae", "ref numba")
def numba_gae(T: int, N: int) -> Any:
    inputs, _ = arguments("gae", T, N)
    return with_answer(partial(numba_references()["gae"], *inputs, np.float32(GAMMA), np.float32(LAMBDA)), 0)


@contender("returns.lambda_return", "ref numba")
def numba_lambda_return(T: int, N: int) -> Any:
    (reward, _, *rest), _ = arguments("lambda_return", T, N)
    return with_answer(partial(numba_references()["lambda_return"], reward, *rest, np.float32(GAMMA), np.float32(LAMBDA)))


@contender("returns.n_step_return", "ref numba")
def numba_n_step_return(T: int, N: int) -> Any:
    (reward, _, *rest), _ = arguments("n_step_return", T, N)
    return with_answer(partial(numba_references()["n_step_return"], reward, *rest, np.float32(GAMMA), N_STEPS))


@contender("returns.vtrace", "ref numba")
def numba_vtrace(T: int, N: int) -> Any:
    inputs, _ = arguments("vtrace", T, N)
    one = np.float32(1)
    return with_answer(partial(numba_references()["vtrace"], *inputs, np.float32(GAMMA), one, one), 0)


@cache
def numba_references() -> dict[str, Callable[..., Any]]:
    """Time outside, environments inside; GAE splits the environments over as many threads as numba has."""
    import numba
    from numba import njit, prange

    f4 = np.float32

    @njit
    def gae_columns(reward, value, next_value, terminated, truncated, gamma, lambda_, advantage, return_, begin, end):
        last, decay = np.zeros(end - begin, f4), gamma * lambda_
        for t in range(reward.shape[0] - 1, -1, -1):
            for j in range(begin, end):
                bootstrap = f4(0) if terminated[t, j] else next_value[t, j]
                later = f4(0) if terminated[t, j] or truncated[t, j] else last[j - begin]
                last[j - begin] = reward[t, j] + gamma * bootstrap - value[t, j] + decay * later
                advantage[t, j] = last[j - begin]
                return_[t, j] = last[j - begin] + value[t, j]

    @njit
    def gae(reward, value, next_value, terminated, truncated, gamma, lambda_):
        advantage, return_, N = np.empty_like(reward), np.empty_like(reward), reward.shape[1]
        gae_columns(reward, value, next_value, terminated, truncated, gamma, lambda_, advantage, return_, 0, N)
        return advantage, return_

    @njit(parallel=True)
    def gae_parallel(reward, value, next_value, terminated, truncated, gamma, lambda_):
        advantage, return_, N = np.empty_like(reward), np.empty_like(reward), reward.shape[1]
        blocks = min(numba.get_num_threads(), N)
        for b in prange(blocks):
            begin, end = N * b // blocks, N * (b + 1) // blocks
            gae_columns(reward, value, next_value, terminated, truncated, gamma, lambda_, advantage, return_, begin, end)
        return advantage, return_

    @njit
    def lambda_return(reward, next_value, terminated, truncated, gamma, lambda_):
        return_, last = np.empty_like(reward), next_value[-1].copy()
        for t in range(reward.shape[0] - 1, -1, -1):
            for j in range(reward.shape[1]):
                bootstrap = f4(0) if terminated[t, j] else next_value[t, j]
                later = bootstrap if terminated[t, j] or truncated[t, j] else last[j]
                last[j] = reward[t, j] + gamma * ((f4(1) - lambda_) * bootstrap + lambda_ * later)
                return_[t, j] = last[j]
        return return_

    @njit
    def n_step_return(reward, next_value, terminated, truncated, gamma, n):
        return_ = np.empty_like(reward)
        for t in range(reward.shape[0]):
            for j in range(reward.shape[1]):
                total, factor, k = f4(0), f4(1), t
                while True:
                    total += factor * reward[k, j]
                    factor *= gamma
                    if k - t + 1 == n or k + 1 == reward.shape[0] or terminated[k, j] or truncated[k, j]:
                        break
                    k += 1
                return_[t, j] = total if terminated[k, j] else total + factor * next_value[k, j]
        return return_

    @njit(fastmath=True)
    def vtrace(log_prob, behaviour, reward, value, next_value, terminated, truncated, gamma, rho_bar, c_bar):
        vs, advantage, last = np.empty_like(reward), np.empty_like(reward), np.zeros(reward.shape[1], f4)
        for t in range(reward.shape[0] - 1, -1, -1):
            for j in range(reward.shape[1]):
                ratio = np.exp(log_prob[t, j] - behaviour[t, j])
                rho, c = min(rho_bar, ratio), min(c_bar, ratio)
                bootstrap = f4(0) if terminated[t, j] else next_value[t, j]
                later = f4(0) if terminated[t, j] or truncated[t, j] else last[j]
                td_error = reward[t, j] + gamma * bootstrap - value[t, j]
                advantage[t, j] = rho * (td_error + gamma * later)
                last[j] = rho * td_error + gamma * c * later
                vs[t, j] = value[t, j] + last[j]
        return vs, advantage

    several = numba.get_num_threads() > 1
    return {
        "gae": gae_parallel if several else gae,
        "lambda_return": lambda_return,
        "n_step_return": n_step_return,
        "vtrace": vtrace,
    }
