// The sweep on a GPU (thread_sweep.hpp says how), and all elements as one row where there is no carry.
#pragma once

#include "core/cuda_launch.cuh"
#include "returns/thread_sweep.hpp"

namespace pyrl::returns {
namespace device {

constexpr int wide_threads = 64;    // few, so that even 8192 environments reach all multiprocessors
constexpr int chunk_threads = 512;
constexpr std::int64_t wide_environments = 8192, short_steps = 32;
constexpr int rows_ahead_bytes = 64;  // of one input: 16 rows of float32 hide the memory of an H200 with 128 threads a multiprocessor

template <class T, bool Plain, class Recursion>
__global__ void __launch_bounds__(wide_threads) wide_kernel(const RolloutPointers<T> from, const Recursion recursion) {
  const std::int64_t environment = std::int64_t{blockIdx.x} * wide_threads + threadIdx.x;
  if (environment >= from.row) return;
  T carry{};
  sweep_rows<Lane<T>, Plain, rows_ahead_bytes / sizeof(T)>(from, recursion, environment, {0, from.steps}, carry);
}

template <class T, bool Plain, class Recursion>
__global__ void __launch_bounds__(chunk_threads) chunk_kernel(const RolloutPointers<T> from, const Recursion recursion, int side) {
  constexpr int ahead = 4;
  __shared__ Affine<T> through[chunk_threads];
  const ChunkThread self{static_cast<int>(threadIdx.x), side, chunk_threads / side};
  const std::int64_t environment = self.environment(blockIdx.x);
  const Rows rows = environment < from.row ? self.rows(from.steps) : Rows{0, 0};
  Affine<T> mine = carry_through<Plain, ahead>(from, recursion, environment, rows);
  for (int reach = 1;; reach *= 2) {
    through[self.thread] = mine;
    __syncthreads();
    if (reach >= self.chunks) break;
    mine = self.composed(through, reach);
    __syncthreads();
  }
  T carry = self.carry(through);
  sweep_rows<Lane<T>, Plain, ahead>(from, recursion, environment, rows, carry);
}

template <class T, bool Plain, class Recursion>
void sweep_all(const RolloutPointers<T>& from, const Recursion& recursion, const CudaStream& stream, bool expanding) {
  if (from.row >= wide_environments || from.steps < short_steps || expanding) {
    const std::int64_t blocks = (from.row + wide_threads - 1) / wide_threads;
    return cuda::launch(stream, blocks, wide_threads, wide_kernel<T, Plain, Recursion>, from, recursion);
  }
  int side = 1;  // environments of a block
  while (side < 32 && side < from.row) side *= 2;
  cuda::launch(stream, (from.row + side - 1) / side, chunk_threads, chunk_kernel<T, Plain, Recursion>, from, recursion, side);
}

template <class T, bool Plain, class Recursion>
struct Element {
  RolloutPointers<T> from;
  Recursion recursion;

  PYRL_HD void operator()(std::int64_t i) const {
    T carry{};
    recursion.template step<Lane<T>, Plain>(from, recursion.template read<Lane<T>, Plain>(from, 0, i), 0, i, carry);
  }
};

}  // namespace device

// `expanding`: a step may make the carry larger. Then the slopes of chunks could overflow where no carry does.
template <class T, class Recursion>
void sweep_cuda(const RolloutView<T>& rollout, const Recursion& recursion, const CudaStream& stream, bool expanding = false) {
  const RolloutPointers<T> from = unchecked_pointers(rollout);
  if (from.steps == 0 || from.row == 0) return;
  from.plain() ? device::sweep_all<T, true>(from, recursion, stream, expanding) : device::sweep_all<T, false>(from, recursion, stream, expanding);
}

// For a recursion without a carry: elements [0, count).
template <class T, class Recursion>
void sweep_elements_cuda(const RolloutView<T>& rollout, std::int64_t count, const Recursion& recursion, const CudaStream& stream) {
  const RolloutPointers<T> from = unchecked_pointers(rollout);
  from.plain() ? cuda::launch_elements(stream, count, device::Element<T, true, Recursion>{from, recursion})
               : cuda::launch_elements(stream, count, device::Element<T, false, Recursion>{from, recursion});
}

}  // namespace pyrl::returns
