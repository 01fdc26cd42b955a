#include "returns/n_step_return.hpp"
#include "returns/sweep.cuh"

namespace pyrl::returns {

template <class T>
void n_step_return_cuda(const NStepReturnArgs<T>& args, const CudaStream& stream) {
  sweep_elements_cuda(args.rollout, args.whole_windows() * args.rollout.environments(), WholeWindows<T>(args), stream);
  lambda_return_cuda(args.rest(), stream);
}

template void n_step_return_cuda(const NStepReturnArgs<float>&, const CudaStream&);
template void n_step_return_cuda(const NStepReturnArgs<double>&, const CudaStream&);

}  // namespace pyrl::returns
