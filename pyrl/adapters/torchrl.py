"""TorchRL's samplers, generalized advantages and V-trace (0.14).

The samplers go to TorchRL's replay buffers by ``sampler=``, over any of its storages; the functions take the place of those in
``torchrl.objectives.value.functional``. docs/coming_from/torchrl.md has what differs.
"""

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
from pyrl.errors import DeviceError, DTypeError, NonFiniteError, SettingError, ShapeError

__all__ = ["PrioritizedSampler", "RandomSampler", "generalized_advantage_estimate", "vtrace_advantage_estimate"]

_NUMBERS = (torch.float32, torch.float64)


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
        if device is not None and torch.device(device).type != "cpu":
            raise DeviceError(f"PrioritizedSampler: device is {device}, expected the CPU, where the tree is")
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
        index = self._tree.draw(batch_size, self._random(self._rng), kind="torch")
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
        index = torch.as_tensor(index, dtype=torch.int64, device="cpu")
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
        """ValueError if it is not of a sampler like this one; then nothing has changed."""
        if missing := sorted({*self._numbers(), "tree"} - state_dict.keys()):
            raise ValueError(f"load_state_dict: state_dict has no {missing[0]!r}: it is not of pyrl.adapters.torchrl.PrioritizedSampler")
        tree = state_dict["tree"]
        if tuple(tree.shape) != (self._max_capacity,):
            raise ShapeError(f"load_state_dict: tree has shape {list(tree.shape)}, expected [{self._max_capacity}], max_capacity")
        self._tree.set(np.arange(self._max_capacity), tree.to(torch.float64).numpy())
        self._alpha, self._beta, self._eps = (state_dict[name] for name in ("alpha", "beta", "eps"))
        self._largest = state_dict["largest"]

    def dumps(self, path: Any) -> None:
        """A folder with the tree's leaves (.npy) and the numbers (.json)."""
        folder = Path(path)
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / "tree.npy", self._tree.weights())
        (folder / "sampler.json").write_text(json.dumps(self._numbers()))

    def loads(self, path: Any) -> None:
        folder = Path(path)
        tree = torch.from_numpy(np.load(folder / "tree.npy", allow_pickle=False))
        self.load_state_dict({**json.loads((folder / "sampler.json").read_text()), "tree": tree})

    def __repr__(self) -> str:
        return f"PrioritizedSampler(alpha={self._alpha}, beta={self._beta}, eps={self._eps}, reduction={self.reduction})"


def generalized_advantage_estimate(
    gamma: float,
    lmbda: float,
    state_value: torch.Tensor,
    next_state_value: torch.Tensor,
    reward: torch.Tensor,
    done: torch.Tensor,
    terminated: torch.Tensor | None = None,
    *,
    time_dim: int = -2,
) -> tuple[torch.Tensor, torch.Tensor]:
    """``(advantage, value_target)`` of tensors of one shape, [*batch, T, *features] where ``time_dim`` is -2.

    ``done`` ends the sums, ``terminated`` (``done`` where it is None) removes the bootstrap value: a time limit is done and not terminated.
    ``gamma`` and ``lmbda`` are numbers in [0, 1]. Results have the dtype of ``next_state_value`` and no gradient: a tensor that requires
    one is refused where gradients are on. ShapeError, DTypeError, DeviceError, ValueError name the argument.
    """
    function = "generalized_advantage_estimate"
    numbers = _numbers(function, {"gamma": gamma, "lmbda": lmbda})
    tensors = {"state_value": state_value, "next_state_value": next_state_value, "reward": reward, "done": done, "terminated": terminated}
    steps = _Steps(function, tensors, "next_state_value", time_dim)
    value, following, rewards = map(steps.numbers, (state_value, next_state_value, reward))
    ended = steps.flags(done)
    end = ended if terminated is None else steps.flags(terminated)
    return steps.back(*ops.gae(rewards, value, following, end, ended, gamma=numbers[0], gae_lambda=numbers[1]))


def vtrace_advantage_estimate(
    gamma: float,
    log_pi: torch.Tensor,
    log_mu: torch.Tensor,
    state_value: torch.Tensor,
    next_state_value: torch.Tensor,
    reward: torch.Tensor,
    done: torch.Tensor,
    terminated: torch.Tensor | None = None,
    rho_thresh: float | torch.Tensor = 1.0,
    c_thresh: float | torch.Tensor = 1.0,
    time_dim: int = -2,
) -> tuple[torch.Tensor, torch.Tensor]:
    """``(advantage, value_target)`` by V-trace: shapes, flags and errors as `generalized_advantage_estimate`.

    Where a step does not end, its ``next_state_value`` is taken to be the ``state_value`` of the step after it.
    ``log_pi`` is the learned policy's, ``log_mu`` that of the policy that acted. ``rho_thresh`` and ``c_thresh`` clip their ratio: numbers,
    or tensors of one element.
    """
    function = "vtrace_advantage_estimate"
    numbers = _numbers(function, {"gamma": gamma, "rho_thresh": rho_thresh, "c_thresh": c_thresh})
    tensors = {
        "log_pi": log_pi, "log_mu": log_mu, "state_value": state_value, "next_state_value": next_state_value, "reward": reward,
        "done": done, "terminated": terminated,
    }  # fmt: skip
    steps = _Steps(function, tensors, "next_state_value", time_dim)
    columns = [steps.numbers(tensor) for tensor in (log_pi, log_mu, reward, state_value, next_state_value)]
    ended = steps.flags(done)
    end = ended if terminated is None else steps.flags(terminated)
    log_prob, behaviour, rewards, value, following = columns
    target, advantage = ops.vtrace(
        log_prob, behaviour, rewards, value, following, end, ended, gamma=numbers[0], rho_bar=numbers[1], c_bar=numbers[2]
    )
    return steps.back(advantage, target)


def _numbers(function: str, given: Mapping[str, Any]) -> list[float]:
    found = []
    for name, value in given.items():
        try:
            found.append(float(value))
        except (TypeError, ValueError, RuntimeError):
            raise DTypeError(f"{function}: {name} is {value!r}, expected a number") from None
    for name, number in zip(given, found):
        if name in ("gamma", "lmbda") and not 0 <= number <= 1:
            raise SettingError(f"{function}: {name} is {number}, expected a number in [0, 1]")
    return found


class _Steps:
    """Tensors of one shape, time in any dimension, as contiguous [T, N] and back."""

    def __init__(self, function: str, tensors: Mapping[str, Any], like: str, time_dim: int) -> None:
        for name, tensor in tensors.items():
            if tensor is None and name == "terminated":
                continue
            if not isinstance(tensor, torch.Tensor):
                raise DTypeError(f"{function}: {name} is a {type(tensor).__name__}, expected a tensor")
            if tensor.shape != tensors[like].shape:
                raise ShapeError(f"{function}: {name} has shape {list(tensor.shape)}, expected {list(tensors[like].shape)}, that of {like}")
            if tensor.requires_grad and torch.is_grad_enabled():
                raise DTypeError(f"{function}: {name} requires grad, and the result has none; detach it, or call under torch.no_grad()")
        self.shape, self.dtype = tensors[like].shape, tensors[like].dtype
        if not -len(self.shape) <= time_dim < len(self.shape):
            raise ShapeError(f"{function}: time_dim is {time_dim}, and {like} has shape {list(self.shape)}")
        self.time_dim = time_dim
        self.kernel_dtype = self.dtype if self.dtype in _NUMBERS else torch.float32

    def numbers(self, tensor: torch.Tensor) -> torch.Tensor:
        return self._first(tensor.detach().to(self.kernel_dtype))

    def flags(self, tensor: torch.Tensor) -> torch.Tensor:
        return self._first(tensor if tensor.dtype is torch.bool else tensor != 0)

    def _first(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.movedim(self.time_dim, 0).reshape(self.shape[self.time_dim], -1).contiguous()

    def back(self, *results: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        moved = torch.Size([self.shape[self.time_dim], *(n for i, n in enumerate(self.shape) if i != self.time_dim % len(self.shape))])
        first, second = (result.reshape(moved).movedim(0, self.time_dim).contiguous().to(self.dtype) for result in results)
        return first, second
