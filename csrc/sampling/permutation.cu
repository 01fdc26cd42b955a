#include "sampling/permutation.hpp"

#include "sampling/shuffle.cuh"

namespace pyrl::sampling {

void permutation_cuda(const PermutationArgs& args, void* space, const CudaStream& stream) {
  const std::int64_t n = args.out.extent[0];
  PYRL_CHECK(n < (std::int64_t{1} << 32), ArgumentError, "permutation: n is ", n, ", expected less than 2^32");
  shuffle_cuda<LinkPermutation, ResolvePermutation>(args, n, space, stream);
}

}  // namespace pyrl::sampling
