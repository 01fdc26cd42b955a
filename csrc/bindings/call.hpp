// A call from Python: when it gives up the interpreter lock, and what holds while it has.
//
//   const ReleaseGil released;  kernel(..);                 arrays that nobody else can free or resize
//   alone(self.lock, [&] { return self.forward(..); });     the same, and an object that no other thread is in
//
// - A short call keeps the lock: to hand it over costs more than the kernel, and a thread that runs Python gives it back after 5 ms.
// - Who holds an object's lock may ask for the interpreter lock, so nobody waits for an object's lock, or for the threads of
//   parallel.hpp, while holding the interpreter lock.
// - A thread that comes back when the interpreter is ending stops there for ever, as Python 3.14 has it. Older versions end it by an
//   unwinding that the destructors on its way do not survive.
// - A fork (os.fork) waits until no kernel is under way, so that the child finds every object whole and no lock taken.
// - In the main thread a kernel that check_interrupt()s runs the handlers of signals; KeyboardInterrupt, or what else they raise, ends it.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <mutex>
#include <vector>

#include "core/interrupt.hpp"
#include "core/lock.hpp"
#include "core/parallel.hpp"

namespace pyrl::bindings {

namespace py = pybind11;

// The arguments of the call that this thread is in; they live as long as it does.
class Call {
 public:
  // `bytes` that it works on, as far as is known; add() tells of more.
  Call(PyObject* const* args, Py_ssize_t count, std::int64_t bytes) : args_(args), count_(count), bytes_(bytes), outer_(current_) { current_ = this; }
  // Of a function without a short form.
  Call(PyObject* const* args, std::size_t count) : Call(args, static_cast<Py_ssize_t>(count), 2 * short_bytes) {}
  ~Call() { current_ = outer_; }
  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;

  static void add(std::int64_t bytes) {
    if (current_ != nullptr) current_->bytes_ += bytes;
  }

 private:
  friend class ReleaseGil;
  static constexpr std::int64_t short_bytes = 32 << 10;  // 1 to 30 us of most kernels
  static thread_local constinit Call* current_;

  PyObject* const* args_;
  Py_ssize_t count_;
  std::int64_t bytes_;
  Call* outer_;
};

// Releases the interpreter lock around a kernel, whose pointers were all taken before.
class ReleaseGil final : Interruptible {
 public:
  enum class When { long_calls, always };

  explicit ReleaseGil(When when = When::long_calls);
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
  Serially serially_;  // unless released: the threads of parallel.hpp may be waiting for the interpreter lock
};

// `body` runs in no other thread at the same time, for one lock. It must not touch Python.
template <class Body>
auto alone(Lock& lock, const Body& body, ReleaseGil::When when = ReleaseGil::When::long_calls) {
  ReleaseGil released(when);
  std::unique_lock<Lock> held(lock, std::try_to_lock);
  if (!held) {
    released.now();
    held.lock();
  }
  return body();
}

// The lock of state that lies in arrays, not in an object: by the address of the first of them. Few locks serve all.
Lock& lock_of(const void* array);

// Where a forced unwinding ends: the thread stays here until the process ends.
[[noreturn]] void stay_for_ever() noexcept;

// Makes os.fork safe and lets kernels answer signals.
void register_process_hooks();

}  // namespace pyrl::bindings
