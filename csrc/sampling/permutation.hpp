// A random permutation of 0, ..., n - 1, every one of the n! equally likely: Fisher and Yates' shuffle in its inside-out form
// (Knuth, The Art of Computer Programming, vol. 2, algorithm 3.4.2P; Durstenfeld 1964).
//
//   for i = 0, 1, ..., n - 1:  j = below(i, i + 1);  out_i = out_j;  out_j = i
//
// below(i, m) is uniform in {0, ..., m - 1} by Lemire's multiplication with rejection on 32-bit words: attempt a takes word
// i mod 4 of block a of element floor(i / 4). One draw a call. The loop is sequential and the targets j are not, so that a
// parallel version with the same result exists (Shun et al., "Sequential random permutation, list contraction and tree
// contraction are highly parallel", SODA 2015): parallel_shuffle.hpp has ours.
//
// out: int64 [n], n < 2^32. Cost: one random access an element. Called for PPO's minibatches.
#pragma once

#include <cstdint>

#include "core/array_view.hpp"
#include "core/cuda.hpp"
#include "core/philox.hpp"

namespace pyrl::sampling {

struct PermutationArgs {
  ArrayView<std::int64_t, 1> out;  // [n]
  DrawSource random;
};

// Attempts 1, 2, .. after attempt 0 was refused.
PYRL_HD inline std::uint32_t redraw_target(std::uint64_t key, std::uint64_t draw, std::uint32_t i) {
  const std::uint32_t m = i + 1, refused = (0 - m) % m;  // 2^32 mod m
  for (std::uint32_t attempt = 1;; ++attempt) {
    const std::uint64_t product = std::uint64_t{philox(key, draw, i >> 2, attempt)[i & 3]} * m;
    if (static_cast<std::uint32_t>(product) >= refused) return static_cast<std::uint32_t>(product >> 32);
  }
}

// below(i, i + 1), of its first word.
PYRL_HD PYRL_INLINE std::uint32_t shuffle_target(std::uint32_t word, std::uint64_t key, std::uint64_t draw, std::uint32_t i) {
  const std::uint32_t m = i + 1;
  const std::uint64_t product = std::uint64_t{word} * m;
  const auto low = static_cast<std::uint32_t>(product);
  if (low < m && low < (0 - m) % m) return redraw_target(key, draw, i);
  return static_cast<std::uint32_t>(product >> 32);
}

void permutation(const PermutationArgs& args);
// The same bits. `space` is Moves::bytes(n) bytes on the device (parallel_shuffle.hpp).
void permutation_cuda(const PermutationArgs& args, void* space, const CudaStream& stream);

}  // namespace pyrl::sampling
