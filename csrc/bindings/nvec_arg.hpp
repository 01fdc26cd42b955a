// How many choices each component of an action has, and that the columns of its logits are these choices side by side.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "bindings/array_arg.hpp"
#include "bindings/fast_call.hpp"

namespace pyrl::bindings {

inline std::vector<std::int64_t> nvec_arg(py::handle object, const ArrayArg& logits) {
  const char* function = logits.function;
  const py::object items = py::reinterpret_steal<py::object>(PySequence_Fast(object.ptr(), ""));
  if (!items) {
    PyErr_Clear();
    throw DTypeError(concat(function, ": nvec is a ", Py_TYPE(object.ptr())->tp_name, ", expected a sequence of integers"));
  }
  std::vector<std::int64_t> nvec;
  std::int64_t sum = 0;
  bool fits = true;
  for (Py_ssize_t m = 0; m < PySequence_Fast_GET_SIZE(items.ptr()); ++m) {
    nvec.push_back(integer_arg(PySequence_Fast_GET_ITEM(items.ptr(), m), function, "nvec"));
    PYRL_CHECK(nvec.back() >= 1, ArgumentError, function, ": nvec[", m, "] is ", nvec.back(), ", expected at least 1");
    fits = fits && !__builtin_add_overflow(sum, nvec.back(), &sum);
  }
  logits.require_rank(2, "[B, K]");
  PYRL_CHECK(fits && sum == logits.shape[1], ShapeError, function, ": ", logits.name, " has shape ", logits.shape_text(),
             ", expected [B, sum of nvec] = [", logits.shape[0], ", ", fits ? std::to_string(sum) : "more than 2^63", "]");
  return nvec;
}

}  // namespace pyrl::bindings
