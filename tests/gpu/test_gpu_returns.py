"""Returns on the GPU: the CPU's bits where a thread has an environment, within 1e-5 where time is cut into chunks."""

from __future__ import annotations

import emulated
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from test_returns import KERNELS, OPTIONS, Rollout, call

from pyrl.errors import DeviceError

WIDE = 8192  # sweep.cuh: from here on, and for fewer than 32 steps, a thread an environment


def on_gpu(r: Rollout) -> Rollout:
    for name, array in vars(r).items():
        if isinstance(array, np.ndarray):
            setattr(r, name, torch.from_numpy(array.copy()).cuda())
    return r


def compare(got: tuple, want: tuple, shape: tuple[int, int]) -> None:
    assert len(got) == len(want)
    for g, w in zip(got, want):
        assert g.is_cuda
        assert g.shape == w.shape
        if shape[1] >= WIDE or shape[0] < 32:
            np.testing.assert_array_equal(g.cpu().numpy(), w)
        elif w.size:
            np.testing.assert_allclose(g.cpu().numpy(), w, rtol=0, atol=1e-5 * max(1.0, float(np.abs(w).max())))


@pytest.mark.parametrize("name", KERNELS)
@settings(max_examples=60, deadline=None)
@given(**OPTIONS)
def test_equals_the_cpu(name, shape, gamma, lambda_, dtype, rows, with_valid, final, n, bars, seed):
    arguments = (*shape, dtype, seed, rows, with_valid, final)
    want = call(name, Rollout(*arguments), gamma, lambda_, n, *bars)
    compare(call(name, on_gpu(Rollout(*arguments)), gamma, lambda_, n, *bars), want, shape)


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize(
    "shape",
    [
        (40, WIDE + 5),
        (1, 100000),
        (20000, 1),
        (5000, 33),
        (513, 4100),
        (0, 5),
        (5, 0),
        pytest.param((1024, 16384), marks=emulated.TOO_LARGE),
    ],
)
@pytest.mark.parametrize("rows", [False, True])
def test_shapes_of_both_loops(name, shape, rows):
    arguments = (*shape, np.float32, 5, rows, rows)
    compare(call(name, on_gpu(Rollout(*arguments)), 0.99, 0.95), call(name, Rollout(*arguments), 0.99, 0.95), shape)


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("shape", [(64, 100), (16, 9000)])
def test_out_is_written_and_returned(name, shape):
    want = call(name, Rollout(*shape, np.float32, 1), 0.9, 0.8)
    r = on_gpu(Rollout(*shape, np.float32, 1))
    out = tuple(torch.full(shape, torch.nan, device="cuda") for _ in want)
    got = call(name, r, 0.9, 0.8, out=out)
    assert all(g is o for g, o in zip(got, out))
    compare(got, want, shape)


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("shape", [(64, 100), (16, 9000)])
def test_the_current_stream_is_used_and_not_waited_for(name, shape):
    want = call(name, Rollout(*shape, np.float32, 1), 0.9, 0.8)
    r = on_gpu(Rollout(*shape, np.float32, 1))
    reward, r.reward = r.reward, torch.full(shape, torch.nan, device="cuda")
    call(name, r, 0.9, 0.8)  # loads the kernel, which may wait
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.empty(1, device="cuda"), torch.empty(1 << 20, device="cuda")  # memory for this stream, which torch may wait for
        torch.cuda._sleep(200_000_000)  # about 0.1 s
        r.reward.copy_(reward)
        got = call(name, r, 0.9, 0.8)
        assert not stream.query()
    stream.synchronize()
    compare(got, want, shape)


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("shape", [(64, 100), (16, 9000)])
def test_a_graph_replays_on_new_data(name, shape):
    r = on_gpu(Rollout(*shape, np.float32, 1))
    call(name, r, 0.9, 0.8)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        got = call(name, r, 0.9, 0.8)
    later = Rollout(*shape, np.float32, 2)
    for field, array in vars(later).items():
        if isinstance(array, np.ndarray):
            getattr(r, field).copy_(torch.from_numpy(array))
    graph.replay()
    compare(got, call(name, later, 0.9, 0.8), shape)


def test_a_truncated_step_without_final_value_shows_as_nan():
    r = Rollout(40, 3, np.float32, 1, rows=True, final=False)
    r.terminated[:] = False
    r.truncated[20, 1] = True
    advantage = call("gae", on_gpu(r), 0.9, 0.8)[0].cpu().numpy()
    assert np.isnan(advantage[:21, 1]).all()
    assert np.isfinite(advantage[21:]).all()
    assert np.isfinite(advantage[:, [0, 2]]).all()


def test_mixed_devices_are_refused():
    r = on_gpu(Rollout(4, 3, np.float32, 1))
    r.value = r.value.cpu()
    with pytest.raises(DeviceError, match=r"^gae: value is on the CPU, expected cuda:0 \(as reward is\)"):
        call("gae", r, 0.9, 0.9)
    r = on_gpu(Rollout(4, 3, np.float32, 1))
    r.reward = r.reward.cpu()
    with pytest.raises(DeviceError, match=r"^gae: value is on cuda:0, expected the CPU \(as reward is\)"):
        call("gae", r, 0.9, 0.9)
