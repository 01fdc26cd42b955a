#include "sampling/take_rows.hpp"

#include <algorithm>

#include "core/cuda_launch.cuh"

namespace pyrl::sampling {

void take_rows_cuda(const ArrayView<const RowsColumn, 1>& columns, const ArrayView<const std::int64_t, 1>& index, std::int64_t rows,
                    const CudaStream& stream) {
  for (std::int64_t first = 0; first < columns.size(); first += TakeWord::most_columns) {
    const std::int64_t count = std::min(columns.size() - first, TakeWord::most_columns);
    const TakeWord take = TakeWord::of({columns.data + first, {count}}, index, rows);
    cuda::launch_elements(stream, take.threads(), take);
  }
}

}  // namespace pyrl::sampling
