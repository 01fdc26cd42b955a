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

#include "core/interrupt.hpp"
#include "core/lineage.hpp"
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
  sched_setaffinity(0, sizeof all, &all);  // once moved, it may run anywhere
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

struct Inside {
  Inside() { inside_body = true; }
  ~Inside() { inside_body = false; }
};

// In pieces of some milliseconds where it can be stopped and is long.
void run_range(std::int64_t begin, std::int64_t end, std::int64_t grain, const std::function<void(std::int64_t, std::int64_t)>& body) {
  constexpr std::int64_t grains = 64;
  if (detail::interruptible == nullptr || (end - begin) / grain < 2 * grains) return body(begin, end);
  for (std::int64_t at = begin; at < end; at += grains * grain) {
    check_interrupt();
    body(at, std::min(end, at + grains * grain));
  }
}

// One job at a time. Threads are started on first use, and anew in a forked child, which inherits the object but none of its
// threads. After a job they spin briefly for the next one before they sleep: the products of an update follow each
// other within microseconds, and waking a sleeper costs tens of them.
class Pool {
 public:
  using Body = std::function<void(std::int64_t, std::int64_t)>;
  using Clock = std::chrono::steady_clock;

  // A helper that takes a part and needs longer for it than the caller for all of its own has lost its core to another process. The jobs that
  // follow run without helpers, for a multiple of the wait, so that two threads are hardly slower than one there.
  static constexpr auto patience = std::chrono::microseconds(200);

  void run(int parts, std::int64_t n, std::int64_t grain, const Body& body) {
    const std::unique_lock<std::mutex> one_job(job_mutex_, std::try_to_lock);
    if (!one_job || Clock::now() < alone_until_) return run_range(0, n, grain, body);
    const Inside serially;  // a handler that runs here may start other work
    grow(parts - 1);
    body_ = &body;
    n_ = n;
    grain_ = grain;
    failure_ = nullptr;
    interruptible_ = detail::interruptible;
    caller_core_ = current_core();
    unfinished_.store(parts - 1, std::memory_order_relaxed);
    open_.store(Open{++jobs_, static_cast<std::uint16_t>(parts), 1}.word());
    notify(wake_, sleepers_);
    const Clock::time_point began = Clock::now();
    run_part(0, parts);
    while (take_part(false)) {
    }
    const Clock::time_point done = Clock::now();
    wait_for_others();
    const Clock::duration waited = Clock::now() - done;
    if (waited > patience && waited > done - began) alone_until_ = Clock::now() + std::min<Clock::duration>(16 * waited, std::chrono::milliseconds(100));
    if (failure_) std::rethrow_exception(std::exchange(failure_, nullptr));
  }

 private:
  // The parts that are not taken yet. One word with the number of the job, so that a thread that comes late takes none of another
  // job. While a part is taken, `run` does not return.
  struct Open {
    std::uint32_t job;
    std::uint16_t parts, next;

    explicit Open(std::uint64_t word)
        : job(static_cast<std::uint32_t>(word >> 32)), parts(static_cast<std::uint16_t>(word >> 16)), next(static_cast<std::uint16_t>(word)) {}
    Open(std::uint32_t job_, std::uint16_t parts_, std::uint16_t next_) : job(job_), parts(parts_), next(next_) {}
    std::uint64_t word() const { return std::uint64_t{job} << 32 | std::uint64_t{parts} << 16 | next; }
    bool any() const { return next < parts; }
  };

  // Parts that no new thread takes are left to the running ones, in the end to the caller.
  void grow(int wanted) {
    try {
      for (; workers_ < wanted; ++workers_) std::thread([this] { work(); }).detach();
    } catch (const std::exception&) {  // the system starts no more threads
    }
  }

  // For the parts under way; asks meanwhile whether to stop.
  void wait_for_others() {
    const std::uint64_t process = lineage();
    const auto ready = [&] { return unfinished_.load() == 0; };
    while (!wait(done_, waiting_, ready, std::chrono::milliseconds(10))) {
      guarded([] { check_interrupt(); });
      if (process != lineage()) throw std::runtime_error("a signal's handler forked in the middle of a call; the child has no threads to end it");
    }
  }

  void work() {
    inside_body = true;
    for (;;) {
      wait(wake_, sleepers_, [&] { return Open(open_.load()).any(); }, std::chrono::hours(1));
      take_part(true);
    }
  }

  // One that is not taken yet; false: there is none.
  bool take_part(bool by_helper) {
    std::uint64_t word = open_.load();
    const Open taken(word);
    if (!taken.any()) return false;
    if (!open_.compare_exchange_strong(word, word + 1)) return true;
    if (const int core = current_core(); by_helper && core >= 0 && core == caller_core_) leave_core(core);
    run_part(taken.next, taken.parts);
    if (unfinished_.fetch_sub(1) == 1) notify(done_, waiting_);
    return true;
  }

  void run_part(int part, int parts) {
    Interruptible* const outer = std::exchange(detail::interruptible, interruptible_);
    guarded([&] { run_range(n_ * part / parts, n_ * (part + 1) / parts, grain_, *body_); });
    detail::interruptible = outer;
  }

  // Keeps the first failure, and stops the other parts where possible.
  template <class Body>
  void guarded(const Body& body) {
    try {
      body();
    } catch (const Stopped&) {  // the thread that was stopped keeps the cause
    } catch (...) {
      std::lock_guard<std::mutex> lock(sleep_mutex_);
      if (!failure_) failure_ = std::current_exception();
      if (interruptible_ != nullptr) interruptible_->stop();
    }
  }

  // Polls `ready` for about 100 us, then sleeps, at most for `most`. The thread that makes it true calls `notify` afterwards; either the
  // sleeper is counted before that check, or it sees the change.
  template <class Ready>
  bool wait(std::condition_variable& condition, std::atomic<int>& asleep, const Ready& ready, std::chrono::steady_clock::duration most) {
    const auto until = std::chrono::steady_clock::now() + std::chrono::microseconds(100);
    do {
      for (int i = 0; i < 32; ++i) {
        if (ready()) return true;
        pause_processor();
      }
      std::this_thread::yield();  // to a thread of ours that has no core of its own
    } while (std::chrono::steady_clock::now() < until);
    std::unique_lock<std::mutex> lock(sleep_mutex_);
    asleep.fetch_add(1);
    const bool is_ready = condition.wait_for(lock, most, ready);
    asleep.fetch_sub(1);
    return is_ready;
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
  std::int64_t grain_ = 1;
  Interruptible* interruptible_ = nullptr;
  std::exception_ptr failure_;
  int caller_core_ = -1;
  std::uint32_t jobs_ = 0;
  int workers_ = 0;
  Clock::time_point alone_until_{};
};

// Leaked on purpose: detached threads may outlive static destruction.
std::atomic<Pool*> pool{nullptr};

// At load, so that no fork comes before it.
const int at_fork = pthread_atfork(nullptr, nullptr, [] { pool.store(nullptr); });

Pool& the_pool() {
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
  grain = std::max<std::int64_t>(grain, 1);
  const std::int64_t most = n / grain;
  const int parts = inside_body || most <= 1 ? 1 : static_cast<int>(std::min<std::int64_t>(most, std::min(num_threads(), most_parts)));
  if (parts <= 1) return run_range(0, n, grain, body);
  the_pool().run(parts, n, grain, body);
}

}  // namespace pyrl
