#include "sampling/take_rows.hpp"

#include <algorithm>
#include <cstring>

#include "core/interrupt.hpp"

namespace pyrl::sampling {
namespace {

constexpr std::int64_t asked_bytes = std::int64_t{1} << 22;  // between two questions whether to stop

// Rows of one known length: one move each.
template <std::size_t bytes>
void fixed(const RowsColumn& column, const ArrayView<const std::int64_t, 1>& index) {
  for (std::int64_t i = 0; i < index.size(); ++i) std::memcpy(column.to + i * std::int64_t{bytes}, column.from + index(i) * std::int64_t{bytes}, bytes);
}

void any(const RowsColumn& column, const ArrayView<const std::int64_t, 1>& index) {
  const auto bytes = static_cast<std::size_t>(column.row_bytes);
  for (std::int64_t i = 0; i < index.size(); ++i) std::memcpy(column.to + i * column.row_bytes, column.from + index(i) * column.row_bytes, bytes);
}

void take_column(const RowsColumn& column, const ArrayView<const std::int64_t, 1>& index) {
  switch (column.row_bytes) {
    case 0: break;
    case 1: return fixed<1>(column, index);
    case 4: return fixed<4>(column, index);
    case 8: return fixed<8>(column, index);
    case 16: return fixed<16>(column, index);
    case 32: return fixed<32>(column, index);
    default: return any(column, index);
  }
}

}  // namespace

void take_rows(const ArrayView<const RowsColumn, 1>& columns, const ArrayView<const std::int64_t, 1>& index) {
  for (std::int64_t c = 0; c < columns.size(); ++c) {
    const std::int64_t bytes = std::max<std::int64_t>(columns(c).row_bytes, 1);
    in_pieces(index.size(), std::max<std::int64_t>(1, asked_bytes / (8 + bytes)), [&](std::int64_t begin, std::int64_t end) {
      RowsColumn piece = columns(c);
      piece.to += begin * piece.row_bytes;
      take_column(piece, {index.data + begin, {end - begin}});
    });
  }
}

}  // namespace pyrl::sampling
