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
template <class L, class T = typename L::Scalar, class Carry>
PYRL_HD PYRL_INLINE Carry lambda_return_step(const Step<L>& step, T gamma, T lambda, bool last, Carry carry) {
  const auto cut = last ? ~typename L::Mask{} : step.done;
  return step.reward + gamma * (cut ? step.next_value : (T{1} - lambda) * step.next_value + lambda * carry);
}

// lambda = 1, as a choice instead of a product.
template <class L, class T = typename L::Scalar, class Carry>
PYRL_HD PYRL_INLINE Carry discounted_return_step(const Step<L>& step, T gamma, bool last, Carry carry) {
  const auto cut = last ? ~typename L::Mask{} : step.done;
  return step.reward + gamma * (cut ? step.next_value : carry);
}

// For a sweep.
template <class T, bool Discounted>
struct LambdaReturnRecursion {
  T* return_;
  T gamma, lambda;

  explicit LambdaReturnRecursion(const LambdaReturnArgs<T>& args)
      : return_(args.return_.data), gamma(static_cast<T>(args.gamma)), lambda(static_cast<T>(args.lambda)) {}

  template <class L>
  using Inputs = StepInputs<L>;
  template <class L, bool Plain>
  PYRL_HD PYRL_INLINE Inputs<L> read(const RolloutPointers<T>& from, std::int64_t t, std::int64_t i) const {
    return read_inputs<L, Plain>(from, i, from.last(t));
  }
  template <class L, bool Plain, class Carry>
  PYRL_HD PYRL_INLINE void step(const RolloutPointers<T>& from, const Inputs<L>& in, std::int64_t t, std::int64_t i, Carry& carry) const {
    const bool last = from.last(t);
    const auto step = step_of<L, Plain>(from, in, last);
    if constexpr (Discounted) {
      carry = zero_where(step.dead, discounted_return_step<L>(step, gamma, last, carry));
    } else {
      carry = zero_where(step.dead, lambda_return_step<L>(step, gamma, lambda, last, carry));
    }
    L::store(return_ + i, carry);
  }
};

template <class T>
void lambda_return(const LambdaReturnArgs<T>& args, const char* function = "lambda_return");
template <class T>
void lambda_return_cuda(const LambdaReturnArgs<T>& args, const CudaStream& stream);

}  // namespace pyrl::returns
