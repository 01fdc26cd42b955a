// V-trace, Espeholt et al., "IMPALA: scalable distributed deep-RL with importance weighted actor-learner architectures"
// (ICML 2018), equation 1 and the policy gradient of section 4.2.
//
//   ratio_t = exp(log_prob_t - behaviour_log_prob_t),   rho_t = min(rho_bar, ratio_t),   c_t = lambda min(c_bar, ratio_t)
//   delta_t = rho_t (reward_t + gamma (1 - terminated_t) next_value_t - value_t)
//   vs_t           = value_t + delta_t + gamma c_t (1 - done_t) (vs_{t+1} - value_{t+1}),   done = terminated or truncated
//   pg_advantage_t = rho_t (reward_t + gamma vs_{t+1} - value_t),   with next_value_t (1 - terminated_t) for vs_{t+1} if done
//                                                                    and at t = T-1
//
// Arrays [T, N], float32 or float64; the forms of next_value, final_value and valid are those of rollout.hpp.
// Outputs may not overlap inputs. Cost: one pass with one exponential an element.
#pragma once

#include "returns/exponential.hpp"
#include "returns/rollout.hpp"

namespace pyrl::returns {

template <class T>
struct VtraceArgs {
  RolloutView<T> rollout;
  ArrayView<const T, 2> log_prob, behaviour_log_prob;  // [T, N], of the target and of the acting policy
  ArrayView<T, 2> vs, pg_advantage;                    // [T, N]
  double gamma = 0, lambda = 1, rho_bar = 1, c_bar = 1;
};

template <class T>
struct VtraceScalars {
  T gamma, lambda, rho_bar, c_bar;
};

template <class L>
struct VtraceStep {
  typename L::Value correction;    // vs - value
  typename L::Value pg_advantage;
};

// `carry` is vs_{t+1} - value_{t+1}.
template <class L, class T = typename L::Scalar>
PYRL_INLINE VtraceStep<L> vtrace_step(const Step<L>& step, typename L::Value value, typename L::Value ratio, const VtraceScalars<T>& scalars,
                                      typename L::Value carry) {
  const auto rho = at_most<L>(ratio, scalars.rho_bar), c = scalars.lambda * at_most<L>(ratio, scalars.c_bar);
  const auto future = zero_where(step.done, scalars.gamma * carry);
  const auto td_error = step.reward + scalars.gamma * step.next_value - value;
  return {rho * td_error + c * future, rho * (td_error + future)};
}

template <class T>
void vtrace(const VtraceArgs<T>& args);

}  // namespace pyrl::returns
