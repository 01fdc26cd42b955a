// Fibers: functions that stop in the middle and go on later, each on a stack of its own. One thread of the host at a time uses them.
#pragma once

#include <csetjmp>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>

#include <ucontext.h>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

namespace emulator {

class Fiber {
 public:
  // body() runs from the first resume() on; it must never return, but pause() for ever.
  explicit Fiber(std::function<void()> body) : stack_(new std::byte[stack_bytes]), body_(std::move(body)) {
    getcontext(&start_);
    start_.uc_stack.ss_sp = stack_.get();
    start_.uc_stack.ss_size = stack_bytes;
    const auto self = reinterpret_cast<std::uintptr_t>(this);
    makecontext(&start_, reinterpret_cast<void (*)()>(&enter), 2, static_cast<unsigned>(self), static_cast<unsigned>(self >> 32));
  }
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  // Called outside: runs the fiber until it pauses.
  void resume() {
    before_switch(stack_.get(), stack_bytes);
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    swapcontext(&outside_, &start_);
#else
    if (_setjmp(outside_) != 0) return;  // swapcontext asks the kernel for the signal mask each time, which takes longer than all else
    if (started_) _longjmp(inside_, 1);
    started_ = true;
    setcontext(&start_);
#endif
    after_switch();
  }
  // Called inside: goes back to whoever resumed it.
  void pause() {
    before_switch(outside_stack_, outside_bytes_);
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    swapcontext(&start_, &outside_);
#else
    if (_setjmp(inside_) == 0) _longjmp(outside_, 1);
#endif
    after_switch();
  }

 private:
  static constexpr std::size_t stack_bytes = 256 << 10;

  static void enter(unsigned low, unsigned high) {
    auto* const self = reinterpret_cast<Fiber*>(static_cast<std::uintptr_t>(high) << 32 | low);
    self->after_switch();
    self->body_();
  }

#if defined(__SANITIZE_ADDRESS__)
  void before_switch(const void* stack, std::size_t bytes) { __sanitizer_start_switch_fiber(&fake_stack_[inside_now_], stack, bytes); }
  void after_switch() {
    inside_now_ = !inside_now_;
    const void* from = nullptr;
    std::size_t bytes = 0;
    __sanitizer_finish_switch_fiber(fake_stack_[inside_now_], &from, &bytes);
    if (inside_now_) outside_stack_ = from, outside_bytes_ = bytes;
  }
  void* fake_stack_[2] = {};
  bool inside_now_ = false;
#else
  void before_switch(const void*, std::size_t) {}
  void after_switch() {}
#endif

  std::unique_ptr<std::byte[]> stack_;
  std::function<void()> body_;
  ucontext_t start_;
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  ucontext_t outside_;
#else
  std::jmp_buf outside_, inside_;
  bool started_ = false;
#endif
  const void* outside_stack_ = nullptr;
  std::size_t outside_bytes_ = 0;
};

}  // namespace emulator
