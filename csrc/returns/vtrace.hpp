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

template <class Carry>
struct VtraceStep {
  Carry correction;    // vs - value
  Carry pg_advantage;
};

// `carry` is vs_{t+1} - value_{t+1}.
template <class L, class T = typename L::Scalar, class Carry>
PYRL_HD PYRL_INLINE VtraceStep<Carry> vtrace_step(const Step<L>& step, typename L::Value value, typename L::Value ratio,
                                                  const VtraceScalars<T>& scalars, Carry carry) {
  const auto rho = at_most<L>(ratio, scalars.rho_bar), c = scalars.lambda * at_most<L>(ratio, scalars.c_bar);
  const auto future = zero_where(step.done, scalars.gamma * carry);
  const auto td_error = step.reward + scalars.gamma * step.next_value - value;
  return {rho * td_error + c * future, rho * (td_error + future)};
}

// For a sweep.
template <class T>
struct VtraceRecursion {
  const T *log_prob, *behaviour_log_prob;
  const T* ratio = nullptr;  // if set, they are known already
  T *vs, *pg_advantage;
  VtraceScalars<T> scalars;

  explicit VtraceRecursion(const VtraceArgs<T>& args)
      : log_prob(args.log_prob.data), behaviour_log_prob(args.behaviour_log_prob.data), vs(args.vs.data),
        pg_advantage(args.pg_advantage.data),
        scalars{static_cast<T>(args.gamma), static_cast<T>(args.lambda), static_cast<T>(args.rho_bar), static_cast<T>(args.c_bar)} {}

  template <class L>
  struct Inputs {
    StepInputs<L> step;
    typename L::Value value, log_prob, behaviour_log_prob;  // `log_prob` holds the ratio if that is known
  };
  template <class L, bool Plain>
  PYRL_HD PYRL_INLINE Inputs<L> read(const RolloutPointers<T>& from, std::int64_t t, std::int64_t i) const {
    Inputs<L> in{read_inputs<L, Plain>(from, i, from.last(t)), L::load(from.value + i), {}, {}};
    in.log_prob = L::load((ratio != nullptr ? ratio : log_prob) + i);
    if (ratio == nullptr) in.behaviour_log_prob = L::load(behaviour_log_prob + i);
    return in;
  }
  template <class L, bool Plain, class Carry>
  PYRL_HD PYRL_INLINE void step(const RolloutPointers<T>& from, const Inputs<L>& in, std::int64_t t, std::int64_t i, Carry& carry) const {
    const auto step = step_of<L, Plain>(from, in.step, from.last(t));
    const auto ratio_now = ratio != nullptr ? in.log_prob : exponential<L>(in.log_prob - in.behaviour_log_prob);
    const auto result = vtrace_step<L>(step, in.value, ratio_now, scalars, carry);
    carry = zero_where(step.dead, result.correction);
    L::store(vs + i, zero_where(step.dead, carry + in.value));
    L::store(pg_advantage + i, zero_where(step.dead, result.pg_advantage));
  }
};

template <class T>
void vtrace(const VtraceArgs<T>& args);
template <class T>
void vtrace_cuda(const VtraceArgs<T>& args, const CudaStream& stream);

}  // namespace pyrl::returns
