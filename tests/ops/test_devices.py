"""What the border says of tensors on a GPU, without one: tensors that claim to lie there."""

from __future__ import annotations

import ctypes
from collections import deque

import pytest
import torch
from gymnasium.spaces import Box, Discrete

from pyrl.buffers import ReplayBuffer
from pyrl.errors import DeviceError
from pyrl.ops import RandomStream, cuda_built, dueling, gae, permutation, sample_categorical, take_rows

CUDA, METAL = 2, 8


class Device(ctypes.Structure):
    _fields_ = (("type", ctypes.c_int32), ("id", ctypes.c_int32))


class Tensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device", Device),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


class ExchangeApi(ctypes.Structure):
    _fields_ = (
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        *((name, ctypes.c_void_p) for name in ("previous", "allocate", "managed_from_object", "object_from_managed")),
        ("tensor_from_object", ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.py_object, ctypes.POINTER(Tensor))),
        ("current_stream", ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_int32, ctypes.c_int32, ctypes.POINTER(ctypes.c_void_p))),
    )


INTEGERS = {name: 0 for name in ("int8", "int16", "int32", "int64")} | {name: 1 for name in ("uint8", "uint16", "uint32", "uint64")}
CODES = {getattr(torch, name): code for name, code in {**INTEGERS, "float16": 2, "float32": 2, "float64": 2, "bool": 6}.items()}
kept: list = []  # what C borrows
shapes: deque = deque(maxlen=1000)  # for a call


def claiming(device_type: int) -> type:
    """A class of torch tensors whose exchange table says that they lie on device 0 of this type."""

    def describe(tensor, out) -> int:
        shape = (ctypes.c_int64 * tensor.ndim)(*tensor.shape)
        shapes.append(shape)
        code, bits = CODES[tensor.dtype], 8 * tensor.element_size()
        strides = None if tensor.is_contiguous() else (ctypes.c_int64 * tensor.ndim)(*tensor.stride())
        shapes.append(strides)
        out[0] = Tensor(tensor.data_ptr(), Device(device_type, 0), tensor.ndim, code, bits, 1, shape, strides, 0)
        return 0

    def current_stream(_type, _id, out) -> int:
        out[0] = None
        return 0

    types = dict(ExchangeApi._fields_)
    api = ExchangeApi(1, 3, None, None, None, None, types["tensor_from_object"](describe), types["current_stream"](current_stream))
    kept.append(api)
    new = ctypes.pythonapi.PyCapsule_New
    new.restype, new.argtypes = ctypes.py_object, (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
    capsule = new(ctypes.addressof(api), b"dlpack_exchange_api", None)
    return type("Claiming", (torch.Tensor,), {"__dlpack_c_exchange_api__": capsule})


OnGpu, OnMetal = claiming(CUDA), claiming(METAL)


def rollout(kind: type = torch.Tensor) -> list[torch.Tensor]:
    arrays = [torch.zeros(4, 3) for _ in range(3)] + [torch.zeros(4, 3, dtype=torch.bool) for _ in range(2)]
    return [array.as_subclass(kind) for array in arrays]


def run(arrays: list[torch.Tensor], out=None):
    return gae(*arrays, gamma=0.9, gae_lambda=0.9, out=out)


def test_an_array_apart_from_the_first_one():
    arrays = rollout()
    arrays[1] = arrays[1].as_subclass(OnGpu)
    with pytest.raises(DeviceError, match=r"^gae: value is on cuda:0, expected the CPU \(as reward is\)"):
        run(arrays)
    with pytest.raises(DeviceError, match=r"^gae: out\[0\] is on cuda:0, expected the CPU \(as reward is\)"):
        run(rollout(), tuple(array.as_subclass(OnGpu) for array in rollout()[:2]))
    with pytest.raises(DeviceError, match=r"^take_rows: index is on cuda:0, expected the CPU \(as columns is\)"):
        take_rows((torch.zeros(4, 3),), torch.zeros(2, dtype=torch.int64).as_subclass(OnGpu))
    with pytest.raises(DeviceError, match=r"^gae: reward is on another kind of device, expected the CPU or a CUDA device"):
        run(rollout(OnMetal))


def test_functions_without_a_twin():
    with pytest.raises(DeviceError, match=r"^dueling: value is on cuda:0, expected the CPU \(this function has no other kernel\)"):
        dueling(torch.zeros(4, 1).as_subclass(OnGpu), torch.zeros(4, 3))


def on_gpu_memory(monkeypatch) -> RandomStream:
    monkeypatch.setattr("pyrl.ops.random._memory", lambda _: torch.zeros(2, dtype=torch.int64).as_subclass(OnGpu))
    return RandomStream(1, device="cuda")


@pytest.mark.skipif(not cuda_built(), reason="needs a build with CUDA")
def test_a_stream_on_a_gpu_serves_calls_there(monkeypatch):
    random = on_gpu_memory(monkeypatch)
    state = random.state
    assert state == RandomStream(1).state
    with pytest.raises(DeviceError, match=r"^permutation: random is on cuda:0, expected the CPU"):
        permutation(3, random)
    assert random.state == state


@pytest.mark.skipif(cuda_built(), reason="this build has CUDA")
def test_a_build_without_cuda_says_so(monkeypatch):
    match = "is on cuda:0, and this build of pyrl has no CUDA; build it with PYRL_CUDA=ON"
    with pytest.raises(DeviceError, match="^gae: reward " + match):
        run(rollout(OnGpu))
    random = RandomStream(1)
    with pytest.raises(DeviceError, match="^sample_categorical: logits " + match):
        sample_categorical(torch.zeros(2, 3).as_subclass(OnGpu), random)
    with pytest.raises(DeviceError, match="^permutation: out " + match):
        permutation(3, random, torch.zeros(3, dtype=torch.int64).as_subclass(OnGpu))
    assert random.draw == 0
    with pytest.raises(DeviceError, match="^RandomStream: memory " + match):
        on_gpu_memory(monkeypatch)


@pytest.mark.skipif(not cuda_built() or torch.cuda.is_available(), reason="needs a build with CUDA on a machine without")
def test_a_build_with_cuda_finds_no_gpu():
    arrays = rollout(OnGpu)
    arrays[1] = arrays[1].as_subclass(torch.Tensor)
    with pytest.raises(DeviceError, match=r"^gae: value is on the CPU, expected cuda:0 \(as reward is\)"):
        run(arrays)
    out = tuple(array.as_subclass(OnGpu) for array in rollout()[:2])
    with pytest.raises(DeviceError, match=r"^gae: .* failed: .*(driver|device)"):
        run(rollout(OnGpu), out)


@pytest.mark.skipif(not cuda_built() or torch.cuda.is_available(), reason="needs a build with CUDA on a machine without")
def test_a_launch_that_fails_draws_nothing(monkeypatch):
    for random in (RandomStream(1), on_gpu_memory(monkeypatch)):
        state = random.state
        out = torch.zeros(2, dtype=torch.int64).as_subclass(OnGpu), torch.zeros(2).as_subclass(OnGpu)
        with pytest.raises(DeviceError, match=r"^sample_categorical: .* failed: .*(driver|device)"):
            sample_categorical(torch.zeros(2, 3).as_subclass(OnGpu), random, out=out)
        assert random.state == state


def buffer(**where) -> ReplayBuffer:
    return ReplayBuffer(16, Box(-1, 1, (3,)), Discrete(2), **where)


def test_a_buffer_says_where_its_rows_should_lie():
    here, rows = buffer(), torch.zeros(1, 3)
    with pytest.raises(DeviceError, match=r"^add: observation is on cuda:0, expected the CPU \(this function has no other kernel\)"):
        here.add(rows.as_subclass(OnGpu), 0, 0.0, rows, False, False)
    assert len(here) == 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_buffer_finds_no_gpu():
    here, rows = buffer(), torch.zeros(1, 3)
    message = (
        r"^ReplayBuffer: .* failed: .*(driver|device)" if cuda_built() else "this build of pyrl has no CUDA; build it with PYRL_CUDA=ON"
    )
    with pytest.raises(DeviceError, match=message):
        here._core.move_to("cuda:0", False)
    here.add(rows, 0, 0.0, rows, False, False)
    assert len(here.sample(1).index) == 1


def test_devices_that_cannot_be():
    with pytest.raises(DeviceError, match="ReplayBuffer: device is 'metal', expected 'cpu' or 'cuda'"):
        ReplayBuffer(64, Box(-1, 1, (3,)), Discrete(2), device="metal")
    with pytest.raises(ValueError, match="host_copy is True, and device is 'cpu', expected a GPU"):
        ReplayBuffer(64, Box(-1, 1, (3,)), Discrete(2), host_copy=True)
    if not cuda_built():
        with pytest.raises(
            DeviceError, match=r"device is 'cuda', and this build of pyrl has no CUDA; build it with PYRL_CUDA=ON \(docs/cuda.md\)"
        ):
            ReplayBuffer(64, Box(-1, 1, (3,)), Discrete(2), device="cuda")
    elif not torch.cuda.is_available():
        with pytest.raises(DeviceError, match=r"device is 'cuda:1', and torch finds no GPU \(docs/cuda.md\)"):
            ReplayBuffer(64, Box(-1, 1, (3,)), Discrete(2), device=torch.device("cuda", 1))
