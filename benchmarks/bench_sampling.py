"""Acting: actions and log-probs from the outputs of a policy network; and drawing indices and permutations.

pyrl and the references draw from their own generators, so nothing but the distribution is the same. `ref torch` is the formula in
bare torch calls, without `torch.distributions` (a peer, as Stable-Baselines3's distributions are).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from math import log, pi
from typing import Any

import _data
import numpy as np
from _timing import Case, contender

from pyrl.ops import RandomStream, sampling

BATCHES = (8, 256, 4096)
CASES = [
    *(Case(f"categorical4 b{b}", "sampling.categorical", {"batch": b, "count": 4}, b, "actions") for b in BATCHES),
    *(Case(f"gaussian6 b{b}", "sampling.gaussian", {"batch": b, "size": 6}, b, "actions") for b in BATCHES),
    *(Case(f"indices b{b} of 10^6", "sampling.indices", {"batch": b, "high": 1_000_000}, b, "indices") for b in (32, 256, 4096)),
    *(Case(f"permutation {n}", "sampling.permutation", {"n": n}, n, "indices") for n in (1024, 65536)),
]


def stream() -> RandomStream:
    return RandomStream(0, "benchmark")


def register_pyrl(op: str, function: Callable[..., Any], inputs: Callable[..., tuple[np.ndarray, ...]]) -> None:
    @contender(op, "pyrl")
    def fresh(**params: int) -> Callable[[], object]:
        return partial(function, *inputs(**params), stream())

    @contender(op, "pyrl out=")
    def in_place(**params: int) -> Callable[[], object]:
        arrays = inputs(**params)
        return partial(function, *arrays, stream(), out=function(*arrays, stream()))

    @contender(op, "pyrl torch")
    def on_torch(**params: int) -> Callable[[], object]:
        import torch

        return partial(function, *map(torch.from_numpy, inputs(**params)), stream())


register_pyrl("sampling.categorical", sampling.sample_categorical, lambda batch, count: (_data.logits(batch, count),))
register_pyrl("sampling.gaussian", sampling.sample_gaussian, _data.gaussians)


@contender("sampling.indices", "pyrl")
def indices(batch: int, high: int) -> Callable[[], object]:
    return partial(sampling.uniform_indices, batch, high, stream())


@contender("sampling.indices", "ref numpy")
def numpy_indices(batch: int, high: int) -> Callable[[], object]:
    return partial(np.random.default_rng(0).integers, 0, high, batch)


@contender("sampling.indices", "ref torch")
def torch_indices(batch: int, high: int) -> Callable[[], object]:
    import torch

    return partial(torch.randint, high, (batch,))


@contender("sampling.permutation", "pyrl")
def permutation(n: int) -> Callable[[], object]:
    return partial(sampling.permutation, n, stream())


@contender("sampling.permutation", "ref numpy")
def numpy_permutation(n: int) -> Callable[[], object]:
    return partial(np.random.default_rng(0).permutation, n)


@contender("sampling.permutation", "ref torch")
def torch_permutation(n: int) -> Callable[[], object]:
    import torch

    return partial(torch.randperm, n)


# -- references for actions --------------------------------------------------------------------------------------------


@contender("sampling.categorical", "ref numpy")
def numpy_categorical(batch: int, count: int) -> Callable[[], object]:
    logits, rng, rows = _data.logits(batch, count), np.random.default_rng(0), np.arange(batch)

    def call() -> tuple[np.ndarray, np.ndarray]:
        weight = np.exp(logits - logits.max(axis=1, keepdims=True))
        cumulative = weight.cumsum(axis=1)
        total = cumulative[:, -1]
        action = (cumulative[:, :-1] <= (rng.random(batch, np.float32) * total)[:, None]).sum(axis=1)
        return action, np.log(weight[rows, action] / total)

    return call


@contender("sampling.categorical", "ref torch")
def torch_categorical(batch: int, count: int) -> Callable[[], object]:
    import torch

    logits = torch.from_numpy(_data.logits(batch, count))

    def call() -> tuple[Any, Any]:
        log_prob = torch.log_softmax(logits, 1)
        action = torch.multinomial(log_prob.exp(), 1)
        return action[:, 0], log_prob.gather(1, action)[:, 0]

    return call


@contender("sampling.categorical", "ref numba")
def numba_categorical(batch: int, count: int) -> Callable[[], object]:
    return partial(numba_references()["categorical"], _data.logits(batch, count))


@contender("sampling.gaussian", "ref numpy")
def numpy_gaussian(batch: int, size: int) -> Callable[[], object]:
    (mean, log_std), rng = _data.gaussians(batch, size), np.random.default_rng(0)

    def call() -> tuple[np.ndarray, np.ndarray]:
        noise = rng.standard_normal(mean.shape, np.float32)
        constant = -log_std.sum() - np.float32(0.5 * size * log(2 * pi))
        return mean + np.exp(log_std) * noise, constant - 0.5 * np.einsum("ij,ij->i", noise, noise)

    return call


@contender("sampling.gaussian", "ref torch")
def torch_gaussian(batch: int, size: int) -> Callable[[], object]:
    import torch

    mean, log_std = map(torch.from_numpy, _data.gaussians(batch, size))

    def call() -> tuple[Any, Any]:
        noise = torch.randn_like(mean)
        constant = -log_std.sum() - 0.5 * size * log(2 * pi)
        return torch.addcmul(mean, noise, log_std.exp()), constant - 0.5 * noise.square().sum(1)

    return call


@contender("sampling.gaussian", "ref numba")
def numba_gaussian(batch: int, size: int) -> Callable[[], object]:
    return partial(numba_references()["gaussian"], *_data.gaussians(batch, size))


@cache
def numba_references() -> dict[str, Callable[..., Any]]:
    from numba import njit

    @njit
    def categorical(logits):
        batch, count = logits.shape
        action, log_prob = np.empty(batch, np.int64), np.empty(batch, np.float32)
        weight = np.empty(count, np.float32)
        for i in range(batch):
            largest, total = logits[i].max(), np.float32(0)
            for k in range(count):
                weight[k] = np.exp(logits[i, k] - largest)
                total += weight[k]
            left, chosen = np.random.random() * total, 0  # noqa: NPY002
            while chosen < count - 1 and left >= weight[chosen]:
                left -= weight[chosen]
                chosen += 1
            action[i], log_prob[i] = chosen, logits[i, chosen] - largest - np.log(total)
        return action, log_prob

    @njit
    def gaussian(mean, log_std):
        batch, size = mean.shape
        action, log_prob = np.empty_like(mean), np.empty(batch, np.float32)
        std, constant = np.exp(log_std), -log_std.sum() - np.float32(0.5 * size * np.log(2 * np.pi))
        for i in range(batch):
            squares = np.float32(0)
            for j in range(size):
                noise = np.float32(np.random.normal())  # noqa: NPY002
                squares += noise * noise
                action[i, j] = mean[i, j] + std[j] * noise
            log_prob[i] = constant - np.float32(0.5) * squares
        return action, log_prob

    return {"categorical": categorical, "gaussian": gaussian}
