// Moving and comparing rows of a few dozen bytes, whose length is known only at run time. Files that include this are compiled
// with -fno-tree-loop-distribute-patterns: GCC would turn the loops back into calls of memmove.
#pragma once

#include <cstdint>
#include <cstring>

#include "core/platform.hpp"

namespace pyrl::replay {

// memcpy for short rows of unknown length: two overlapping moves instead of a call.
PYRL_INLINE void copy_row(std::uint8_t* PYRL_RESTRICT to, const std::uint8_t* PYRL_RESTRICT from, std::int64_t bytes) {
  const auto move = [&]<class Word>(Word word) PYRL_INLINE_LAMBDA {
    std::int64_t at = 0;
    for (; at + static_cast<std::int64_t>(sizeof(Word)) <= bytes; at += sizeof(Word)) {
      std::memcpy(&word, from + at, sizeof(Word));
      std::memcpy(to + at, &word, sizeof(Word));
    }
    if (at < bytes) {
      std::memcpy(&word, from + bytes - sizeof(Word), sizeof(Word));
      std::memcpy(to + bytes - sizeof(Word), &word, sizeof(Word));
    }
  };
  struct Word16 {
    std::uint64_t low, high;
  };
  if (bytes > 256) {
    std::memcpy(to, from, static_cast<std::size_t>(bytes));
  } else if (bytes >= 16) {
    move(Word16{});
  } else if (bytes >= 8) {
    move(std::uint64_t{});
  } else if (bytes >= 4) {
    move(std::uint32_t{});
  } else {
    for (std::int64_t i = 0; i < bytes; ++i) to[i] = from[i];
  }
}

PYRL_INLINE bool rows_equal(const std::uint8_t* a, const std::uint8_t* b, std::int64_t bytes) {
  if (bytes < 16 || bytes > 256) return std::memcmp(a, b, static_cast<std::size_t>(bytes)) == 0;
  std::uint64_t any = 0;
  const auto compare = [&](std::int64_t at) PYRL_INLINE_LAMBDA {
    std::uint64_t x[2], y[2];
    std::memcpy(x, a + at, 16);
    std::memcpy(y, b + at, 16);
    any |= (x[0] ^ y[0]) | (x[1] ^ y[1]);
  };
  for (std::int64_t at = 0; at + 16 <= bytes; at += 16) compare(at);
  compare(bytes - 16);
  return any == 0;
}

}  // namespace pyrl::replay
