// Actions from the values of all actions: the best one, or with probability epsilon a uniform one of those that may be chosen.
//
//   greedy   = the first k of the largest value_k, where a NaN is the largest and a forbidden action counts as `forbidden_value`
//   action   = uniform if u < epsilon, else greedy,   u = uniform_indices(2^53) 2^-53
//
// Two draws a call: u takes the first, the uniform actions the second (`uniform_indices`, or `sample_categorical` of equal logits where
// there is a mask). None if `epsilon` is negative: all actions are greedy then.
//
// value: float32 or float64 [B, K]; mask: bool [B, K], false forbids, or absent; action: int64 [B]. `epsilons` [B], if present, are those of each
// row, in place of one. `taken` [B], if present, gets the value of the action, and `largest` [B] that of the greedy one. Rows without a possible
// action throw where actions are drawn.
#pragma once

#include <cstdint>

#include "core/array_view.hpp"
#include "core/philox.hpp"

namespace pyrl::sampling {

constexpr double forbidden_value = -1e8;  // pyrl.nets.distributions.FORBIDDEN

template <class Real>
struct EpsilonGreedyArgs {
  ArrayView<const Real, 2> value;
  ArrayView<const bool, 2> mask;
  ArrayView<std::int64_t, 1> action;
  double epsilon = -1;
  ArrayView<const double, 1> epsilons;
  ArrayView<Real, 1> taken, largest;
  RandomStream random;  // its next two draws
};

template <class Real>
void epsilon_greedy(const EpsilonGreedyArgs<Real>& args);

}  // namespace pyrl::sampling
