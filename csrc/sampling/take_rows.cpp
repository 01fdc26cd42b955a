#include "sampling/take_rows.hpp"

#include <cstring>

namespace pyrl::sampling {
namespace {

// Rows of one known length: one move each.
template <std::size_t bytes>
void fixed(const RowsColumn& column, const ArrayView<const std::int64_t, 1>& index) {
  for (std::int64_t i = 0; i < index.size(); ++i) std::memcpy(column.to + i * std::int64_t{bytes}, column.from + index(i) * std::int64_t{bytes}, bytes);
}

void any(const RowsColumn& column, const ArrayView<const std::int64_t, 1>& index) {
  const auto bytes = static_cast<std::size_t>(column.row_bytes);
  for (std::int64_t i = 0; i < index.size(); ++i) std::memcpy(column.to + i * column.row_bytes, column.from + index(i) * column.row_bytes, bytes);
}

}  // namespace

void take_rows(const ArrayView<const RowsColumn, 1>& columns, const ArrayView<const std::int64_t, 1>& index) {
  for (std::int64_t c = 0; c < columns.size(); ++c) {
    switch (columns(c).row_bytes) {
      case 0: break;
      case 1: fixed<1>(columns(c), index); break;
      case 4: fixed<4>(columns(c), index); break;
      case 8: fixed<8>(columns(c), index); break;
      case 16: fixed<16>(columns(c), index); break;
      case 32: fixed<32>(columns(c), index); break;
      default: any(columns(c), index);
    }
  }
}

}  // namespace pyrl::sampling
