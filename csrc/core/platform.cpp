#include "core/platform.hpp"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <string_view>

namespace pyrl::simd {
namespace {

Level initial_level() {
  const char* asked = std::getenv("PYRL_SIMD");
  if (asked == nullptr) return supported();
  const std::string_view name(asked);
  const Level wanted = name == "portable" ? Level::Portable : name == "avx2" ? Level::Avx2 : Level::Avx512;
  return std::min(wanted, supported());
}

std::atomic<Level>& current() {
  static std::atomic<Level> level{initial_level()};
  return level;
}

}  // namespace

Level supported() {
#if PYRL_X86
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq");
  if (avx512) return Level::Avx512;
  if (avx2) return Level::Avx2;
#endif
  return Level::Portable;
}

Level level() { return current().load(std::memory_order_relaxed); }

void set_level(Level wanted) { current().store(std::min(wanted, supported()), std::memory_order_relaxed); }

}  // namespace pyrl::simd
