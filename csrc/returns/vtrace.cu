#include "returns/vtrace.hpp"
#include "returns/sweep.cuh"

namespace pyrl::returns {

template <class T>
void vtrace_cuda(const VtraceArgs<T>& args, const CudaStream& stream) {
  sweep_cuda(args.rollout, VtraceRecursion<T>(args), stream, args.lambda * args.c_bar > 1);
}

template void vtrace_cuda(const VtraceArgs<float>&, const CudaStream&);
template void vtrace_cuda(const VtraceArgs<double>&, const CudaStream&);

}  // namespace pyrl::returns
