#include "returns/gae.hpp"
#include "returns/sweep.cuh"

namespace pyrl::returns {

template <class T>
void gae_cuda(const GaeArgs<T>& args, const CudaStream& stream) {
  sweep_cuda(args.rollout, GaeRecursion<T>(args), stream);
}

template void gae_cuda(const GaeArgs<float>&, const CudaStream&);
template void gae_cuda(const GaeArgs<double>&, const CudaStream&);

}  // namespace pyrl::returns
