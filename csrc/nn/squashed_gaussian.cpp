#include "nn/squashed_gaussian.hpp"

#include <algorithm>
#include <cmath>

#include "core/elementary.hpp"

namespace pyrl::nn {
namespace {

constexpr double log_sqrt_2pi = 0.91893853320467274178, log_2 = 0.69314718055994530942;

template <class Real>
Real softplus(Real x) {
  return std::max(x, Real(0)) + std::log1p(elementary::exp(-std::abs(x)));
}

}  // namespace

template <class Real>
double squashed_gaussian(const SquashedGaussian<Real>& args, const ArrayView<Real, 2>& action, const ArrayView<Real, 1>& log_prob) {
  const std::int64_t width = args.noise.extent[1];
  const auto low = static_cast<Real>(args.low), high = static_cast<Real>(args.high);
  double total = 0;
  for (std::int64_t b = 0; b < args.noise.extent[0]; ++b) {
    const Real *const mean = args.output.row(b), *const raw = mean + width, *const noise = args.noise.row(b);
    Real sum = 0;
    for (std::int64_t a = 0; a < width; ++a) {
      const Real log_std = std::clamp(raw[a], low, high), u = mean[a] + elementary::exp(log_std) * noise[a];
      action(b, a) = std::tanh(u);
      sum += Real(-0.5) * noise[a] * noise[a] - log_std - static_cast<Real>(log_sqrt_2pi) - 2 * (static_cast<Real>(log_2) - u - softplus(-2 * u));
    }
    log_prob(b) = sum;
    total += static_cast<double>(sum);
  }
  return total;
}

template <class Real>
double squashed_gaussian_backward(const SquashedGaussian<Real>& args, const ArrayView<const Real, 2>& action, const ArrayView<const Real, 2>& d_action,
                                  double d_log_prob, const ArrayView<Real, 2>& d_output) {
  const std::int64_t width = args.noise.extent[1];
  const auto low = static_cast<Real>(args.low), high = static_cast<Real>(args.high), by_log_prob = static_cast<Real>(d_log_prob);
  double total = 0;
  for (std::int64_t b = 0; b < args.noise.extent[0]; ++b) {
    const Real* const raw = args.output.row(b) + width;
    Real *const d_mean = d_output.row(b), *const d_raw = d_mean + width;
    for (std::int64_t a = 0; a < width; ++a) {
      const Real chosen = action(b, a), given = d_action.present() ? d_action(b, a) : Real(0);
      const Real d_u = given * (1 - chosen * chosen) + 2 * by_log_prob * chosen;
      const bool inside = raw[a] >= low && raw[a] <= high;
      d_mean[a] = d_u;
      d_raw[a] = inside ? d_u * elementary::exp(raw[a]) * args.noise(b, a) - by_log_prob : Real(0);
      total += static_cast<double>(d_mean[a] + d_raw[a]);
    }
  }
  return total;
}

#define PYRL_INSTANTIATE(Real)                                                                                                             \
  template double squashed_gaussian<Real>(const SquashedGaussian<Real>&, const ArrayView<Real, 2>&, const ArrayView<Real, 1>&);            \
  template double squashed_gaussian_backward<Real>(const SquashedGaussian<Real>&, const ArrayView<const Real, 2>&, const ArrayView<const Real, 2>&, \
                                                 double, const ArrayView<Real, 2>&);
PYRL_INSTANTIATE(float)
PYRL_INSTANTIATE(double)
#undef PYRL_INSTANTIATE

}  // namespace pyrl::nn
