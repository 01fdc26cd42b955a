// Minibatches of rows.
#include <array>
#include <cstdint>
#include <vector>

#include "bindings/array_arg.hpp"
#include "bindings/cuda_arg.hpp"
#include "bindings/fast_call.hpp"
#include "bindings/registry.hpp"
#include "bindings/taken.hpp"
#include "sampling/take_rows.hpp"

namespace py = pybind11;
using namespace pyrl;
using namespace pyrl::bindings;

namespace {

// (columns, index, out or None) -> tuple of arrays [B, ...]
py::object take_rows(FastArgs args) {
  const char* function = "take_rows";
  PYRL_CHECK(PyTuple_Check(args[0].ptr()) && PyTuple_GET_SIZE(args[0].ptr()) > 0, DTypeError, function, ": columns is a ", Py_TYPE(args[0].ptr())->tp_name,
             ", expected a tuple of arrays");
  ArrayArg first = read_array(PyTuple_GET_ITEM(args[0].ptr(), 0), function, "columns");
  const Place place = place_of(first);
  const auto index = read_array(args[1], function, "index", place).as<const std::int64_t, 1>("[B]");
  const Py_ssize_t count = PyTuple_GET_SIZE(args[0].ptr());
  const bool given = !args[2].is_none();
  PYRL_CHECK(!given || PyTuple_Check(args[2].ptr()), DTypeError, function, ": out is a ", Py_TYPE(args[2].ptr())->tp_name,
             ", expected a tuple of arrays");
  PYRL_CHECK(!given || PyTuple_GET_SIZE(args[2].ptr()) == count, ArgumentError, function, ": out holds ", PyTuple_GET_SIZE(args[2].ptr()),
             " arrays, expected ", count, " (from columns)");
  std::vector<sampling::RowsColumn> columns(static_cast<std::size_t>(count));
  py::tuple outputs(count);
  std::int64_t rows = -1;
  for (Py_ssize_t c = 0; c < count; ++c) {
    const ArrayArg from = read_array(PyTuple_GET_ITEM(args[0].ptr(), c), function, "columns", place);
    from.require_device();
    from.require_contiguous();
    PYRL_CHECK(from.dtype != DType::Other, DTypeError, function, ": columns[", c, "] has ", name_of(from.dtype),
               ", expected a boolean, integers or floats");
    PYRL_CHECK(from.rank >= 1, ShapeError, function, ": columns[", c, "] has shape ", from.shape_text(), ", expected [M, ...]");
    PYRL_CHECK(rows < 0 || from.shape[0] == rows, ShapeError, function, ": columns[", c, "] has ", from.shape[0], " rows, expected M = ", rows, " (from columns[0])");
    rows = from.shape[0];
    std::array<std::int64_t, ArrayArg::max_rank> shape = from.shape;
    shape[0] = index.size();
    const std::span<const std::int64_t> extents(shape.data(), static_cast<std::size_t>(from.rank));
    void* to = nullptr;
    py::object out;
    if (given) {
      out = py::reinterpret_borrow<py::object>(PyTuple_GET_ITEM(args[2].ptr(), c));
      const ArrayArg into = read_array(out, function, "out", place);
      into.require_device();
      into.require_dtype(from.dtype);
      into.require_shape(extents, "[B, ...]");
      into.require_contiguous();
      into.require_writable();
      to = into.data;
    } else {
      out = empty_like_kind({from.kind, place.device, place.like}, from.dtype, extents, &to);
    }
    std::int64_t row_bytes = size_of(from.dtype);
    for (int axis = 1; axis < from.rank; ++axis) row_bytes *= from.shape[axis];
    const std::uint8_t missing = from.dtype == DType::Bool ? 0 : 0xff;
    columns[static_cast<std::size_t>(c)] = {static_cast<const std::uint8_t*>(from.data), static_cast<std::uint8_t*>(to), row_bytes,
                                            missing};
    PyTuple_SET_ITEM(outputs.ptr(), c, out.release().ptr());
  }
  const TakenIndices taken(index.data, place.device.is_cpu() ? index.size() : 0);
  const std::int64_t bad = taken.first_outside(rows);
  PYRL_CHECK(bad < 0, ArgumentError, function, ": index[", bad, "] is ", taken.data()[bad], ", expected at least 0 and less than ", rows);
  const ArrayView<const sampling::RowsColumn, 1> all{columns.data(), {count}};
  run_at(place, function, [&] { sampling::take_rows(all, {taken.data(), {index.size()}}); },
         [&](const auto& stream) { sampling::take_rows_cuda(all, index, rows, stream); });
  return outputs;
}

}  // namespace

PYRL_BINDINGS(rows, m) { def_fast<take_rows, 3>(m, "take_rows", "take_rows(columns, index, out)"); }
