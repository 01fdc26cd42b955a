"""CUDA graphs of whole updates: calls whose arguments are at the same addresses are captured once, then replayed."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

WARM_UP = 11  # calls made before one is captured: 3 for libraries to choose and load kernels, more for shapes that do not come again
MAX_GRAPHS = 8  # graphs; each holds the memory of all that is computed in it
ALIGNMENT = 64  # bytes


@cache
def side_stream(device: int) -> torch.cuda.Stream:
    """The stream on which calls are made and captured there: torch's own stays on the device of the first capture, and each new
    stream has memory of its own."""
    return torch.cuda.Stream(device)


class CudaGraph:
    """``call`` as a CUDA graph; ``output`` is what it returned: tensors that each replay writes anew.

    ``call`` may neither read a tensor's value nor copy to or from the host; its Python runs once, here, and computes nothing.
    """

    def __init__(self, call: Callable[[], Any]) -> None:
        try:
            self.graph = torch.cuda.CUDAGraph(keep_graph=True)
        except TypeError:  # torch < 2.8
            self.graph = torch.cuda.CUDAGraph()
        # thread_local: environments or loggers may use the GPU in threads of their own meanwhile.
        with torch.cuda.graph(self.graph, stream=side_stream(torch.cuda.current_device()), capture_error_mode="thread_local"):
            self.output = call()

    def replay(self) -> None:
        self.graph.replay()

    @property
    def node_count(self) -> int | None:
        """The kernels and copies of a replay; None without the package cuda-bindings, or before torch 2.8."""
        try:
            from cuda.bindings import runtime

            status, _, count = runtime.cudaGraphGetNodes(self.graph.raw_cuda_graph(), 0)
        except (ImportError, AttributeError, RuntimeError, TypeError):
            return None
        return int(count) if int(status) == 0 else None

    @staticmethod
    def warm_up(call: Callable[[], Any]) -> Any:
        """A call on a stream that is not the default one, where torch wants those before a capture."""
        current, side = torch.cuda.current_stream(), side_stream(torch.cuda.current_device())
        side.wait_stream(current)
        with torch.cuda.stream(side):
            output = call()
        current.wait_stream(side)
        return output


class GraphCache:
    """Calls by a key: those of the same key do the same work at the same addresses.

    The first WARM_UP of them are made as they are, so that shapes which do not come again are never captured; then one is
    captured, and it and all after it are replays. Of many keys the MAX_GRAPHS latest are remembered.
    """

    def __init__(self, graph: Any = CudaGraph) -> None:
        self.graph = graph
        self.entries: OrderedDict[Hashable, Any] = OrderedDict()  # number of calls made, or the graph

    def __call__(self, key: Hashable, call: Callable[[], Any]) -> Any:
        entry = self.entries.pop(key, 0)
        if isinstance(entry, int) and entry < WARM_UP:
            self._keep(key, entry + 1)
            return self.graph.warm_up(call)
        if isinstance(entry, int):
            entry = self.graph(call)
        self._keep(key, entry)
        entry.replay()
        return entry.output

    @property
    def graphs(self) -> list[Any]:
        """Least recently used first."""
        return [entry for entry in self.entries.values() if not isinstance(entry, int)]

    def _keep(self, key: Hashable, entry: Any) -> None:
        self.entries[key] = entry
        if len(self.entries) > MAX_GRAPHS:
            self.entries.popitem(last=False)


class PackedTensors:
    """Memory for tensors like ``tensors``, side by side, so that one copy moves them all."""

    def __init__(self, tensors: Sequence[Tensor], device: torch.device, pinned: bool = False) -> None:
        sizes = [x.numel() * x.element_size() for x in tensors]
        places = [-(-size // ALIGNMENT) * ALIGNMENT for size in sizes]
        self.memory = torch.empty(sum(places), dtype=torch.uint8, device=device, pin_memory=pinned)
        pieces = self.memory.split(places)
        self.tensors = [piece[:size].view(x.dtype).view(x.shape) for piece, size, x in zip(pieces, sizes, tensors)]


class StaticInputs:
    """Hands out the arguments of calls at the same addresses of the device at every call.

    Those of the host cross together, through pinned memory and in one asynchronous copy. One that is on the device is
    taken where it is; once it has moved, it is copied.
    """

    def __init__(self, leaves: Sequence[Tensor], device: torch.device) -> None:
        self.on_host = [self.is_on_host(x) for x in leaves]
        host = [x for x in leaves if self.is_on_host(x)]
        cuda = device.type == "cuda"
        self.staging, self.block = PackedTensors(host, torch.device("cpu"), pinned=cuda and len(host) > 0), PackedTensors(host, device)
        self.device, self.crossed = device, torch.cuda.Event() if cuda else None  # the latest copy out of `staging` is over
        self.addresses = [x.data_ptr() for x in leaves]
        self.own: dict[int, Tensor] = {}  # of arguments that have moved

    @staticmethod
    def is_on_host(x: Tensor) -> bool:
        return x.is_cpu

    @torch.no_grad()
    def __call__(self, leaves: Sequence[Tensor]) -> list[Tensor]:
        crossing = iter(self.block.tensors)
        placed = [next(crossing) if away else self._on_device(i, x) for i, (x, away) in enumerate(zip(leaves, self.on_host))]
        if self.own:
            torch._foreach_copy_(list(self.own.values()), [leaves[i] for i in self.own])
        if self.block.tensors:
            if self.crossed is not None:
                self.crossed.synchronize()
            for staged, x in zip(self.staging.tensors, (x for x, away in zip(leaves, self.on_host) if away)):
                staged.copy_(x)
            self.block.memory.copy_(self.staging.memory, non_blocking=True)
            if self.crossed is not None:
                self.crossed.record(torch.cuda.current_stream(self.device))
        return placed

    def _on_device(self, i: int, x: Tensor) -> Tensor:
        if i not in self.own:
            if x.data_ptr() == self.addresses[i]:
                return x
            self.own[i] = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        return self.own[i]
