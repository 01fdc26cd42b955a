// Random words for sixteen neighbouring elements at once: Philox side by side in the lanes of vector registers.
#pragma once

#include <cstdint>

#include "core/philox.hpp"
#include "core/platform.hpp"

namespace pyrl::sampling {

// Rows that a kernel handles together. A fixed number, so that the vector width changes speed and never a result.
constexpr int batch_rows = 16;

struct alignas(64) PhiloxBatch {
  std::uint32_t word[4][batch_rows];
};

// word[w][l] = word w of block `block` of element first + l.
PYRL_INLINE void fill_words(PhiloxBatch& tile, std::uint64_t key, std::uint64_t draw, std::uint32_t first, std::uint32_t block) {
  for (int l = 0; l < batch_rows; ++l) {
    const PhiloxBlock words = philox(key, draw, first + static_cast<std::uint32_t>(l), block);
    tile.word[0][l] = words[0];
    tile.word[1][l] = words[1];
    tile.word[2][l] = words[2];
    tile.word[3][l] = words[3];
  }
}

}  // namespace pyrl::sampling
