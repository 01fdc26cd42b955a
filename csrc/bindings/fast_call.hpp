// Functions called so often on small arrays that the call is the cost: positional arguments, no dispatcher.
//
//   py::object gae(FastArgs args) { ... border.input(args[0]) ... number_in(args[7], 0, 1) ... }
//   PYRL_BINDINGS(returns, m) { def_fast<gae, "gae(reward, value, ..)">(m); }
//
// The signature is the one declaration of a function's parameters: their number, their names in messages and the docstring follow from it. A
// name with a dot, "RunningMoments.update(batch, ..)", is what messages say; the part behind the dot is the function's.
//
// A call through pybind11 with ten arguments costs about 0.5 us more. Overloads, defaults and keywords belong to pyrl/ops.
#pragma once

#include <cxxabi.h>
#include <pybind11/pybind11.h>

#include <array>
#include <cstddef>
#include <limits>

#include "bindings/call.hpp"
#include "core/check.hpp"

namespace pyrl::bindings {

namespace py = pybind11;

// What a signature says, cut into pieces.
struct Signature {
  const char* function;
  const char* const* names;
};

// An argument, and what messages call it: "gae: gamma is 'x', expected a number".
struct Arg : py::handle {
  Arg(py::handle object, const char* function_, const char* name_) : py::handle(object), function(function_), name(name_) {}

  const char *function, *name;
};

class FastArgs {
 public:
  FastArgs(PyObject* const* values, const Signature& signature) : values_(values), signature_(&signature) {}
  Arg operator[](std::size_t i) const { return {values_[i], signature_->function, signature_->names[i]}; }

 private:
  PyObject* const* values_;
  const Signature* signature_;
};

constexpr double infinity = std::numeric_limits<double>::infinity();

double number_arg(py::handle object, const char* function, const char* name);
// A number in [low, high].
double number_in(py::handle object, double low, double high, const char* function, const char* name);
// A number in [low, high): infinity is not one of them.
double number_below(py::handle object, double low, double high, const char* function, const char* name);
double finite_arg(py::handle object, const char* function, const char* name);
// True or False, and nothing that merely counts as one.
bool flag_arg(py::handle object, const char* function, const char* name);
std::int64_t integer_arg(py::handle object, const char* function, const char* name);
// The items of a tuple of two, of which messages say what they are: "(action, log_prob)".
std::array<py::handle, 2> pair_arg(const Arg& arg, const char* meaning);
// None, twice, or a pair.
inline std::array<py::handle, 2> pair_if_given(const Arg& arg, const char* meaning) {
  if (arg.is_none()) return {arg, arg};
  return pair_arg(arg, meaning);
}

inline double number_arg(const Arg& arg) { return number_arg(arg, arg.function, arg.name); }
inline double number_in(const Arg& arg, double low, double high) { return number_in(arg, low, high, arg.function, arg.name); }
inline double number_below(const Arg& arg, double low, double high) { return number_below(arg, low, high, arg.function, arg.name); }
inline double finite_arg(const Arg& arg) { return finite_arg(arg, arg.function, arg.name); }
inline bool flag_arg(const Arg& arg) { return flag_arg(arg, arg.function, arg.name); }
inline std::int64_t integer_arg(const Arg& arg) { return integer_arg(arg, arg.function, arg.name); }

namespace detail {

// Sets the Python error for the C++ exception being handled.
void set_python_error() noexcept;
PyObject* wrong_count(const char* name, Py_ssize_t expected, Py_ssize_t given);

// A literal as a template argument.
template <std::size_t n>
struct Text {
  constexpr Text(const char (&text)[n]) {
    for (std::size_t i = 0; i < n; ++i) characters[i] = text[i];
  }
  char characters[n];
};

template <Text text>
struct Declared {
  static constexpr std::size_t length = sizeof text.characters;
  static constexpr std::size_t opening() {
    std::size_t at = 0;
    while (text.characters[at] != '(') ++at;
    return at;
  }
  static constexpr int count_names() {
    int found = text.characters[opening() + 1] == ')' ? 0 : 1;
    for (std::size_t i = 0; i < length; ++i) found += text.characters[i] == ',';
    return found;
  }
  static constexpr int count = count_names();
  // The text, with each name ended by a zero.
  static constexpr std::array<char, length> pieces = [] {
    std::array<char, length> cut{};
    for (std::size_t i = 0; i < length; ++i) {
      const char c = text.characters[i];
      cut[i] = c == '(' || c == ',' || c == ')' ? '\0' : c;
    }
    return cut;
  }();
  static constexpr std::array<const char*, count + 1> names = [] {
    std::array<const char*, count + 1> found{};
    int next = 0;
    for (std::size_t i = opening(); next < count; ++i)
      if (text.characters[i] == '(' || text.characters[i] == ',') found[next++] = pieces.data() + i + (text.characters[i] == ',' ? 2 : 1);
    return found;
  }();
  // Behind the dot.
  static constexpr std::size_t own_name() {
    std::size_t first = 0;
    for (std::size_t i = 0; i < opening(); ++i)
      if (text.characters[i] == '.') first = i + 1;
    return first;
  }
  static constexpr Signature signature{pieces.data(), names.data()};
  static constexpr const char* name = pieces.data() + own_name();
  static constexpr const char* doc = text.characters + own_name();
};

template <py::object (*body)(FastArgs), Text text>
PyObject* fast_entry(PyObject*, PyObject* const* args, Py_ssize_t given) {
  using Function = Declared<text>;
  if (given != Function::count) return wrong_count(Function::signature.function, Function::count, given);
  try {
    const Call call(args, given);
    return body(FastArgs(args, Function::signature)).release().ptr();
  } catch (abi::__forced_unwind&) {
    stay_for_ever();
  } catch (...) {
    set_python_error();
    return nullptr;
  }
}

template <class Self, py::object (*body)(Self&, FastArgs), Text text>
PyObject* fast_method_entry(PyObject* self, PyObject* const* args, Py_ssize_t given) {
  using Function = Declared<text>;
  if (given != Function::count) return wrong_count(Function::signature.function, Function::count, given);
  try {
    const Call call(args, given);
    return body(*py::handle(self).cast<Self*>(), FastArgs(args, Function::signature)).release().ptr();
  } catch (abi::__forced_unwind&) {
    stay_for_ever();
  } catch (...) {
    set_python_error();
    return nullptr;
  }
}

inline PyCFunction as_function(PyObject* (*entry)(PyObject*, PyObject* const*, Py_ssize_t)) {
  return reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(entry));
}

}  // namespace detail

template <py::object (*body)(FastArgs), detail::Text text>
void def_fast(py::module_& m) {
  using Function = detail::Declared<text>;
  static PyMethodDef definition = {Function::name, detail::as_function(&detail::fast_entry<body, text>), METH_FASTCALL, Function::doc};
  const py::object module_name = m.attr("__name__");
  m.attr(Function::name) = py::reinterpret_steal<py::object>(PyCFunction_NewEx(&definition, m.ptr(), module_name.ptr()));
}

// The same for a method of a pybind11 class: `py::object add(Core& self, FastArgs args)`, `def_fast_method<Core, add, "add(..)">(cls)`.
template <class Self, py::object (*body)(Self&, FastArgs), detail::Text text, class Class>
void def_fast_method(Class& cls) {
  using Function = detail::Declared<text>;
  static PyMethodDef definition = {Function::name, detail::as_function(&detail::fast_method_entry<Self, body, text>), METH_FASTCALL, Function::doc};
  cls.attr(Function::name) = py::reinterpret_steal<py::object>(PyDescr_NewMethod(reinterpret_cast<PyTypeObject*>(cls.ptr()), &definition));
}

}  // namespace pyrl::bindings
