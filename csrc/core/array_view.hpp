// A borrowed, row-major, contiguous array: pointer and extents, nothing owned. Usable on both devices.
#pragma once

#include <array>
#include <cstdint>

#include "core/platform.hpp"

namespace pyrl {

template <class T, int Rank>
struct ArrayView {
  T* data = nullptr;
  std::array<std::int64_t, Rank> extent{};

  PYRL_HD std::int64_t size() const {
    std::int64_t product = 1;
    for (int axis = 0; axis < Rank; ++axis) product *= extent[axis];
    return product;
  }
  PYRL_HD bool present() const { return data != nullptr; }  // optional arguments are null views

  PYRL_HD T& operator()(std::int64_t i) const
    requires(Rank == 1)
  {
    return data[i];
  }
  PYRL_HD T& operator()(std::int64_t i, std::int64_t j) const
    requires(Rank == 2)
  {
    return data[i * extent[1] + j];
  }
  // Start of row i.
  PYRL_HD T* row(std::int64_t i) const
    requires(Rank == 2)
  {
    return data + i * extent[1];
  }
};

}  // namespace pyrl
