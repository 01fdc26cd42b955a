#include <doctest/doctest.h>

#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

#include "core/check.hpp"
#include "replay/limiter.hpp"

using namespace pyrl;
using namespace pyrl::replay;

TEST_CASE("threads insert, draw, stop and resume at once, and nothing is counted twice") {
  LimiterOptions options;
  options.samples_per_insert = 4;
  options.min_size = 40;
  options.insert_size = 10;
  options.sample_size = 32;
  options.error_buffer = 2 * RateLimiter::least_buffer(options);
  RateLimiter limiter(options);
  std::atomic<std::int64_t> stored{0}, drawn{0};
  std::atomic<bool> over{false};
  const auto until_over = [&](const auto& work) { return std::thread([&over, work] { while (!over) work(); }); };

  std::vector<std::thread> threads;
  for (int k = 0; k < 3; ++k) {
    threads.push_back(until_over([&, k] {
      if (!limiter.begin_insert(10, 0.001)) return;
      const bool kept = (stored + k) % 7 != 0;  // an insert that fails leaves nothing
      if (kept) stored += 10;
      limiter.end_insert(10, kept);
    }));
    threads.push_back(until_over([&] {
      if (limiter.sample(32, 0.001)) drawn += 32;
    }));
  }
  threads.push_back(until_over([&] {
    const double inserts = static_cast<double>(limiter.inserts()), samples = static_cast<double>(limiter.samples());  // samples are read later
    CHECK(inserts * 4 - samples - 160 <= options.error_buffer);
    (void)limiter.can_insert(10), (void)limiter.can_sample(32);
    limiter.stop();
    CHECK(limiter.stopped());
    limiter.resume();
    std::this_thread::sleep_for(std::chrono::microseconds(200));
  }));
  while (stored < 1000 || drawn < 1000) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  over = true;
  for (auto& thread : threads) thread.join();
  CHECK(limiter.inserts() == stored);
  CHECK(limiter.samples() == drawn);
  CHECK(static_cast<double>(stored) * 4 - static_cast<double>(drawn) - 160 >= -options.error_buffer);
  limiter.set_counts(5, 6);  // refused while something is being inserted
  CHECK(limiter.inserts() == 5);
  CHECK_THROWS_AS(limiter.set_counts(-1, 0), ArgumentError);
}
