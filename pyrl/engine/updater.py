"""Runs an agent's updates: by native kernels, by torch, eager or compiled, or as CUDA graphs. The engine is chosen once."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from pyrl.engine.arena import Arena, flag_nonfinite
from pyrl.engine.cuda_graph import MAX_GRAPHS, CudaGraph, GraphCache, StaticInputs
from pyrl.engine.optimizers import is_known, is_plain_adam
from pyrl.engine.practice import Practice
from pyrl.engine.rollback import Rollback
from pyrl.engine.step import Step
from pyrl.engine.trainable import Trainable
from pyrl.errors import DeviceError, NonFiniteError
from pyrl.nets.noise import DeviceNoise
from pyrl.trees import leaves, map_tree

Engine: TypeAlias = Literal["auto", "native", "torch", "compile", "graph"]
Update: TypeAlias = Callable[..., Mapping[str, Any]]
_NOTHING: AbstractContextManager[Any] = nullcontext()


@dataclass(slots=True)
class DeviceReport:
    """What an update reported, still on its device."""

    names: list[str]
    values: Tensor  # [1 + names]: whether a gradient was not finite, then the numbers
    rest: dict[str, Tensor]  # what is not a single number


class Updater:
    """``updater(update, *data)`` calls ``update``, which makes one or more of ``steps`` and returns named numbers and arrays.

    One ``update`` serves every engine. On the native engine its data are NumPy arrays. Elsewhere it is pure tensor code: it reads
    no value, copies nothing to or from the host and does not branch on data; arguments that are not tensors (numbers, flags) are
    constants, except a `DeviceNoise`, which is replaced by fresh noise at each run.

    An update happens whole or not at all: weights and optimiser states are put back if a step but the first raises.

    - On the CPU it just runs: `Arena.step` and its native twin check each gradient.
    - GPU updates never synchronise: steps with a non-finite gradient are skipped or undone at the end, and the host learns of it,
      NonFiniteError, with the numbers that the update reports: one copy an update.
    - ``graph``: the same, replayed from a CUDA graph (`GraphCache`).

    steps: in the order in which an update makes them.
    engine: "auto" takes graphs on a GPU, native kernels where every network is a plain MLP on the CPU, else torch.
    """

    graph: Any = CudaGraph

    def __init__(self, name: str, device: torch.device, engine: Engine, *steps: Step) -> None:
        self.device = device
        self.steps = steps
        self.trainables: dict[str, Trainable] = {t.name: t for step in steps for t in step.trainable.family()}
        self.arenas: tuple[Arena, ...] = tuple(t.arena for t in self.trainables.values())
        self._learning = [arena for arena in self.arenas if arena.optimizer is not None]
        self._known = all(is_known(arena.optimizer) for arena in self._learning)
        self.engine: str = self._choose(name, engine)
        self.practice: Practice | None = None  # how networks of the user's own are run
        self.is_native = False  # this update; see `begin`
        if self.engine == "compile":
            for step in steps:
                step.compile()
        has_buffers = any(next(m.buffers(), None) is not None for arena in self._learning for m in arena.modules)
        first = self._learning if has_buffers else self._learning[:-1]
        self.rollback = Rollback(*first) if first else None
        self.graphs = GraphCache(self.graph) if self.captures() else None
        self.is_async = self.graphs is not None or (device.type == "cuda" and self._known)
        self._inputs: OrderedDict[Hashable, StaticInputs] = OrderedDict()
        self._versions: list[int] = []
        self._states: list[Any] = []
        self._rate = math.nan
        if self.is_async:
            self.nonfinite, self.learning_rate = (torch.zeros((), device=device) for _ in range(2))
            self.one, self.norms = torch.ones((), device=device), list[Tensor]()
            skipping = self.rollback is None and all(is_plain_adam(arena.optimizer) for arena in self._learning)
            self.rollback = None if skipping else Rollback(*self.arenas)
            for arena in self._learning:
                arena.run_async(self.nonfinite, None if skipping else self.norms)

    def captures(self) -> bool:
        """Whether updates are replayed from CUDA graphs."""
        return self.device.type == "cuda" and self.engine in ("graph", "compile") and self._known

    def _choose(self, name: str, engine: Engine) -> str:
        strangers = [t.name for t in self.trainables.values() if not t.native.supported]
        supported = not strangers and self._known and all(step.native_gradient for step in self.steps)
        if engine == "native" and not supported:
            other = [type(arena.optimizer).__name__ for arena in self._learning if not is_known(arena.optimizer)]
            why = "the networks are not plain MLPs on the CPU"
            if not all(step.native_gradient for step in self.steps):
                why = "the algorithm has no native form"
            elif other and not strangers:
                why = f"the optimiser is {other[0]}, not Adam or RMSprop"
            which = f" ({', '.join(strangers)})" if strangers and "MLPs" in why else ""
            raise ValueError(f"{name}: engine is 'native', but {why}{which}; take 'auto' or 'torch'")
        if engine == "compile" and (buffer := next((n for t in self.trainables.values() for n, _ in t.network.named_buffers()), None)):
            raise ValueError(
                f"{name}: engine is 'compile', but the networks have buffers ({buffer}), which torch.func cannot write; take 'auto'"
            )
        if engine == "graph" and not self._known:
            raise ValueError(
                f"{name}: engine is 'graph', but only Adam and RMSprop step without waiting for the GPU; take 'auto' or 'torch'"
            )
        if engine == "graph" and self.device.type != "cuda":
            raise DeviceError(f"{name}: engine is 'graph', but the networks lie on the CPU, which has no CUDA graphs; take 'auto'")
        if engine == "auto":
            return "graph" if self.device.type == "cuda" and self._known else "native" if supported else "torch"
        return engine

    def begin(self, learning_rate: float) -> bool:
        """Sets the learning rate of every optimiser; returns whether the next updates are native, and so take NumPy arrays.

        They are not while parameters are frozen, or where modules have been replaced by others than plain layers.
        """
        self._set_learning_rate(learning_rate)
        self.is_native = self._all_native() and self.engine == "native"
        for step in self.steps:
            step.is_native = self.is_native
        if self.rollback is not None:
            self.rollback.with_buffers = not self.is_native
        return self.is_native

    def _all_native(self) -> bool:
        return all([trainable.native.sync_to_learn() for trainable in self.trainables.values()])

    def __call__(self, update: Update, *data: Any) -> dict[str, Any]:
        """The numbers of the report as floats, arrays and tensors as they are: valid until the next call, if captured."""
        if self.is_async:
            return self.collect([self._launch(update, data)])[0]
        with self._guard():
            return _numbers(update(*data))

    def launch(self, update: Update, *data: Any) -> Any:
        """The same without waiting for the result, which `collect` reads, together with others."""
        if not self.is_async:
            with self._guard():
                return update(*data)
        report = self._launch(update, data)
        if self.graphs is not None:
            report = DeviceReport(report.names, report.values.clone(), report.rest)
        return report

    def collect(self, reports: Sequence[Any]) -> list[dict[str, Any]]:
        """What `launch` returned, as `__call__` returns it. NonFiniteError if a gradient of any of them was not finite."""
        if not self.is_async:
            return [_numbers(report) for report in reports]
        rows = reports[0].values.tolist() if len(reports) == 1 else torch.stack([report.values for report in reports]).tolist()
        rows = [rows] if len(reports) == 1 else rows
        if rows[-1][0]:
            self._refuse()
        return [{**dict(zip(report.names, row[1:])), **report.rest} for report, row in zip(reports, rows)]

    def to_device(self, *data: Any) -> tuple[Any, ...]:
        """``data`` as `update` takes them: as they are if native, else tensors on the device, at the same addresses each time if
        captured, so that a call with them copies nothing."""
        if self.is_native:
            return data
        data = map_tree(lambda x: x if isinstance(x, Tensor | DeviceNoise) or not hasattr(x, "__array__") else torch.as_tensor(x), data)
        if self.graphs is None:
            return map_tree(lambda x: x.to(self.device) if isinstance(x, Tensor) else x, data)
        tensors = [x for x in leaves(data) if isinstance(x, Tensor)]
        key = tuple((x.shape, x.dtype, x.is_cpu) for x in tensors)
        inputs = self._inputs.pop(key, None) or StaticInputs(tensors, self.device)
        self._inputs[key] = inputs
        if len(self._inputs) > MAX_GRAPHS:
            self._inputs.popitem(last=False)
        placed = iter(inputs(tensors))
        return map_tree(lambda x: next(placed) if isinstance(x, Tensor) else x, data)

    def _set_learning_rate(self, rate: float) -> None:
        """Of all optimisers; a tensor where graphs read it."""
        if self.is_async and rate != self._rate:
            self.learning_rate.fill_(rate)
            self._rate = rate
        for arena in self._learning:
            arena.optimizer.param_groups[0]["lr"] = self.learning_rate if self.is_async else rate  # type: ignore[union-attr]

    def _guard(self) -> AbstractContextManager[Any]:
        """What surrounds an update on the CPU. A method, and not a function around it: a call less between `learn` and the step."""
        practice = None if self.is_native else self.practice
        if self.rollback is None or practice is None:
            return self.rollback or practice or _NOTHING
        both = ExitStack()
        both.enter_context(self.rollback)
        both.enter_context(practice)
        return both

    def _launch(self, update: Update, data: tuple[Any, ...]) -> DeviceReport:
        """On a GPU."""
        if self.practice is None:
            return self._enqueue(update, data)
        with self.practice:
            return self._enqueue(update, data)

    def _enqueue(self, update: Update, data: tuple[Any, ...]) -> DeviceReport:
        placed = self.to_device(*data)
        if self.graphs is None or not self._same_as_before():
            return self._whole(update, placed)
        key: list[Any] = [update]
        key += [(x.data_ptr(), x.shape, x.stride(), x.dtype) if isinstance(x, Tensor) else x for x in leaves(placed)]
        with torch.cuda.device(self.device) if self.device.type == "cuda" else nullcontext():
            return self.graphs(tuple(key), lambda: self._whole(update, placed))

    def _whole(self, update: Update, data: tuple[Any, ...]) -> DeviceReport:
        """What is captured."""
        if self.rollback is not None:
            self.rollback.save()
        report = update(*map_tree(lambda x: x() if isinstance(x, DeviceNoise) else x, data))
        if self.norms:
            flag_nonfinite(self.nonfinite, self.norms, self.one)
            self.norms.clear()
        numbers = {name: x for name, x in report.items() if x.dim() == 0}
        values = torch.stack([self.nonfinite, *numbers.values()])
        return DeviceReport(list(numbers), values, {name: x for name, x in report.items() if name not in numbers})

    def _same_as_before(self) -> bool:
        """Whether graphs may be used: not where parameters are frozen. Those that read memory which is no more are dropped."""
        for arena in self.arenas:
            arena.sync()
        learning = self._learning
        versions, states = [arena.version for arena in self.arenas], [arena.optimizer.state for arena in learning]  # type: ignore[union-attr]
        if versions != self._versions or any(state is not known for state, known in zip(states, self._states)):
            assert self.graphs is not None
            self.graphs.entries.clear()
            self._versions, self._states = versions, states
        return all(arena.trainable for arena in learning)

    def _refuse(self) -> None:
        reasons = (arena.refusal() for arena in self._learning)
        reason = next((reason for reason in reasons if reason is not None), "step: a gradient is not finite")
        self.nonfinite.zero_()
        if self.rollback is not None:
            self.rollback.restore()
        raise NonFiniteError(reason)


def _numbers(report: Mapping[str, Any]) -> dict[str, Any]:
    """``report`` with floats for arrays and tensors of rank 0."""
    return {name: x.item() if type(x) is not float and x.ndim == 0 else x for name, x in report.items()}
