"""Arrays as strangers bring them: each mutation takes a plain array and gives the same numbers, or none, in another form."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

WEIRD = [
    -1, 0, 1, 2, 2**31 - 1, 2**31, 2**53 + 1, 2**62, 2**63 - 1, 2**63, 2**64, 10**5000, -(2**31), -(2**63), -(10**30), 0.5, 1e-320, 1e308,
    float("inf"), float("nan"), True, False, None, "x", b"x", [], (), {}, np.int64(3), np.uint8(1), np.float32(0.5), np.bool_(True), 1j,
    np.zeros(2), torch.zeros(2), object(),
]  # fmt: skip
DTYPES = ["?", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8", "c8", "M8[s]", "O", "S3", "g", "i4,f4"]


class Subclass(np.ndarray):
    pass


class TensorSubclass(torch.Tensor):
    pass


class Wrapper(torch.Tensor):
    @staticmethod
    def __new__(cls, like: torch.Tensor) -> Wrapper:
        return torch.Tensor._make_wrapper_subclass(cls, like.shape, dtype=like.dtype)  # type: ignore[attr-defined]

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise RuntimeError("a wrapper without data")


class Memory:
    """Where the arrays of a call lie: blocks that can be looked at as a whole, before and after."""

    def __init__(self, random: np.random.Generator) -> None:
        self.random = random
        self.blocks: list[np.ndarray] = []

    def block(self, size: int) -> np.ndarray:
        raw = np.zeros(size + 64, np.uint8)
        self.blocks.append(raw)
        return raw[-raw.ctypes.data % 64 :][:size]

    def place(self, a: np.ndarray, offset: int = 0) -> np.ndarray:
        """The numbers of ``a`` in a block of its own, ``offset`` bytes after a cache line's start."""
        if a.dtype.hasobject:  # references, which no block of bytes may hold
            return a.copy()
        to = self.block(a.nbytes + offset)[offset:].view(a.dtype).reshape(a.shape) if a.nbytes else np.empty_like(a, order="C")
        to[...] = a
        return to

    def bytes(self) -> list[bytes]:
        return [block.tobytes() for block in self.blocks]


def strided(m: Memory, a: np.ndarray) -> np.ndarray:
    if a.ndim == 0:
        return a
    axis = int(m.random.integers(a.ndim))
    wide = m.place(np.repeat(a, 2, axis))
    return wide[(slice(None),) * axis + (slice(None, None, 2),)]


def reversed_strides(m: Memory, a: np.ndarray) -> np.ndarray:
    return m.place(np.flip(a))[(slice(None, None, -1),) * a.ndim]


def fortran(m: Memory, a: np.ndarray) -> np.ndarray:
    return m.place(a.T.copy()).T


def other_dtype(m: Memory, a: np.ndarray) -> np.ndarray:
    dtype = np.dtype(DTYPES[m.random.integers(len(DTYPES))])
    try:
        with np.errstate(all="ignore"):
            return m.place(a.astype(dtype)) if not dtype.hasobject else a.astype(dtype)
    except (TypeError, ValueError, OverflowError):  # the last: objects, made by a mutation before, as unsigned
        return a


def other_shape(m: Memory, a: np.ndarray) -> np.ndarray:
    kind = m.random.integers(6)
    if kind == 0 or a.ndim == 0:
        return m.place(a[None])
    if kind == 1:
        return m.place(a[..., None])
    if kind == 2:
        return m.place(a[0]) if len(a) else a
    axis = int(m.random.integers(a.ndim))
    if kind == 3:
        return m.place(np.concatenate([a, a], axis))
    if kind == 4:
        return m.place(np.take(a, range(max(a.shape[axis] - 1, 0)), axis))
    return m.place(np.take(a, [], axis))


def odd_values(m: Memory, a: np.ndarray) -> np.ndarray:
    to = m.place(a)
    if a.size == 0 or a.dtype.kind not in "biuf":
        return to
    at = m.random.integers(a.size)
    if a.dtype.kind == "b":
        to.view(np.uint8).reshape(-1)[at] = m.random.integers(256)
    elif a.dtype.kind == "f":
        with np.errstate(all="ignore"):
            to.reshape(-1)[at] = m.random.choice([np.nan, np.inf, -np.inf, 1e300, 1e38, -1e38, 1e-300, -0.0, 0.0, -1.0, 1e6])
    else:
        info = np.iinfo(a.dtype)
        to.reshape(-1)[at] = m.random.choice([info.min, info.max, 0, 1, min(info.max, 1 << 30)])
    return to


def read_only(m: Memory, a: np.ndarray) -> np.ndarray:
    to = m.place(a)
    to.flags.writeable = False
    return to


NUMPY: list[Callable[[Memory, np.ndarray], Any]] = [
    strided, reversed_strides, fortran, other_dtype, other_shape, odd_values, odd_values, read_only,
    lambda m, a: m.place(a.astype(a.dtype.newbyteorder())),
    lambda m, a: m.place(a, offset=int(m.random.integers(1, 8))),
    lambda m, a: m.place(a).view(Subclass),
    lambda m, a: np.ma.masked_array(m.place(a), mask=m.random.random(a.shape) < 0.5) if a.dtype.names is None else a,
    lambda m, a: np.broadcast_to(a.reshape(-1)[:1].reshape((1,) * a.ndim), a.shape) if a.size else a,
    lambda m, a: a.tolist(),
    lambda m, a: memoryview(np.ascontiguousarray(a)) if a.dtype.isnative else a,
    lambda m, a: WEIRD[m.random.integers(len(WEIRD))],
]  # fmt: skip


def conjugated(m: Memory, t: torch.Tensor) -> torch.Tensor:
    return torch.complex(torch.zeros_like(t), -t).conj().imag if t.dtype in (torch.float32, torch.float64) else t


def fake(m: Memory, t: torch.Tensor) -> torch.Tensor:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        return torch.empty(t.shape, dtype=t.dtype)


def resized(m: Memory, t: torch.Tensor) -> torch.Tensor:
    whole = torch.cat([t.reshape(-1)] * 2)
    half = whole[t.numel() :].reshape(t.shape)
    whole.untyped_storage().resize_(0)
    return half


def of_vmap(m: Memory, t: torch.Tensor) -> torch.Tensor:
    seen = []
    torch.func.vmap(lambda x: (seen.append(x), x)[1])(t[None].clone())
    return seen[0]


TORCH: list[Callable[[Memory, torch.Tensor], Any]] = [
    conjugated, fake, resized, of_vmap,
    lambda m, t: torch._neg_view(-t) if t.dtype in (torch.float32, torch.float64, torch.int64) else t,
    lambda m, t: t.detach().requires_grad_() if t.is_floating_point() else t,
    lambda m, t: t.reshape(-1)[:1].reshape((1,) * t.ndim).expand(t.shape) if t.numel() else t,
    lambda m, t: torch.empty(t.shape, dtype=t.dtype, device="meta"),
    lambda m, t: t.to_sparse() if t.ndim else t,
    lambda m, t: torch.quantize_per_tensor(t.float(), 0.1, 0, torch.qint8),
    lambda m, t: torch.nested.nested_tensor([t.clone()]),
    lambda m, t: torch._to_functional_tensor(t),
    lambda m, t: Wrapper(t),
    lambda m, t: t.as_subclass(TensorSubclass),
    lambda m, t: torch.nn.Parameter(t, requires_grad=False),
    lambda m, t: t.transpose(0, -1).contiguous().transpose(0, -1) if t.ndim else t,
    lambda m, t: torch.stack([t, t], -1)[..., 0],
    lambda m, t: t.to(m.random.choice([torch.bfloat16, torch.float16, torch.int16, torch.complex64, torch.uint8, torch.bool])),  # type: ignore[call-overload]
]  # fmt: skip


def plain(value: Any) -> Any:
    """The same numbers as a fresh, contiguous, native array; TypeError where there are none. What is no array stays as it is."""
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError("its numbers are masked")
    if isinstance(value, np.ndarray):
        native = value.dtype if value.dtype.isnative else value.dtype.newbyteorder("=")
        if value.dtype == bool:
            return np.ascontiguousarray(np.asarray(value)).reshape(value.shape).view(np.uint8) != 0
        return np.array(np.asarray(value), dtype=native, order="C", copy=True).reshape(value.shape)
    if isinstance(value, torch.Tensor):
        if value.numel() == 0 and value.layout == torch.strided and not value.is_nested:
            return torch.empty(value.shape, dtype=value.dtype)
        try:
            dense = value.layout == torch.strided and not value.is_quantized and not value.is_nested and value.device.type == "cpu"
            if not dense or value.untyped_storage().data_ptr() == 0:  # torch itself would crash
                raise TypeError("it holds no numbers")
            return torch.empty(value.shape, dtype=value.dtype).copy_(value.detach())
        except RuntimeError as error:
            raise TypeError("it holds no numbers") from error
    return value
