#include "nn/optimizer.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "core/interrupt.hpp"
#include "core/parallel.hpp"
#include "core/platform.hpp"

namespace pyrl::nn {
namespace {

constexpr std::int64_t lanes = 16;          // partial sums of the norm, the same at every level
constexpr std::int64_t grain = 1 << 18;     // below this a second thread costs more than it saves

template <class Body>
void each(std::int64_t n, const Body& body) {
  const auto range = [&](std::int64_t begin, std::int64_t end) {
    simd::dispatch([&]() PYRL_INLINE_LAMBDA {
      for (std::int64_t i = begin; i < end; ++i) body(i);
    });
  };
  if (n < 2 * grain) return range(0, n);
  const Uninterrupted whole;
  parallel_for(n, grain, range);
}

template <class Real>
PYRL_INLINE Real without_subnormals(Real x) {
  return std::abs(x) < std::numeric_limits<Real>::min() ? Real{0} : x;
}

}  // namespace

template <class Real>
double global_norm(const ArrayView<const Real, 1>& gradients) {
  std::array<double, lanes> sums{};
  const std::int64_t n = gradients.size();
  const Real* const g = gradients.data;
  simd::dispatch([&]() PYRL_INLINE_LAMBDA {
    double partial[lanes] = {};
    std::int64_t i = 0;
    for (; i + lanes <= n; i += lanes)
      for (std::int64_t k = 0; k < lanes; ++k) partial[k] += static_cast<double>(g[i + k]) * static_cast<double>(g[i + k]);
    for (std::int64_t k = 0; i + k < n; ++k) partial[k] += static_cast<double>(g[i + k]) * static_cast<double>(g[i + k]);
    for (std::int64_t k = 0; k < lanes; ++k) sums[static_cast<std::size_t>(k)] = partial[k];
  });
  double total = 0;
  for (const double sum : sums) total += sum;
  return std::sqrt(total);
}

double clip_factor(double norm, double max_norm) { return std::min(1.0, max_norm / (norm + 1e-6)); }

template <class Real>
void adam(const AdamArgs<Real>& args) {
  Real *PYRL_RESTRICT const w = args.parameters.data, *PYRL_RESTRICT const m = args.exp_avg.data, *PYRL_RESTRICT const v = args.exp_avg_sq.data;
  const Real* PYRL_RESTRICT const gradients = args.gradients.data;
  const auto factor = static_cast<Real>(args.gradient_factor), beta1 = static_cast<Real>(args.beta1), beta2 = static_cast<Real>(args.beta2);
  const auto fresh1 = static_cast<Real>(1 - args.beta1), fresh2 = static_cast<Real>(1 - args.beta2), epsilon = static_cast<Real>(args.epsilon);
  const auto step_size = static_cast<Real>(args.learning_rate / (1 - std::pow(args.beta1, args.step)));
  const auto inverse_correction = static_cast<Real>(1 / std::sqrt(1 - std::pow(args.beta2, args.step)));
  const auto added = static_cast<Real>(args.decoupled ? 0 : args.weight_decay);
  const auto kept = static_cast<Real>(args.decoupled ? 1 - args.learning_rate * args.weight_decay : 1);
  each(args.parameters.size(), [=](std::int64_t i) PYRL_INLINE_LAMBDA {
    const Real g = gradients[i] * factor + added * w[i];
    m[i] = without_subnormals(beta1 * m[i] + fresh1 * g);
    v[i] = without_subnormals(beta2 * v[i] + fresh2 * (g * g));
    w[i] = w[i] * kept - step_size * m[i] / (std::sqrt(v[i]) * inverse_correction + epsilon);
  });
}

template <class Real>
void rmsprop(const RmspropArgs<Real>& args) {
  Real *PYRL_RESTRICT const w = args.parameters.data, *PYRL_RESTRICT const v = args.square_avg.data;
  const Real* PYRL_RESTRICT const gradients = args.gradients.data;
  const auto factor = static_cast<Real>(args.gradient_factor), alpha = static_cast<Real>(args.alpha), fresh = static_cast<Real>(1 - args.alpha);
  const auto inside = static_cast<Real>(args.epsilon_inside ? args.epsilon : 0), outside = static_cast<Real>(args.epsilon_inside ? 0 : args.epsilon);
  const auto rate = static_cast<Real>(args.learning_rate), added = static_cast<Real>(args.weight_decay);
  each(args.parameters.size(), [=](std::int64_t i) PYRL_INLINE_LAMBDA {
    const Real g = gradients[i] * factor + added * w[i];
    v[i] = without_subnormals(alpha * v[i] + fresh * (g * g));
    w[i] -= rate * g / (std::sqrt(v[i] + inside) + outside);
  });
}

template <class Real>
void polyak(const ArrayView<Real, 1>& target, const ArrayView<const Real, 1>& online, double tau) {
  Real* PYRL_RESTRICT const to = target.data;
  const Real* PYRL_RESTRICT const from = online.data;
  if (tau == 1.0) {
    std::copy_n(from, target.size(), to);
    return;
  }
  const auto share = static_cast<Real>(tau);
  each(target.size(), [=](std::int64_t i) PYRL_INLINE_LAMBDA { to[i] += share * (from[i] - to[i]); });
}

#define PYRL_INSTANTIATE(Real)                                          \
  template double global_norm<Real>(const ArrayView<const Real, 1>&);   \
  template void adam<Real>(const AdamArgs<Real>&);                      \
  template void rmsprop<Real>(const RmspropArgs<Real>&);                \
  template void polyak<Real>(const ArrayView<Real, 1>&, const ArrayView<const Real, 1>&, double);
PYRL_INSTANTIATE(float)
PYRL_INSTANTIATE(double)
#undef PYRL_INSTANTIATE

}  // namespace pyrl::nn
