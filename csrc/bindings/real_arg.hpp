// Kernels that exist in float32 and float64: the first array decides, the others must agree.
#pragma once

#include <cmath>
#include <initializer_list>

#include "bindings/array_arg.hpp"

namespace pyrl::bindings {

// `location`, for the arrays that must have the dtype of `first`: and whose messages name it.
inline Location real_location(Location location, const ArrayArg& first) {
  location.dtype = first.dtype;
  location.like = first.name;
  return location;
}

// body(Real{}) with Real = float or double.
template <class Body>
decltype(auto) with_real(const ArrayArg& first, const Body& body) {
  PYRL_CHECK(first.dtype == DType::Float32 || first.dtype == DType::Float64, DTypeError, first.function, ": ", first.name, " has dtype ", first.dtype_text(),
             ", expected float32 or float64");
  if (first.dtype == DType::Float32) return body(float{});
  return body(double{});
}

// NonFiniteError that names the first of the arrays (all of type Real) that holds a NaN or an infinity.
template <class Real>
[[noreturn]] void throw_non_finite(std::initializer_list<const ArrayArg*> arrays) {
  const char* function = (*arrays.begin())->function;
  for (const ArrayArg* array : arrays) {
    if (array->data == nullptr || array->dtype != dtype_of<Real>()) continue;
    for (std::int64_t i = 0; i < array->size(); ++i) {
      const Real value = static_cast<const Real*>(array->data)[i];
      PYRL_CHECK(std::isfinite(value), NonFiniteError, function, ": ", array->name, " ", array->shape_text(), " holds ", value, " (element ", i, ")");
    }
  }
  throw NonFiniteError(concat(function, ": the result is not finite, though its inputs are: they are too large"));
}

}  // namespace pyrl::bindings
