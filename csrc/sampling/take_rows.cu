#include "sampling/take_rows.hpp"

#include <algorithm>
#include <array>

#include "core/cuda_launch.cuh"

namespace pyrl::sampling {
namespace {

// Rows in words of 16, 4 or 1 bytes, whichever all addresses permit: a thread copies one word of one row.
struct TakeWord {
  static constexpr std::int64_t most_columns = 32;

  struct alignas(16) Word16 {
    std::uint64_t low, high;
  };
  struct Column {
    RowsColumn rows;
    std::int64_t word = 1, words = 0;  // bytes of one, words of a row
    std::int64_t end = 0;              // threads of this column and those before
  };

  ArrayView<const std::int64_t, 1> index;
  std::int64_t rows;  // M
  std::array<Column, most_columns> columns;
  int count;

  // Of at most `most_columns` columns.
  static TakeWord of(const ArrayView<const RowsColumn, 1>& columns, const ArrayView<const std::int64_t, 1>& index, std::int64_t rows) {
    TakeWord take{index, rows, {}, static_cast<int>(columns.size())};
    std::int64_t end = 0;
    for (std::int64_t c = 0; c < columns.size(); ++c) {
      const RowsColumn& column = columns(c);
      const auto all = reinterpret_cast<std::uintptr_t>(column.from) | reinterpret_cast<std::uintptr_t>(column.to) |
                       static_cast<std::uintptr_t>(column.row_bytes);
      const std::int64_t word = all % 16 == 0 ? 16 : all % 4 == 0 ? 4 : 1;
      end += index.size() * (column.row_bytes / word);
      take.columns[static_cast<std::size_t>(c)] = {column, word, column.row_bytes / word, end};
    }
    return take;
  }
  std::int64_t threads() const { return count == 0 ? 0 : columns[static_cast<std::size_t>(count - 1)].end; }

  PYRL_HD void operator()(std::int64_t thread) const {
    int c = 0;
    while (thread >= columns[static_cast<std::size_t>(c)].end) ++c;
    const Column& column = columns[static_cast<std::size_t>(c)];
    const std::int64_t at = thread - (c == 0 ? 0 : columns[static_cast<std::size_t>(c - 1)].end);
    const std::int64_t row = at / column.words, taken = index(row), offset = (at - row * column.words) * column.word;
    const bool present = taken >= 0 && taken < rows;
    std::uint8_t* const to = column.rows.to + row * column.rows.row_bytes + offset;
    const std::uint8_t* const from = present ? column.rows.from + taken * column.rows.row_bytes + offset : nullptr;
    const std::uint64_t missing = column.rows.missing * 0x0101010101010101u;
    if (column.word == 16) {
      *reinterpret_cast<Word16*>(to) = present ? *reinterpret_cast<const Word16*>(from) : Word16{missing, missing};
    } else if (column.word == 4) {
      *reinterpret_cast<std::uint32_t*>(to) = present ? *reinterpret_cast<const std::uint32_t*>(from) : static_cast<std::uint32_t>(missing);
    } else {
      *to = present ? *from : column.rows.missing;
    }
  }
};

}  // namespace

void take_rows_cuda(const ArrayView<const RowsColumn, 1>& columns, const ArrayView<const std::int64_t, 1>& index, std::int64_t rows,
                    const CudaStream& stream) {
  for (std::int64_t first = 0; first < columns.size(); first += TakeWord::most_columns) {
    const std::int64_t count = std::min(columns.size() - first, TakeWord::most_columns);
    const TakeWord take = TakeWord::of({columns.data + first, {count}}, index, rows);
    cuda::launch_elements(stream, take.threads(), take);
  }
}

}  // namespace pyrl::sampling
