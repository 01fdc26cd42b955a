"""Samplers on the GPU: the CPU's indices, permutations and actions, floats within 1e-5."""

from __future__ import annotations

import copy
import pickle

import emulated
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_sampling import DRAWS, KEYS, logits_and_masks, stream
from test_take_rows import calls

from pyrl.errors import DeviceError
from pyrl.ops import (
    RandomStream,
    RunningMoments,
    permutation,
    sample_categorical,
    sample_gaussian,
    sample_multi_categorical,
    take_rows,
    uniform_indices,
)


def gpu(array: np.ndarray | None) -> torch.Tensor | None:
    return None if array is None else torch.from_numpy(array).cuda()


def indices_on_gpu(size: int) -> torch.Tensor:
    return torch.full((size,), -1, dtype=torch.int64, device="cuda")


@given(st.integers(0, 3000), st.one_of(st.integers(1, 300), st.integers(1, 2**63 - 1)), KEYS, DRAWS)
@settings(max_examples=60, deadline=None)
def test_uniform_indices_equal_the_cpus(size, high, key, draw):
    random = stream(key, draw)
    got = uniform_indices(size, high, random, out=indices_on_gpu(size))
    np.testing.assert_array_equal(got.cpu(), uniform_indices(size, high, stream(key, draw)))
    assert random.draw == draw + 1


@given(st.integers(0, 5000), st.one_of(st.integers(0, 5), st.integers(0, 20000), st.integers(0, 2**62)), KEYS, DRAWS)
@settings(max_examples=60, deadline=None)
def test_distinct_indices_equal_the_cpus(size, more, key, draw):
    high = max(1, size + more)
    got = uniform_indices(size, high, stream(key, draw), replacement=False, out=indices_on_gpu(size))
    np.testing.assert_array_equal(got.cpu(), uniform_indices(size, high, stream(key, draw), replacement=False))


@given(st.one_of(st.integers(0, 300), st.integers(0, 100000)), KEYS, DRAWS)
@settings(max_examples=60, deadline=None)
def test_permutations_equal_the_cpus(n, key, draw):
    np.testing.assert_array_equal(permutation(n, stream(key, draw), indices_on_gpu(n)).cpu(), permutation(n, stream(key, draw)))


@pytest.mark.parametrize("n", [1 << 20, pytest.param(10_000_019, marks=emulated.TOO_LARGE)])
def test_large_permutations_equal_the_cpus(n):
    np.testing.assert_array_equal(permutation(n, stream(), indices_on_gpu(n)).cpu(), permutation(n, stream()))


@given(logits_and_masks(), KEYS, DRAWS, st.booleans())
@settings(max_examples=80, deadline=None)
def test_categorical_equals_the_cpus(case, key, draw, deterministic):
    logits, nvec, mask, _ = case
    options = {"deterministic": deterministic}
    want, want_log_prob = sample_multi_categorical(logits, nvec, stream(key, draw), mask=mask, **options)
    action, log_prob = sample_multi_categorical(gpu(logits), nvec, stream(key, draw), mask=gpu(mask), **options)
    np.testing.assert_array_equal(action.cpu(), want)
    np.testing.assert_allclose(log_prob.cpu(), want_log_prob, rtol=1e-5, atol=1e-5)
    if len(nvec) == 1:
        action, log_prob = sample_categorical(gpu(logits), stream(key, draw), mask=gpu(mask), **options)
        np.testing.assert_array_equal(action.cpu(), want[:, 0])


def test_rows_that_the_cpu_refuses_show():
    logits = np.zeros((4, 3), np.float32)
    logits[0, 1], logits[1, 2], logits[2] = np.nan, np.inf, -np.inf
    action, log_prob = sample_categorical(gpu(logits), stream())
    assert action.tolist()[:3] == [-1, -1, -1]
    assert log_prob.isnan().tolist() == [True, True, True, False]
    action, log_prob = sample_gaussian(gpu(logits), gpu(np.zeros(3, np.float32)), stream())
    assert log_prob.isnan().tolist() == [True, True, True, False]


@given(st.integers(0, 300), st.integers(0, 21), KEYS, DRAWS, st.booleans(), st.booleans(), st.sampled_from([1.0, 1e-3, 1e3]))
@settings(max_examples=60, deadline=None)
def test_gaussian_equals_the_cpus(batch, size, key, draw, shared, deterministic, scale):
    rng = np.random.default_rng(key)
    mean = (rng.standard_normal((batch, size)) * scale).astype(np.float32)
    log_std = rng.uniform(-3, 2, (size,) if shared else (batch, size)).astype(np.float32)
    want = sample_gaussian(mean, log_std, stream(key, draw), deterministic=deterministic)
    got = sample_gaussian(gpu(mean), gpu(log_std), stream(key, draw), deterministic=deterministic)
    for g, w in zip(got, want):
        np.testing.assert_allclose(g.cpu(), w, rtol=1e-5, atol=1e-5)


@given(
    st.lists(st.integers(0, 3000), max_size=6),
    st.sampled_from([(), (1,), (3,), (17,), (2, 5), (300,), (0,)]),
    st.sampled_from([np.float32, np.float64]),
    st.integers(0, 2**32),
)
@settings(max_examples=60, deadline=None)
def test_moments_equal_the_cpus(sizes, shape, dtype, seed):
    rng = np.random.default_rng(seed)
    here, there = RunningMoments(shape), RunningMoments(shape, device="cuda")
    for size in sizes:
        batch = (rng.standard_normal((size, *shape)) * 10 + 100).astype(dtype)
        here.update(batch)
        there.update(gpu(batch))
        assert here.count == there.count
    np.testing.assert_allclose(there.mean.cpu(), here.mean, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(there.var.cpu(), here.var, rtol=1e-9, atol=1e-10)
    there.load_state_dict(here.state_dict())
    x = rng.standard_normal((7, *shape)).astype(dtype)
    np.testing.assert_array_equal(there.normalize(gpu(x)).cpu(), here.normalize(x))


@given(calls())
@settings(max_examples=60, deadline=None)
def test_rows_equal_the_cpus(call):
    columns, index = call
    got = take_rows(tuple(map(gpu, columns)), gpu(index))
    for rows, column in zip(got, columns, strict=True):
        assert rows.is_cuda
        np.testing.assert_array_equal(rows.cpu(), column[index])


def test_many_wide_and_unaligned_rows():
    rng = np.random.default_rng(3)
    columns = [rng.integers(0, 255, (300, width), dtype=np.uint8) for width in (1, 3, 4, 7056, 28224)] + [
        rng.random((300, 3)) for _ in range(40)
    ]
    index = rng.integers(0, 299, 5000)
    got = take_rows(tuple(gpu(column)[1:] for column in columns), gpu(index))
    for rows, column in zip(got, columns, strict=True):
        np.testing.assert_array_equal(rows.cpu(), column[1:][index])


def test_rows_that_are_missing_show():
    columns = np.ones((4, 2), np.float32), np.ones(4, np.int64), np.ones(4, np.uint8), np.ones((4, 1), bool)
    got = take_rows(tuple(map(gpu, columns)), gpu(np.array([0, 4, -1])))
    for rows, missing in zip(got, (np.nan, -1, 255, False), strict=True):
        rows = rows.cpu().numpy().reshape(3, -1)
        np.testing.assert_array_equal(rows[0], 1)
        np.testing.assert_array_equal(rows[1:], missing)


def test_a_stream_and_a_graph():
    logits = np.random.default_rng(1).standard_normal((1000, 6)).astype(np.float32)
    static = gpu(logits)
    sample_categorical(static, stream())
    permutation(1000, stream(), indices_on_gpu(1000))
    torch.cuda.synchronize()
    graph, order = torch.cuda.CUDAGraph(), indices_on_gpu(1000)
    with torch.cuda.graph(graph):
        action, _ = sample_categorical(static, stream(5, 6))
        permutation(1000, stream(5, 7), order)
    logits = np.ascontiguousarray(logits[::-1])
    static.copy_(torch.from_numpy(logits))
    graph.replay()
    np.testing.assert_array_equal(action.cpu(), sample_categorical(logits, stream(5, 6))[0])
    np.testing.assert_array_equal(order.cpu(), permutation(1000, stream(5, 7)))

    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        torch.empty(1, device="cuda"), torch.empty(1 << 20, device="cuda")  # memory for this stream, which torch may wait for
        torch.cuda._sleep(200_000_000)  # about 0.1 s
        action, _ = sample_categorical(static, stream(5, 6))
        assert not side.query()
    side.synchronize()
    np.testing.assert_array_equal(action.cpu(), sample_categorical(logits, stream(5, 6))[0])


@given(KEYS, DRAWS)
@settings(max_examples=20, deadline=None)
def test_a_stream_on_the_gpu_gives_the_cpus_draws(key, draw):
    here, there = stream(key, draw), RandomStream.from_state((key, 0, draw), device="cuda")
    logits = np.random.default_rng(key).standard_normal((300, 5)).astype(np.float32)
    for _ in range(3):
        np.testing.assert_array_equal(permutation(1000, there, indices_on_gpu(1000)).cpu(), permutation(1000, here))
        np.testing.assert_array_equal(uniform_indices(99, 7, there, out=indices_on_gpu(99)).cpu(), uniform_indices(99, 7, here))
        got = uniform_indices(99, 100, there, replacement=False, out=indices_on_gpu(99))
        np.testing.assert_array_equal(got.cpu(), uniform_indices(99, 100, here, replacement=False))
        np.testing.assert_array_equal(sample_categorical(gpu(logits), there)[0].cpu(), sample_categorical(logits, here)[0])
        sample_categorical(gpu(logits), there, deterministic=True)
        got, want = sample_gaussian(gpu(logits), gpu(logits), there), sample_gaussian(logits, logits, here)
        for g, w in zip(got, want):
            np.testing.assert_allclose(g.cpu(), w, rtol=1e-5, atol=1e-5)
        assert there.state == here.state
    for copied in (lambda x: pickle.loads(pickle.dumps(x)), copy.deepcopy):
        other = copied(there)
        assert other.device == there.device
        np.testing.assert_array_equal(permutation(50, other, indices_on_gpu(50)).cpu(), permutation(50, there, indices_on_gpu(50)).cpu())
        assert other.state == there.state


def test_each_replay_of_a_graph_draws_anew():
    logits = np.random.default_rng(1).standard_normal((1000, 6)).astype(np.float32)
    here, there = stream(5, 6), RandomStream.from_state((5, 0, 6), device="cuda")
    static, order = gpu(logits), indices_on_gpu(1000)
    sample_categorical(static, stream())
    permutation(1000, RandomStream(0, device="cuda"), order)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        action, _ = sample_categorical(static, there)
        permutation(1000, there, order)
    assert there.state == (5, 0, 6)  # capturing draws nothing
    for _ in range(4):
        graph.replay()
        np.testing.assert_array_equal(action.cpu(), sample_categorical(logits, here)[0])
        np.testing.assert_array_equal(order.cpu(), permutation(1000, here))
        assert there.state == here.state
    there.state = (7, 0, 0)
    graph.replay()
    np.testing.assert_array_equal(action.cpu(), sample_categorical(logits, stream(7, 0))[0])


def test_moments_in_a_graph_go_on_counting():
    here, there = RunningMoments((3,)), RunningMoments((3,), device="cuda")
    rng = np.random.default_rng(2)
    static = torch.zeros(40, 3, device="cuda")
    RunningMoments((3,), device="cuda").update(static)
    there.normalize(static)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        there.update(static)
        normalized = there.normalize(static)
    assert there.count == 0
    for _ in range(3):
        batch = rng.standard_normal((40, 3)).astype(np.float32)
        static.copy_(torch.from_numpy(batch))
        graph.replay()
        here.update(batch)
        assert there.count == here.count
        np.testing.assert_allclose(normalized.cpu(), here.normalize(batch), rtol=1e-5, atol=1e-6)


def test_mixed_devices_are_refused():
    with pytest.raises(DeviceError, match=r"^permutation: random is on cuda:0, expected the CPU"):
        permutation(4, RandomStream(0, device="cuda"))
    with pytest.raises(DeviceError, match=r"log_std is on the CPU, expected cuda:0 \(as mean is\)"):
        sample_gaussian(torch.zeros(2, 2, device="cuda"), torch.zeros(2), stream())
    with pytest.raises(DeviceError, match=r"count is on the CPU, expected cuda:0 \(as batch is\)"):
        RunningMoments((2,)).update(torch.zeros(2, 2, device="cuda"))
