// Minibatches: the same rows of several arrays in one call.
//
//   out_c[i] = column_c[index[i]]
//
// column_c: [M, row_bytes] as bytes; index: int64 [B], each in [0, M); out_c: [B, row_bytes]. Cost: the bytes moved.
#pragma once

#include <cstdint>

#include "core/array_view.hpp"

namespace pyrl::sampling {

struct RowsColumn {
  const std::uint8_t* from = nullptr;
  std::uint8_t* to = nullptr;
  std::int64_t row_bytes = 0;
};

void take_rows(const ArrayView<const RowsColumn, 1>& columns, const ArrayView<const std::int64_t, 1>& index);

}  // namespace pyrl::sampling
