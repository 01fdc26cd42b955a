// Indices as they were when they were checked: another thread may write to the caller's array while a kernel uses them.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <memory>

namespace pyrl::bindings {

class TakenIndices {
 public:
  TakenIndices(const std::int64_t* from, std::int64_t count) : count_(count) {
    if (count > static_cast<std::int64_t>(few_.size())) many_.reset(new std::int64_t[static_cast<std::size_t>(count)]);
    data_ = many_ ? many_.get() : few_.data();
    std::copy_n(from, count, data_);
  }
  TakenIndices(const TakenIndices&) = delete;
  TakenIndices& operator=(const TakenIndices&) = delete;

  const std::int64_t* data() const { return data_; }
  // The first that is not in [0, high); -1: none.
  std::int64_t first_outside(std::int64_t high) const {
    bool outside = false;
    for (std::int64_t i = 0; i < count_; ++i) outside |= static_cast<std::uint64_t>(data_[i]) >= static_cast<std::uint64_t>(high);
    if (!outside) return -1;
    return std::find_if(data_, data_ + count_, [&](std::int64_t index) { return index < 0 || index >= high; }) - data_;
  }

 private:
  std::int64_t count_;
  std::array<std::int64_t, 256> few_;
  std::unique_ptr<std::int64_t[]> many_;
  std::int64_t* data_ = nullptr;
};

}  // namespace pyrl::bindings
