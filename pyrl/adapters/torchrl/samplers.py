"""The host's samplers by pyrl's draws, over any storage."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torchrl.data.replay_buffers import samplers as host
from torchrl.data.replay_buffers.utils import unravel_index

from pyrl import ops
from pyrl.adapters.columns import count, device_of
from pyrl.errors import CheckpointError, DeviceError, DTypeError, NonFiniteError, SettingError, ShapeError

_NUMBERS = (torch.float32, torch.float64)
_REDUCTIONS = ("max", "min", "median", "mean")


class _Random:
    """The stream of a sampler: from the host's generator where it has one, else from NumPy's global seed, as the host's own draws."""

    def __init__(self) -> None:
        self._generator: torch.Generator | None = None
        self._stream = ops.RandomStream(int(np.random.randint(2**31)), "torchrl")  # noqa: NPY002

    def __call__(self, generator: torch.Generator | None) -> ops.RandomStream:
        if generator is not None and generator is not self._generator:
            self._generator = generator
            self._stream = ops.RandomStream(int(torch.randint(2**62, (), generator=generator)), "torchrl")
        return self._stream

    def __getstate__(self) -> dict[str, Any]:
        return {"_generator": None, "_stream": self._stream}  # the host hands a generator to its samplers anew


def _unravelled(index: torch.Tensor, storage: Any) -> Any:
    return index if storage.ndim == 1 else unravel_index(index, storage.shape)


class RandomSampler(host.RandomSampler):
    """The host's RandomSampler by pyrl's uniform indices. The host's time goes to its storage, not to the indices."""

    def __init__(self) -> None:
        self._random = _Random()

    def sample(self, storage: Any, batch_size: int) -> tuple[Any, dict[str, Any]]:
        if len(storage) == 0:
            raise RuntimeError("sample: storage is empty")
        batch_size = count("sample", "batch_size", batch_size)
        size = len(storage) if storage.ndim == 1 else len(storage) * int(np.prod(storage.shape[1:]))
        index = ops.uniform_indices(batch_size, size, self._random(self._rng), out=torch.empty(batch_size, dtype=torch.int64))
        return _unravelled(index, storage), {}


class PrioritizedSampler(host.PrioritizedSampler):
    """The host's PrioritizedSampler on one sum tree of float64.

    Element i is drawn in proportion to ``(priority_i + eps)^alpha``; draws are stratified. ``priority_weight`` is
    ``(p_i / min p)^-beta``, as the host's.

    Args:
        max_capacity: elements of the storage.
        alpha, beta: not negative; ``beta`` may be set at any time, ``alpha`` too.
        eps: added to every priority, positive.
        dtype: of ``priority_weight``: float32 or float64.
        reduction: what the host's buffers make of a trajectory's priorities: "max", "min", "median", "mean".
        max_priority_within_buffer: a new element gets the largest priority in the tree; else the largest ever given.
        device: "cpu" or None.
    """

    def __init__(
        self,
        max_capacity: int,
        alpha: float,
        beta: float,
        eps: float = 1e-8,
        dtype: torch.dtype = torch.float,
        reduction: str = "max",
        max_priority_within_buffer: bool = False,
        device: torch.device | str | None = None,
    ) -> None:
        for name, value in (("alpha", alpha), ("beta", beta), ("eps", eps)):
            if not isinstance(value, (int, float, torch.Tensor)) or not 0 <= value < float("inf") or (name == "eps" and value == 0):
                raise SettingError(
                    f"PrioritizedSampler: {name} is {value!r}, expected a {'positive' if name == 'eps' else 'non-negative'} number"
                )
        if dtype not in _NUMBERS:
            raise DTypeError(f"PrioritizedSampler: dtype is {dtype}, expected torch.float32 or torch.float64")
        if device is not None and device_of("PrioritizedSampler", device).type != "cpu":
            raise DeviceError(f"PrioritizedSampler: device is {device}, expected the CPU, where the tree is")
        if reduction not in _REDUCTIONS:
            raise SettingError(f"PrioritizedSampler: reduction is {reduction!r}, expected one of {', '.join(_REDUCTIONS)}")
        max_capacity = count("PrioritizedSampler", "max_capacity", max_capacity)
        self._max_capacity, self._alpha, self._beta, self._eps = max_capacity, float(alpha), float(beta), float(eps)
        self.dtype, self.reduction, self._max_priority_within_buffer = dtype, reduction, max_priority_within_buffer
        self._device = torch.device("cpu")
        self._random = _Random()
        self._tree = ops.SumTree(max_capacity)
        self._largest: float | None = None  # priority ever given

    def _init(self) -> None:
        self._tree.clear()
        self._largest = None

    @property
    def device(self) -> torch.device:
        return self._device

    @property
    def alpha(self) -> float:
        return self._alpha

    @alpha.setter
    def alpha(self, alpha: float) -> None:
        """What is stored is raised anew: the probabilities are those of the new exponent."""
        if not 0 <= alpha < float("inf"):
            raise SettingError(f"PrioritizedSampler: alpha is {alpha}, expected a non-negative number")
        before, self._alpha = self._alpha, float(alpha)
        if before not in (0.0, self._alpha):  # of 0 all are 1, whatever they were
            weight = self._tree.weights()
            (there,) = np.nonzero(weight)
            self._tree.set(there, weight[there] ** (self._alpha / before))

    @property
    def default_priority(self) -> float:
        """Of a new element."""
        if self._max_priority_within_buffer and self._alpha > 0:
            largest = self._tree.largest
            return largest ** (1 / self._alpha) - self._eps if largest > 0 else 1.0
        return 1.0 if self._largest is None else self._largest

    def sample(self, storage: Any, batch_size: int) -> tuple[Any, dict[str, Any]]:
        if len(storage) == 0:
            raise RuntimeError("sample: storage is empty")
        index = self._tree.draw(count("sample", "batch_size", batch_size), self._random(self._rng), kind="torch")
        weight = self._tree.importance(index, self._beta)
        return _unravelled(index, storage), {"priority_weight": weight if self.dtype is torch.float32 else weight.to(self.dtype)}

    def add(self, index: Any) -> None:
        pass  # the host's buffers give new elements their priority themselves

    def extend(self, index: Any) -> None:
        pass

    def update_priority(self, index: Any, priority: Any, *, storage: Any = None) -> None:
        """New priorities, one number for all or one each. Elements of index -1 are left out, as the host's MaxValueWriter wants it.

        ``index`` is int64 [B], or [B, dimensions of ``storage``]. ShapeError, NonFiniteError, ValueError name the argument.
        """
        index = torch.as_tensor(index, device="cpu")
        if index.dtype is torch.bool or (index.is_floating_point() and index.numel()):
            raise DTypeError(f"update_priority: index has dtype {index.dtype}, expected integers")
        index = index.to(torch.int64)
        if index.ndim > 1:
            if storage is None:
                raise ShapeError(f"update_priority: index has shape {list(index.shape)}, which needs storage")
            index = torch.as_tensor(np.ravel_multi_index(tuple(index.T.numpy()), tuple(storage.shape)))
        index = index.reshape(-1)
        priority = torch.as_tensor(priority, device="cpu").detach()
        priority = (priority if priority.dtype in _NUMBERS else priority.to(torch.float64)).reshape(-1)
        if priority.numel() == 1:
            priority = priority.expand(index.numel())
        if priority.numel() != index.numel():
            raise ShapeError(f"update_priority: priority has {priority.numel()} elements, index has {index.numel()}")
        if index.numel() == 0:
            return
        if int(index.min()) < 0:
            index, priority = index[index >= 0], priority[index >= 0]
            if index.numel() == 0:
                return
        try:
            self._tree.set_priority(index.contiguous(), priority.contiguous(), alpha=self._alpha, epsilon=self._eps)
        except (ValueError, NonFiniteError) as error:
            raise type(error)(str(error).replace("SumTree.set_priority", "update_priority")) from None
        largest = float(priority.max())
        self._largest = largest if self._largest is None else max(largest, self._largest)

    def state_dict(self) -> dict[str, Any]:
        """Numbers and one tensor: float64 [max_capacity], the leaves of the tree."""
        return {**self._numbers(), "tree": torch.from_numpy(self._tree.weights())}

    def _numbers(self) -> dict[str, Any]:
        return {"alpha": self._alpha, "beta": self._beta, "eps": self._eps, "largest": self._largest}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """ValueError if it is not of a sampler like this one, CheckpointError if it is damaged; then nothing has changed."""
        if not isinstance(state_dict, Mapping):
            raise CheckpointError(f"load_state_dict: state_dict is a {type(state_dict).__name__}, expected what state_dict() gives")
        if missing := sorted({*self._numbers(), "tree"} - state_dict.keys()):
            raise ValueError(f"load_state_dict: state_dict has no {missing[0]!r}: it is not of pyrl.adapters.torchrl.PrioritizedSampler")
        numbers = {name: state_dict[name] for name in self._numbers()}
        for name, value in numbers.items():
            if name == "largest" and value is None:
                continue
            if not isinstance(value, int | float) or not 0 <= value < float("inf") or (name == "eps" and value == 0):
                expected = "a positive number" if name == "eps" else "a number from 0"
                raise CheckpointError(f"load_state_dict: state_dict is damaged: {name} is {value!r}, expected {expected}")
        tree = state_dict["tree"]
        if not isinstance(tree, torch.Tensor) or not tree.is_floating_point():
            what = tree.dtype if isinstance(tree, torch.Tensor) else f"a {type(tree).__name__}"
            raise CheckpointError(f"load_state_dict: state_dict is damaged: tree is {what}, expected a tensor of float64")
        if tuple(tree.shape) != (self._max_capacity,):
            raise ShapeError(f"load_state_dict: tree has shape {list(tree.shape)}, expected [{self._max_capacity}], max_capacity")
        try:
            self._tree.set(np.arange(self._max_capacity), tree.to(torch.float64).numpy())
        except (ValueError, NonFiniteError) as error:
            raise CheckpointError(f"load_state_dict: state_dict is damaged: {error}") from None
        self._alpha, self._beta, self._eps, self._largest = (numbers[name] for name in ("alpha", "beta", "eps", "largest"))

    def dumps(self, path: Any) -> None:
        """A folder with the tree's leaves (.npy) and the numbers (.json)."""
        folder = Path(path)
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / "tree.npy", self._tree.weights())
        (folder / "sampler.json").write_text(json.dumps(self._numbers()))

    def loads(self, path: Any) -> None:
        """`load_state_dict` of the folder; CheckpointError where it cannot be read."""
        folder = Path(path)
        try:
            tree = torch.from_numpy(np.load(folder / "tree.npy", allow_pickle=False))
            numbers = dict(json.loads((folder / "sampler.json").read_text()))
        except (ValueError, TypeError, OSError, EOFError) as error:
            raise CheckpointError(f"PrioritizedSampler: the files in {folder} are damaged: {error}") from None
        self.load_state_dict({**numbers, "tree": tree})

    def __repr__(self) -> str:
        return f"PrioritizedSampler(alpha={self._alpha}, beta={self._beta}, eps={self._eps}, reduction={self.reduction})"
