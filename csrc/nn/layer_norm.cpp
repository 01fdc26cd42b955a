#include "nn/layer_norm.hpp"

#include <algorithm>
#include <cmath>

#include "core/platform.hpp"

namespace pyrl::nn {
namespace {

constexpr double epsilon = 1e-5;

// The mean of term(0) ... term(n - 1), added up in sixteen lanes at every SIMD level.
template <class Real, class Term>
PYRL_INLINE Real mean_of(std::int64_t n, const Term& term) {
  constexpr int lanes = 16;
  Real part[lanes] = {};
  std::int64_t j = 0;
  for (; j + lanes <= n; j += lanes)
    for (int lane = 0; lane < lanes; ++lane) part[lane] += term(j + lane);
  for (; j < n; ++j) part[j % lanes] += term(j);
  for (int half = lanes / 2; half > 0; half /= 2)
    for (int lane = 0; lane < half; ++lane) part[lane] += part[lane + half];
  return part[0] / static_cast<Real>(n);
}

}  // namespace

template <class Real>
void layer_norm(const Real* gain, const Real* shift, std::int64_t batch, std::int64_t width, Real* z, Real* unit, Real* deviation) {
  simd::dispatch([&]() PYRL_INLINE_LAMBDA {
    for (std::int64_t i = 0; i < batch; ++i) {
      Real* const PYRL_RESTRICT row = z + i * width;
      const Real mean = mean_of<Real>(width, [=](std::int64_t j) PYRL_INLINE_LAMBDA { return row[j]; });
      const Real variance = mean_of<Real>(width, [=](std::int64_t j) PYRL_INLINE_LAMBDA { return (row[j] - mean) * (row[j] - mean); });
      const Real inverse = Real(1) / std::sqrt(variance + static_cast<Real>(epsilon));
      for (std::int64_t j = 0; j < width; ++j) row[j] = (row[j] - mean) * inverse;
      if (unit != nullptr) {
        deviation[i] = inverse;
        std::copy_n(row, width, unit + i * width);
      }
      for (std::int64_t j = 0; j < width; ++j) row[j] = row[j] * gain[j] + shift[j];
    }
  });
}

template <class Real>
void layer_norm_backward(const Real* gain, const Real* unit, const Real* deviation, std::int64_t batch, std::int64_t width, Real* dz, Real* d_gain,
                         Real* d_shift) {
  simd::dispatch([&]() PYRL_INLINE_LAMBDA {
    if (d_gain != nullptr) {
      std::fill_n(d_gain, width, Real(0));
      std::fill_n(d_shift, width, Real(0));
    }
    for (std::int64_t i = 0; i < batch; ++i) {
      Real* const PYRL_RESTRICT row = dz + i * width;
      const Real* const PYRL_RESTRICT y = unit + i * width;
      if (d_gain != nullptr) {
        for (std::int64_t j = 0; j < width; ++j) {
          d_gain[j] += row[j] * y[j];
          d_shift[j] += row[j];
        }
      }
      for (std::int64_t j = 0; j < width; ++j) row[j] *= gain[j];
      const Real mean = mean_of<Real>(width, [=](std::int64_t j) PYRL_INLINE_LAMBDA { return row[j]; });
      const Real along = mean_of<Real>(width, [=](std::int64_t j) PYRL_INLINE_LAMBDA { return row[j] * y[j]; });
      const Real scale = deviation[i];
      for (std::int64_t j = 0; j < width; ++j) row[j] = scale * (row[j] - mean - y[j] * along);
    }
  });
}

template void layer_norm<float>(const float*, const float*, std::int64_t, std::int64_t, float*, float*, float*);
template void layer_norm<double>(const double*, const double*, std::int64_t, std::int64_t, double*, double*, double*);
template void layer_norm_backward<float>(const float*, const float*, const float*, std::int64_t, std::int64_t, float*, float*, float*);
template void layer_norm_backward<double>(const double*, const double*, const double*, std::int64_t, std::int64_t, double*, double*, double*);

}  // namespace pyrl::nn
