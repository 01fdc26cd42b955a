"""Runs an agent's updates, on the CPU, on a GPU or as CUDA graphs, and reads what they report."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from pyrl.engine.arena import Arena, mark
from pyrl.engine.cuda_graph import KEPT, Captured, CudaGraph, Inputs
from pyrl.engine.rollback import Atomic
from pyrl.errors import NonFiniteError
from pyrl.nets.noise import Draw
from pyrl.types import map_observation

Function: TypeAlias = Callable[..., dict[str, Tensor]]


@dataclass(slots=True)
class Report:
    """What an update reported, still on its device."""

    names: list[str]
    values: Tensor  # [1 + names]: whether a gradient was refused, then the numbers
    rest: dict[str, Tensor]  # what is no single number


class Runner:
    """``run(update, *data)`` calls ``update``, a function of tensors that moves ``arenas`` and returns named tensors.

    ``update`` is pure tensor code: it reads no value, copies nothing to or from the host and does not branch on data; what is no
    tensor among its arguments (numbers, flags) is a constant of it, but for a `Draw`, whose place a tensor takes as it runs. The same
    function then serves everywhere:

    - On the CPU it just runs. `Arena.step` looks at each gradient; ``atomic`` undoes the steps before one that is refused.
    - On a GPU nobody looks: refused steps are left out or undone at the end, and the host hears of it, NonFiniteError, with the
      numbers that the update reports: one copy an update.
    - ``captured``: the same, replayed from a CUDA graph (`Captured`).
    """

    def __init__(
        self, device: torch.device, *arenas: Arena, atomic: Atomic | None = None, captured: bool = False, graph: Any = CudaGraph
    ) -> None:
        self.device = device
        self.arenas = arenas  # all that updates change
        self.atomic = atomic
        self.captured = Captured(graph) if captured else None
        self.deferred = captured or device.type == "cuda"
        self._inputs: OrderedDict[Hashable, Inputs] = OrderedDict()
        self._versions: list[int] = []
        self._states: list[Any] = []
        self._rate = math.nan
        if self.deferred:
            self.refused, self.learning_rate = (torch.zeros((), device=device) for _ in range(2))
            self.one, self.norms = torch.ones((), device=device), list[Tensor]()
            skipping = atomic is None and all(type(arena.optimizer) is torch.optim.Adam for arena in self._learning())
            self.atomic = None if skipping else Atomic(*arenas)
            for arena in self._learning():
                arena.defer(self.refused, None if skipping else self.norms)

    def __call__(self, update: Function, *data: Any) -> dict[str, Any]:
        """The numbers of the report as floats, other tensors as they are: valid until the next call, if captured."""
        return self.read([self._begin(update, data)])[0]

    def begin(self, update: Function, *data: Any) -> Any:
        """The same without reading: to be handed to `read`, with others, when there is time to wait."""
        report = self._begin(update, data)
        if self.captured is not None:
            report = Report(report.names, report.values.clone(), report.rest)
        return report

    def read(self, reports: Sequence[Any]) -> list[dict[str, Any]]:
        """What `begin` returned, as `__call__` returns it. NonFiniteError if any of them was refused."""
        if not self.deferred:
            return [{name: x.item() if x.dim() == 0 else x for name, x in report.items()} for report in reports]
        rows = reports[0].values.tolist() if len(reports) == 1 else torch.stack([report.values for report in reports]).tolist()
        rows = [rows] if len(reports) == 1 else rows
        if rows[-1][0]:
            self._refuse()
        return [{**dict(zip(report.names, row[1:])), **report.rest} for report, row in zip(reports, rows)]

    def place(self, *data: Any) -> tuple[Any, ...]:
        """``data`` on the device; at the same addresses each time, if captured, so that a call with it copies nothing."""
        if self.captured is None:
            return map_observation(lambda x: x.to(self.device) if isinstance(x, Tensor) else x, data)
        leaves: list[Tensor] = []
        map_observation(lambda x: leaves.append(x) if isinstance(x, Tensor) else None, data)
        key = tuple((x.shape, x.dtype, x.is_cpu) for x in leaves)
        inputs = self._inputs.pop(key, None) or Inputs(leaves, self.device)
        self._inputs[key] = inputs
        if len(self._inputs) > KEPT:
            self._inputs.popitem(last=False)
        placed = iter(inputs(leaves))
        return map_observation(lambda x: next(placed) if isinstance(x, Tensor) else x, data)

    def set_learning_rate(self, rate: float) -> None:
        """Of all optimisers; a tensor where graphs read it."""
        if self.deferred and rate != self._rate:
            self.learning_rate.fill_(rate)
            self._rate = rate
        for arena in self._learning():
            arena.optimizer.param_groups[0]["lr"] = self.learning_rate if self.deferred else rate  # type: ignore[union-attr]

    def _begin(self, update: Function, data: tuple[Any, ...]) -> Any:
        if not self.deferred:
            with self.atomic or nullcontext():
                return update(*data)
        placed = self.place(*data)
        if self.captured is None or not self._same_as_before():
            return self._whole(update, placed)
        key: list[Any] = [update]
        map_observation(lambda x: key.append((x.data_ptr(), x.shape, x.stride(), x.dtype) if isinstance(x, Tensor) else x), placed)
        with torch.cuda.device(self.device) if self.device.type == "cuda" else nullcontext():
            return self.captured(tuple(key), lambda: self._whole(update, placed))

    def _whole(self, update: Function, data: tuple[Any, ...]) -> Report:
        """What is captured."""
        if self.atomic is not None:
            self.atomic.save()
        report = update(*(x() if isinstance(x, Draw) else x for x in data))
        if self.norms:
            mark(self.refused, self.norms, self.one)
            self.norms.clear()
        numbers = {name: x for name, x in report.items() if x.dim() == 0}
        values = torch.stack([self.refused, *numbers.values()])
        return Report(list(numbers), values, {name: x for name, x in report.items() if name not in numbers})

    def _learning(self) -> list[Arena]:
        return [arena for arena in self.arenas if arena.optimizer is not None]

    def _same_as_before(self) -> bool:
        """Whether graphs may be used: not where parameters are frozen. Those that read memory which is no more are dropped."""
        for arena in self.arenas:
            arena.sync()
        learning = self._learning()
        versions, states = [arena.version for arena in self.arenas], [arena.optimizer.state for arena in learning]  # type: ignore[union-attr]
        if versions != self._versions or any(state is not known for state, known in zip(states, self._states)):
            assert self.captured is not None
            self.captured.entries.clear()
            self._versions, self._states = versions, states
        return all(arena.trainable for arena in learning)

    def _refuse(self) -> None:
        reasons = (arena.refusal() for arena in self._learning())
        reason = next((reason for reason in reasons if reason is not None), "step: a gradient is not finite")
        self.refused.zero_()
        if self.atomic is not None:
            self.atomic.restore()
        raise NonFiniteError(reason)
