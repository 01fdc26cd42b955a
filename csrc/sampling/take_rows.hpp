// Minibatches: the same rows of several arrays in one call.
//
//   out_c[i] = column_c[index[i]]
//
// column_c: [M, row_bytes] as bytes; index: int64 [B], each in [0, M); out_c: [B, row_bytes]. Cost: the bytes moved.
#pragma once

#include <cstdint>

#include "core/array_view.hpp"
#include "core/cuda.hpp"

namespace pyrl::sampling {

struct RowsColumn {
  const std::uint8_t* from = nullptr;
  std::uint8_t* to = nullptr;
  std::int64_t row_bytes = 0;
  std::uint8_t missing = 0xff;  // on a GPU, every byte of a row that is out of range: NaN or -1, except for flags
};

void take_rows(const ArrayView<const RowsColumn, 1>& columns, const ArrayView<const std::int64_t, 1>& index);
// The same rows; where an index is not in [0, M), the bytes `missing`. The list of columns is on the host.
void take_rows_cuda(const ArrayView<const RowsColumn, 1>& columns, const ArrayView<const std::int64_t, 1>& index, std::int64_t rows,
                    const CudaStream& stream);

}  // namespace pyrl::sampling
