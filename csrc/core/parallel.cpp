#include "core/parallel.hpp"

#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <exception>
#include <mutex>
#include <thread>
#include <utility>

#include "core/platform.hpp"

namespace pyrl {
namespace {

int cores() {
#if defined(__linux__)
  cpu_set_t mask;
  if (sched_getaffinity(0, sizeof mask, &mask) == 0) return std::max(1, CPU_COUNT(&mask));
#endif
  return std::max(1u, std::thread::hardware_concurrency());
}

// The core this thread runs on; -1: unknown.
int current_core() {
#if defined(__linux__)
  return sched_getcpu();
#else
  return -1;
#endif
}

// Schedulers may wake a thread on the core of the one that wakes it and leave both there, one core idle beside them.
void leave_core(int core) {
#if defined(__linux__)
  cpu_set_t all;
  if (sched_getaffinity(0, sizeof all, &all) != 0 || CPU_COUNT(&all) < 2) return;
  cpu_set_t others = all;
  CPU_CLR(static_cast<unsigned>(core), &others);
  sched_setaffinity(0, sizeof others, &others);
  sched_setaffinity(0, sizeof all, &all);  // having moved, it may go where it likes
#else
  (void)core;
#endif
}

int threads_from_environment() {
  const char* text = std::getenv("PYRL_NUM_THREADS");
  return text == nullptr ? 0 : std::max(0, std::atoi(text));
}

std::atomic<int> requested{threads_from_environment()};
std::atomic<bool> torch_loaded{false};
thread_local bool inside_body = false;
constexpr int most_parts = 1024;

// One job at a time. Threads are started on first use, and anew in a forked child, which inherits the object but none of its
// threads. After a job they look out for the next one for a moment before they sleep: the products of an update follow each
// other within microseconds, and waking a sleeper costs tens of them.
class Pool {
 public:
  using Body = std::function<void(std::int64_t, std::int64_t)>;

  void run(int parts, std::int64_t n, const Body& body) {
    std::lock_guard<std::mutex> one_job(job_mutex_);
    grow(parts - 1);
    body_ = &body;
    n_ = n;
    failure_ = nullptr;
    caller_core_ = current_core();
    unfinished_.store(parts - 1, std::memory_order_relaxed);
    open_.store(Open{++jobs_, static_cast<std::uint16_t>(parts), 1}.word());
    notify(wake_, sleepers_);
    run_part(0, parts);
    wait(done_, waiting_, [&] { return unfinished_.load() == 0; });
    if (failure_) std::rethrow_exception(std::exchange(failure_, nullptr));
  }

 private:
  // The parts that nobody has taken yet. One word with the number of the job, so that a thread that comes late takes none of another
  // job. Taking one before the job is through keeps `run` from returning.
  struct Open {
    std::uint32_t job;
    std::uint16_t parts, next;

    explicit Open(std::uint64_t word)
        : job(static_cast<std::uint32_t>(word >> 32)), parts(static_cast<std::uint16_t>(word >> 16)), next(static_cast<std::uint16_t>(word)) {}
    Open(std::uint32_t job_, std::uint16_t parts_, std::uint16_t next_) : job(job_), parts(parts_), next(next_) {}
    std::uint64_t word() const { return std::uint64_t{job} << 32 | std::uint64_t{parts} << 16 | next; }
    bool any() const { return next < parts; }
  };

  void grow(int wanted) {
    for (; workers_ < wanted; ++workers_) std::thread([this] { work(); }).detach();
  }

  void work() {
    for (;;) {
      std::uint64_t word = open_.load();
      wait(wake_, sleepers_, [&] { return Open(word = open_.load()).any(); });
      const Open taken(word);
      if (!open_.compare_exchange_strong(word, word + 1)) continue;
      if (const int core = current_core(); core >= 0 && core == caller_core_) leave_core(core);
      run_part(taken.next, taken.parts);
      if (unfinished_.fetch_sub(1) == 1) notify(done_, waiting_);
    }
  }

  void run_part(int part, int parts) {
    inside_body = true;
    try {
      (*body_)(n_ * part / parts, n_ * (part + 1) / parts);
    } catch (...) {
      std::lock_guard<std::mutex> lock(sleep_mutex_);
      if (!failure_) failure_ = std::current_exception();
    }
    inside_body = false;
  }

  // Looks at `ready` for about 100 us, then sleeps. Whoever makes it true calls `notify` afterwards; either the sleeper is counted
  // before that looks, or it sees the change.
  template <class Ready>
  void wait(std::condition_variable& condition, std::atomic<int>& asleep, const Ready& ready) {
    const auto until = std::chrono::steady_clock::now() + std::chrono::microseconds(100);
    do {
      for (int i = 0; i < 32; ++i) {
        if (ready()) return;
        pause_processor();
      }
      std::this_thread::yield();  // to a thread of ours that has no core of its own
    } while (std::chrono::steady_clock::now() < until);
    std::unique_lock<std::mutex> lock(sleep_mutex_);
    asleep.fetch_add(1);
    condition.wait(lock, ready);
    asleep.fetch_sub(1);
  }

  void notify(std::condition_variable& condition, const std::atomic<int>& asleep) {
    if (asleep.load() == 0) return;
    { std::lock_guard<std::mutex> lock(sleep_mutex_); }
    condition.notify_all();
  }

  static void pause_processor() {
#if PYRL_X86
    __builtin_ia32_pause();
#endif
  }

  std::mutex job_mutex_, sleep_mutex_;
  std::condition_variable wake_, done_;
  std::atomic<int> sleepers_{0}, waiting_{0}, unfinished_{0};
  std::atomic<std::uint64_t> open_{0};
  // Of the job under way; written before it is opened.
  const Body* body_ = nullptr;
  std::int64_t n_ = 0;
  std::exception_ptr failure_;
  int caller_core_ = -1;
  std::uint32_t jobs_ = 0;
  int workers_ = 0;
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

int set_num_threads(int count) { return requested.exchange(std::max(0, count)); }

int num_threads() {
  const int asked = requested.load();
  if (asked > 0) return asked;
  return torch_loaded.load() ? 1 : cores();
}

void note_torch_loaded(bool loaded) { torch_loaded.store(loaded, std::memory_order_relaxed); }

void parallel_for(std::int64_t n, std::int64_t grain, const std::function<void(std::int64_t, std::int64_t)>& body) {
  if (n <= 0) return;
  const std::int64_t most = n / std::max<std::int64_t>(grain, 1);
  const int parts = inside_body || most <= 1 ? 1 : static_cast<int>(std::min<std::int64_t>(most, std::min(num_threads(), most_parts)));
  if (parts <= 1) return body(0, n);
  the_pool().run(parts, n, body);
}

}  // namespace pyrl
