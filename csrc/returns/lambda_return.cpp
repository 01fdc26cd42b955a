#include "returns/lambda_return.hpp"

namespace pyrl::returns {

template <class T>
void lambda_return(const LambdaReturnArgs<T>& args, const char* function) {
  check_bootstrap(args.rollout, function);
  if (args.lambda == 1) return sweep(args.rollout, LambdaReturnRecursion<T, true>(args));
  sweep(args.rollout, LambdaReturnRecursion<T, false>(args));
}

template void lambda_return(const LambdaReturnArgs<float>&, const char*);
template void lambda_return(const LambdaReturnArgs<double>&, const char*);

}  // namespace pyrl::returns
