"""Random indices, permutations and actions, and running moments.

All samplers share these rules.

- Arrays are NumPy arrays or torch tensors, contiguous, all on the CPU or (in a build with CUDA) on one GPU. Results are of the
  kind of the input, on its device; without an input they are NumPy arrays. ``out`` takes arrays to write to, which
  are returned; they must not share memory with an input or each other. Functions without an input run where ``out`` is.
- ``random`` is a `RandomStream`. A call takes one draw of it, a deterministic call none. What comes out is a pure function of
  the stream's state: the same for any number of threads and any instruction set, to the bit.
- Errors: `ShapeError`, `DTypeError`, `DeviceError`, `NonFiniteError`, ValueError. They name the argument (and the row), and
  neither the outputs nor the stream have changed then.
- On a GPU the work goes onto torch's current stream and nothing waits for it: the same indices, actions
  and permutations as on the CPU, floats within 1e-5. What would need a look at the data is not checked but shows: each function
  says how. In a CUDA graph a replay repeats the draw that was captured, unless the stream's state is on the GPU
  (``RandomStream(seed, device="cuda")``): then it takes the next one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pyrl import _core
from pyrl.errors import ShapeError
from pyrl.ops.random import RandomStream
from pyrl.types import Array

__all__ = [
    "RunningMoments",
    "permutation",
    "sample_categorical",
    "sample_gaussian",
    "sample_multi_categorical",
    "take_rows",
    "uniform_indices",
]


def uniform_indices(size: int, high: int, random: RandomStream, *, replacement: bool = True, out: Array | None = None) -> Array:
    """``size`` uniform integers in {0, ..., high - 1}: int64 [size].

    Without replacement they are distinct, and every ordered selection is equally likely. Exact, by rejection (Lemire, 2019);
    ``high`` may be up to 2^63 - 1.

    >>> uniform_indices(256, len(buffer), random)
    """
    return _core.uniform_indices(size, high, random, replacement, out)


def permutation(n: int, random: RandomStream, out: Array | None = None) -> Array:
    """A random permutation of 0, ..., n - 1: int64 [n]; each of the n! is equally likely (Fisher-Yates, inside out).

    >>> for minibatch in permutation(2048, random).reshape(-1, 64): ...
    """
    return _core.permutation(n, random, out)


def take_rows(columns: tuple[Array, ...], index: Array, out: tuple[Array, ...] | None = None) -> tuple[Array, ...]:
    """The rows ``index`` (int64 [B]) of each of ``columns`` [M, ...], any dtypes: arrays [B, ...].

    ValueError names the first index outside [0, M). On a GPU its rows hold NaN, -1 or the largest unsigned number, and False.

    >>> observation, action, advantage = take_rows((observation, action, advantage), minibatch)
    """
    return _core.take_rows(columns, index, out)


def sample_categorical(
    logits: Array,
    random: RandomStream,
    *,
    deterministic: bool = False,
    mask: Array | None = None,
    out: tuple[Array, Array] | None = None,
) -> tuple[Array, Array]:
    """Draw one action a row: ``(action int64 [B], log_prob float32 [B])`` from ``logits`` float32 [B, K].

    ``mask`` (bool [B, K]) is False where an action is forbidden; forbidden actions, and those whose logit is -inf, are never
    drawn, and ``log_prob`` is relative to the others. ``deterministic`` takes the likeliest action, the first of equal ones.
    `NonFiniteError` names the row with a NaN or a +inf, ValueError the one with no possible action; on a GPU its action is -1 and
    its log_prob NaN.

    >>> action, log_prob = sample_categorical(logits, random)
    """
    return _core.sample_categorical(logits, mask, random, deterministic, out)


def sample_multi_categorical(
    logits: Array,
    nvec: Sequence[int],
    random: RandomStream,
    *,
    deterministic: bool = False,
    mask: Array | None = None,
    out: tuple[Array, Array] | None = None,
) -> tuple[Array, Array]:
    """`sample_categorical` for M independent components whose logits are side by side.

    ``logits`` is float32 [B, sum of nvec]; ``(action int64 [B, M], log_prob float32 [B])``, summed over the components.
    """
    return _core.sample_multi_categorical(logits, nvec, mask, random, deterministic, out)


def sample_gaussian(
    mean: Array,
    log_std: Array,
    random: RandomStream,
    *,
    deterministic: bool = False,
    out: tuple[Array, Array] | None = None,
) -> tuple[Array, Array]:
    """Draw from diagonal Gaussians: ``(action float32 [B, A], log_prob float32 [B])``, summed over A.

    ``mean`` is float32 [B, A]; ``log_std`` float32 [A] or [B, A], in [-80, 80]. Box and Muller (1958). ``log_prob`` is the
    density at the action as it was rounded, so that it agrees with the one computed later from the stored action.
    ``deterministic`` gives the mean. `NonFiniteError` names the row of a NaN or infinity; on a GPU action and log_prob are NaN there.
    """
    return _core.sample_gaussian(mean, log_std, random, deterministic, out)


class RunningMoments:
    """Mean and variance of all rows seen so far, in float64 (Chan, Golub and LeVeque, 1979).

    ``shape`` is that of one item; batches are float32 or float64 [..., *shape]. Before the first row the mean is 0 and the
    variance 1. The variance is that of the population (divided by the count).

    ``device`` (``"cuda"``, ``"cuda:1"``, ..) keeps the moments there, as torch tensors, for batches that are there; `update` and
    `normalize` can be captured in a CUDA graph then, and only reading ``count`` (or ``var``, ``std``) waits for the device.

    >>> moments = RunningMoments((17,))
    >>> moments.update(observation)  # [B, 17]
    >>> moments.normalize(observation, clip=10.0)
    """

    def __init__(self, shape: Sequence[int] = (), *, device: Any = None) -> None:
        self.shape = tuple(int(extent) for extent in shape)
        self.device = device
        self._count: Any = self._here(np.zeros((), np.int64))
        self.mean: Any = self._here(np.zeros(self.shape))
        self._m2: Any = self._here(np.zeros(self.shape))  # sum of squared deviations

    def _here(self, array: np.ndarray) -> Any:
        if self.device is None:
            return array
        import torch

        return torch.as_tensor(array, device=self.device)

    @property
    def count(self) -> int:
        """Rows seen so far."""
        return int(self._count)

    @property
    def var(self) -> Any:
        """float64 [*shape]"""
        count = self.count
        return self._m2 / count if count else self._here(np.ones(self.shape))

    @property
    def std(self) -> Any:
        """float64 [*shape]"""
        return np.sqrt(self.var) if self.device is None else self.var.sqrt()

    @property
    def arrays(self) -> tuple[Any, Any, Any]:
        """(count int64 [], mean, m2): the moments themselves, which `update` and `load_state_dict` change in place."""
        return self._count, self.mean, self._m2

    def update(self, batch: Array) -> None:
        """Add every row of ``batch`` [..., *shape]. `NonFiniteError` for a NaN or infinity; nothing has changed then.

        On a GPU neither is looked for: it makes the moments of its column NaN.
        """
        _core.update_moments(batch, self._count, self.mean, self._m2)

    def normalize(
        self,
        x: Array,
        *,
        clip: float | None = 10.0,
        epsilon: float = 1e-8,
        center: bool = True,
        out: Array | None = None,
    ) -> Array:
        """``(x - mean) / sqrt(var + epsilon)`` within [-clip, clip]: float32, shape of ``x`` [..., *shape].

        ``clip=None`` leaves it unbounded, ``center=False`` does not subtract the mean. NaN stays NaN. ``out`` may be ``x``.
        """
        return _core.normalize(x, self._count, self.mean, self._m2, clip, epsilon, center, out)

    def state_dict(self) -> dict[str, Any]:
        """Copies of the arrays ``count``, ``mean``, ``m2``: NumPy, whatever the device."""
        mean, m2 = (np.array(array if self.device is None else array.cpu()) for array in (self.mean, self._m2))
        return {"count": np.array(self.count), "mean": mean, "m2": m2}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        mean, m2 = (np.array(state[name], dtype=np.float64) for name in ("mean", "m2"))
        for name, array in (("mean", mean), ("m2", m2)):
            if array.shape != self.shape:
                raise ShapeError(f"RunningMoments: {name} has shape {list(array.shape)}, expected {list(self.shape)}")
        # In place: others may hold the arrays, CUDA graphs among them.
        self._count[...], self.mean[...], self._m2[...] = int(state["count"]), self._here(mean), self._here(m2)
