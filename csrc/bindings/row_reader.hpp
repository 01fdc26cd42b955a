// Reads the arguments of `add` and `extend`: rows of a known dtype and shape. What already is what is stored is used in place, the rest
// is converted into memory that belongs to the call, since calls may come from several threads and meet inside NumPy.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "bindings/array_arg.hpp"

namespace pyrl::bindings {

// One array of a record: a leaf of the observation or action space, an extra column, the reward or a flag.
struct Leaf {
  std::string name;
  DType dtype = DType::Other;
  std::vector<std::int64_t> shape;

  std::int64_t row_bytes() const;
};

// Throws DTypeError for a name that no column can have.
DType dtype_named(const std::string& name, const std::string& leaf);

// What one call of `add` needs beside its arguments. Kept and used again, so that the steady state allocates nothing.
struct RowScratch {
  std::vector<const void*> observation, next_observation, columns;
  std::vector<std::vector<std::byte>> converted;
  std::size_t used = 0;          // of `converted`
  std::vector<py::object> kept;  // converted by NumPy

  void* bytes(std::size_t count) {
    if (used == converted.size()) converted.emplace_back();
    std::vector<std::byte>& block = converted[used++];
    block.resize(count);
    return block.data();
  }
  void reset() {
    used = 0;
    for (auto* rows : {&observation, &next_observation, &columns}) rows->clear();
    kept.clear();
  }
};

// What a call reads: one row a lane, or the rows of several steps.
struct RowBlock {
  const char* function;     // for messages
  std::int64_t steps = -1;  // T; -1: one step, without a dimension of its own
  std::int64_t rows = -1;   // of a step; -1: those of the reader
};

class RowReader {
 public:
  // `rows`: N
  RowReader(Leaf leaf, std::int64_t rows);

  // [N, ...shape] or [T, N, ...shape]; for one lane N may be left out: a NumPy array, a torch tensor, lists, for one row also plain numbers. float64 is
  // rounded to float32, integers become floats and other integers that hold their values; throws a typed error for anything else.
  // The result is valid until `scratch` is reset and as long as `object` lives.
  const void* read(py::handle object, RowScratch& scratch, const RowBlock& block) const;
  // A tensor on a GPU, of the same shapes, exactly as it is stored: nothing is converted there.
  const void* read_at(py::handle object, const Location& location, const RowBlock& block) const;

 private:
  const void* read_plain(py::handle object, RowScratch& scratch, const RowBlock& block) const;
  const void* read_number(py::handle object, RowScratch& scratch, const RowBlock& block) const;
  const void* read_converted(py::object object, const ArrayArg& arg, RowScratch& scratch, const RowBlock& block) const;
  void check_shape(const ArrayArg& arg, const RowBlock& block) const;
  std::int64_t rows_of(const RowBlock& block) const { return block.rows < 0 ? rows_ : block.rows; }

  Leaf leaf_;
  std::int64_t rows_;
  py::object descriptor_;  // NumPy's of the dtype; null: it has none
};

}  // namespace pyrl::bindings
