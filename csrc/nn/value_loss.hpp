// Losses of values: of V for on-policy agents, of Q for Q-learning, and the dueling head.
//
//   V (Schulman et al. 2017, eq. 9)   L = mean(w f(V' - R)),   V' = V, or V_old + clip(V - V_old, -eps, eps) where value_old is given
//   Q (Mnih et al. 2015)              delta = Q(o, a) - (r + discount Q^-(o', a')),   L = mean(w f(delta))
//                                     a' = argmax Q^-(o', .), or of the online Q(o', .) (double, van Hasselt et al. 2016), the first of equals
//   dueling (Wang et al. 2016)        Q = V + A - mean A
//
// f is the square, or Huber's, quadratic within 1: delta^2 / 2, else |delta| - 1/2. All arrays of one type. Sums are float64 in the order of B.
#pragma once

#include <cstdint>

#include "core/array_view.hpp"

namespace pyrl::nn {

template <class Real>
struct ValueLossArgs {
  ArrayView<const Real, 1> value, return_;  // [B]
  ArrayView<const Real, 1> value_old;       // [B] or absent: no clipping
  ArrayView<const Real, 1> weight;          // [B] or absent
  double clip_range = 0, coefficient = 1;   // the latter of the gradient
  bool huber = false;
  ArrayView<Real, 1> d_value;               // [B]
};
// Returns L, without the coefficient.
template <class Real>
double value_loss(const ValueLossArgs<Real>& args);

template <class Real>
struct QLossArgs {
  ArrayView<const Real, 2> q;                 // [B, A]
  ArrayView<const std::int64_t, 1> action;    // [B]
  ArrayView<const Real, 1> reward, discount;  // [B]
  ArrayView<const Real, 2> next_q_target;     // [B, A]
  ArrayView<const Real, 2> next_q_online;     // [B, A] or absent
  ArrayView<const Real, 1> weight;            // [B] or absent
  bool huber = true;
  ArrayView<Real, 2> d_q;                     // [B, A]
  ArrayView<Real, 1> td_error;                // [B], delta
};
struct QLossReport {
  double loss = 0, q_mean = 0;  // q_mean: of the actions taken
};
template <class Real>
QLossReport q_loss(const QLossArgs<Real>& args);

// q [B, A] from value [B, 1] and advantage [B, A]; q may be `advantage`.
template <class Real>
void dueling(const ArrayView<const Real, 2>& value, const ArrayView<const Real, 2>& advantage, const ArrayView<Real, 2>& q);
// The gradients w.r.t. value and advantage from that w.r.t. q; d_advantage may be `d_q`.
template <class Real>
void dueling_backward(const ArrayView<const Real, 2>& d_q, const ArrayView<Real, 2>& d_value, const ArrayView<Real, 2>& d_advantage);

}  // namespace pyrl::nn
