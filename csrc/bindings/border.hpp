// What one call reads and what it writes: outputs are apart from all else.
//
//   Border border("dueling");
//   ArrayArg advantage = border.input(args[1]);
//   ArrayView<float, 2> out = border.result<float, 2>(owner, args[2], location, {B, A}, "out", "[B, A]", &advantage);   // `out`, or a fresh array
//   OutputArg target = border.output(args[0]);                                                                       // changed in place
//   { ReleaseGil released; kernel(...); }
//
// An array that is written overlaps no other array of the call, or ArgumentError names both. The exception is stated where the kernel
// allows it: the output may be exactly that input (same memory, same dtype).
#pragma once

#include <array>
#include <cstddef>
#include <memory_resource>
#include <vector>

#include "bindings/array_arg.hpp"
#include "bindings/fast_call.hpp"

namespace pyrl::bindings {

// An argument that a call writes to.
struct OutputArg : ArrayArg {
  template <class T, int Rank>
  ArrayView<T, Rank> as(const char* meaning) const {
    return view<T, Rank>(meaning);
  }
  template <class T, int Rank>
  ArrayView<T, Rank> as(const std::array<std::int64_t, Rank>& wanted, const char* meaning) const {
    return view<T, Rank>(wanted, meaning);
  }
};

class Border {
 public:
  explicit Border(const char* name) : function(name) { spans_.reserve(usual); }
  Border(const Border&) = delete;
  Border& operator=(const Border&) = delete;

  // No copies of an ArrayArg here: each would wait for the narrow writes before it.
  ArrayArg input(py::handle object, const char* name) {
    ArrayArg arg = read_array(object, function, name);
    note(arg, false, nullptr);
    return arg;
  }
  ArrayArg input(py::handle object, const char* name, const Location& location) {
    ArrayArg arg = read_array(object, function, name, location);
    note(arg, false, nullptr);
    return arg;
  }
  // An argument with the name of its function's signature.
  ArrayArg input(const Arg& arg) { return input(arg, arg.name); }
  ArrayArg input(const Arg& arg, const Location& location) { return input(arg, arg.name, location); }
  ArrayArg optional(const Arg& arg, const Location& location) { return optional(arg, arg.name, location); }
  OutputArg output(const Arg& arg) { return output(arg, arg.name); }
  OutputArg output(const Arg& arg, const Location& location, const ArrayArg* may_be = nullptr) { return output(arg, arg.name, location, may_be); }

  // None: an ArrayArg that is not given().
  ArrayArg optional(py::handle object, const char* name, const Location& location) { return object.is_none() ? ArrayArg{} : input(object, name, location); }

  OutputArg output(py::handle object, const char* name) {
    OutputArg arg{read_array(object, function, name)};
    note_output(arg, nullptr);
    return arg;
  }
  OutputArg output(py::handle object, const char* name, const Location& location, const ArrayArg* may_be = nullptr) {
    OutputArg arg{read_array(object, function, name, location)};
    note_output(arg, may_be);
    return arg;
  }
  // `out` given: checked and used. None: a fresh array. Either way `owner` holds what to return.
  template <class T, int Rank>
  ArrayView<T, Rank> result(py::object& owner, py::handle out, const Location& location, const std::array<std::int64_t, Rank>& shape, const char* name,
                            const char* meaning, const ArrayArg* may_be = nullptr) {
    if (out.is_none()) return allocate<T, Rank>(owner, location, shape);
    owner = py::reinterpret_borrow<py::object>(out);
    return output(out, name, location, may_be).template as<T, Rank>(shape, meaning);
  }
  // The same where dtype and rank are known at the call only.
  void* result(py::object& owner, py::handle out, const Location& location, DType dtype, std::span<const std::int64_t> shape, const char* name, const char* meaning,
               const ArrayArg* may_be = nullptr);

  const char* const function;

 private:
  static constexpr std::size_t usual = 16;
  struct Span {
    const char *begin, *end, *name;
    bool written;
  };

  void note_output(const OutputArg& arg, const ArrayArg* may_be);
  // Arrays that are not contiguous are refused later, and leave no span.
  void note(const ArrayArg& arg, bool written, const ArrayArg* may_be);

  alignas(Span) std::array<std::byte, usual * sizeof(Span)> memory_;
  std::pmr::monotonic_buffer_resource pool_{memory_.data(), memory_.size()};
  std::pmr::vector<Span> spans_{&pool_};
};

}  // namespace pyrl::bindings
