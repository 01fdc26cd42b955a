#include "replay/record_layout.hpp"

#include <algorithm>
#include <numeric>

#include "core/check.hpp"

namespace pyrl::replay {
namespace {

std::int64_t round_up(std::int64_t value, std::int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }

std::int64_t checked_product(std::int64_t a, std::int64_t b) {
  std::int64_t product = 0;
  PYRL_CHECK(!__builtin_mul_overflow(a, b, &product) && product < (std::int64_t{1} << 62), ArgumentError, "replay: ", a, " slots of ", b,
             " bytes are more than memory can hold");
  return product;
}

}  // namespace

double mean_cache_lines(std::int64_t stride, std::int64_t bytes) {
  const std::int64_t period = cache_line / std::gcd(stride, cache_line);
  std::int64_t lines = 0;
  for (std::int64_t slot = 0; slot < period; ++slot) {
    const std::int64_t start = slot * stride % cache_line;
    lines += (start + bytes - 1) / cache_line + 1;
  }
  return static_cast<double>(lines) / static_cast<double>(period);
}

int RecordLayout::num_observation_columns() const {
  return static_cast<int>(std::count_if(columns_.begin(), columns_.end(), [](const Column& column) { return column.is_observation; }));
}

RecordLayout::RecordLayout(std::vector<Column> columns, std::int64_t num_slots) : columns_(std::move(columns)) {
  std::int64_t used = sizeof(float), alignment = alignof(float);
  const auto pack = [&](bool observation) {
    for (std::int64_t item : {8, 4, 2, 1}) {
      for (Column& column : columns_) {
        column.hot = column.row_bytes <= cold_row_bytes;
        if (!column.hot || column.is_observation != observation || column.item_bytes != item) continue;
        used = round_up(used, item);
        column.offset = used;
        used += column.row_bytes;
        alignment = std::max(alignment, item);
      }
    }
  };
  pack(true);
  observation_prefix_ = used;
  pack(false);

  stride_ = round_up(used, alignment);
  double fewest = mean_cache_lines(stride_, stride_ + observation_prefix_);
  for (std::int64_t multiple : {16, 32, 64}) {
    const std::int64_t candidate = round_up(used, std::max(multiple, alignment));
    const double lines = mean_cache_lines(candidate, candidate + observation_prefix_);
    if (lines < fewest) {
      stride_ = candidate;
      fewest = lines;
    }
  }

  store_bytes_ = round_up(checked_product(num_slots, stride_), cache_line);
  for (Column& column : columns_) {
    std::int64_t& packed = column.is_observation ? observation_bytes_ : rest_bytes_;
    column.packed = packed;
    packed += column.row_bytes;
    column.stride = column.hot ? stride_ : column.row_bytes;
    if (column.hot) continue;
    column.offset = store_bytes_;
    store_bytes_ = round_up(store_bytes_ + checked_product(num_slots, column.row_bytes), cache_line);
    PYRL_CHECK(store_bytes_ < (std::int64_t{1} << 62), ArgumentError, "replay: the store is larger than memory can be");
  }
}

}  // namespace pyrl::replay
