"""Returns kernels against short numba, NumPy and torch references, and against the libraries that can be imported.

    python benchmarks/bench_returns.py [--cases gae,vtrace] [--seconds 0.5] [--rounds 7] [--threads 1]

Inputs are float32 with flags, every contender starts from its own kind of array (NumPy, or torch for torch code), and
makes its outputs afresh unless its name says ``out=``. Contenders take turns in each round, so that noise meets them
all; a line shows minimum and median over the rounds, the ratio to pyrl with fresh outputs and the traffic (every input
read once, every output written once). The floor is the time that a plain copy of as many bytes takes.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from pyrl.ops.returns import gae, lambda_return, n_step_return, vtrace

GAMMA, LAMBDA = 0.99, 0.95
SHAPES = {
    "gae": [(128, 8), (2048, 1), (2048, 64), (128, 4096), (1024, 16384)],
    "lambda_return": [(128, 8), (2048, 64), (128, 4096)],
    "n_step_return": [(128, 8), (2048, 64), (128, 4096)],
    "vtrace": [(80, 32), (20, 256), (128, 4096)],
}
BYTES = {"gae": 22, "lambda_return": 14, "n_step_return": 14, "vtrace": 30}  # an element: inputs + flags + outputs


@dataclass
class Case:
    """One table: contenders that compute the same thing on the same numbers."""

    name: str
    bytes: int
    contenders: dict[str, Callable[[], object]]
    missing: dict[str, str]  # peer -> why it is not there


class Inputs:
    def __init__(self, T: int, N: int) -> None:
        rng = np.random.default_rng(0)
        floats = [rng.standard_normal((T, N), dtype=np.float32) for _ in range(5)]
        self.reward, self.value, self.next_value, self.log_prob, self.behaviour_log_prob = floats
        self.terminated, self.truncated = rng.random((T, N)) < 0.01, rng.random((T, N)) < 0.01
        self.out = np.empty((T, N), np.float32), np.empty((T, N), np.float32)

    @property
    def first(self) -> tuple[np.ndarray, ...]:
        return self.reward, self.value, self.next_value, self.terminated, self.truncated


# -- references --------------------------------------------------------------------------------------------------------


def numba_references() -> dict[str, Callable]:
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
    def gae_serial(reward, value, next_value, terminated, truncated, gamma, lambda_):
        advantage, return_ = np.empty_like(reward), np.empty_like(reward)
        gae_columns(
            reward, value, next_value, terminated, truncated, gamma, lambda_, advantage, return_, 0, reward.shape[1]
        )
        return advantage, return_

    @njit(parallel=True)
    def gae_parallel(reward, value, next_value, terminated, truncated, gamma, lambda_):
        advantage, return_ = np.empty_like(reward), np.empty_like(reward)
        blocks = min(numba.get_num_threads(), reward.shape[1])
        for b in prange(blocks):
            begin, end = reward.shape[1] * b // blocks, reward.shape[1] * (b + 1) // blocks
            gae_columns(
                reward, value, next_value, terminated, truncated, gamma, lambda_, advantage, return_, begin, end
            )
        return advantage, return_

    @njit
    def lambda_return_serial(reward, next_value, terminated, truncated, gamma, lambda_):
        return_, last = np.empty_like(reward), next_value[-1].copy()
        for t in range(reward.shape[0] - 1, -1, -1):
            for j in range(reward.shape[1]):
                bootstrap = f4(0) if terminated[t, j] else next_value[t, j]
                later = bootstrap if terminated[t, j] or truncated[t, j] else last[j]
                last[j] = reward[t, j] + gamma * ((f4(1) - lambda_) * bootstrap + lambda_ * later)
                return_[t, j] = last[j]
        return return_

    @njit
    def n_step_serial(reward, next_value, terminated, truncated, gamma, n):
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
    def vtrace_serial(log_prob, behaviour, reward, value, next_value, terminated, truncated, gamma, rho_bar, c_bar):
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

    return {
        "gae": gae_serial,
        "gae parallel": gae_parallel,
        "lambda_return": lambda_return_serial,
        "n_step_return": n_step_serial,
        "vtrace": vtrace_serial,
    }


def gae_loop(reward, value, next_value, terminated, truncated, zeros_like):
    """One step at a time over rows [N]: as Stable-Baselines3 and CleanRL do it, for NumPy and torch alike."""
    advantage, last = zeros_like(reward), 0.0
    discount, trace = GAMMA * (1 - terminated), GAMMA * LAMBDA * (1 - (terminated + truncated))
    delta = reward + discount * next_value - value
    for t in range(len(reward) - 1, -1, -1):
        last = delta[t] + trace[t] * last
        advantage[t] = last
    return advantage, advantage + value


# -- contenders --------------------------------------------------------------------------------------------------------


def try_add(case: Case, name: str, make: Callable[[], Callable[[], object]]) -> None:
    """Add a peer, or note why it cannot run here."""
    try:
        run = make()
        run()
    except Exception as error:  # whatever a foreign package raises
        case.missing[name] = f"{type(error).__name__}: {error}".splitlines()[0][:100]
    else:
        case.contenders[name] = run


def torch_loop(x: Inputs) -> Callable[[], object]:
    import torch

    tensors = [torch.from_numpy(a) for a in x.first[:3]] + [torch.from_numpy(a).float() for a in x.first[3:]]
    return lambda: gae_loop(*tensors, torch.zeros_like)


def pyrl_on_torch(x: Inputs) -> Callable[[], object]:
    import torch

    tensors = [torch.from_numpy(a) for a in x.first]
    return lambda: gae(*tensors, gamma=GAMMA, gae_lambda=LAMBDA)


def stable_baselines3(x: Inputs) -> Callable[[], object]:
    import torch
    from gymnasium import spaces
    from stable_baselines3.common.buffers import RolloutBuffer

    T, N = x.reward.shape
    box = spaces.Box(-1, 1, (1,), np.float32)
    buffer = RolloutBuffer(T, box, box, "cpu", gae_lambda=LAMBDA, gamma=GAMMA, n_envs=N)
    buffer.rewards[:], buffer.values[:], buffer.episode_starts[:] = x.reward, x.value, x.terminated
    last_value, done = torch.from_numpy(x.next_value[-1]), x.terminated[-1]
    return lambda: buffer.compute_returns_and_advantage(last_value, done)


def torchrl_vectorised(x: Inputs) -> Callable[[], object]:
    import torch
    from torchrl.objectives.value.functional import vec_generalized_advantage_estimate

    reward, value, next_value, terminated, truncated = (torch.from_numpy(a.T.copy())[..., None] for a in x.first)
    done = terminated | truncated
    return lambda: vec_generalized_advantage_estimate(GAMMA, LAMBDA, value, next_value, reward, done, terminated)


def tianshou_gae(x: Inputs) -> Callable[[], object]:
    from tianshou.algorithm.algorithm_base import _gae

    done = x.terminated | x.truncated
    columns = [np.ascontiguousarray(a.T).ravel() for a in (x.value, x.next_value, x.reward, done)]
    return lambda: _gae(*columns, GAMMA, LAMBDA)


def pufferlib_gae(x: Inputs) -> Callable[[], object]:
    from c_gae import compute_gae

    done, value, reward = (np.ascontiguousarray(a.T, np.float32).ravel() for a in (x.terminated, x.value, x.reward))
    return lambda: compute_gae(done, value, reward, GAMMA, LAMBDA)


def make_case(family: str, T: int, N: int) -> Case:
    x = Inputs(T, N)
    case = Case(f"{family} {T}x{N}", BYTES[family] * T * N, {}, {})
    f4 = np.float32
    if family == "gae":
        case.contenders["pyrl"] = lambda: gae(*x.first, gamma=GAMMA, gae_lambda=LAMBDA)
        case.contenders["pyrl out="] = lambda: gae(*x.first, gamma=GAMMA, gae_lambda=LAMBDA, out=x.out)
        numba_arguments: tuple = (*x.first, f4(GAMMA), f4(LAMBDA))
        try_add(case, "ref numba parallel", lambda: partial(numba_references()["gae parallel"], *numba_arguments))
        try_add(case, "pyrl on torch", lambda: pyrl_on_torch(x))
        try_add(case, "ref NumPy loop", lambda: lambda: gae_loop(*x.first, np.zeros_like))
        try_add(case, "ref torch loop", lambda: torch_loop(x))
        try_add(case, "stable-baselines3", lambda: stable_baselines3(x))
        try_add(case, "tianshou _gae", lambda: tianshou_gae(x))
        try_add(case, "pufferlib c_gae", lambda: pufferlib_gae(x))
        if T * N <= 1 << 20:  # beyond, minutes
            try_add(case, "torchrl vec_gae", lambda: torchrl_vectorised(x))
    elif family == "lambda_return":
        options: dict = {"gamma": GAMMA, "lambda_": LAMBDA}
        case.contenders["pyrl"] = lambda: lambda_return(*x.first, **options)
        case.contenders["pyrl out="] = lambda: lambda_return(*x.first, **options, out=x.out[0])
        numba_arguments = (x.reward, x.next_value, x.terminated, x.truncated, f4(GAMMA), f4(LAMBDA))
    elif family == "n_step_return":
        options = {"gamma": GAMMA, "n": 5}
        case.contenders["pyrl"] = lambda: n_step_return(*x.first, **options)
        case.contenders["pyrl out="] = lambda: n_step_return(*x.first, **options, out=x.out[0])
        numba_arguments = (x.reward, x.next_value, x.terminated, x.truncated, f4(GAMMA), 5)
    else:
        logs = x.log_prob, x.behaviour_log_prob
        case.contenders["pyrl"] = lambda: vtrace(*logs, *x.first, gamma=GAMMA)
        case.contenders["pyrl out="] = lambda: vtrace(*logs, *x.first, gamma=GAMMA, out=x.out)
        numba_arguments = (*logs, *x.first, f4(GAMMA), f4(1), f4(1))
    try_add(case, "ref numba", lambda: partial(numba_references()[family], *numba_arguments))
    if "ref numba" in case.contenders:
        for ours, theirs in zip(case.contenders["pyrl"](), case.contenders["ref numba"]()):
            np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-3)
    return case


def cases(families: list[str] | None = None) -> Iterator[Case]:
    """The tables of this file, one by one (the largest hold 0.5 GB)."""
    for family in families or list(SHAPES):
        for T, N in SHAPES[family]:
            yield make_case(family, T, N)


# -- measuring ---------------------------------------------------------------------------------------------------------


def measure(contenders: dict[str, Callable[[], object]], rounds: int, seconds: float) -> dict[str, tuple[float, float]]:
    """Minimum and median seconds a call, over rounds in which the contenders take turns."""
    repeats = {}
    for name, run in contenders.items():
        run()
        begin = time.perf_counter()
        run()
        repeats[name] = max(1, int(seconds / rounds / max(time.perf_counter() - begin, 1e-7)))
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, run in contenders.items():
            begin = time.perf_counter()
            for _ in range(repeats[name]):
                run()
            times[name].append((time.perf_counter() - begin) / repeats[name])
    return {name: (min(t), statistics.median(t)) for name, t in times.items()}


def readable(seconds: float) -> str:
    for unit, factor in (("s", 1), ("ms", 1e3), ("us", 1e6)):
        if seconds * factor >= 1:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds * 1e6:.2f} us"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", default=",".join(SHAPES))
    parser.add_argument("--seconds", type=float, default=0.5, help="a contender and case")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=0, help="pyrl's threads; 0: its own choice")
    options = parser.parse_args()
    from pyrl import _core

    _core.set_num_threads(options.threads)
    for case in cases(options.cases.split(",")):
        source, target = np.zeros(case.bytes // 2, np.uint8), np.zeros(case.bytes // 2, np.uint8)
        result = measure(
            {**case.contenders, "copy": partial(np.copyto, target, source)}, options.rounds, options.seconds
        )
        floor = result.pop("copy")[0]
        base = result["pyrl"]
        print(f"\n{case.name}  (pyrl threads: {_core.num_threads()})")
        print(f"  {'':22}{'min':>10}{'median':>10}{'x pyrl':>8}{'GB/s':>8}")
        for name, (low, middle) in sorted(result.items(), key=lambda item: item[1]):
            ratio = middle / base[1]
            print(f"  {name:22}{readable(low):>10}{readable(middle):>10}{ratio:>8.2f}{case.bytes / low / 1e9:>8.1f}")
        ratio, speed = floor / base[0], case.bytes / floor / 1e9
        print(f"  {'floor: a copy':22}{readable(floor):>10}{'':>10}{ratio:>8.2f}{speed:>8.1f}")
        for name, reason in case.missing.items():
            print(f"  {name}: not here ({reason})")


if __name__ == "__main__":
    main()
