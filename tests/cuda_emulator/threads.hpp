// The threads of a kernel, in a random order: blocks one after the other, the threads of a block in turns from barrier to barrier.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "cuda_runtime.h"
#include "fibers.hpp"

#if defined(PYRL_TSAN)
extern "C" {
void* __tsan_get_current_fiber();
void* __tsan_create_fiber(unsigned flags);
void __tsan_switch_to_fiber(void* fiber, unsigned flags);
void __tsan_acquire(void* address);
void __tsan_release(void* address);
}
#endif

namespace emulator {

class Random {
 public:
  std::uint64_t below(std::uint64_t bound) {
    state_ = state_ * 6364136223846793005u + 1442695040888963407u;
    return (state_ >> 33) % bound;
  }
  template <class T>
  void shuffle(std::vector<T>& list) {
    for (std::size_t left = list.size(); left > 1; --left) std::swap(list[left - 1], list[below(left)]);
  }

 private:
  std::uint64_t state_ = 1;
};

// To ThreadSanitizer each fiber is a thread, which only barriers and the kernel's beginning and end put in an order with others. So a race
// of a kernel is found, in global memory as well, unless both threads had the same fiber.
class Identity {
#if defined(PYRL_TSAN)
 public:
  static constexpr std::size_t spare = 64;  // fibers to choose from
  static void* host() { return __tsan_get_current_fiber(); }
  static void* make() { return __tsan_create_fiber(0); }
  static void become(void* self) { __tsan_switch_to_fiber(self, 1); }
  static void tell(void* place) { __tsan_release(place); }
  static void hear(void* place) { __tsan_acquire(place); }
#else
 public:
  static constexpr std::size_t spare = 1;
  static void* host() { return nullptr; }
  static void* make() { return nullptr; }
  static void become(void*) {}
  static void tell(void*) {}
  static void hear(void*) {}
#endif
};

class Threads {
 public:
  static Threads& instance() {
    static Threads threads;
    return threads;
  }

  void run(const dim3& grid, const dim3& block, const std::function<void()>& thread, Random& random) {
    gridDim = grid, blockDim = block;
    body_ = &thread;
    random_ = &random;
    host_ = Identity::host();
    Identity::tell(&begin_);
    std::vector<unsigned> blocks(grid.x);
    for (unsigned i = 0; i < grid.x; ++i) blocks[i] = i;
    random.shuffle(blocks);
    for (const unsigned i : blocks) {
      blockIdx = {i, 0, 0};
      run_block();
    }
    Identity::hear(&end_);
  }

  // Called by a thread: goes on when all of its block that have not ended have called it. Whether any of them voted.
  bool barrier(bool vote) {
    Worker& self = *current_;
    char* const place = &barrier_[generation_ % 2];  // who has gone on may be at the next one already
    Identity::tell(place);
    Identity::become(host_);
    votes_ |= vote;
    waiting_.push_back(&self);
    self.fiber->pause();
    const bool decision = decision_;
    Identity::become(self.identity);
    Identity::hear(place);
    return decision;
  }

 private:
  struct Worker {
    std::unique_ptr<Fiber> fiber;
    unsigned thread = 0;
    void* identity = nullptr;
  };

  void run_block() {
    order_.resize(blockDim.x);
    for (unsigned i = 0; i < blockDim.x; ++i) order_[i] = i;
    random_->shuffle(order_);
    next_ = 0;
    while (next_ < order_.size()) enter(idle_worker());
    while (!waiting_.empty()) {
      std::vector<Worker*> going;
      going.swap(waiting_);
      decision_ = votes_;
      votes_ = false;
      ++generation_;
      random_->shuffle(going);
      for (Worker* worker : going) enter(*worker);
    }
    if (generation_ == 0) return;
    generation_ = 0;
    Identity::hear(&end_);  // the next block's shared memory is the same
    Identity::tell(&begin_);
  }

  // Any of some, so that two threads seldom have the same one.
  Worker& idle_worker() {
    while (idle_.size() < Identity::spare) {
      workers_.push_back(std::make_unique<Worker>());
      Worker& made = *workers_.back();
      made.fiber = std::make_unique<Fiber>([this, &made] { work(made); });
      made.identity = Identity::make();
      idle_.push_back(&made);
    }
    std::swap(idle_.back(), idle_[random_->below(idle_.size())]);
    Worker& worker = *idle_.back();
    idle_.pop_back();
    return worker;
  }

  // On a fiber: one thread after the other; of a block too, where no other fiber should take them, as switching takes time.
  void work(Worker& self) {
    for (;;) {
      do {
        self.thread = order_[next_++];
        threadIdx = {self.thread, 0, 0};
        Identity::become(self.identity);
        Identity::hear(&begin_);
        (*body_)();
        Identity::tell(&end_);
        Identity::become(host_);
      } while (Identity::spare == 1 && next_ < order_.size());
      idle_.push_back(&self);
      self.fiber->pause();
    }
  }

  void enter(Worker& worker) {
    current_ = &worker;
    threadIdx = {worker.thread, 0, 0};
    worker.fiber->resume();
  }

  std::vector<std::unique_ptr<Worker>> workers_;  // kept: stacks are used again
  std::vector<Worker*> idle_, waiting_;
  Worker* current_ = nullptr;
  std::vector<unsigned> order_;
  std::size_t next_ = 0;
  bool votes_ = false, decision_ = false;
  unsigned generation_ = 0;            // of barriers
  char begin_ = 0, end_ = 0, barrier_[2] = {};  // addresses by which the sanitizer knows what is ordered
  const std::function<void()>* body_ = nullptr;
  Random* random_ = nullptr;
  void* host_ = nullptr;
};

}  // namespace emulator
