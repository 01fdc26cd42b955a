#include <doctest/doctest.h>

#include <atomic>
#include <chrono>
#include <stdexcept>
#include <thread>
#include <vector>

#include "core/parallel.hpp"
#include "core/philox.hpp"
#include "core/platform.hpp"

using namespace pyrl;

TEST_CASE("philox matches the known answers of Random123") {
  // kat_vectors of the reference implementation: counter and key all zero, all ones, digits of pi.
  CHECK(philox(0, 0, 0, 0) == PhiloxBlock{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8});
  CHECK(philox(~0ull, ~0ull, ~0u, ~0u) == PhiloxBlock{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd});
  CHECK(philox(0x299f31d0a4093822ull, 0x0370734413198a2eull, 0x85a308d3u, 0x243f6a88u) ==
        PhiloxBlock{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1});
}

TEST_CASE("uniforms stay inside their range at the extremes") {
  CHECK(uniform_float(0) == 0.0f);
  CHECK(uniform_float(~0u) < 1.0f);
  CHECK(uniform_double(~0u, ~0u) < 1.0);
  CHECK(uniform_below(~0u, ~0u, 7) == 6);
  CHECK(uniform_below(0, 0, 7) == 0);
}

TEST_CASE("parallel_for covers every index once, for any thread count") {
  for (int threads : {1, 4, 7}) {
    set_num_threads(threads);
    for (std::int64_t n : {0, 1, 5, 1000}) {
      std::vector<std::atomic<int>> seen(static_cast<std::size_t>(n));
      parallel_for(n, 3, [&](std::int64_t begin, std::int64_t end) {
        for (auto i = begin; i < end; ++i) ++seen[static_cast<std::size_t>(i)];
      });
      for (auto& count : seen) CHECK(count == 1);
    }
  }
  set_num_threads(0);
}

TEST_CASE("parallel_for rethrows and stays usable; a nested call runs serially") {
  set_num_threads(4);
  CHECK_THROWS_AS(parallel_for(100, 1, [](std::int64_t begin, std::int64_t) { if (begin > 0) throw std::runtime_error("x"); }), std::runtime_error);
  std::atomic<int> total{0};
  parallel_for(8, 1, [&](std::int64_t begin, std::int64_t end) {
    parallel_for(end - begin, 1, [&](std::int64_t b, std::int64_t e) { total += static_cast<int>(e - b); });
  });
  CHECK(total == 8);
  set_num_threads(0);
}

TEST_CASE("parallel_for loses no job between threads that look out, sleep and come late") {
  std::atomic<std::int64_t> total{0};
  std::int64_t expected = 0;
  for (int job = 0; job < 3000; ++job) {
    set_num_threads(2 + job % 3);
    const std::int64_t n = 2 + job % 7;
    expected += n * (n - 1) / 2;
    parallel_for(n, 1, [&](std::int64_t begin, std::int64_t end) {
      for (auto i = begin; i < end; ++i) total += i;
    });
    REQUIRE(total == expected);
    if (job % 50 == 0) std::this_thread::sleep_for(std::chrono::microseconds(job % 100 == 0 ? 100 : 500));  // at the edge of sleep, and past it
  }
  set_num_threads(0);
}

TEST_CASE("simd level never exceeds the processor's") {
  const auto before = simd::level();
  simd::set_level(simd::Level::Avx512);
  CHECK(simd::level() <= simd::supported());
  simd::set_level(simd::Level::Portable);
  CHECK(simd::level() == simd::Level::Portable);
  simd::set_level(before);
}
