// A call from Python: when it releases the interpreter lock, and what holds meanwhile.
//
//   const ReleaseGil released;  kernel(..);                 arrays that no other thread can free or resize
//   alone(self.lock, [&] { return self.forward(..); });     the same, and an object that no other thread is in
//
// - A short call keeps the lock: handing it over costs more than the kernel, and a thread that runs Python gives it back after 5 ms.
// - A thread that holds an object's lock may ask for the interpreter lock, so no thread waits for an object's lock while holding the
//   interpreter lock.
// - A thread that comes back when the interpreter is ending stays there, as in Python 3.14. Older versions end it by an
//   unwinding that the destructors on its way do not survive.
// - A fork (os.fork) waits until no kernel is under way, so that the child finds every object whole and no lock taken.
// - In the main thread a kernel that check_interrupt()s runs the handlers of signals; KeyboardInterrupt, or any other exception of theirs, ends it.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <mutex>
#include <vector>

#include "core/interrupt.hpp"
#include "core/lock.hpp"

namespace pyrl::bindings {

namespace py = pybind11;

// The arguments of a call; they live as long as it does. All under the interpreter lock, so no thread needs its own copy.
class Call {
 public:
  Call(PyObject* const* args, Py_ssize_t count) : Call(args, count, read_bytes_) {}
  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;
  ~Call() {
    (next_ == nullptr ? latest_ : next_->previous_) = previous_;
    if (previous_ != nullptr) previous_->next_ = next_;
  }

  // Of a call of unknown size: it counts as long.
  static Call long_one(PyObject* const* args, std::size_t count) { return Call(args, static_cast<Py_ssize_t>(count), read_bytes_ - short_bytes); }
  // An array of so many bytes was read, or made, for a call of this thread.
  static void read(std::int64_t bytes) { read_bytes_ += bytes; }
  // Whether this thread is in a call whose arrays are small.
  static bool is_short() {
    const Call* const call = current();
    return call != nullptr && read_bytes_ - call->start_ < short_bytes;
  }

 private:
  friend class ReleaseGil;
  static constexpr std::int64_t short_bytes = 128 << 10;  // 1 to 100 us of most kernels
  static Call* latest_;
  static std::int64_t read_bytes_;  // since the start, by all threads: so a call may count too many

  Call(PyObject* const* args, Py_ssize_t count, std::int64_t start)
      : args_(args), count_(count), start_(start), thread_(PyThreadState_Get()), previous_(latest_) {
    if (previous_ != nullptr) previous_->next_ = this;
    latest_ = this;
  }
  // The innermost call of this thread; null: none.
  static const Call* current() {
    PyThreadState* const thread = PyThreadState_Get();
    const Call* call = latest_;
    while (call != nullptr && call->thread_ != thread) call = call->previous_;
    return call;
  }

  PyObject* const* args_;
  Py_ssize_t count_;
  std::int64_t start_;
  PyThreadState* thread_;
  Call *previous_, *next_ = nullptr;
};

// Releases the interpreter lock around a kernel, whose pointers were all taken before.
class ReleaseGil final : Interruptible {
 public:
  enum class When { if_busy, long_calls, always };

  explicit ReleaseGil(When when = When::long_calls) {
    if (when == When::always || !Call::is_short()) now(false);
  }
  ~ReleaseGil() override {
    if (state_ != nullptr) take_back();
  }

  // Before a wait. Without effect where it is released already.
  void now(bool waits = true);

 private:
  void ask() override;
  void pin(PyObject* argument);
  void keep(PyObject* made);
  void take_back() noexcept;

  PyThreadState* state_ = nullptr;
  std::vector<py::object> pins_;
};

// `body` runs in no other thread at the same time, for one lock. It must not touch Python.
template <class Body>
auto alone(Lock& lock, const Body& body, ReleaseGil::When when = ReleaseGil::When::long_calls) {
  if (when == ReleaseGil::When::if_busy || (when == ReleaseGil::When::long_calls && Call::is_short())) {
    const std::unique_lock<Lock> held(lock, std::try_to_lock);
    if (held) return body();
  }
  ReleaseGil released(ReleaseGil::When::always);
  std::unique_lock<Lock> held(lock, std::try_to_lock);
  if (!held) {
    released.now();
    held.lock();
  }
  return body();
}

// The lock of state that is in arrays, not in an object: by the address of the first of them. Few locks serve all.
Lock& lock_of(const void* array);

// Where a forced unwinding ends: the thread stays here until the process ends.
[[noreturn]] void stay_for_ever() noexcept;

// Makes os.fork safe and lets kernels answer signals.
void register_process_hooks();

}  // namespace pyrl::bindings
