// Rows moved and compared by a team: `threads` threads that share the work, of which this is number `thread`. A register of 16 bytes a
// time where addresses and length permit, else 4 or 1.
#pragma once

#include <cstdint>
#include <cstring>

#include "core/platform.hpp"

namespace pyrl::replay {

struct alignas(16) Word16 {
  std::uint64_t low, high;
};

namespace detail {

template <class Word>
PYRL_HD PYRL_INLINE Word load(const std::uint8_t* from) {
  Word word;
  std::memcpy(&word, __builtin_assume_aligned(from, sizeof(Word)), sizeof(Word));
  return word;
}

template <class Word>
PYRL_HD PYRL_INLINE void store(std::uint8_t* to, const Word& word) {
  std::memcpy(__builtin_assume_aligned(to, sizeof(Word)), &word, sizeof(Word));
}

template <class Use>
PYRL_HD PYRL_INLINE auto with_word(std::uintptr_t all_of_it, const Use& use) {
  if (all_of_it % 16 == 0) return use(Word16{});
  if (all_of_it % 4 == 0) return use(std::uint32_t{});
  return use(std::uint8_t{});
}

}  // namespace detail

PYRL_HD inline void team_copy(std::uint8_t* PYRL_RESTRICT to, const std::uint8_t* PYRL_RESTRICT from, std::int64_t bytes, int thread, int threads) {
  const auto addresses = reinterpret_cast<std::uintptr_t>(to) | reinterpret_cast<std::uintptr_t>(from);
  detail::with_word(addresses | static_cast<std::uintptr_t>(bytes), [&]<class Word>(Word) {
    constexpr int ahead = 4;  // loads under way at once
    const auto words = bytes / static_cast<std::int64_t>(sizeof(Word));
    for (std::int64_t first = thread; first < words; first += ahead * threads) {
      Word held[ahead] = {};
      PYRL_UNROLL
      for (int k = 0; k < ahead; ++k)
        if (const std::int64_t i = first + k * threads; i < words) held[k] = detail::load<Word>(from + i * sizeof(Word));
      PYRL_UNROLL
      for (int k = 0; k < ahead; ++k)
        if (const std::int64_t i = first + k * threads; i < words) detail::store(to + i * sizeof(Word), held[k]);
    }
  });
}

PYRL_HD inline void team_clear(std::uint8_t* to, std::int64_t bytes, int thread, int threads) {
  detail::with_word(reinterpret_cast<std::uintptr_t>(to) | static_cast<std::uintptr_t>(bytes), [&]<class Word>(Word) {
    for (std::int64_t at = thread * sizeof(Word); at < bytes; at += threads * static_cast<std::int64_t>(sizeof(Word))) detail::store(to + at, Word{});
  });
}

// Whether this thread's part differs.
PYRL_HD inline bool team_differs(const std::uint8_t* a, const std::uint8_t* b, std::int64_t bytes, int thread, int threads) {
  const auto addresses = reinterpret_cast<std::uintptr_t>(a) | reinterpret_cast<std::uintptr_t>(b);
  return detail::with_word(addresses | static_cast<std::uintptr_t>(bytes), [&]<class Word>(Word) {
    std::uint8_t any = 0;
    for (std::int64_t at = thread * static_cast<std::int64_t>(sizeof(Word)); at < bytes; at += threads * static_cast<std::int64_t>(sizeof(Word))) {
      const Word x = detail::load<Word>(a + at), y = detail::load<Word>(b + at);
      if constexpr (sizeof(Word) == 16) {
        any |= x.low != y.low || x.high != y.high;
      } else {
        any |= x != y;
      }
    }
    return any != 0;
  });
}

}  // namespace pyrl::replay
