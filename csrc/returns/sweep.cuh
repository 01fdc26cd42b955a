// The sweep on a GPU, and all elements as one row where there is no carry.
//
// Wide rollouts: a thread an environment, from the last row to the first; neighbouring threads read neighbouring addresses.
// Long, narrow ones: the rows are cut into chunks, a thread a chunk and environment. All recursions are affine in their carry, so
// one pass over a chunk with an AffineLane finds how the carry before it (of the rows after it) becomes the one behind it; the
// chunks' functions are composed, which gives every chunk its carry; and a second pass does the steps as always. The carries
// handed over are rounded differently than by going through all rows, hence the tolerance of 1e-5 instead of equal bits.
#pragma once

#include "core/cuda_launch.cuh"
#include "returns/rollout.hpp"

namespace pyrl::returns {
namespace device {

struct Rows {
  std::int64_t begin, end;
};

// A thread of a block that takes `side` environments side by side (a power of two) and cuts their rows into `chunks`.
struct ChunkThread {
  int thread, side, chunks;

  PYRL_HD int chunk() const { return thread / side; }
  PYRL_HD std::int64_t environment(std::int64_t block) const { return block * side + thread % side; }
  // The last chunks may be empty.
  PYRL_HD Rows rows(std::int64_t steps) const {
    const std::int64_t size = (steps + chunks - 1) / chunks, begin = size * chunk(), end = begin + size;
    return {begin < steps ? begin : steps, end < steps ? end : steps};
  }
  // One doubling (Hillis and Steele 1986) of what the chunks from this one on do to a carry: through[thread] goes through `reach` chunks,
  // the result through twice as many.
  template <class T>
  PYRL_HD Affine<T> composed(const Affine<T>* through, int reach) const {
    return chunk() + reach < chunks ? through[thread](through[thread + reach * side]) : through[thread];
  }
  // The carry before this chunk, when all later ones are composed.
  template <class T>
  PYRL_HD T carry(const Affine<T>* through) const {
    return chunk() + 1 < chunks ? through[thread + side](T{0}) : T{0};
  }
};

// The steps of `rows` of one environment, last first. The inputs of `Ahead` rows are on their way while one row is computed: a
// thread has nothing else that would hide how far memory is.
template <class L, bool Plain, int Ahead, class T, class Recursion, class Carry>
PYRL_HD PYRL_INLINE void sweep_rows(const RolloutPointers<T>& from, const Recursion& recursion, std::int64_t environment, Rows rows,
                                    Carry& carry) {
  if (rows.begin >= rows.end) return;
  const auto read = [&](std::int64_t t) {
    const std::int64_t row = t > rows.begin ? t : rows.begin;  // beyond the end the first row again, instead of a branch
    return recursion.template read<L, Plain>(from, row, row * from.row + environment);
  };
  typename Recursion::template Inputs<L> ahead[Ahead];
  PYRL_UNROLL
  for (int k = 0; k < Ahead; ++k) ahead[k] = read(rows.end - 1 - k);
  for (std::int64_t last = rows.end - 1;; last -= Ahead) {
    PYRL_UNROLL
    for (int k = 0; k < Ahead; ++k) {
      const std::int64_t t = last - k;
      if (t < rows.begin) return;
      const auto now = ahead[k];
      ahead[k] = read(t - Ahead);
      recursion.template step<L, Plain>(from, now, t, t * from.row + environment, carry);
    }
  }
}

// The carry behind a chunk, as a function of the one before it.
template <bool Plain, int Ahead, class T, class Recursion>
PYRL_HD PYRL_INLINE Affine<T> carry_through(const RolloutPointers<T>& from, const Recursion& recursion, std::int64_t environment,
                                            Rows rows) {
  Affine<T> carry = Affine<T>::unknown();
  sweep_rows<AffineLane<T>, Plain, Ahead>(from, recursion, environment, rows, carry);
  return carry;
}

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

// On a GPU nothing looks at the data beforehand: where check_bootstrap would throw, the value after the step is NaN.
template <class T>
RolloutPointers<T> unchecked_pointers(const RolloutView<T>& rollout) {
  RolloutPointers<T> from(rollout);
  from.final_missing = rollout.value.present() && !rollout.next_value.present() && !rollout.final_value.present();
  return from;
}

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
