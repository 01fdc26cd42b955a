// The threads of a kernel, in a random order: blocks one after the other, the threads of a block in turns from barrier to barrier.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "cuda_runtime.h"
#include "fibers.hpp"

#if defined(__SANITIZE_THREAD__)
extern "C" {
void* __tsan_get_current_fiber();
void* __tsan_create_fiber(unsigned flags);
void __tsan_destroy_fiber(void* fiber);
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

// To ThreadSanitizer each CUDA thread is one, which only barriers and the kernel's beginning and end put in an order with others. So a race
// of a kernel is found, in global memory as well.
class Identity {
#if defined(__SANITIZE_THREAD__)
 public:
  static void* host() { return __tsan_get_current_fiber(); }
  static void* make() { return __tsan_create_fiber(0); }
  static void destroy(void* self) { __tsan_destroy_fiber(self); }
  static void become(void* self) { __tsan_switch_to_fiber(self, 1); }
  static void tell(void* place) { __tsan_release(place); }
  static void hear(void* place) { __tsan_acquire(place); }
#else
 public:
  static void* host() { return nullptr; }
  static void* make() { return nullptr; }
  static void destroy(void*) {}
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
    Identity::tell(this);
    std::vector<unsigned> blocks(grid.x);
    for (unsigned i = 0; i < grid.x; ++i) blocks[i] = i;
    random.shuffle(blocks);
    for (const unsigned i : blocks) {
      blockIdx = {i, 0, 0};
      run_block();
    }
    Identity::hear(this);
  }

  // Called by a thread: goes on when all of its block that have not ended have called it. Whether any of them voted.
  bool barrier(bool vote) {
    Worker& self = *current_;
    votes_ |= vote;
    waiting_.push_back(&self);
    Identity::tell(&votes_);
    leave(self);
    Identity::hear(&votes_);
    return decision_;
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
      random_->shuffle(going);
      for (Worker* worker : going) enter(*worker);
    }
  }

  Worker& idle_worker() {
    if (idle_.empty()) {
      workers_.push_back(std::make_unique<Worker>());
      Worker& made = *workers_.back();
      made.fiber = std::make_unique<Fiber>([this, &made] { work(made); });
      idle_.push_back(&made);
    }
    Worker& worker = *idle_.back();
    idle_.pop_back();
    return worker;
  }

  // On a fiber: one thread after the other. Those that meet no barrier share a fiber so.
  void work(Worker& self) {
    for (;;) {
      while (next_ < order_.size()) {
        self.thread = order_[next_++];
        threadIdx = {self.thread, 0, 0};
        self.identity = Identity::make();
        Identity::become(self.identity);
        Identity::hear(this);
        (*body_)();
        Identity::tell(this);
        Identity::become(host_);
        Identity::destroy(self.identity);
        self.identity = nullptr;
      }
      idle_.push_back(&self);
      self.fiber->pause();
    }
  }

  void enter(Worker& worker) {
    current_ = &worker;
    threadIdx = {worker.thread, 0, 0};
    if (worker.identity != nullptr) Identity::become(worker.identity);
    worker.fiber->resume();
  }
  void leave(Worker& worker) {
    Identity::become(host_);
    worker.fiber->pause();
  }

  std::vector<std::unique_ptr<Worker>> workers_;  // kept: stacks are used again
  std::vector<Worker*> idle_, waiting_;
  Worker* current_ = nullptr;
  std::vector<unsigned> order_;
  std::size_t next_ = 0;
  bool votes_ = false, decision_ = false;
  const std::function<void()>* body_ = nullptr;
  Random* random_ = nullptr;
  void* host_ = nullptr;
};

}  // namespace emulator
