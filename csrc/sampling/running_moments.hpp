// Mean and variance of a stream of rows, and normalisation by them.
//
//   Merging counts n and m (Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing sample
//   variances", 1979):  delta = mean_b - mean_a;  mean = mean_a + delta m / (n + m);  M2 = M2_a + M2_b + delta^2 n m / (n + m)
//   variance = M2 / n, and 1 before the first row
//
// The state: int64 count, float64 mean [D], m2 [D]. batch: float32 or float64 [B, D], finite. Blocks of rows are summed and
// merged in their order, each column by itself: the result depends neither on threads nor on vector width.
// Cost: two passes over the batch, one of them the check; normalisation is one pass.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "core/array_view.hpp"
#include "core/cuda.hpp"
#include "core/platform.hpp"

namespace pyrl::sampling {

struct Moments {
  std::int64_t* count = nullptr;
  ArrayView<double, 1> mean;  // [D]
  ArrayView<double, 1> m2;    // [D], sum of squared deviations
};

// Merges a part of `added` rows into one of `count` rows.
PYRL_HD PYRL_INLINE void merge_moments(double count, double& mean, double& m2, double added, double added_mean, double added_m2) {
  const double total = count + added, delta = added_mean - mean, share = added / total;
  mean += delta * share;
  m2 += added_m2 + delta * delta * (count * share);
}

// 1 / sqrt(variance + epsilon)
PYRL_HD PYRL_INLINE double inverse_deviation(std::int64_t count, double m2, double epsilon) {
  return 1.0 / std::sqrt((count > 0 ? m2 / static_cast<double>(count) : 1.0) + epsilon);
}

// Clamped to [-clip, clip]; NaN stays.
PYRL_HD PYRL_INLINE float normalized(double value, double mean, double scale, float clip) {
  const float scaled = static_cast<float>((value - mean) * scale);
  const float below = scaled > clip ? clip : scaled;
  return below < -clip ? -clip : below;
}

// Adds the rows of `batch`. A NaN or an infinity throws, and nothing has changed then.
template <class T>
void update_moments(const ArrayView<const T, 2>& batch, const Moments& moments);

template <class T>
struct NormalizeArgs {
  ArrayView<const T, 2> value;  // [B, D]
  ArrayView<float, 2> out;      // [B, D]; may be `value` itself
  Moments moments;
  double clip = 0;  // infinity: off
  double epsilon = 0;
  bool center = true;  // subtract the mean
};

template <class T>
void normalize(const NormalizeArgs<T>& args);

// On a GPU the rows are dealt out to slices, row r to slice r mod slices, so that threads side by side read adjacent memory: thread
// g has column g mod D of slice g / D, and its rows are slices D apart in memory.
struct Slices {
  std::int64_t rows, columns, count;

  static Slices of(std::int64_t rows, std::int64_t columns) {
    constexpr std::int64_t threads = 1 << 18, most = 256, least_rows = 8;
    const std::int64_t wanted = std::min((rows + least_rows - 1) / least_rows, threads / std::max<std::int64_t>(columns, 1));
    return {rows, columns, std::clamp<std::int64_t>(wanted, 1, most)};
  }
  PYRL_HD std::int64_t threads() const { return count * columns; }
  PYRL_HD std::int64_t rows_of(std::int64_t slice) const { return (rows - slice + count - 1) / count; }
};

// The moments are on the device. The sums are in another order than the CPU's: 1e-12 apart, the same in every run. A NaN or
// an infinity, for which the CPU throws, spreads to its column's moments. `space` is moments_space(B, D) bytes on the device.
inline std::int64_t moments_space(std::int64_t rows, std::int64_t columns) {
  return 2 * static_cast<std::int64_t>(sizeof(double)) * Slices::of(rows, columns).threads();
}
template <class T>
void update_moments_cuda(const ArrayView<const T, 2>& batch, const Moments& moments, void* space, const CudaStream& stream);
template <class T>
void normalize_cuda(const NormalizeArgs<T>& args, const CudaStream& stream);

}  // namespace pyrl::sampling
