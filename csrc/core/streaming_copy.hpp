// memcpy for what is not read again soon. It writes past the caches: nothing is fetched that is overwritten whole, nothing is driven out.
#pragma once

#include <cstdint>
#include <cstring>

#include "core/platform.hpp"

#if PYRL_X86
#include <emmintrin.h>
#endif

namespace pyrl {

inline void streaming_copy(void* to, const void* from, std::int64_t bytes) {
  auto* target = static_cast<std::uint8_t*>(to);
  const auto* source = static_cast<const std::uint8_t*>(from);
#if PYRL_X86
  constexpr std::int64_t word = sizeof(__m128i), line = 4 * word;
  const auto before = static_cast<std::int64_t>(-reinterpret_cast<std::uintptr_t>(to) % line);
  if (bytes >= before + line) {
    std::memcpy(target, source, static_cast<std::size_t>(before));
    target += before, source += before, bytes -= before;
    for (; bytes >= line; target += line, source += line, bytes -= line) {
      for (std::int64_t at = 0; at < line; at += word)
        _mm_stream_si128(reinterpret_cast<__m128i*>(target + at), _mm_loadu_si128(reinterpret_cast<const __m128i*>(source + at)));
    }
    _mm_sfence();  // or others could see the caller's next writes before these
  }
#endif
  std::memcpy(target, source, static_cast<std::size_t>(bytes));
}

}  // namespace pyrl
