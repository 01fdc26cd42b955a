// Moving and comparing rows of a few dozen bytes, whose length is known only at run time. Files that include this are compiled
// with -fno-tree-loop-distribute-patterns: GCC would turn the loops back into calls of memmove.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "core/platform.hpp"

namespace pyrl::replay {

namespace detail {

typedef std::uint8_t Block16 __attribute__((vector_size(16)));
typedef std::uint8_t Block32 __attribute__((vector_size(32)));

// One register each at the widest level that `simd::dispatch` compiles for.
template <class Word>
PYRL_INLINE void move_word(std::uint8_t* to, const std::uint8_t* from) {
  Word word;
  std::memcpy(&word, from, sizeof word);
  std::memcpy(to, &word, sizeof word);
}

template <class Word>
struct OneMove {
  PYRL_INLINE void operator()(std::uint8_t* PYRL_RESTRICT to, const std::uint8_t* PYRL_RESTRICT from) const { move_word<Word>(to, from); }
};

// sizeof(Word) <= bytes <= 2 sizeof(Word): two moves that may overlap.
template <class Word>
struct TwoMoves {
  std::int64_t bytes;
  PYRL_INLINE void operator()(std::uint8_t* PYRL_RESTRICT to, const std::uint8_t* PYRL_RESTRICT from) const {
    const std::int64_t last = bytes - static_cast<std::int64_t>(sizeof(Word));
    Word head, tail;
    std::memcpy(&head, from, sizeof head);
    std::memcpy(&tail, from + last, sizeof tail);
    std::memcpy(to, &head, sizeof head);
    std::memcpy(to + last, &tail, sizeof tail);
  }
};

struct Moves {
  std::int64_t bytes;  // > 32
  PYRL_INLINE void operator()(std::uint8_t* PYRL_RESTRICT to, const std::uint8_t* PYRL_RESTRICT from) const {
    for (std::int64_t at = 0; at < bytes - 32; at += 32) move_word<Block32>(to + at, from + at);
    move_word<Block32>(to + bytes - 32, from + bytes - 32);
  }
};

struct Bytes {
  std::int64_t bytes;
  PYRL_INLINE void operator()(std::uint8_t* PYRL_RESTRICT to, const std::uint8_t* PYRL_RESTRICT from) const {
    for (std::int64_t i = 0; i < bytes; ++i) to[i] = from[i];
  }
};

struct Call {
  std::int64_t bytes;
  PYRL_INLINE void operator()(std::uint8_t* PYRL_RESTRICT to, const std::uint8_t* PYRL_RESTRICT from) const {
    std::memcpy(to, from, static_cast<std::size_t>(bytes));
  }
};

// bytes >= sizeof(Word)
template <class Word>
struct CompareWords {
  std::int64_t bytes;
  PYRL_INLINE bool operator()(const std::uint8_t* a, const std::uint8_t* b) const {
    const std::int64_t last = bytes - static_cast<std::int64_t>(sizeof(Word));
    Word different = difference(a + last, b + last);
    for (std::int64_t at = 0; at < last; at += sizeof(Word)) different |= difference(a + at, b + at);
    return is_zero(different);
  }

 private:
  PYRL_INLINE static Word difference(const std::uint8_t* a, const std::uint8_t* b) {
    Word x, y;
    std::memcpy(&x, a, sizeof x);
    std::memcpy(&y, b, sizeof y);
    return x ^ y;
  }
  PYRL_INLINE static bool is_zero(const Word& word) {
    if constexpr (std::is_integral_v<Word>) {
      return word == 0;
    } else {
      std::uint64_t parts[sizeof(Word) / sizeof(std::uint64_t)], any = 0;
      std::memcpy(parts, &word, sizeof word);
      for (const std::uint64_t part : parts) any |= part;
      return any == 0;
    }
  }
};

struct CompareCall {
  std::int64_t bytes;
  PYRL_INLINE bool operator()(const std::uint8_t* a, const std::uint8_t* b) const { return std::memcmp(a, b, static_cast<std::size_t>(bytes)) == 0; }
};

}  // namespace detail

// Calls `use` with the quickest memcpy(to, from) for rows of so many bytes: the choice is made once for a loop over rows.
template <class Use>
PYRL_INLINE void with_row_copy(std::int64_t bytes, const Use& use) {
  if (bytes == 4) {
    use(detail::OneMove<std::uint32_t>{});
  } else if (bytes == 8) {
    use(detail::OneMove<std::uint64_t>{});
  } else if (bytes == 16) {
    use(detail::OneMove<detail::Block16>{});
  } else if (bytes > 512) {
    use(detail::Call{bytes});
  } else if (bytes > 32) {
    use(detail::Moves{bytes});
  } else if (bytes >= 16) {
    use(detail::TwoMoves<detail::Block16>{bytes});
  } else if (bytes >= 8) {
    use(detail::TwoMoves<std::uint64_t>{bytes});
  } else if (bytes >= 4) {
    use(detail::TwoMoves<std::uint32_t>{bytes});
  } else {
    use(detail::Bytes{bytes});
  }
}

PYRL_INLINE void copy_row(std::uint8_t* PYRL_RESTRICT to, const std::uint8_t* PYRL_RESTRICT from, std::int64_t bytes) {
  with_row_copy(bytes, [&](const auto& copy) PYRL_INLINE_LAMBDA { copy(to, from); });
}

// The same for equal(a, b), whether two rows are the same bit for bit.
template <class Use>
PYRL_INLINE void with_row_compare(std::int64_t bytes, const Use& use) {
  if (bytes > 512 || bytes < 4) {
    use(detail::CompareCall{bytes});
  } else if (bytes == 16) {
    use(detail::CompareWords<detail::Block16>{16});
  } else if (bytes >= 32) {
    use(detail::CompareWords<detail::Block32>{bytes});
  } else if (bytes >= 16) {
    use(detail::CompareWords<detail::Block16>{bytes});
  } else if (bytes >= 8) {
    use(detail::CompareWords<std::uint64_t>{bytes});
  } else {
    use(detail::CompareWords<std::uint32_t>{bytes});
  }
}

}  // namespace pyrl::replay
