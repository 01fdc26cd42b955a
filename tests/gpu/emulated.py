"""The emulated GPU (PYRL_CUDA=EMULATED) as torch has GPUs: tensors that claim to lie there, streams, graphs of pyrl's own kernels.

The tensors' memory is the host's, and torch's work on them is done at once; pyrl's, in the emulator, which this makes torch wait for.
"""

from __future__ import annotations

import ctypes
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import pytest
import torch
from test_devices import CUDA, claiming
from torch.overrides import TorchFunctionMode

from pyrl import _core

LIBRARY = ctypes.CDLL(_core.__file__)
IS_BUILT = hasattr(LIBRARY, "emulator_plug_in")
DEVICE = torch.device("cuda:0")
TOO_LARGE = pytest.mark.skipif(IS_BUILT, reason="takes too long on the CPU")
if IS_BUILT:
    for name in ("end_capture", "make_stream"):
        getattr(LIBRARY, f"emulator_{name}").restype = ctypes.c_void_p
    LIBRARY.emulator_is_idle.restype = ctypes.c_bool


class OnGpu(claiming(CUDA)):  # type: ignore[misc]
    """A tensor that claims to lie on cuda:0."""


def call(name: str, *arguments: bool | int | None) -> Any:
    """An entry of emulator.hpp; numbers are addresses."""
    return getattr(LIBRARY, f"emulator_{name}")(*(x if isinstance(x, bool) else ctypes.c_void_p(x) for x in arguments))


class Stream:
    current: Stream | None = None  # None: the default one

    def __init__(self, *_: Any) -> None:
        self.handle = call("make_stream")

    def __del__(self) -> None:
        call("destroy_stream", self.handle)

    def query(self) -> bool:
        return call("is_idle", self.handle)

    def synchronize(self) -> None:
        call("wait", self.handle)

    def wait_stream(self, other: Any) -> None:
        call("synchronize")


@contextmanager
def on_stream(stream: Stream) -> Iterator[None]:
    before = Stream.current
    Stream.current = stream
    call("use_stream", stream.handle)
    try:
        yield
    finally:
        Stream.current = before
        call("use_stream", before and before.handle)


class Graph:
    """Of pyrl's work; torch's is done once, at the capture."""

    handle: int | None = None

    def replay(self) -> None:
        call("replay", self.handle, None)

    def __del__(self) -> None:
        if self.handle:
            call("destroy_graph", self.handle)


class Mode(TorchFunctionMode):
    """Tensors go to the GPU and come back; torch works on them only when pyrl's work is done, unless the stream is held."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: deque[Any] = deque(maxlen=10_000)  # what a held stream may still write to: torch frees memory in the stream's order

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        first = args[0] if args else None
        here = isinstance(first, OnGpu)
        if func == torch.Tensor.is_cuda.__get__:
            return here
        if func == torch.Tensor.is_cpu.__get__:
            return not here
        if func == torch.Tensor.device.__get__:
            return DEVICE if here else torch.device("cpu")
        if func is torch.Tensor.cpu:
            return first.as_subclass(torch.Tensor).clone()
        if func in (torch.Tensor.numpy, torch.Tensor.__array__) and here:
            raise TypeError("can't convert cuda:0 device type tensor to numpy")
        if func is torch.Tensor.cuda:
            return first if here else self.sent(first)
        if func is torch.Tensor.to and len(args) > 1 and isinstance(args[1], str | torch.device):
            return self.sent(first) if torch.device(args[1]).type == "cuda" else func(first.as_subclass(torch.Tensor), *args[1:], **kwargs)
        if isinstance(kwargs.get("device"), int | str | torch.device):
            device = kwargs.pop("device")
            if isinstance(device, int) or torch.device(device).type == "cuda":
                return self.sent(func(*args, **kwargs))
            kwargs["device"] = device
        result = func(*args, **kwargs)
        if isinstance(result, OnGpu):
            self.kept.append(result)
        return result

    def sent(self, tensor: torch.Tensor) -> torch.Tensor:
        result = tensor.as_subclass(torch.Tensor).clone().as_subclass(OnGpu)
        self.kept.append(result)
        return result


@contextmanager
def gpu() -> Iterator[None]:
    """While it lasts, torch has a GPU."""

    @contextmanager
    def capturing(graph: Graph, **_: Any) -> Iterator[None]:
        call("begin_capture", None)
        try:
            yield
        finally:
            graph.handle = call("end_capture", None)
        assert graph.handle, "the capture was broken by a call that no capture allows"

    def hold(_: int) -> None:
        call("hold", Stream.current and Stream.current.handle)

    stand_ins: dict[str, Callable[..., Any]] = {
        "is_available": lambda: True,
        "current_device": lambda: 0,
        "synchronize": lambda *_: call("synchronize"),
        "Stream": Stream,
        "stream": on_stream,
        "CUDAGraph": Graph,
        "graph": capturing,
        "_sleep": hold,
    }
    with ExitStack() as stack:
        for name, stand_in in stand_ins.items():
            stack.enter_context(patch.object(torch.cuda, name, stand_in))
        stack.enter_context(Mode())
        call("plug_in", True)
        try:
            yield
        finally:
            call("synchronize")
            call("plug_in", False)
