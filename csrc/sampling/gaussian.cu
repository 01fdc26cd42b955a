#include "sampling/gaussian.hpp"

#include <cmath>
#include <limits>

#include "core/cuda_launch.cuh"

namespace pyrl::sampling {
namespace {

// A row a thread.
struct DrawGaussianRow {
  GaussianArgs args;

  PYRL_HD void operator()(std::int64_t row) const {
    const std::int64_t dimensions = args.mean.extent[1];
    float cost = 0;
    PhiloxBlock words{};
    const RandomStream random = args.random.read();
    for (std::int64_t a = 0; a < dimensions; a += 2) {
      if (a % 4 == 0 && !args.deterministic)
        words = philox(random.key, random.draw, static_cast<std::uint32_t>(row), static_cast<std::uint32_t>(a / 4));
      NormalPair z{};
      if (!args.deterministic) z = box_muller(a % 4 == 0 ? words[0] : words[2], a % 4 == 0 ? words[1] : words[3]);
      cost += draw(row, a, z.first);
      if (a + 1 < dimensions) cost += draw(row, a + 1, z.second);
    }
    args.log_prob(row) = -(cost + static_cast<float>(dimensions) * log_sqrt_2pi);
  }

 private:
  PYRL_HD float draw(std::int64_t row, std::int64_t a, float z) const {
    const float mean = args.mean(row, a), log_std = args.log_std(args.log_std.extent[0] == 1 ? 0 : row, a);
    const bool in_range = std::fabs(mean) <= std::numeric_limits<float>::max() && std::fabs(log_std) <= log_std_bound;
    const float std = in_range ? elementary::exp(log_std) : std::numeric_limits<float>::quiet_NaN();
    const float action = gaussian_action(mean, std, z);
    args.action(row, a) = action;
    return gaussian_cost(mean, log_std, elementary::exp(-log_std), action);
  }
};

}  // namespace

void sample_gaussian_cuda(const GaussianArgs& args, const CudaStream& stream) {
  cuda::launch_elements(stream, args.mean.extent[0], DrawGaussianRow{args});
}

}  // namespace pyrl::sampling
