#include "core/lineage.hpp"

#include <pthread.h>

#include <atomic>

#include "core/philox.hpp"

namespace pyrl {
namespace {

std::atomic<std::uint64_t> here{0}, forks{0};

// At load, so that no fork comes before it.
const int at_fork = pthread_atfork([] { ++forks; }, nullptr, [] {
  const PhiloxBlock words = philox(here.load(), forks.exchange(0), 0, 0);
  here.store((std::uint64_t{words[0]} << 32 | words[1]) | 1);
});

}  // namespace

std::uint64_t lineage() { return here.load(std::memory_order_relaxed); }

}  // namespace pyrl
