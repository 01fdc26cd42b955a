// Functions called so often on small arrays that the call is the cost: positional arguments, no dispatcher.
//
//   py::object gae(FastArgs args) { ... }
//   PYRL_BINDINGS(returns, m) { def_fast<gae, 10>(m, "gae", "gae(reward, ..)"); }
//
// A call through pybind11 with ten arguments costs about 0.5 us more. Overloads, defaults and keywords belong to pyrl/ops.
#pragma once

#include <pybind11/pybind11.h>

#include <cstddef>
#include <limits>

#include "core/check.hpp"

namespace pyrl::bindings {

namespace py = pybind11;

class FastArgs {
 public:
  explicit FastArgs(PyObject* const* values) : values_(values) {}
  py::handle operator[](std::size_t i) const { return values_[i]; }

 private:
  PyObject* const* values_;
};

constexpr double infinity = std::numeric_limits<double>::infinity();

// A number; messages say "gae: gamma is 'x', expected a number".
double number_arg(py::handle object, const char* function, const char* name);
// A number in [low, high].
double number_in(py::handle object, double low, double high, const char* function, const char* name);
// A number in [low, high): of these infinity is none.
double number_below(py::handle object, double low, double high, const char* function, const char* name);
double finite_arg(py::handle object, const char* function, const char* name);
// True or False, and nothing that merely counts as one.
bool flag_arg(py::handle object, const char* function, const char* name);
std::int64_t integer_arg(py::handle object, const char* function, const char* name);

namespace detail {

// Sets the Python error for the C++ exception being handled.
void set_python_error() noexcept;
PyObject* wrong_count(const char* name, Py_ssize_t expected, Py_ssize_t given);

template <py::object (*body)(FastArgs), int count>
PyObject* fast_entry(PyObject*, PyObject* const* args, Py_ssize_t given) {
  if (given != count) return wrong_count("this function", count, given);
  try {
    return body(FastArgs(args)).release().ptr();
  } catch (...) {
    set_python_error();
    return nullptr;
  }
}

}  // namespace detail

// `doc` starts with the call: "gae(reward, value, ..)". All texts must be literals.
template <py::object (*body)(FastArgs), int count>
void def_fast(py::module_& m, const char* name, const char* doc) {
  static PyMethodDef definition = {name, reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(&detail::fast_entry<body, count>)), METH_FASTCALL, doc};
  const py::object module_name = m.attr("__name__");
  m.attr(name) = py::reinterpret_steal<py::object>(PyCFunction_NewEx(&definition, m.ptr(), module_name.ptr()));
}

// The same for a method of a pybind11 class: `py::object add(Core& self, FastArgs args)`, `def_fast_method<Core, add, 8>(cls, ..)`.
namespace detail {

template <class Self, py::object (*body)(Self&, FastArgs), int count>
PyObject* fast_method_entry(PyObject* self, PyObject* const* args, Py_ssize_t given) {
  if (given != count) return wrong_count("this method", count, given);
  try {
    return body(*py::handle(self).cast<Self*>(), FastArgs(args)).release().ptr();
  } catch (...) {
    set_python_error();
    return nullptr;
  }
}

}  // namespace detail

template <class Self, py::object (*body)(Self&, FastArgs), int count, class Class>
void def_fast_method(Class& cls, const char* name, const char* doc) {
  static PyMethodDef definition = {name, reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(&detail::fast_method_entry<Self, body, count>)),
                                   METH_FASTCALL, doc};
  cls.attr(name) = py::reinterpret_steal<py::object>(PyDescr_NewMethod(reinterpret_cast<PyTypeObject*>(cls.ptr()), &definition));
}

}  // namespace pyrl::bindings
