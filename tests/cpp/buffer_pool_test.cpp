#include <doctest/doctest.h>

#include <cstdint>
#include <cstring>
#include <thread>
#include <vector>

#include "core/buffer_pool.hpp"

using namespace pyrl;

TEST_CASE("buffers are aligned, wholly usable, distinct while in use and used again after") {
  for (std::size_t bytes : {std::size_t{0}, std::size_t{1}, std::size_t{63}, std::size_t{65} << 10, std::size_t{5} << 20, std::size_t{70} << 20}) {
    void* first = acquire_buffer(bytes);
    void* second = acquire_buffer(bytes);
    CHECK(first != second);
    CHECK(reinterpret_cast<std::uintptr_t>(first) % 64 == 0);
    if (bytes >= (64 << 10)) CHECK(reinterpret_cast<std::uintptr_t>(first) % 4096 == 2048);  // away from where NumPy's begin
    std::memset(first, 1, bytes);
    std::memset(second, 2, bytes);
    if (bytes > 0) CHECK(static_cast<char*>(first)[bytes - 1] == 1);
    release_buffer(second);
    const bool kept = bytes >= (64 << 10) && bytes <= (50 << 20);
    if (kept) {
      void* third = acquire_buffer(bytes);
      CHECK(third == second);
      release_buffer(third);
    }
    release_buffer(first);
  }
}

TEST_CASE("what waits stays below 192 MiB, whatever was in use") {
  std::vector<void*> blocks;
  for (int i = 0; i < 40; ++i) blocks.push_back(acquire_buffer((std::size_t{3} << 20) + static_cast<std::size_t>(i) * 100000));
  for (void* block : blocks) release_buffer(block);
  CHECK(idle_buffer_bytes() > 0);
  CHECK(idle_buffer_bytes() <= (192u << 20));
}

TEST_CASE("buffers may be taken and given back by many threads") {
  std::vector<std::thread> threads;
  for (int k = 0; k < 4; ++k) {
    threads.emplace_back([k] {
      for (int i = 0; i < 200; ++i) {
        const std::size_t bytes = (64 << 10) * static_cast<std::size_t>(1 + i % 3);
        auto* data = static_cast<unsigned char*>(acquire_buffer(bytes));
        std::memset(data, k, bytes);
        CHECK(data[bytes / 2] == k);
        release_buffer(data);
      }
    });
  }
  for (auto& thread : threads) thread.join();
}
