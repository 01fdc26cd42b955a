// Lambda returns, Sutton and Barto, "Reinforcement Learning" (2018), section 12.1, in the recursive form; lambda = 1 is the
// discounted return (Monte Carlo), lambda = 0 the one-step target.
//
//   return_t = reward_t + gamma ((1 - lambda) next_value_t + lambda return_{t+1})   within an episode
//   return_t = reward_t + gamma (1 - terminated_t) next_value_t                     if done, and at t = T-1
//
// Arrays [T, N], float32 or float64; the forms of next_value, final_value and valid are those of rollout.hpp. Without any value
// the bootstrap is 0, so the sum of the rewards seen. With lambda = 1 next_value counts only where a sum ends, and may be NaN
// elsewhere. Outputs may not overlap inputs. Cost: one pass.
#pragma once

#include "returns/rollout.hpp"

namespace pyrl::returns {

template <class T>
struct LambdaReturnArgs {
  RolloutView<T> rollout;     // value[0] is not read; without next_value it has T+1 rows
  ArrayView<T, 2> return_;    // [T, N]
  double gamma = 0, lambda = 0;
};

// `carry` is return_{t+1}; `last` says that there is none.
template <class L, class T = typename L::Scalar>
PYRL_INLINE typename L::Value lambda_return_step(const Step<L>& step, T gamma, T lambda, bool last, typename L::Value carry) {
  const auto cut = last ? ~typename L::Mask{} : step.done;
  return step.reward + gamma * (cut ? step.next_value : (T{1} - lambda) * step.next_value + lambda * carry);
}

// lambda = 1, as a choice instead of a product.
template <class L, class T = typename L::Scalar>
PYRL_INLINE typename L::Value discounted_return_step(const Step<L>& step, T gamma, bool last, typename L::Value carry) {
  const auto cut = last ? ~typename L::Mask{} : step.done;
  return step.reward + gamma * (cut ? step.next_value : carry);
}

template <class T>
void lambda_return(const LambdaReturnArgs<T>& args, const char* function = "lambda_return");

}  // namespace pyrl::returns
