// n-step returns, Sutton and Barto, "Reinforcement Learning" (2018), equation 7.1.
//
//   return_t = reward_t + gamma reward_{t+1} + ... + gamma^(k-1) reward_{t+k-1} + gamma^k (1 - terminated_{t+k-1}) next_value_{t+k-1}
//   k        = the least of n, the steps up to and with the first done, and T - t
//
// Arrays [T, N], float32 or float64; the forms of next_value, final_value and valid are those of rollout.hpp. Without any value
// the bootstrap is 0. next_value counts only where a sum ends. Outputs may not overlap inputs. Cost: n short multiply-adds an element, summed from the far end, which
// keeps rounding errors apart between elements (a sliding sum would carry them along).
#pragma once

#include "returns/rollout.hpp"

namespace pyrl::returns {

template <class T>
struct NStepReturnArgs {
  RolloutView<T> rollout;     // value[0] is not read; without next_value it has T+1 rows
  ArrayView<T, 2> return_;    // [T, N]
  std::int64_t n = 1;
  double gamma = 0;
};

template <class T>
void n_step_return(const NStepReturnArgs<T>& args);

}  // namespace pyrl::returns
