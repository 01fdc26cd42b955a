// A quick look at an array that most likely is as it should be: yes or no. Whoever hears no asks again in words (`read_array`).
#pragma once

#include <pybind11/numpy.h>

#include <cmath>
#include <cstdint>

#include "bindings/array_arg.hpp"

namespace pyrl::bindings {

// Whether `object` is a contiguous NumPy array, and no subclass, of rank `rank`, with the dtype and the last `axes` extents of `like`.
inline bool is_plain_like(PyObject* object, PyObject* like, int rank, int axes) {
  if (Py_TYPE(object) != Py_TYPE(like)) return false;
  const auto* one = py::detail::array_proxy(object);
  const auto* other = py::detail::array_proxy(like);
  if (one->descr != other->descr || one->nd != rank || (one->flags & py::array::c_style) == 0) return false;
  for (int axis = 1; axis <= axes; ++axis)
    if (one->dimensions[rank - axis] != other->dimensions[other->nd - axis]) return false;
  return true;
}

template <class T>
bool all_finite(const T* numbers, std::int64_t count) {
  bool all = true;
  for (std::int64_t i = 0; i < count; ++i) all &= std::isfinite(numbers[i]);
  return all;
}

// Of `count` numbers; any other dtype than the two floats counts as finite.
inline bool all_finite(const void* numbers, DType dtype, std::int64_t count) {
  if (dtype == DType::Float32) return all_finite(static_cast<const float*>(numbers), count);
  if (dtype == DType::Float64) return all_finite(static_cast<const double*>(numbers), count);
  return true;
}

}  // namespace pyrl::bindings
