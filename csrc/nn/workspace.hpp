// Memory that grows to the largest use and stays: the steady state allocates nothing. Starts at a cache line.
#pragma once

#include <cstdint>
#include <memory>
#include <new>

namespace pyrl::nn {

template <class Real>
class Workspace {
 public:
  // Room for `size` numbers; their values are unspecified where it grew.
  Real* reserve(std::int64_t size) {
    if (size > size_) {
      memory_.reset(static_cast<Real*>(::operator new(static_cast<std::size_t>(size) * sizeof(Real), alignment)));
      size_ = size;
    }
    return memory_.get();
  }
  Real* data() const { return memory_.get(); }

 private:
  static constexpr std::align_val_t alignment{64};
  struct Free {
    void operator()(Real* memory) const { ::operator delete(memory, alignment); }
  };
  std::unique_ptr<Real, Free> memory_;
  std::int64_t size_ = 0;
};

}  // namespace pyrl::nn
