#include "returns/n_step_return.hpp"

#include "returns/lambda_return.hpp"

namespace pyrl::returns {
namespace {

// Windows of n steps that all lie inside the rollout; each is a discounted return of its own. No value is carried from step to
// step, so that all elements are swept as one row.
template <class T>
struct WholeWindows {
  T* return_;
  T gamma;
  std::int64_t n;

  template <class L, bool Plain>
  PYRL_INLINE void step(const RolloutPointers<T>& from, std::int64_t, std::int64_t i, typename L::Value&) const {
    typename L::Value sum{};
    typename L::Mask dead{};
    for (std::int64_t k = n - 1; k >= 0; --k) {
      const bool last = k == n - 1;
      const auto step = read_step<L, Plain>(from, i + k * from.row, last);
      sum = discounted_return_step<L>(step, gamma, last, sum);
      dead = step.dead;
    }
    L::store(return_ + i, zero_where(dead, sum));
  }
};

template <class T>
ArrayView<T, 2> rows_from(const ArrayView<T, 2>& array, std::int64_t first) {
  if (!array.present()) return array;
  return {array.row(first), {array.extent[0] - first, array.extent[1]}};
}

template <class T>
RolloutView<T> rows_from(const RolloutView<T>& rollout, std::int64_t first) {
  return {rows_from(rollout.reward, first),     rows_from(rollout.value, first),      rows_from(rollout.next_value, first), rows_from(rollout.final_value, first),
          rows_from(rollout.terminated, first), rows_from(rollout.truncated, first), rows_from(rollout.valid, first)};
}

}  // namespace

template <class T>
void n_step_return(const NStepReturnArgs<T>& args) {
  check_bootstrap(args.rollout, "n_step_return");
  const std::int64_t whole = args.n > args.rollout.steps() ? 0 : args.rollout.steps() - args.n + 1;
  sweep(RolloutPointers<T>(args.rollout), 1, whole * args.rollout.environments(), WholeWindows<T>{args.return_.data, static_cast<T>(args.gamma), args.n});
  // The windows of the steps that remain end with the rollout: discounted returns.
  lambda_return(LambdaReturnArgs<T>{rows_from(args.rollout, whole), rows_from(args.return_, whole), args.gamma, 1.0}, "n_step_return");
}

template void n_step_return(const NStepReturnArgs<float>&);
template void n_step_return(const NStepReturnArgs<double>&);

}  // namespace pyrl::returns
