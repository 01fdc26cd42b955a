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
template <class L, class T = typename L::Scalar, class Carry>
PYRL_HD PYRL_INLINE Carry gae_step(const Step<L>& step, typename L::Value value, T gamma, T decay, Carry carry) {
  const auto delta = step.reward + gamma * step.next_value - value;
  return delta + zero_where(step.done, decay * carry);
}

// For a sweep.
template <class T>
struct GaeRecursion {
  T *advantage, *return_;
  T gamma, decay;

  explicit GaeRecursion(const GaeArgs<T>& args)
      : advantage(args.advantage.data), return_(args.return_.data), gamma(static_cast<T>(args.gamma)),
        decay(static_cast<T>(args.gamma * args.gae_lambda)) {}

  template <class L>
  struct Inputs {
    StepInputs<L> step;
    typename L::Value value;
  };
  template <class L, bool Plain>
  PYRL_HD PYRL_INLINE Inputs<L> read(const RolloutPointers<T>& from, std::int64_t t, std::int64_t i) const {
    return {read_inputs<L, Plain>(from, i, from.last(t)), L::load(from.value + i)};
  }
  template <class L, bool Plain, class Carry>
  PYRL_HD PYRL_INLINE void step(const RolloutPointers<T>& from, const Inputs<L>& in, std::int64_t t, std::int64_t i, Carry& carry) const {
    const auto step = step_of<L, Plain>(from, in.step, from.last(t));
    carry = zero_where(step.dead, gae_step<L>(step, in.value, gamma, decay, carry));
    L::store(advantage + i, carry);
    L::store(return_ + i, zero_where(step.dead, carry + in.value));
  }
};

template <class T>
void gae(const GaeArgs<T>& args);
template <class T>
void gae_cuda(const GaeArgs<T>& args, const CudaStream& stream);

}  // namespace pyrl::returns
