#include "returns/lambda_return.hpp"

namespace pyrl::returns {
namespace {

template <class T>
struct LambdaReturn {
  T* return_;
  T gamma, lambda;

  template <class L, bool Plain>
  PYRL_INLINE void step(const RolloutPointers<T>& from, std::int64_t t, std::int64_t i, typename L::Value& carry) const {
    const bool last = from.last(t);
    const auto step = read_step<L, Plain>(from, i, last);
    carry = zero_where(step.dead, lambda_return_step<L>(step, gamma, lambda, last, carry));
    L::store(return_ + i, carry);
  }
};

template <class T>
struct DiscountedReturn {
  T* return_;
  T gamma;

  template <class L, bool Plain>
  PYRL_INLINE void step(const RolloutPointers<T>& from, std::int64_t t, std::int64_t i, typename L::Value& carry) const {
    const bool last = from.last(t);
    const auto step = read_step<L, Plain>(from, i, last);
    carry = zero_where(step.dead, discounted_return_step<L>(step, gamma, last, carry));
    L::store(return_ + i, carry);
  }
};

}  // namespace

template <class T>
void lambda_return(const LambdaReturnArgs<T>& args, const char* function) {
  check_bootstrap(args.rollout, function);
  const T gamma = static_cast<T>(args.gamma), lambda = static_cast<T>(args.lambda);
  if (lambda == T{1}) return sweep(args.rollout, DiscountedReturn<T>{args.return_.data, gamma});
  sweep(args.rollout, LambdaReturn<T>{args.return_.data, gamma, lambda});
}

template void lambda_return(const LambdaReturnArgs<float>&, const char*);
template void lambda_return(const LambdaReturnArgs<double>&, const char*);

}  // namespace pyrl::returns
