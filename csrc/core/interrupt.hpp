// How long work can be stopped: between pieces of some milliseconds it checks whether to stop.
#pragma once

#include <pthread.h>

#include <atomic>
#include <chrono>

namespace pyrl {

// Work of the thread that makes it, and of those that help with it, can be stopped while one of these lives.
class Interruptible {
 public:
  Interruptible() = default;
  virtual ~Interruptible() { leave(); }
  Interruptible(const Interruptible&) = delete;
  Interruptible& operator=(const Interruptible&) = delete;

  void enter();
  void leave() noexcept;
  // Helpers stop at their next question.
  void stop() noexcept { stopped_.store(true, std::memory_order_relaxed); }
  // The owner asks `ask` every 50 ms.
  void check();

 protected:
  // Throws to stop the work. Called on the owner's thread, with whatever locks the work holds.
  virtual void ask() = 0;

 private:
  static constexpr auto interval = std::chrono::milliseconds(50);

  std::atomic<bool> stopped_{false};
  bool entered_ = false, started_ = false;
  Interruptible* outer_ = nullptr;
  pthread_t owner_{};
  std::chrono::steady_clock::time_point next_;
};

// Thrown in a helper whose owner has stopped.
struct Stopped {};

namespace detail {
// Of this thread's work; null: none.
extern constinit thread_local Interruptible* interruptible;
}  // namespace detail

// Once for every millisecond of work or so. Throws if the work should stop.
inline void check_interrupt() {
  if (detail::interruptible != nullptr) detail::interruptible->check();
}

// body(begin, end) over [0, n), at most `piece` at a time.
template <class Index, class Body>
void in_pieces(Index n, Index piece, const Body& body) {
  for (Index at = 0; at < n; at += piece) {
    check_interrupt();
    body(at, n - at < piece ? n : at + piece);
  }
}

// What happens while one of these lives cannot be stopped: changes of state that must be whole.
class Uninterrupted {
 public:
  Uninterrupted() : outer_(detail::interruptible) { detail::interruptible = nullptr; }
  ~Uninterrupted() { detail::interruptible = outer_; }
  Uninterrupted(const Uninterrupted&) = delete;
  Uninterrupted& operator=(const Uninterrupted&) = delete;

 private:
  Interruptible* outer_;
};

}  // namespace pyrl
