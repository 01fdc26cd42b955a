#include "nn/squashed_gaussian.hpp"

#include <algorithm>
#include <cmath>

#include "core/elementary.hpp"
#include "core/interrupt.hpp"
#include "core/platform.hpp"
#include "nn/workspace.hpp"

namespace pyrl::nn {
namespace {

constexpr double log_sqrt_2pi = 0.91893853320467274178, log_2 = 0.69314718055994530942;

PYRL_INLINE float tanh_of(float x) { return elementary::tanh(x); }
inline double tanh_of(double x) { return std::tanh(x); }

// Rows are short, so what takes time is done over all rows at once, in memory [B, A]: here exp(log_std) noise.
template <class Real>
PYRL_INLINE void spread(const SquashedGaussian<Real>& args, Real* out) {
  const std::int64_t batch = args.noise.extent[0], width = args.noise.extent[1];
  const auto low = static_cast<Real>(args.low), high = static_cast<Real>(args.high);
  for (std::int64_t b = 0; b < batch; ++b)
    for (std::int64_t a = 0; a < width; ++a) out[b * width + a] = std::clamp(args.output(b, width + a), low, high);
  for (std::int64_t i = 0; i < batch * width; ++i) out[i] = elementary::exp(out[i]) * args.noise.data[i];
}

// Calls body(rows, first): the arguments of a block of rows, which bounds the memory and lets long calls be stopped.
template <class Real, class Body>
void in_blocks(const SquashedGaussian<Real>& args, const Body& body) {
  const std::int64_t width = args.noise.extent[1];
  in_pieces(args.noise.extent[0], std::int64_t{4096}, [&](std::int64_t first, std::int64_t end) {
    body(SquashedGaussian<Real>{{args.output.data + first * 2 * width, {end - first, 2 * width}}, {args.noise.data + first * width, {end - first, width}},
                                args.low, args.high}, first);
  });
}

}  // namespace

template <class Real>
double squashed_gaussian(const SquashedGaussian<Real>& all, const ArrayView<Real, 2>& all_actions, const ArrayView<Real, 1>& all_log_probs) {
  thread_local Workspace<Real> memory;
  const auto low = static_cast<Real>(all.low), high = static_cast<Real>(all.high);
  const Real constant = static_cast<Real>(-log_sqrt_2pi - 2 * log_2);
  double total = 0;
  in_blocks(all, [&](const SquashedGaussian<Real>& args, std::int64_t first) {
    const std::int64_t batch = args.noise.extent[0], width = args.noise.extent[1];
    Real* const term = memory.reserve(batch * width);
    const ArrayView<Real, 2> action{all_actions.data + first * width, {batch, width}};
    simd::dispatch([&]() PYRL_INLINE_LAMBDA {
      spread(args, term);
      for (std::int64_t b = 0; b < batch; ++b)
        for (std::int64_t a = 0; a < width; ++a) action(b, a) = args.output(b, a) + term[b * width + a];
      for (std::int64_t i = 0; i < batch * width; ++i) {
        const Real u = action.data[i], size = std::abs(u), noise = args.noise.data[i];
        term[i] = 2 * (size + elementary::log(1 + elementary::exp(-2 * size))) - Real(0.5) * noise * noise;
        action.data[i] = tanh_of(u);
      }
      for (std::int64_t b = 0; b < batch; ++b) {
        Real sum = 0;
        for (std::int64_t a = 0; a < width; ++a) sum += term[b * width + a] - std::clamp(args.output(b, width + a), low, high) + constant;
        all_log_probs(first + b) = sum;
        total += static_cast<double>(sum);
      }
    });
  });
  return total;
}

template <class Real>
double squashed_gaussian_backward(const SquashedGaussian<Real>& all, const ArrayView<const Real, 2>& action,
                                  const ArrayView<const Real, 2>& d_action, double d_log_prob, const ArrayView<Real, 2>& d_output) {
  thread_local Workspace<Real> memory;
  const auto low = static_cast<Real>(all.low), high = static_cast<Real>(all.high), by_log_prob = static_cast<Real>(d_log_prob);
  double total = 0;
  in_blocks(all, [&](const SquashedGaussian<Real>& args, std::int64_t first) {
    const std::int64_t batch = args.noise.extent[0], width = args.noise.extent[1];
    Real* const scaled_noise = memory.reserve(batch * width);
    simd::dispatch([&]() PYRL_INLINE_LAMBDA { spread(args, scaled_noise); });
    for (std::int64_t b = 0; b < batch; ++b) {
      const Real* const raw = args.output.row(b) + width;
      Real *const d_mean = d_output.row(first + b), *const d_raw = d_mean + width;
      for (std::int64_t a = 0; a < width; ++a) {
        const Real chosen = action(first + b, a), given = d_action.present() ? d_action(first + b, a) : Real(0);
        const Real d_u = given * (1 - chosen * chosen) + 2 * by_log_prob * chosen;
        const bool inside = raw[a] >= low && raw[a] <= high;
        d_mean[a] = d_u;
        d_raw[a] = inside ? d_u * scaled_noise[b * width + a] - by_log_prob : Real(0);
        total += static_cast<double>(d_mean[a] + d_raw[a]);
      }
    }
  });
  return total;
}

#define PYRL_INSTANTIATE(Real)                                                                                                  \
  template double squashed_gaussian<Real>(const SquashedGaussian<Real>&, const ArrayView<Real, 2>&, const ArrayView<Real, 1>&); \
  template double squashed_gaussian_backward<Real>(const SquashedGaussian<Real>&, const ArrayView<const Real, 2>&,              \
                                                   const ArrayView<const Real, 2>&, double, const ArrayView<Real, 2>&);
PYRL_INSTANTIATE(float)
PYRL_INSTANTIATE(double)
#undef PYRL_INSTANTIATE

}  // namespace pyrl::nn
