// How a kernel's binding takes a random stream: a RandomStream, advanced by one draw a call.
#pragma once

#include <pybind11/pybind11.h>

#include "core/check.hpp"
#include "core/philox.hpp"

namespace pyrl::bindings {

inline RandomStream& stream_arg(pybind11::handle object, const char* function) {
  PYRL_CHECK(pybind11::isinstance<RandomStream>(object), DTypeError, function, ": random is a ", Py_TYPE(object.ptr())->tp_name,
             ", expected a pyrl.RandomStream");
  return object.cast<RandomStream&>();
}

}  // namespace pyrl::bindings
