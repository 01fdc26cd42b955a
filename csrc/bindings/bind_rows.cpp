// Minibatches of rows.
#include <array>
#include <cstdint>
#include <vector>

#include "bindings/array_arg.hpp"
#include "bindings/border.hpp"
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
  Border border(function);
  PYRL_CHECK(PyTuple_Check(args[0].ptr()) && PyTuple_GET_SIZE(args[0].ptr()) > 0, DTypeError, function, ": columns is a ", Py_TYPE(args[0].ptr())->tp_name,
             ", expected a tuple of arrays");
  const Py_ssize_t count = PyTuple_GET_SIZE(args[0].ptr());
  const bool given = !args[2].is_none();
  PYRL_CHECK(!given || PyTuple_Check(args[2].ptr()), DTypeError, function, ": out is a ", Py_TYPE(args[2].ptr())->tp_name,
             ", expected a tuple of arrays");
  PYRL_CHECK(!given || PyTuple_GET_SIZE(args[2].ptr()) == count, ArgumentError, function, ": out holds ", PyTuple_GET_SIZE(args[2].ptr()),
             " arrays, expected ", count, " (from columns)");
  std::vector<ArrayArg> from;
  from.reserve(static_cast<std::size_t>(count));
  Location location(Kind::NumPy);
  for (Py_ssize_t c = 0; c < count; ++c) {
    const py::handle object = PyTuple_GET_ITEM(args[0].ptr(), c);
    from.push_back(c == 0 ? border.input(object, "columns") : border.input(object, "columns", location));
    if (c == 0) location = location_of(from[0]);
    const ArrayArg& column = from.back();
    column.require_device();
    column.require_contiguous();
    PYRL_CHECK(column.dtype != DType::Other, DTypeError, function, ": columns[", c, "] has dtype ", column.dtype_text(), ", expected a boolean, integers or floats");
    PYRL_CHECK(column.rank >= 1, ShapeError, function, ": columns[", c, "] has shape ", column.shape_text(), ", expected [M, ...]");
    PYRL_CHECK(column.shape[0] == from[0].shape[0], ShapeError, function, ": columns[", c, "] has ", column.shape[0], " rows, expected M = ", from[0].shape[0],
               " (from columns[0])");
  }
  const auto index = border.input(args[1], location).as<const std::int64_t, 1>("[B]");
  const std::int64_t rows = from[0].shape[0];
  std::vector<sampling::RowsColumn> columns;
  columns.reserve(static_cast<std::size_t>(count));
  py::tuple outputs(count);
  for (Py_ssize_t c = 0; c < count; ++c) {
    const ArrayArg& column = from[static_cast<std::size_t>(c)];
    std::array<std::int64_t, ArrayArg::max_rank> shape = column.shape;
    shape[0] = index.size();
    const std::span<const std::int64_t> extents(shape.data(), static_cast<std::size_t>(column.rank));
    py::object out;
    const py::handle into = given ? py::handle(PyTuple_GET_ITEM(args[2].ptr(), c)) : args[2];
    void* const to = border.result(out, into, {column.kind, location.device, location.like}, column.dtype, extents, "out", "[B, ...]");
    const std::uint8_t missing = column.dtype == DType::Bool ? 0 : 0xff;
    columns.push_back({static_cast<const std::uint8_t*>(column.data), static_cast<std::uint8_t*>(to), bytes_of(column.dtype, extents.subspan(1)), missing});
    PyTuple_SET_ITEM(outputs.ptr(), c, out.release().ptr());
  }
  const TakenIndices taken(index.data, location.device.is_cpu() ? index.size() : 0);
  const std::int64_t bad = taken.first_outside(rows);
  PYRL_CHECK(bad < 0, ArgumentError, function, ": index[", bad, "] is ", taken.data()[bad], ", expected at least 0 and less than ", rows);
  const ArrayView<const sampling::RowsColumn, 1> all{columns.data(), {count}};
  run_at(location, function, [&] { sampling::take_rows(all, {taken.data(), {index.size()}}); },
         [&](const auto& stream) { sampling::take_rows_cuda(all, index, rows, stream); });
  return outputs;
}

}  // namespace

PYRL_BINDINGS(rows, m) { def_fast<take_rows, "take_rows(columns, index, out)">(m); }
