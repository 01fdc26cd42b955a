// Philox 4x32-10, the counter-based generator of Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011).
//
// There is no hidden state: word w of block j of element i of draw d is a pure function of (key, d, i, j, w). So the same
// seed gives the same words for any thread count, batch split and device. A stream is a key and the number of draws made.
#pragma once

#include <array>
#include <cstdint>

#include "core/platform.hpp"

namespace pyrl {

using PhiloxBlock = std::array<std::uint32_t, 4>;

// counter = (j, i, low half of d, high half of d).
PYRL_HD PYRL_INLINE PhiloxBlock philox(std::uint64_t key, std::uint64_t draw, std::uint32_t element, std::uint32_t block) {
  std::uint32_t c0 = block, c1 = element, c2 = static_cast<std::uint32_t>(draw), c3 = static_cast<std::uint32_t>(draw >> 32);
  std::uint32_t k0 = static_cast<std::uint32_t>(key), k1 = static_cast<std::uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t p0 = std::uint64_t{0xD2511F53u} * c0;
    const std::uint64_t p1 = std::uint64_t{0xCD9E8D57u} * c2;
    const std::uint32_t n0 = static_cast<std::uint32_t>(p1 >> 32) ^ c1 ^ k0;
    const std::uint32_t n2 = static_cast<std::uint32_t>(p0 >> 32) ^ c3 ^ k1;
    c1 = static_cast<std::uint32_t>(p1);
    c3 = static_cast<std::uint32_t>(p0);
    c0 = n0;
    c2 = n2;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return {c0, c1, c2, c3};
}

// Uniform in [0, 1) on the grid of 2^-24: exact in float32. Called by the C++ tests.
PYRL_HD PYRL_INLINE float uniform_float(std::uint32_t word) { return static_cast<float>(word >> 8) * 0x1p-24f; }

// Uniform in [0, 1) on the grid of 2^-53.
PYRL_HD PYRL_INLINE double uniform_double(std::uint32_t high, std::uint32_t low) {
  const std::uint64_t bits = (std::uint64_t{high} << 32 | low) >> 11;
  return static_cast<double>(bits) * 0x1p-53;
}

// Uniform in {0, ..., n-1} by multiplication; the bias is below n / 2^64.
PYRL_HD PYRL_INLINE std::uint64_t uniform_below(std::uint32_t high, std::uint32_t low, std::uint64_t n) {
  const std::uint64_t word = std::uint64_t{high} << 32 | low;
#if defined(__CUDA_ARCH__)
  return __umul64hi(word, n);
#else
  __extension__ using Wide = unsigned __int128;
  return static_cast<std::uint64_t>((static_cast<Wide>(word) * n) >> 64);
#endif
}

// A stream of draws. 24 bytes in a checkpoint: the key and the 128-bit counter, whose low half is zero between draws.
struct RandomStream {
  std::uint64_t key = 0;
  std::uint64_t draw = 0;

  std::uint64_t next_draw() { return draw++; }
};

// The draw that a call takes of a stream: its numbers; or, for kernels of a GPU, where in the device's memory they are, read when the
// kernel runs, so that each replay of a CUDA graph finds those of the time.
struct DrawSource {
  std::uint64_t key = 0, draw = 0;
  const RandomStream* memory = nullptr;

  PYRL_HD PYRL_INLINE RandomStream read() const { return memory == nullptr ? RandomStream{key, draw} : *memory; }
};

}  // namespace pyrl
