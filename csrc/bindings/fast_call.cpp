#include "bindings/fast_call.hpp"

#include <cmath>
#include <new>

namespace pyrl::bindings {
namespace {

// Numbers may be too long to print.
std::string text_of(py::handle object) {
  py::object text = py::reinterpret_steal<py::object>(PyObject_Repr(object.ptr()));
  if (text) return text.cast<std::string>();
  PyErr_Clear();
  return concat("a ", Py_TYPE(object.ptr())->tp_name);
}

// Turns the error of a conversion into ours; one that is not a wrong type or value (KeyboardInterrupt) goes through.
[[noreturn]] void refuse(py::handle object, const char* function, const char* name, const char* kind, const char* range) {
  const bool wrong_type = PyErr_ExceptionMatches(PyExc_TypeError) || PyErr_ExceptionMatches(PyExc_ValueError);
  if (!wrong_type && !PyErr_ExceptionMatches(PyExc_OverflowError)) throw py::error_already_set();
  PyErr_Clear();
  const std::string start = concat(function, ": ", name, " is ", text_of(object), ", expected ");
  if (wrong_type) throw DTypeError(start + kind);
  throw ArgumentError(start + range);
}

}  // namespace

double number_arg(py::handle object, const char* function, const char* name) {
  if (PyFloat_CheckExact(object.ptr())) return PyFloat_AS_DOUBLE(object.ptr());
  const double value = PyFloat_AsDouble(object.ptr());
  if (value == -1.0 && PyErr_Occurred() != nullptr) refuse(object, function, name, "a number", "a number that a double holds");
  return value;
}

double number_in(py::handle object, double low, double high, const char* function, const char* name) {
  const double value = number_arg(object, function, name);
  PYRL_CHECK(value >= low && value <= high, ArgumentError, function, ": ", name, " is ", text_of(object), ", expected a number in [", low, ", ", high, "]");
  return value;
}

double number_below(py::handle object, double low, double high, const char* function, const char* name) {
  const double value = number_arg(object, function, name);
  PYRL_CHECK(value >= low && value < high, ArgumentError, function, ": ", name, " is ", text_of(object), ", expected a number in [", low,
             ", ", high, ")");
  return value;
}

double finite_arg(py::handle object, const char* function, const char* name) {
  const double value = number_arg(object, function, name);
  PYRL_CHECK(std::isfinite(value), ArgumentError, function, ": ", name, " is ", text_of(object), ", expected a finite number");
  return value;
}

bool flag_arg(py::handle object, const char* function, const char* name) {
  PYRL_CHECK(PyBool_Check(object.ptr()), DTypeError, function, ": ", name, " is ", text_of(object), ", expected True or False");
  return object.ptr() == Py_True;
}

std::int64_t integer_arg(py::handle object, const char* function, const char* name) {
  PyObject* index = PyNumber_Index(object.ptr());
  const long long value = index == nullptr ? -1 : PyLong_AsLongLong(index);
  Py_XDECREF(index);
  if (value == -1 && PyErr_Occurred() != nullptr) refuse(object, function, name, "an integer", "an integer that 64 bits hold");
  return value;
}

std::array<py::handle, 2> pair_arg(const Arg& arg, const char* meaning) {
  PYRL_CHECK(PyTuple_Check(arg.ptr()) && PyTuple_GET_SIZE(arg.ptr()) == 2, DTypeError, arg.function, ": ", arg.name, " is a ",
             Py_TYPE(arg.ptr())->tp_name, ", expected a tuple ", meaning);
  return {PyTuple_GET_ITEM(arg.ptr(), 0), PyTuple_GET_ITEM(arg.ptr(), 1)};
}

namespace detail {

void set_python_error() noexcept {
  const auto raise = [](const char* type, const char* message) { py::set_error(py::module_::import("pyrl.errors").attr(type), message); };
  try {
    try {
      throw;
    } catch (py::error_already_set& error) {
      error.restore();
    } catch (const ShapeError& error) {
      raise("ShapeError", error.what());
    } catch (const DTypeError& error) {
      raise("DTypeError", error.what());
    } catch (const DeviceError& error) {
      raise("DeviceError", error.what());
    } catch (const NonFiniteError& error) {
      raise("NonFiniteError", error.what());
    } catch (const py::builtin_exception& error) {
      error.set_error();
    } catch (const std::invalid_argument& error) {
      PyErr_SetString(PyExc_ValueError, error.what());
    } catch (const std::bad_alloc&) {
      PyErr_NoMemory();
    } catch (const std::exception& error) {
      PyErr_SetString(PyExc_RuntimeError, error.what());
    }
  } catch (py::error_already_set& error) {  // pyrl.errors could not be imported
    error.restore();
  } catch (...) {
    PyErr_SetString(PyExc_SystemError, "pyrl: an unknown C++ exception");
  }
}

PyObject* wrong_count(const char* name, Py_ssize_t expected, Py_ssize_t given) {
  return PyErr_Format(PyExc_TypeError, "%s takes %zd positional arguments, got %zd", name, expected, given);
}

}  // namespace detail
}  // namespace pyrl::bindings
