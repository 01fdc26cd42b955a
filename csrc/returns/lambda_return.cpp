#include "returns/lambda_return.hpp"

namespace pyrl::returns {
namespace {

template <class T>
struct LambdaReturn {
  T* return_;
  T gamma, lambda;

  template <class L, bool Plain>
  PYRL_INLINE void step(const RolloutPointers<T>& from, std::int64_t t, std::int64_t i, typename L::Value& carry) const {
    const auto step = read_step<L, Plain>(from, t, i);
    carry = zero_where(step.dead, lambda_return_step<L>(step, gamma, lambda, t + 1 == from.steps, carry));
    L::store(return_ + i, carry);
  }
};

}  // namespace

template <class T>
void lambda_return(const LambdaReturnArgs<T>& args, const char* function) {
  check_bootstrap(args.rollout, function);
  sweep(args.rollout, LambdaReturn<T>{args.return_.data, static_cast<T>(args.gamma), static_cast<T>(args.lambda)});
}

template void lambda_return(const LambdaReturnArgs<float>&, const char*);
template void lambda_return(const LambdaReturnArgs<double>&, const char*);

}  // namespace pyrl::returns
