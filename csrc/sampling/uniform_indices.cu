#include "sampling/uniform_indices.hpp"

#include "sampling/shuffle.cuh"

namespace pyrl::sampling {

void uniform_indices_cuda(const UniformIndicesArgs& args, const CudaStream& stream) {
  cuda::launch_elements(stream, (args.index.extent[0] + 1) / 2, DrawIndexPair{args});
}

void distinct_indices_cuda(const UniformIndicesArgs& args, void* space, const CudaStream& stream) {
  const std::int64_t count = args.index.extent[0];
  PYRL_CHECK(static_cast<std::uint64_t>(count) <= args.high, ArgumentError, "uniform_indices: size is ", count,
             ", expected at most high = ", args.high, " without replacement");
  PYRL_CHECK(count < (std::int64_t{1} << 32), ArgumentError, "uniform_indices: size is ", count, ", expected less than 2^32 on a GPU");
  shuffle_cuda<LinkDistinct, ResolveDistinct>(args, count, space, stream);
}

}  // namespace pyrl::sampling
