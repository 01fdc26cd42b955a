// The mutex of an object that several threads may use.
#pragma once

#include <atomic>
#include <mutex>
#include <stdexcept>
#include <thread>

namespace pyrl {

// An object was used in the middle of a call of the same thread on it: by the handler of a signal.
struct BusyError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// A std::mutex that refuses its own owner instead of deadlocking.
class Lock {
 public:
  void lock() {
    refuse_owner();
    mutex_.lock();
    owner_.store(std::this_thread::get_id(), std::memory_order_relaxed);
  }
  bool try_lock() {
    refuse_owner();
    if (!mutex_.try_lock()) return false;
    owner_.store(std::this_thread::get_id(), std::memory_order_relaxed);
    return true;
  }
  void unlock() {
    owner_.store(std::thread::id(), std::memory_order_relaxed);
    mutex_.unlock();
  }

 private:
  void refuse_owner() const {
    if (owner_.load(std::memory_order_relaxed) == std::this_thread::get_id())
      throw BusyError("this object is in the middle of a call of the same thread; a signal's handler cannot use it");
  }

  std::mutex mutex_;
  std::atomic<std::thread::id> owner_{};
};

}  // namespace pyrl
