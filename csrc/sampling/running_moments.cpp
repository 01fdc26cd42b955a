#include "sampling/running_moments.hpp"

#include <algorithm>
#include <limits>

#include "core/check.hpp"
#include "core/parallel.hpp"

namespace pyrl::sampling {
namespace {

constexpr std::int64_t tile_columns = 256;  // columns whose sums are held at a time
constexpr std::int64_t block_rows = 64;

// Narrow rows are taken `repeat` at a time, as one row of repeat * D columns: enough sums side by side to fill vector registers.
std::int64_t repeats(std::int64_t columns) { return std::max<std::int64_t>(1, 64 / std::max<std::int64_t>(columns, 1)); }

// Columns [0, width) of rows `stride` apart.
template <class T>
struct Block {
  const T* data;
  std::int64_t rows, stride, width;
};

// Sums of one block in two passes, merged into count, mean and m2.
template <class T>
PYRL_INLINE void add_block(const Block<T>& block, std::int64_t count, double* PYRL_RESTRICT mean, double* PYRL_RESTRICT m2) {
  double block_mean[tile_columns], block_m2[tile_columns];
  const double rows = static_cast<double>(block.rows);
  for (std::int64_t c = 0; c < block.width; ++c) block_mean[c] = block_m2[c] = 0;
  for (std::int64_t r = 0; r < block.rows; ++r)
    for (std::int64_t c = 0; c < block.width; ++c) block_mean[c] += static_cast<double>(block.data[r * block.stride + c]);
  for (std::int64_t c = 0; c < block.width; ++c) block_mean[c] /= rows;
  for (std::int64_t r = 0; r < block.rows; ++r)
    for (std::int64_t c = 0; c < block.width; ++c) {
      const double deviation = static_cast<double>(block.data[r * block.stride + c]) - block_mean[c];
      block_m2[c] += deviation * deviation;
    }
  for (std::int64_t c = 0; c < block.width; ++c) merge_moments(static_cast<double>(count), mean[c], m2[c], rows, block_mean[c], block_m2[c]);
}

template <class T>
PYRL_INLINE std::int64_t add_rows(Block<T> rows, double* mean, double* m2) {
  std::int64_t count = 0;
  for (std::int64_t left = rows.rows; left > 0; left -= block_rows) {
    rows.rows = std::min(left, block_rows);
    add_block(rows, count, mean, m2);
    count += rows.rows;
    rows.data += rows.rows * rows.stride;
  }
  return count;
}

// Columns [from, from + width) of the batch.
template <class T>
PYRL_INLINE void add_columns(const ArrayView<const T, 2>& batch, Moments& moments, std::int64_t from, std::int64_t width) {
  const std::int64_t columns = batch.extent[1], repeat = width == columns ? repeats(columns) : 1;
  const std::int64_t grouped = batch.extent[0] / repeat, rest = batch.extent[0] % repeat;
  double mean[tile_columns] = {}, m2[tile_columns] = {};
  add_rows(Block<T>{batch.data + from, grouped, columns * repeat, width * repeat}, mean, m2);
  std::int64_t count = moments.count;
  double *PYRL_RESTRICT total_mean = moments.mean.data + from, *PYRL_RESTRICT total_m2 = moments.m2.data + from;
  for (std::int64_t group = 0; grouped > 0 && group < repeat; ++group, count += grouped)
    for (std::int64_t c = 0; c < width; ++c)
      merge_moments(static_cast<double>(count), total_mean[c], total_m2[c], static_cast<double>(grouped), mean[group * width + c], m2[group * width + c]);
  const T* data = batch.data + grouped * repeat * columns + from;
  for (std::int64_t row = 0; row < rest; ++row, ++count, data += columns)
    for (std::int64_t c = 0; c < width; ++c) merge_moments(static_cast<double>(count), total_mean[c], total_m2[c], 1.0, static_cast<double>(data[c]), 0.0);
}

template <class T>
void require_finite(const ArrayView<const T, 2>& batch) {
  std::uint32_t outside = 0;
  simd::dispatch([&]() PYRL_INLINE_LAMBDA {
    std::uint32_t flags = 0;
    for (std::int64_t i = 0; i < batch.size(); ++i) flags |= std::fabs(batch.data[i]) <= std::numeric_limits<T>::max() ? 0u : 1u;
    outside = flags;
  });
  if (outside == 0) return;
  for (std::int64_t i = 0; i < batch.size(); ++i)
    PYRL_CHECK(std::isfinite(batch.data[i]), ArgumentError, "RunningMoments: batch has ", batch.data[i], " in row ", i / batch.extent[1], ", column ",
               i % batch.extent[1], ", expected finite numbers");
}

std::int64_t tiles_of(std::int64_t columns) { return (columns + tile_columns - 1) / tile_columns; }

template <class T>
PYRL_INLINE void normalize_run(const NormalizeArgs<T>& args, const T* value, float* out, const double* mean, const double* scale, std::int64_t count) {
  const double clip = args.clip;
  for (std::int64_t i = 0; i < count; ++i) out[i] = normalized(static_cast<double>(value[i]), mean[i], scale[i], clip);
}

// Columns [from, from + width), or all of a narrow array, whose rows are taken `repeat` at a time.
template <class T>
PYRL_INLINE void normalize_columns(const NormalizeArgs<T>& args, std::int64_t from, std::int64_t width) {
  const std::int64_t columns = args.value.extent[1], rows = args.value.extent[0], repeat = width == columns ? repeats(columns) : 1;
  double mean[tile_columns], scale[tile_columns];
  for (std::int64_t c = 0; c < width; ++c) {
    mean[c] = args.center ? args.moments.mean(from + c) : 0.0;
    scale[c] = inverse_deviation(args.moments.count, args.moments.m2(from + c), args.epsilon);
  }
  if (width < columns) {
    for (std::int64_t row = 0; row < rows; ++row)
      normalize_run(args, args.value.data + row * columns + from, args.out.data + row * columns + from, mean, scale, width);
    return;
  }
  const std::int64_t period = std::min(repeat, rows) * width, total = args.value.size();
  for (std::int64_t i = width; i < period; ++i) {
    mean[i] = mean[i - width];
    scale[i] = scale[i - width];
  }
  for (std::int64_t i = 0; i < total; i += period) normalize_run(args, args.value.data + i, args.out.data + i, mean, scale, std::min(period, total - i));
}

}  // namespace

template <class T>
void update_moments(const ArrayView<const T, 2>& batch, Moments& moments) {
  require_finite(batch);
  const std::int64_t columns = batch.extent[1], rows = batch.extent[0];
  struct Job {
    const ArrayView<const T, 2>& batch;
    Moments& moments;
  } job{batch, moments};
  parallel_for(tiles_of(columns), std::max<std::int64_t>(1, 128 / std::max<std::int64_t>(rows, 1)), [&job](std::int64_t begin, std::int64_t end) {
    simd::dispatch([&]() PYRL_INLINE_LAMBDA {
      for (std::int64_t tile = begin; tile < end; ++tile)
        add_columns(job.batch, job.moments, tile * tile_columns, std::min(tile_columns, job.batch.extent[1] - tile * tile_columns));
    });
  });
  moments.count += rows;
}

template <class T>
void normalize(const NormalizeArgs<T>& args) {
  const std::int64_t columns = args.value.extent[1], rows = args.value.extent[0];
  parallel_for(tiles_of(columns), std::max<std::int64_t>(1, 128 / std::max<std::int64_t>(rows, 1)), [&args](std::int64_t begin, std::int64_t end) {
    simd::dispatch([&]() PYRL_INLINE_LAMBDA {
      for (std::int64_t tile = begin; tile < end; ++tile)
        normalize_columns(args, tile * tile_columns, std::min(tile_columns, args.value.extent[1] - tile * tile_columns));
    });
  });
}

template void update_moments(const ArrayView<const float, 2>&, Moments&);
template void update_moments(const ArrayView<const double, 2>&, Moments&);
template void normalize(const NormalizeArgs<float>&);
template void normalize(const NormalizeArgs<double>&);

}  // namespace pyrl::sampling
