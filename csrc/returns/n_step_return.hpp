// n-step returns, Sutton and Barto, "Reinforcement Learning" (2018), equation 7.1.
//
//   return_t = reward_t + gamma reward_{t+1} + ... + gamma^(k-1) reward_{t+k-1} + gamma^k (1 - terminated_{t+k-1}) next_value_{t+k-1}
//   k        = the least of n, the steps up to and with the first done, and T - t
//
// Arrays [T, N], float32 or float64; the forms of next_value, final_value and valid are those of rollout.hpp. Without any value
// the bootstrap is 0. next_value counts only where a sum ends. Outputs may not overlap inputs. Cost: n short multiply-adds an
// element, summed from the far end, which keeps rounding errors apart between elements (a sliding sum would carry them along).
#pragma once

#include "returns/lambda_return.hpp"

namespace pyrl::returns {

template <class T>
struct NStepReturnArgs {
  RolloutView<T> rollout;     // value[0] is not read; without next_value it has T+1 rows
  ArrayView<T, 2> return_;    // [T, N]
  std::int64_t n = 1;
  double gamma = 0;

  // The first rows, whose windows of n steps are inside the rollout.
  std::int64_t whole_windows() const { return n > rollout.steps() ? 0 : rollout.steps() - n + 1; }
  // The windows of the other rows end with the rollout: discounted returns.
  LambdaReturnArgs<T> rest() const { return {rows_from(rollout, whole_windows()), rows_from(return_, whole_windows()), gamma, 1.0}; }
};

// Each whole window is a discounted return of its own. No value is carried from step to step, so that all elements are swept as one row.
template <class T>
struct WholeWindows {
  T* return_;
  T gamma;
  std::int64_t n;

  explicit WholeWindows(const NStepReturnArgs<T>& args) : return_(args.return_.data), gamma(static_cast<T>(args.gamma)), n(args.n) {}

  template <class L>
  struct Inputs {};
  template <class L, bool>
  PYRL_HD PYRL_INLINE Inputs<L> read(const RolloutPointers<T>&, std::int64_t, std::int64_t) const {
    return {};
  }
  template <class L, bool Plain>
  PYRL_HD PYRL_INLINE void step(const RolloutPointers<T>& from, Inputs<L>, std::int64_t, std::int64_t i, typename L::Value&) const {
    typename L::Value sum{};
    typename L::Mask dead{};
    for (std::int64_t k = n - 1; k >= 0; --k) {
      const bool last = k == n - 1;
      const auto step = step_of<L, Plain>(from, read_inputs<L, Plain>(from, i + k * from.row, last), last);
      sum = discounted_return_step<L>(step, gamma, last, sum);
      dead = step.dead;
    }
    L::store(return_ + i, zero_where(dead, sum));
  }
};

template <class T>
void n_step_return(const NStepReturnArgs<T>& args);
template <class T>
void n_step_return_cuda(const NStepReturnArgs<T>& args, const CudaStream& stream);

}  // namespace pyrl::returns
