#include "returns/lambda_return.hpp"
#include "returns/sweep.cuh"

namespace pyrl::returns {

template <class T>
void lambda_return_cuda(const LambdaReturnArgs<T>& args, const CudaStream& stream) {
  if (args.lambda == 1) return sweep_cuda(args.rollout, LambdaReturnRecursion<T, true>(args), stream);
  sweep_cuda(args.rollout, LambdaReturnRecursion<T, false>(args), stream);
}

template void lambda_return_cuda(const LambdaReturnArgs<float>&, const CudaStream&);
template void lambda_return_cuda(const LambdaReturnArgs<double>&, const CudaStream&);

}  // namespace pyrl::returns
