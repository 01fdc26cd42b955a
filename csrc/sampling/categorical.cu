#include "sampling/categorical.hpp"

#include "core/cuda_launch.cuh"

namespace pyrl::sampling {

void sample_categorical_cuda(const CategoricalArgs& args, const CudaStream& stream) {
  cuda::launch_elements(stream, args.logits.extent[0], DrawCategoricalRow::of(args));
}

}  // namespace pyrl::sampling
