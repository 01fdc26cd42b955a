// An object whose __init__ never ran, X.__new__(X), is refused: pybind11 would hand out memory that nothing was constructed in.
//
//   PYRL_CONSTRUCTED(::pyrl::bindings::ReplayCore);   // at global scope, before the first binding that takes one
#pragma once

#include <pybind11/pybind11.h>

#include <string>

namespace pyrl::bindings {

template <class T>
struct ConstructedCaster : pybind11::detail::type_caster_base<T> {
  using Base = pybind11::detail::type_caster_base<T>;

  bool load(pybind11::handle source, bool convert) {
    const auto* info = this->typeinfo;
    if (info != nullptr && PyType_IsSubtype(Py_TYPE(source.ptr()), info->type) != 0 &&
        !reinterpret_cast<pybind11::detail::instance*>(source.ptr())->get_value_and_holder(info).holder_constructed())
      throw pybind11::type_error(std::string(Py_TYPE(source.ptr())->tp_name) + ": __init__ was not called, or failed");
    return Base::load(source, convert);
  }
};

}  // namespace pyrl::bindings

#define PYRL_CONSTRUCTED(Type)                                                    \
  template <>                                                                     \
  class pybind11::detail::type_caster<Type> : public ::pyrl::bindings::ConstructedCaster<Type> {}
