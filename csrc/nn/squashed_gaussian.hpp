// Actions of a Gaussian squashed by tanh, as a function that can be differentiated (Haarnoja et al. 2018, appendix C).
//
//   mean, raw = the halves of output's columns;   log_std = clamp(raw, low, high)
//   u = mean + exp(log_std) noise;   action = tanh(u)
//   log_prob = sum over A of -noise^2 / 2 - log_std - log sqrt(2 pi) - log(1 - tanh(u)^2)
//   log(1 - tanh(u)^2) = 2 (log 2 - |u| - log(1 + exp(-2 |u|))), which neither overflows nor loses digits at the bounds
//
// Backward, from the gradients w.r.t. action and log_prob (the same d_log_prob for every row):
//   d_u = d_action (1 - action^2) + 2 d_log_prob action;   d_mean = d_u;   d_raw = d_u exp(log_std) noise - d_log_prob, 0 where clamped
//
// output, d_output: [B, 2 A]; noise, action, d_action: [B, A]; log_prob: [B]. Outputs overlap nothing.
#pragma once

#include <cstdint>

#include "core/array_view.hpp"

namespace pyrl::nn {

template <class Real>
struct SquashedGaussian {
  ArrayView<const Real, 2> output;  // [B, 2 A]
  ArrayView<const Real, 2> noise;   // [B, A]
  double low = -20, high = 2;       // of log_std
};

// Both return the sum of what they wrote that is not bounded: not finite where one of these numbers is not.
template <class Real>
double squashed_gaussian(const SquashedGaussian<Real>& args, const ArrayView<Real, 2>& action, const ArrayView<Real, 1>& log_prob);

// `d_action` may be absent: zero.
template <class Real>
double squashed_gaussian_backward(const SquashedGaussian<Real>& args, const ArrayView<const Real, 2>& action,
                                  const ArrayView<const Real, 2>& d_action, double d_log_prob, const ArrayView<Real, 2>& d_output);

}  // namespace pyrl::nn
