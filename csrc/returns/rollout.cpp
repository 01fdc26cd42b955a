#include "returns/rollout.hpp"

#include "core/check.hpp"

namespace pyrl::returns {
namespace {

// Flags are bytes: uint8 arrays may hold more than 0 and 1.
const unsigned char* bytes_of(const ArrayView<const bool, 2>& flags) { return reinterpret_cast<const unsigned char*>(flags.data); }

bool any_set(const unsigned char* bytes, std::int64_t count) {
  bool found = false;
  simd::dispatch([&]() PYRL_INLINE_LAMBDA {
    constexpr std::int64_t block = 4096;
    for (std::int64_t begin = 0; begin < count && !found; begin += block) {
      const std::int64_t end = std::min(count, begin + block);
      unsigned char any = 0;
      for (std::int64_t i = begin; i < end; ++i) any |= bytes[i];
      found = any != 0;
    }
  });
  return found;
}

}  // namespace

template <class T>
void check_bootstrap(const RolloutView<T>& rollout, const char* function) {
  if (rollout.next_value.present() || rollout.final_value.present() || !rollout.value.present()) return;
  const std::int64_t count = rollout.reward.size();
  const unsigned char *terminated = bytes_of(rollout.terminated), *truncated = bytes_of(rollout.truncated), *valid = bytes_of(rollout.valid);
  if (!any_set(truncated, count)) return;
  for (std::int64_t i = 0; i < count; ++i) {
    const bool needed = truncated[i] && !terminated[i] && (valid == nullptr || valid[i]);
    PYRL_CHECK(!needed, ArgumentError, function, ": truncated[", i / rollout.environments(), ", ", i % rollout.environments(),
               "] is set and final_value is None; pass final_value [T, N] = V(final observation) at the cuts, where value[t+1] may "
               "belong to the next episode, or next_value [T, N]");
  }
}

template void check_bootstrap(const RolloutView<float>&, const char*);
template void check_bootstrap(const RolloutView<double>&, const char*);

}  // namespace pyrl::returns
