#include "core/interrupt.hpp"

namespace pyrl {

constinit thread_local Interruptible* detail::interruptible = nullptr;

void Interruptible::enter() {
  entered_ = true;
  owner_ = pthread_self();
  outer_ = detail::interruptible;
  detail::interruptible = this;
}

void Interruptible::leave() noexcept {
  if (!entered_) return;
  detail::interruptible = outer_;
  entered_ = false;
}

void Interruptible::check() {
  if (pthread_equal(pthread_self(), owner_) == 0) {
    if (stopped_.load(std::memory_order_relaxed)) throw Stopped{};
    return;
  }
  const auto now = std::chrono::steady_clock::now();
  if (started_ && now < next_) return;
  next_ = now + interval;
  if (!started_) {
    started_ = true;
    return;
  }
  try {
    ask();
  } catch (...) {
    stop();
    throw;
  }
}

}  // namespace pyrl
