"""Actions with their log-probabilities, indices, permutations and running moments: pyrl against short references.

Every contender starts from its own kind of array (NumPy, or torch for torch code) and makes its outputs afresh unless its
name says ``out=``. Actions are int64 or float32, log-probabilities float32. Numbers are random, so there is no answer to agree on.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import _data
import numpy as np
from _timing import Case, contender

from pyrl.ops.random import RandomStream
from pyrl.ops.sampling import RunningMoments, permutation, sample_categorical, sample_gaussian, uniform_indices

LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)
GOALS = {  # microseconds: numba with one thread, or torch.randn and the formula, measured on the machine of docs/performance.md
    "categorical4": {8: 1.88, 256: 14.0, 4096: 203.0},
    "normal6": {8: 3.03, 256: 26.7, 4096: 147.0},
}
CASES = [
    *(
        Case(f"categorical4 sample+logp b{b}", "sampling.categorical", {"batch": b, "count": 4}, b, "actions", (f"pyrl <= {goal} us",))
        for b, goal in GOALS["categorical4"].items()
    ),
    *(
        Case(f"normal6 sample+logp b{b}", "sampling.gaussian", {"batch": b, "size": 6}, b, "actions", (f"pyrl <= {goal} us",))
        for b, goal in GOALS["normal6"].items()
    ),
    *(Case(f"permutation {n}", "sampling.permutation", {"n": n}, n, "elements") for n in (1024, 8192, 65536)),
    *(Case(f"indices {n} of 1e6", "sampling.indices", {"n": n}, n, "indices") for n in (32, 256, 4096)),
    *(Case(f"distinct indices {n} of 1e6", "sampling.distinct", {"n": n}, n, "indices") for n in (256, 4096)),
    *(
        Case(f"{name} {b}x{d}", f"sampling.{op}", {"batch": b, "size": d}, b * d, "elements")
        for name, op in (("moments update", "update"), ("normalize", "normalize"))
        for b, d in ((8, 17), (2048, 17), (256, 376))
    ),
]  # fmt: skip
HIGH = 1_000_000


@contender("sampling.categorical", "pyrl")
def categorical(batch: int, count: int) -> Callable[[], Any]:
    return partial(sample_categorical, _data.logits(batch, count), RandomStream(0))


@contender("sampling.categorical", "pyrl out=")
def categorical_out(batch: int, count: int) -> Callable[[], Any]:
    out = np.empty(batch, np.int64), np.empty(batch, np.float32)
    return partial(sample_categorical, _data.logits(batch, count), RandomStream(0), out=out)


@contender("sampling.categorical", "pyrl torch")
def categorical_torch(batch: int, count: int) -> Callable[[], Any]:
    import torch

    return partial(sample_categorical, torch.from_numpy(_data.logits(batch, count)), RandomStream(0))


@contender("sampling.categorical", "ref numpy")
def categorical_numpy(batch: int, count: int) -> Callable[[], Any]:
    logits, rng, rows = _data.logits(batch, count), np.random.default_rng(0), np.arange(batch)

    def call() -> Any:
        shifted = logits - logits.max(axis=1, keepdims=True)
        cumulative = np.exp(shifted).cumsum(axis=1)
        total = cumulative[:, -1]
        action = (cumulative <= (rng.random(batch, dtype=np.float32) * total)[:, None]).sum(axis=1)
        return action, shifted[rows, action] - np.log(total)

    return call


@contender("sampling.categorical", "ref torch")
def categorical_by_torch(batch: int, count: int) -> Callable[[], Any]:
    import torch

    logits = torch.from_numpy(_data.logits(batch, count))

    def call() -> Any:
        log_p = torch.log_softmax(logits, 1)
        action = torch.multinomial(log_p.exp(), 1)
        return action.squeeze(1), log_p.gather(1, action).squeeze(1)

    return call


@contender("sampling.gaussian", "pyrl")
def gaussian(batch: int, size: int) -> Callable[[], Any]:
    return partial(sample_gaussian, *_data.gaussians(batch, size), RandomStream(0))


@contender("sampling.gaussian", "pyrl out=")
def gaussian_out(batch: int, size: int) -> Callable[[], Any]:
    out = np.empty((batch, size), np.float32), np.empty(batch, np.float32)
    return partial(sample_gaussian, *_data.gaussians(batch, size), RandomStream(0), out=out)


@contender("sampling.gaussian", "pyrl torch")
def gaussian_torch(batch: int, size: int) -> Callable[[], Any]:
    import torch

    return partial(sample_gaussian, *map(torch.from_numpy, _data.gaussians(batch, size)), RandomStream(0))


@contender("sampling.gaussian", "ref numpy")
def gaussian_numpy(batch: int, size: int) -> Callable[[], Any]:
    (mean, log_std), rng = _data.gaussians(batch, size), np.random.default_rng(0)

    def call() -> Any:
        z = rng.standard_normal((batch, size), np.float32)
        return mean + np.exp(log_std) * z, -0.5 * (z * z).sum(axis=1) - (log_std.sum() + size * LOG_SQRT_2PI)

    return call


@contender("sampling.gaussian", "ref torch")
def gaussian_by_torch(batch: int, size: int) -> Callable[[], Any]:
    import torch

    mean, log_std = map(torch.from_numpy, _data.gaussians(batch, size))

    def call() -> Any:
        z = torch.randn(batch, size)
        return mean + log_std.exp() * z, -0.5 * z.square().sum(1) - (log_std.sum() + size * LOG_SQRT_2PI)

    return call


@cache
def numba_kernels() -> dict[str, Callable[..., Any]]:
    from numba import njit

    f4 = np.float32

    @njit(fastmath=True)
    def categorical(logits):
        batch, count = logits.shape
        action, log_prob = np.empty(batch, np.int64), np.empty(batch, f4)
        for b in range(batch):
            largest, total = logits[b, 0], f4(0)
            for k in range(1, count):
                largest = max(largest, logits[b, k])
            for k in range(count):
                total += np.exp(logits[b, k] - largest)
            left, a = f4(np.random.random()) * total, 0  # noqa: NPY002
            while a < count - 1:
                left -= np.exp(logits[b, a] - largest)
                if left < 0:
                    break
                a += 1
            action[b], log_prob[b] = a, logits[b, a] - largest - np.log(total)
        return action, log_prob

    @njit(fastmath=True)
    def gaussian(mean, log_std):
        action, log_prob = np.empty_like(mean), np.empty(mean.shape[0], f4)
        std, base = np.exp(log_std), log_std.sum() + f4(mean.shape[1] * LOG_SQRT_2PI)
        for b in range(mean.shape[0]):
            total = f4(0)
            for a in range(mean.shape[1]):
                z = f4(np.random.standard_normal())  # noqa: NPY002
                action[b, a] = mean[b, a] + std[a] * z
                total += z * z
            log_prob[b] = f4(-0.5) * total - base
        return action, log_prob

    @njit
    def permutation(n):
        out = np.arange(n)
        for i in range(n - 1, 0, -1):
            j = np.random.randint(0, i + 1)  # noqa: NPY002
            out[i], out[j] = out[j], out[i]
        return out

    @njit
    def indices(n, high):
        out = np.empty(n, np.int64)
        for i in range(n):
            out[i] = np.random.randint(0, high)  # noqa: NPY002
        return out

    @njit(fastmath=True)
    def update(batch, count, mean, m2):
        for b in range(batch.shape[0]):
            count += 1
            for d in range(batch.shape[1]):
                delta = batch[b, d] - mean[d]
                mean[d] += delta / count
                m2[d] += delta * (batch[b, d] - mean[d])
        return count

    @njit(fastmath=True)
    def normalize(x, mean, var):
        out, scale = np.empty(x.shape, f4), 1 / np.sqrt(var + 1e-8)
        for b in range(x.shape[0]):
            for d in range(x.shape[1]):
                out[b, d] = min(10.0, max(-10.0, (x[b, d] - mean[d]) * scale[d]))
        return out

    return {
        "categorical": categorical, "gaussian": gaussian, "permutation": permutation,
        "indices": indices, "update": update, "normalize": normalize,
    }  # fmt: skip


def warm(call: Callable[[], Any]) -> Callable[[], Any]:
    call()  # compiles
    return call


@contender("sampling.categorical", "ref numba")
def categorical_numba(batch: int, count: int) -> Callable[[], Any]:
    return warm(partial(numba_kernels()["categorical"], _data.logits(batch, count)))


@contender("sampling.gaussian", "ref numba")
def gaussian_numba(batch: int, size: int) -> Callable[[], Any]:
    return warm(partial(numba_kernels()["gaussian"], *_data.gaussians(batch, size)))


contender("sampling.permutation", "pyrl")(lambda n: partial(permutation, n, RandomStream(0)))
contender("sampling.permutation", "pyrl out=")(lambda n: partial(permutation, n, RandomStream(0), np.empty(n, np.int64)))
contender("sampling.permutation", "ref numpy")(lambda n: partial(np.random.default_rng(0).permutation, n))
contender("sampling.permutation", "ref numba")(lambda n: warm(partial(numba_kernels()["permutation"], n)))
contender("sampling.indices", "pyrl")(lambda n: partial(uniform_indices, n, HIGH, RandomStream(0)))
contender("sampling.indices", "ref numpy")(lambda n: partial(np.random.default_rng(0).integers, HIGH, size=n))
contender("sampling.indices", "ref numba")(lambda n: warm(partial(numba_kernels()["indices"], n, HIGH)))
contender("sampling.distinct", "pyrl")(lambda n: partial(uniform_indices, n, HIGH, RandomStream(0), replacement=False))
contender("sampling.distinct", "ref numpy")(lambda n: partial(np.random.default_rng(0).choice, HIGH, n, replace=False))


@contender("sampling.permutation", "ref torch")
def permutation_by_torch(n: int) -> Callable[[], Any]:
    import torch

    return partial(torch.randperm, n)


@contender("sampling.indices", "ref torch")
def indices_by_torch(n: int) -> Callable[[], Any]:
    import torch

    return partial(torch.randint, 0, HIGH, (n,))


def rows(batch: int, size: int) -> np.ndarray:
    return np.random.default_rng(batch).standard_normal((batch, size), np.float32)


@contender("sampling.update", "pyrl")
def update(batch: int, size: int) -> Callable[[], Any]:
    return partial(RunningMoments((size,)).update, rows(batch, size))


@contender("sampling.update", "ref numpy")
def update_numpy(batch: int, size: int) -> Callable[[], Any]:
    x, state = rows(batch, size), [0.0, np.zeros(size), np.ones(size)]

    def call() -> None:  # as Stable-Baselines3's RunningMeanStd
        count, mean, var = state
        batch_mean, batch_var = x.mean(axis=0), x.var(axis=0)
        total, delta = count + batch, batch_mean - mean
        m2 = var * count + batch_var * batch + delta**2 * (count * batch / total)
        state[:] = total, mean + delta * (batch / total), m2 / total

    return call


@contender("sampling.update", "ref numba")
def update_numba(batch: int, size: int) -> Callable[[], Any]:
    return warm(partial(numba_kernels()["update"], rows(batch, size), 0, np.zeros(size), np.zeros(size)))


@contender("sampling.normalize", "pyrl")
def normalize(batch: int, size: int) -> Callable[[], Any]:
    x, moments = rows(batch, size), RunningMoments((size,))
    moments.update(x)
    return partial(moments.normalize, x)


@contender("sampling.normalize", "ref numpy")
def normalize_numpy(batch: int, size: int) -> Callable[[], Any]:
    x = rows(batch, size)
    mean, var = x.mean(axis=0, dtype=np.float64), x.var(axis=0, dtype=np.float64)
    return lambda: np.clip((x - mean) / np.sqrt(var + 1e-8), -10, 10).astype(np.float32)


@contender("sampling.normalize", "ref numba")
def normalize_numba(batch: int, size: int) -> Callable[[], Any]:
    x = rows(batch, size)
    return warm(partial(numba_kernels()["normalize"], x, x.mean(axis=0, dtype=np.float64), x.var(axis=0, dtype=np.float64)))
