// What threads of a GPU do to one word one after the other, in any order. On the CPU, where tests run such threads, there is one.
#pragma once

#include <cstdint>

#include "core/platform.hpp"

namespace pyrl {

PYRL_HD PYRL_INLINE void atomic_add(std::int64_t* word, std::int64_t value) {
#if defined(__CUDA_ARCH__)
  ::atomicAdd(reinterpret_cast<unsigned long long*>(word), static_cast<unsigned long long>(value));
#else
  *word += value;
#endif
}

PYRL_HD PYRL_INLINE void atomic_max(std::uint32_t* word, std::uint32_t value) {
#if defined(__CUDA_ARCH__)
  ::atomicMax(word, value);
#else
  *word = *word < value ? value : *word;
#endif
}

PYRL_HD PYRL_INLINE void atomic_max(std::int64_t* word, std::int64_t value) {
#if defined(__CUDA_ARCH__)
  ::atomicMax(reinterpret_cast<long long*>(word), static_cast<long long>(value));
#else
  *word = *word < value ? value : *word;
#endif
}

PYRL_HD PYRL_INLINE void atomic_min(std::uint64_t* word, std::uint64_t value) {
#if defined(__CUDA_ARCH__)
  ::atomicMin(reinterpret_cast<unsigned long long*>(word), static_cast<unsigned long long>(value));
#else
  *word = value < *word ? value : *word;
#endif
}

}  // namespace pyrl
