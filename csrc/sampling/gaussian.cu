#include "sampling/gaussian.hpp"

#include "core/cuda_launch.cuh"

namespace pyrl::sampling {

void sample_gaussian_cuda(const GaussianArgs& args, const CudaStream& stream) {
  cuda::launch_elements(stream, args.mean.extent[0], DrawGaussianRow{args});
}

}  // namespace pyrl::sampling
