// Uniform indices in {0, ..., high - 1}, with and without replacement. Exact: Lemire, "Fast random integer generation in an
// interval" (ACM TOMACS 2019), rejects what would favour some values.
//
//   With replacement: index_i = below(i, high).
//   Without: the first B steps of Fisher and Yates' shuffle of 0, ..., high - 1: step i exchanges entries i and
//   i + below(i, high - i). Every ordered selection is equally likely.
//
// below(i, n) takes attempts j = 0, 1, .. from 64-bit words: words 2 (i mod 2) and 2 (i mod 2) + 1 of block j of element
// floor(i / 2). One draw a call. B <= 2^33.
//
// index: int64 [B]. Cost: with replacement O(B), 1 to 2 ns an index; without, O(B) in a table of O(B) (sequential).
#pragma once

#include <cstdint>

#include "core/array_view.hpp"
#include "core/cuda.hpp"
#include "core/philox.hpp"

namespace pyrl::sampling {

struct UniformIndicesArgs {
  ArrayView<std::int64_t, 1> index;  // [B]
  std::uint64_t high = 1;            // 1 to 2^63
  DrawSource random;
};

// Attempts 1, 2, .. after attempt 0 was refused. n / 2^64 is the chance that it is.
PYRL_HD inline std::uint64_t redraw_below(std::uint64_t key, std::uint64_t draw, std::uint64_t i, std::uint64_t n) {
  const std::uint64_t refused = (0 - n) % n;  // 2^64 mod n
  for (std::uint32_t attempt = 1;; ++attempt) {
    const PhiloxBlock words = philox(key, draw, static_cast<std::uint32_t>(i >> 1), attempt);
    const std::uint32_t high = words[2 * (i & 1)], low = words[2 * (i & 1) + 1];
    if ((std::uint64_t{high} << 32 | low) * n >= refused) return uniform_below(high, low, n);
  }
}

// Whether attempt 0 counts: the low half of word * n must not be among the first 2^64 mod n.
PYRL_HD PYRL_INLINE bool accepted(std::uint32_t high, std::uint32_t low, std::uint64_t n) {
  const std::uint64_t low_half = (std::uint64_t{high} << 32 | low) * n;
  return low_half >= n || low_half >= (0 - n) % n;
}

// below(i, n), of its words.
PYRL_HD PYRL_INLINE std::uint64_t index_below(std::uint32_t high, std::uint32_t low, std::uint64_t n, std::uint64_t key, std::uint64_t draw,
                                              std::uint64_t i) {
  return accepted(high, low, n) ? uniform_below(high, low, n) : redraw_below(key, draw, i, n);
}

void uniform_indices(const UniformIndicesArgs& args);
// Needs B <= high.
void distinct_indices(const UniformIndicesArgs& args);

// The same bits. `space` is Moves::bytes(B) bytes on the device (parallel_shuffle.hpp), B < 2^32.
void uniform_indices_cuda(const UniformIndicesArgs& args, const CudaStream& stream);
void distinct_indices_cuda(const UniformIndicesArgs& args, void* space, const CudaStream& stream);

}  // namespace pyrl::sampling
