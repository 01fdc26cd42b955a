// What threads of a GPU do to one word one after the other, in any order; on the CPU too, where tests run such threads.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>

#include "core/platform.hpp"

namespace pyrl {

PYRL_HD PYRL_INLINE void atomic_add(std::int64_t* word, std::int64_t value) {
#if defined(__CUDA_ARCH__)
  ::atomicAdd(reinterpret_cast<unsigned long long*>(word), static_cast<unsigned long long>(value));
#else
  std::atomic_ref(*word).fetch_add(value, std::memory_order_relaxed);
#endif
}

// *word = value, and what was there before.
PYRL_HD PYRL_INLINE std::uint32_t atomic_exchange(std::uint32_t* word, std::uint32_t value) {
#if defined(__CUDA_ARCH__)
  return ::atomicExch(word, value);
#else
  return std::atomic_ref(*word).exchange(value, std::memory_order_relaxed);
#endif
}

#if !defined(__CUDA_ARCH__)
// *word = value if wins(value, *word).
template <class T, class Wins>
void replace_if(T* word, T value, const Wins& wins) {
  const std::atomic_ref shared(*word);
  T seen = shared.load(std::memory_order_relaxed);
  while (wins(value, seen) && !shared.compare_exchange_weak(seen, value, std::memory_order_relaxed)) {
  }
}
#endif

PYRL_HD PYRL_INLINE void atomic_max(std::uint32_t* word, std::uint32_t value) {
#if defined(__CUDA_ARCH__)
  ::atomicMax(word, value);
#else
  replace_if(word, value, std::greater<>());
#endif
}

PYRL_HD PYRL_INLINE void atomic_max(std::int64_t* word, std::int64_t value) {
#if defined(__CUDA_ARCH__)
  ::atomicMax(reinterpret_cast<long long*>(word), static_cast<long long>(value));
#else
  replace_if(word, value, std::greater<>());
#endif
}

PYRL_HD PYRL_INLINE void atomic_min(std::uint64_t* word, std::uint64_t value) {
#if defined(__CUDA_ARCH__)
  ::atomicMin(reinterpret_cast<unsigned long long*>(word), static_cast<unsigned long long>(value));
#else
  replace_if(word, value, std::less<>());
#endif
}

}  // namespace pyrl
