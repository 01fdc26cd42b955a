#include "bindings/border.hpp"

namespace pyrl::bindings {

void* Border::result(py::object& owner, py::handle out, const Location& location, DType dtype, std::span<const std::int64_t> shape, const char* name,
                   const char* meaning, const ArrayArg* may_be) {
  void* data = nullptr;
  if (out.is_none()) {
    owner = empty_like_kind(location, dtype, shape, &data);
    return data;
  }
  owner = py::reinterpret_borrow<py::object>(out);
  const OutputArg arg = output(out, name, location, may_be);
  arg.require_device();
  arg.require_dtype(dtype);
  arg.require_shape(shape, meaning);
  arg.require_contiguous();
  return arg.data;
}

void Border::note_output(const OutputArg& arg, const ArrayArg* may_be) {
  arg.require_writable();
  note(arg, true, may_be);
}

void Border::note(const ArrayArg& arg, bool written, const ArrayArg* may_be) {
  if (!arg.contiguous || arg.size() == 0) return;
  const auto* begin = static_cast<const char*>(arg.data);
  const Span span{begin, begin + arg.bytes(), arg.name, written};
  const bool in_place = may_be != nullptr && may_be->data == arg.data && may_be->dtype == arg.dtype && may_be->bytes() == arg.bytes();
  for (const Span& other : spans_) {
    if (!(written || other.written) || span.end <= other.begin || other.end <= span.begin) continue;
    if (in_place && other.name == may_be->name) continue;
    const char* const output = written ? span.name : other.name;
    throw ArgumentError(concat(function, ": ", output, " shares memory with ", written ? other.name : span.name, ", expected memory of its own"));
  }
  spans_.push_back(span);
}

}  // namespace pyrl::bindings
