#include "sampling/running_moments.hpp"

#include <algorithm>
#include <bit>
#include <limits>
#include <type_traits>

#include "core/check.hpp"
#include "core/interrupt.hpp"
#include "core/parallel.hpp"

namespace pyrl::sampling {
namespace {

constexpr std::int64_t tile_columns = 256;         // columns whose sums are held at a time
constexpr std::int64_t normalized_columns = 1024;  // whose means and scales are: the first-level cache keeps them
constexpr std::int64_t block_rows = 33;     // the first, and the deviations of eight times four others from it

// Narrow rows are taken `repeat` at a time, as one row of repeat * D columns: enough of them side by side to fill vector registers.
std::int64_t repeats(std::int64_t columns) { return std::max<std::int64_t>(1, 64 / std::max<std::int64_t>(columns, 1)); }

// Columns [0, width) of rows `stride` apart.
template <class T>
struct Block {
  const T* data;
  std::int64_t rows, stride, width;
};

// One block, merged into count, mean and m2. One pass, over deviations d from the block's own first row:
//   mean = first + sum d / n,  M2 = sum d^2 - (sum d)^2 / n
// M2 is at least max(d^2) / 2, as the block holds both ends of the largest d, and sum d^2 is at most n times max(d^2): the
// subtraction loses a factor of 2 n at worst. Four rows at a time, so that the sums are read and written less often.
template <class T>
PYRL_INLINE void add_block(const Block<T>& block, std::int64_t count, double* PYRL_RESTRICT mean, double* PYRL_RESTRICT m2) {
  double sum[tile_columns], squares[tile_columns];
  const T* PYRL_RESTRICT first = block.data;
  for (std::int64_t c = 0; c < block.width; ++c) sum[c] = squares[c] = 0;
  std::int64_t row = 1;
  for (; row + 4 <= block.rows; row += 4) {
    const T *PYRL_RESTRICT a = first + row * block.stride, *PYRL_RESTRICT b = a + block.stride;
    const T *PYRL_RESTRICT e = b + block.stride, *PYRL_RESTRICT f = e + block.stride;
    for (std::int64_t c = 0; c < block.width; ++c) {
      const double x = static_cast<double>(first[c]);
      const double p = static_cast<double>(a[c]) - x, q = static_cast<double>(b[c]) - x, r = static_cast<double>(e[c]) - x,
                   s = static_cast<double>(f[c]) - x;
      sum[c] += (p + q) + (r + s);
      squares[c] += (p * p + q * q) + (r * r + s * s);
    }
  }
  for (; row < block.rows; ++row)
    for (std::int64_t c = 0; c < block.width; ++c) {
      const double d = static_cast<double>(first[row * block.stride + c]) - static_cast<double>(first[c]);
      sum[c] += d;
      squares[c] += d * d;
    }
  const double rows = static_cast<double>(block.rows), inverse = 1.0 / rows;
  for (std::int64_t c = 0; c < block.width; ++c) {
    const double shift = sum[c] * inverse;
    merge_moments(static_cast<double>(count), mean[c], m2[c], rows, static_cast<double>(first[c]) + shift, squares[c] - sum[c] * shift);
  }
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
PYRL_INLINE void add_columns(const ArrayView<const T, 2>& batch, const Moments& moments, std::int64_t from, std::int64_t width) {
  const std::int64_t columns = batch.extent[1], rows = batch.extent[0];
  const std::int64_t repeat = width == columns ? std::clamp<std::int64_t>(rows / 16, 1, repeats(columns)) : 1;
  const std::int64_t grouped = rows / repeat, rest = rows % repeat;
  double mean[tile_columns], m2[tile_columns];
  for (std::int64_t c = 0; c < width * repeat; ++c) mean[c] = m2[c] = 0;
  add_rows(Block<T>{batch.data + from, grouped, columns * repeat, width * repeat}, mean, m2);
  std::int64_t count = *moments.count;
  double *PYRL_RESTRICT total_mean = moments.mean.data + from, *PYRL_RESTRICT total_m2 = moments.m2.data + from;
  for (std::int64_t group = 0; grouped > 0 && group < repeat; ++group, count += grouped)
    for (std::int64_t c = 0; c < width; ++c)
      merge_moments(static_cast<double>(count), total_mean[c], total_m2[c], static_cast<double>(grouped), mean[group * width + c],
                    m2[group * width + c]);
  const T* data = batch.data + grouped * repeat * columns + from;
  for (std::int64_t row = 0; row < rest; ++row, ++count, data += columns)
    for (std::int64_t c = 0; c < width; ++c)
      merge_moments(static_cast<double>(count), total_mean[c], total_m2[c], 1.0, static_cast<double>(data[c]), 0.0);
}

template <class T>
void require_finite(const ArrayView<const T, 2>& batch) {
  // The bits of a number without its sign are ordered as its size is; those of infinity and NaN come last.
  using Bits = std::conditional_t<sizeof(T) == 4, std::uint32_t, std::uint64_t>;
  constexpr Bits sign = Bits{1} << (8 * sizeof(T) - 1);
  Bits largest = 0;
  simd::dispatch([&]() PYRL_INLINE_LAMBDA {
    Bits found = 0;
    for (std::int64_t i = 0; i < batch.size(); ++i) found = std::max(found, std::bit_cast<Bits>(batch.data[i]) & ~sign);
    largest = found;
  });
  if (largest < std::bit_cast<Bits>(std::numeric_limits<T>::infinity())) return;
  for (std::int64_t i = 0; i < batch.size(); ++i)
    PYRL_CHECK(std::isfinite(batch.data[i]), NonFiniteError, "RunningMoments: batch has ", batch.data[i], " in row ", i / batch.extent[1],
               ", column ", i % batch.extent[1], ", expected finite numbers");
}

std::int64_t tiles_of(std::int64_t columns, std::int64_t tile = tile_columns) { return (columns + tile - 1) / tile; }

template <class T>
PYRL_INLINE void normalize_run(const NormalizeArgs<T>& args, const T* value, float* out, const double* mean, const double* scale,
                               std::int64_t count) {
  const float clip = static_cast<float>(args.clip);
  for (std::int64_t i = 0; i < count; ++i) out[i] = normalized(static_cast<double>(value[i]), mean[i], scale[i], clip);
}

// Columns [from, from + width), or all of a narrow array, whose rows are taken `repeat` at a time.
template <class T>
PYRL_INLINE void normalize_columns(const NormalizeArgs<T>& args, std::int64_t from, std::int64_t width) {
  const std::int64_t columns = args.value.extent[1], rows = args.value.extent[0], repeat = width == columns ? repeats(columns) : 1;
  double mean[normalized_columns], scale[normalized_columns];
  for (std::int64_t c = 0; c < width; ++c) {
    mean[c] = args.center ? args.moments.mean(from + c) : 0.0;
    scale[c] = inverse_deviation(*args.moments.count, args.moments.m2(from + c), args.epsilon);
  }
  if (width < columns) {
    for (std::int64_t row = 0; row < rows; ++row) {
      if (row % 4096 == 0) check_interrupt();
      normalize_run(args, args.value.data + row * columns + from, args.out.data + row * columns + from, mean, scale, width);
    }
    return;
  }
  const std::int64_t period = std::min(repeat, rows) * width, total = args.value.size();
  for (std::int64_t i = width; i < period; ++i) {
    mean[i] = mean[i - width];
    scale[i] = scale[i - width];
  }
  for (std::int64_t i = 0; i < total; i += period) {
    if ((i / period) % 4096 == 0) check_interrupt();
    normalize_run(args, args.value.data + i, args.out.data + i, mean, scale, std::min(period, total - i));
  }
}

}  // namespace

template <class T>
void update_moments(const ArrayView<const T, 2>& batch, const Moments& moments) {
  require_finite(batch);
  const std::int64_t columns = batch.extent[1], rows = batch.extent[0];
  struct Job {
    const ArrayView<const T, 2>& batch;
    const Moments& moments;
  } job{batch, moments};
  const Uninterrupted whole;
  parallel_for(
      tiles_of(columns), std::max<std::int64_t>(1, 128 / std::max<std::int64_t>(rows, 1)), [&job](std::int64_t begin, std::int64_t end) {
        simd::dispatch([&]() PYRL_INLINE_LAMBDA {
          for (std::int64_t tile = begin; tile < end; ++tile)
            add_columns(job.batch, job.moments, tile * tile_columns, std::min(tile_columns, job.batch.extent[1] - tile * tile_columns));
        });
      });
  *moments.count += rows;
}

template <class T>
void normalize(const NormalizeArgs<T>& args) {
  const std::int64_t columns = args.value.extent[1], rows = args.value.extent[0];
  parallel_for(tiles_of(columns, normalized_columns), std::max<std::int64_t>(1, 128 / std::max<std::int64_t>(rows, 1)),
               [&args](std::int64_t begin, std::int64_t end) {
                 simd::dispatch([&]() PYRL_INLINE_LAMBDA {
                   for (std::int64_t tile = begin; tile < end; ++tile)
                     normalize_columns(args, tile * normalized_columns,
                                       std::min(normalized_columns, args.value.extent[1] - tile * normalized_columns));
                 });
               });
}

template void update_moments(const ArrayView<const float, 2>&, const Moments&);
template void update_moments(const ArrayView<const double, 2>&, const Moments&);
template void normalize(const NormalizeArgs<float>&);
template void normalize(const NormalizeArgs<double>&);

}  // namespace pyrl::sampling
