#include "core/parallel.hpp"

#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <exception>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

namespace pyrl {
namespace {

int cores() {
#if defined(__linux__)
  cpu_set_t mask;
  if (sched_getaffinity(0, sizeof mask, &mask) == 0) return std::max(1, CPU_COUNT(&mask));
#endif
  return std::max(1u, std::thread::hardware_concurrency());
}

int threads_from_environment() {
  const char* text = std::getenv("PYRL_NUM_THREADS");
  return text == nullptr ? 0 : std::max(0, std::atoi(text));
}

std::atomic<int> requested{threads_from_environment()};
std::atomic<bool> torch_loaded{false};
thread_local bool inside_body = false;

// One job at a time. Threads sleep between jobs; they are started on first use and anew in a forked child, which
// inherits the object but none of its threads.
class Pool {
 public:
  void run(int parts, std::int64_t n, const std::function<void(std::int64_t, std::int64_t)>& body) {
    std::lock_guard<std::mutex> one_job(job_mutex_);
    grow(parts - 1);
    {
      std::lock_guard<std::mutex> lock(mutex_);
      body_ = &body;
      n_ = n;
      parts_ = parts;
      next_part_ = 1;
      unfinished_ = parts - 1;
      failure_ = nullptr;
      ++job_;
    }
    wake_.notify_all();
    run_part(0);
    std::unique_lock<std::mutex> lock(mutex_);
    done_.wait(lock, [&] { return unfinished_ == 0; });
    body_ = nullptr;
    if (failure_) std::rethrow_exception(std::exchange(failure_, nullptr));
  }

 private:
  void grow(int wanted) {
    while (workers_ < wanted) {
      std::thread([this] { work(); }).detach();
      ++workers_;
    }
  }

  void work() {
    std::uint64_t seen = 0;
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
      wake_.wait(lock, [&] { return job_ != seen && next_part_ < parts_; });
      while (next_part_ < parts_) {
        const int part = next_part_++;
        lock.unlock();
        run_part(part);
        lock.lock();
        if (--unfinished_ == 0) done_.notify_one();
      }
      seen = job_;
    }
  }

  void run_part(int part) {
    inside_body = true;
    try {
      (*body_)(n_ * part / parts_, n_ * (part + 1) / parts_);
    } catch (...) {
      std::lock_guard<std::mutex> lock(mutex_);
      if (!failure_) failure_ = std::current_exception();
    }
    inside_body = false;
  }

  std::mutex job_mutex_, mutex_;
  std::condition_variable wake_, done_;
  const std::function<void(std::int64_t, std::int64_t)>* body_ = nullptr;
  std::int64_t n_ = 0;
  int parts_ = 0, next_part_ = 0, unfinished_ = 0, workers_ = 0;
  std::uint64_t job_ = 0;
  std::exception_ptr failure_;
};

// Leaked on purpose: detached threads may outlive static destruction.
std::atomic<Pool*> pool{nullptr};

Pool& the_pool() {
  static const int at_fork = pthread_atfork(nullptr, nullptr, [] { pool.store(new Pool); });
  (void)at_fork;
  Pool* current = pool.load();
  if (current == nullptr) {
    auto* fresh = new Pool;
    if (pool.compare_exchange_strong(current, fresh)) return *fresh;
    delete fresh;
  }
  return *current;
}

}  // namespace

void set_num_threads(int count) { requested.store(std::max(0, count)); }

int num_threads() {
  const int asked = requested.load();
  if (asked > 0) return asked;
  return torch_loaded.load() ? 1 : cores();
}

void note_torch_loaded(bool loaded) { torch_loaded.store(loaded, std::memory_order_relaxed); }

void parallel_for(std::int64_t n, std::int64_t grain, const std::function<void(std::int64_t, std::int64_t)>& body) {
  if (n <= 0) return;
  const std::int64_t most = n / std::max<std::int64_t>(grain, 1);
  const int parts = inside_body || most <= 1 ? 1 : static_cast<int>(std::min<std::int64_t>(most, num_threads()));
  if (parts <= 1) return body(0, n);
  the_pool().run(parts, n, body);
}

}  // namespace pyrl
