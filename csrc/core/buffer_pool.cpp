#include "core/buffer_pool.hpp"

#include <pthread.h>
#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <iterator>
#include <mutex>
#include <new>
#include <vector>

namespace pyrl {
namespace {

constexpr std::size_t smallest_kept = 64 << 10, most_kept = 192 << 20, huge_page = 2 << 20, most_blocks = 1024;

// In front of the data.
struct alignas(64) Header {
  std::size_t capacity;  // with the header
};

struct Pool {
  std::mutex mutex;
  std::vector<Header*> idle;  // the oldest first
  std::size_t bytes = 0;

  Pool() { idle.reserve(most_blocks); }
};

// Leaked on purpose: arrays may outlive static destruction. A fork waits until no other thread is inside.
Pool& the_pool() {
  static Pool* const pool = [] {
    static Pool* made;
    made = new Pool;
    pthread_atfork([] { made->mutex.lock(); }, [] { made->mutex.unlock(); }, [] { made->mutex.unlock(); });
    return made;
  }();
  return *pool;
}

// A quarter of a power of two: sizes that differ little share blocks, and at most a fifth is never touched.
std::size_t rounded(std::size_t bytes) {
  const std::size_t step = std::max<std::size_t>(64, std::bit_floor(bytes) / 4);
  return (bytes + step - 1) / step * step;
}

Header* allocate(std::size_t capacity) {
  const bool large = capacity >= 2 * huge_page;
  void* memory = nullptr;
  if (posix_memalign(&memory, large ? huge_page : 64, capacity) != 0) throw std::bad_alloc();
#if defined(__linux__)
  if (large) madvise(memory, capacity, MADV_HUGEPAGE);
#endif
  return new (memory) Header{capacity};
}

}  // namespace

void* acquire_buffer(std::size_t bytes) {
  const std::size_t capacity = rounded(bytes + sizeof(Header));
  if (capacity < bytes) throw std::bad_alloc();
  if (capacity >= smallest_kept && capacity <= most_kept) {
    Pool& pool = the_pool();
    std::lock_guard<std::mutex> lock(pool.mutex);
    const auto last = std::find_if(pool.idle.rbegin(), pool.idle.rend(), [&](const Header* block) { return block->capacity == capacity; });
    if (last != pool.idle.rend()) {
      Header* block = *last;
      pool.idle.erase(std::next(last).base());
      pool.bytes -= capacity;
      return block + 1;
    }
  }
  return allocate(capacity) + 1;
}

void release_buffer(void* data) noexcept {
  Header* block = static_cast<Header*>(data) - 1;
  if (block->capacity < smallest_kept || block->capacity > most_kept) return std::free(block);
  Pool& pool = the_pool();
  std::lock_guard<std::mutex> lock(pool.mutex);
  while (!pool.idle.empty() && (pool.bytes + block->capacity > most_kept || pool.idle.size() == most_blocks)) {
    pool.bytes -= pool.idle.front()->capacity;
    std::free(pool.idle.front());
    pool.idle.erase(pool.idle.begin());
  }
  pool.idle.push_back(block);
  pool.bytes += block->capacity;
}

std::size_t idle_buffer_bytes() {
  Pool& pool = the_pool();
  std::lock_guard<std::mutex> lock(pool.mutex);
  return pool.bytes;
}

}  // namespace pyrl
