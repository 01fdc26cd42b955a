// Each bind_<family>.cpp registers itself; neither module.cpp nor CMake lists them.
//
//   PYRL_BINDINGS(returns, m) { m.def("gae", ...); }
#pragma once

#include <pybind11/pybind11.h>

#include <map>
#include <string>

namespace pyrl::bindings {

using Binder = void (*)(pybind11::module_&);

// Sorted by name, so that the order does not depend on the linker.
inline std::map<std::string, Binder>& binders() {
  static std::map<std::string, Binder> registered;
  return registered;
}

struct Registration {
  Registration(const char* name, Binder binder) { binders().emplace(name, binder); }
};

}  // namespace pyrl::bindings

#define PYRL_BINDINGS(name, m)                                                      \
  static void bind_##name(pybind11::module_& m);                                    \
  static const ::pyrl::bindings::Registration registration_##name(#name, bind_##name); \
  static void bind_##name(pybind11::module_& m)
