#include "returns/n_step_return.hpp"

#include "returns/lambda_return.hpp"

namespace pyrl::returns {
namespace {

template <class T>
struct NStepReturn {
  T* return_;
  T gamma;
  std::int64_t n;

  // Each window is a discounted return of its own: the step is lambda_return_step with lambda = 1.
  template <class L, bool Plain>
  PYRL_INLINE void step(const RolloutPointers<T>& from, std::int64_t t, std::int64_t i, typename L::Value&) const {
    typename L::Value sum{};
    auto dead = typename L::Mask{};
    const std::int64_t last = std::min(from.steps, t + n) - 1;
    for (std::int64_t k = last; k >= t; --k) {
      const auto step = read_step<L, Plain>(from, k, i + (k - t) * from.row);
      sum = step.reward + gamma * (k == last ? step.next_value : (step.done ? step.next_value : sum));
      dead = step.dead;
    }
    L::store(return_ + i, zero_where(dead, sum));
  }
};

}  // namespace

template <class T>
void n_step_return(const NStepReturnArgs<T>& args) {
  check_bootstrap(args.rollout, "n_step_return");
  if (args.n >= args.rollout.steps()) return lambda_return(LambdaReturnArgs<T>{args.rollout, args.return_, args.gamma, 1.0}, "n_step_return");
  sweep(args.rollout, NStepReturn<T>{args.return_.data, static_cast<T>(args.gamma), args.n});
}

template void n_step_return(const NStepReturnArgs<float>&);
template void n_step_return(const NStepReturnArgs<double>&);

}  // namespace pyrl::returns
