// The columns of a rollout [T, N, ...], written row by row (pyrl.buffers.rollout). Everything runs with the interpreter lock.
#include <pybind11/stl.h>

#include <cmath>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "bindings/array_arg.hpp"
#include "bindings/border.hpp"
#include "bindings/constructed.hpp"
#include "bindings/fast_call.hpp"
#include "bindings/registry.hpp"
#include "bindings/row_reader.hpp"

namespace py = pybind11;
using namespace pyrl;
using namespace pyrl::bindings;

namespace {

// Columns and the arrays that hold them, which it keeps.
class RolloutRows {
 public:
  // columns: (name, array) each; `finite`: the name of a float32 column whose numbers must be finite; `flag`: that of the bool column that
  // `write` tells of.
  RolloutRows(const std::vector<std::pair<std::string, py::object>>& columns, const std::string& finite, const std::string& flag) {
    PYRL_CHECK(!columns.empty(), ArgumentError, "RolloutRows: columns is empty, expected at least one");
    for (const auto& [name, array] : columns) {
      Border border("RolloutRows");
      const OutputArg arg = border.output(array, name.c_str());
      arg.require_cpu();
      arg.require_contiguous();
      arg.require_writable();
      PYRL_CHECK(arg.rank >= 2 && arg.dtype != DType::Other, ShapeError, "RolloutRows: ", name, " has shape ", arg.shape_text(), " and dtype ", arg.dtype_text(),
                 ", expected [T, N, ...] of booleans or numbers");
      PYRL_CHECK(name != finite || arg.dtype == DType::Float32, DTypeError, "RolloutRows: ", name, " has dtype ", arg.dtype_text(), ", expected float32");
      PYRL_CHECK(name != flag || arg.dtype == DType::Bool, DTypeError, "RolloutRows: ", name, " has dtype ", arg.dtype_text(), ", expected bool");
      Leaf leaf{name, arg.dtype, {arg.shape.begin() + 2, arg.shape.begin() + arg.rank}};
      const std::int64_t bytes = arg.shape[1] * leaf.row_bytes();
      columns_.push_back({RowReader(leaf, arg.shape[1]), name, array, static_cast<std::byte*>(arg.data), bytes, name == finite, name == flag});
      rows_ = columns_.size() == 1 ? arg.shape[0] : std::min(rows_, arg.shape[0]);
    }
  }

  // One row, [N, ...] of each column, or `count` of them, [count, N, ...]. Reads all before it writes any. Whether a flag of the column `flag`
  // is set.
  bool write(std::int64_t row, std::int64_t count, const RowBlock& block, py::handle values) {
    PYRL_CHECK(row >= 0 && count >= 0 && row <= rows_ - count, ArgumentError, "RolloutBuffer: row is ", row, ", expected 0 to ", rows_ - count);
    PYRL_CHECK(PyTuple_Check(values.ptr()) && PyTuple_GET_SIZE(values.ptr()) == static_cast<Py_ssize_t>(columns_.size()), DTypeError,
               "RolloutBuffer: values is no tuple of ", columns_.size(), " arrays");
    RowScratch scratch;  // of this call: a conversion by NumPy may let another thread in
    std::vector<const void*> sources;
    sources.reserve(columns_.size());
    bool set = false;
    for (std::size_t i = 0; i < columns_.size(); ++i) {
      const Column& column = columns_[i];
      sources.push_back(column.reader.read(PyTuple_GET_ITEM(values.ptr(), static_cast<Py_ssize_t>(i)), scratch, block));
      if (column.is_finite) require_finite(column, static_cast<const float*>(sources.back()), count);
      if (column.is_flag) set = std::memchr(sources.back(), 1, static_cast<std::size_t>(count * column.bytes)) != nullptr;
    }
    for (std::size_t i = 0; i < columns_.size(); ++i) std::memcpy(columns_[i].data + row * columns_[i].bytes, sources[i], static_cast<std::size_t>(count * columns_[i].bytes));
    return set;
  }

 private:
  struct Column {
    RowReader reader;
    std::string name;
    py::object keeps;
    std::byte* data;
    std::int64_t bytes;  // of one row
    bool is_finite, is_flag;
  };

  static void require_finite(const Column& column, const float* values, std::int64_t count) {
    const std::int64_t n = column.bytes / 4;
    for (std::int64_t i = 0; i < count * n; ++i)
      PYRL_CHECK(std::isfinite(values[i]), NonFiniteError, "RolloutBuffer: ", column.name, " of environment ", i % n, " is not finite: it is ", values[i],
                 " as float32");
  }

  std::vector<Column> columns_;
  std::int64_t rows_ = 0;
};

// (row, values) -> whether a flag is set
py::object write_row(RolloutRows& self, FastArgs args) { return py::bool_(self.write(integer_arg(args[0]), 1, {"RolloutBuffer"}, args[1])); }

// (row, count, values) -> whether a flag is set
py::object write_rows(RolloutRows& self, FastArgs args) {
  const std::int64_t count = integer_arg(args[1]);
  return py::bool_(self.write(integer_arg(args[0]), count, {"RolloutBuffer", count}, args[2]));
}

}  // namespace

PYRL_CONSTRUCTED(RolloutRows);

PYRL_BINDINGS(rollout, m) {
  py::class_<RolloutRows> rows(m, "RolloutRows", "Columns [T, N, ...] of a rollout, written row by row.");
  rows.def(py::init<const std::vector<std::pair<std::string, py::object>>&, const std::string&, const std::string&>(), py::arg("columns"), py::arg("finite"),
           py::arg("flag"));
  def_fast_method<RolloutRows, write_row, "write(row, values)">(rows);
  def_fast_method<RolloutRows, write_rows, "write_rows(row, count, values)">(rows);
}
