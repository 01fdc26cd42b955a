#include "core/cuda.hpp"

#include "core/cuda_launch.cuh"
#include "core/platform.hpp"

namespace pyrl {
namespace {

struct Add {
  std::int64_t *word, amount;

  PYRL_HD void operator()(std::int64_t) const { *word += amount; }
};

}  // namespace

void add_cuda(std::int64_t* word, std::int64_t amount, const CudaStream& stream) { cuda::launch_elements(stream, 1, Add{word, amount}); }

}  // namespace pyrl
