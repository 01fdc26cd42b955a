// Generalized advantage estimation, Schulman et al., "High-dimensional continuous control using generalized advantage
// estimation" (ICLR 2016), equations 11-16.
//
//   delta_t     = reward_t + gamma (1 - terminated_t) next_value_t - value_t
//   advantage_t = delta_t + gamma gae_lambda (1 - done_t) advantage_{t+1},   done = terminated or truncated
//   return_t    = advantage_t + value_t
//
// Arrays [T, N], float32 or float64; the forms of next_value, final_value and valid are those of rollout.hpp.
// Outputs may not overlap inputs. Cost: one pass; 22 bytes an element in float32 (18 with value [T+1, N]).
#pragma once

#include "returns/rollout.hpp"

namespace pyrl::returns {

template <class T>
struct GaeArgs {
  RolloutView<T> rollout;
  ArrayView<T, 2> advantage;  // [T, N]
  ArrayView<T, 2> return_;    // [T, N]
  double gamma = 0, gae_lambda = 0;
};

// `carry` is advantage_{t+1}.
template <class L, class T = typename L::Scalar>
PYRL_INLINE typename L::Value gae_step(const Step<L>& step, typename L::Value value, T gamma, T decay, typename L::Value carry) {
  const auto delta = step.reward + gamma * step.next_value - value;
  return delta + zero_where(step.done, decay * carry);
}

template <class T>
void gae(const GaeArgs<T>& args);

}  // namespace pyrl::returns
