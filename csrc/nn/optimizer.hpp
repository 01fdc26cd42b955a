// Optimisers over an arena: clip the gradient's global norm, then step; the formulas of torch.optim, one pass each.
//
//   norm  = sqrt(sum g^2);   g <- g min(1, max_norm / (norm + 1e-6))
//   Adam (Kingma and Ba 2015)      m <- b1 m + (1 - b1) g;   v <- b2 v + (1 - b2) g^2
//                                  w <- w - lr / (1 - b1^t) m / (sqrt(v) / sqrt(1 - b2^t) + eps)
//   weight decay                   Adam: g <- g + decay w before;   AdamW (Loshchilov and Hutter 2019): w <- w (1 - lr decay) before
//   RMSprop (Hinton 2012)          v <- a v + (1 - a) g^2;   w <- w - lr g / (sqrt(v) + eps), or / sqrt(v + eps) (TensorFlow's form)
//
// A moment m or v below the smallest normal number is written as zero. Those of a weight without gradient (of a dead unit, say) would
// decay to subnormal numbers and, rounded up, stay there: each costs some processors a hundred cycles a step, and no weight sees them.
//
// All arrays [size], of one type. `gradients` are left as they were (not scaled). If the norm is not finite nothing is written,
// and the caller sees it in the result. Sums are float64 in a fixed order. Cost: one pass over g, one over all arrays.
#pragma once

#include <cstdint>

#include "core/array_view.hpp"

namespace pyrl::nn {

// sqrt of the sum of squares.
template <class Real>
double global_norm(const ArrayView<const Real, 1>& gradients);

// What to multiply the gradient by. `max_norm` infinite: no clipping.
double clip_factor(double norm, double max_norm);

template <class Real>
struct AdamArgs {
  ArrayView<Real, 1> parameters;
  ArrayView<const Real, 1> gradients;
  ArrayView<Real, 1> exp_avg, exp_avg_sq;
  double step = 1;  // t, counted from 1
  double learning_rate = 0, beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8, weight_decay = 0;
  bool decoupled = false;  // AdamW
  double gradient_factor = 1;
};
template <class Real>
void adam(const AdamArgs<Real>& args);

template <class Real>
struct RmspropArgs {
  ArrayView<Real, 1> parameters;
  ArrayView<const Real, 1> gradients;
  ArrayView<Real, 1> square_avg;
  double learning_rate = 0, alpha = 0.99, epsilon = 1e-8, weight_decay = 0;
  bool epsilon_inside = false;  // TensorFlow's form
  double gradient_factor = 1;
};
template <class Real>
void rmsprop(const RmspropArgs<Real>& args);

// target <- target + tau (online - target); tau = 1 copies.
template <class Real>
void polyak(const ArrayView<Real, 1>& target, const ArrayView<const Real, 1>& online, double tau);

}  // namespace pyrl::nn
