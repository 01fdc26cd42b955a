#include "sampling/categorical.hpp"

#include <array>
#include <limits>

#include "core/cuda_launch.cuh"

namespace pyrl::sampling {
namespace {

// A row a thread: the sums of the CPU in its order.
struct DrawCategoricalRow {
  static constexpr std::int64_t most_components = 128;
  static constexpr float infinity = std::numeric_limits<float>::infinity();

  CategoricalArgs args;
  std::array<std::int32_t, most_components> nvec;  // args.nvec, which is on the host
  int components;

  static DrawCategoricalRow of(const CategoricalArgs& args) {
    PYRL_CHECK(args.nvec.size() <= most_components, ArgumentError, args.function, ": nvec has ", args.nvec.size(),
               " components, expected at most ", most_components, " on a GPU");
    DrawCategoricalRow row{args, {}, static_cast<int>(args.nvec.size())};
    for (int m = 0; m < row.components; ++m) {
      PYRL_CHECK(args.nvec(m) <= std::numeric_limits<std::int32_t>::max(), ArgumentError, args.function, ": nvec[", m, "] is ",
                 args.nvec(m), ", expected less than 2^31 on a GPU");
      row.nvec[static_cast<std::size_t>(m)] = static_cast<std::int32_t>(args.nvec(m));
    }
    return row;
  }

  PYRL_HD void operator()(std::int64_t row) const {
    float log_prob = 0;
    std::int64_t begin = 0;
    PhiloxBlock words{};
    const RandomStream random = args.random.read();
    for (int m = 0; m < components; ++m) {
      if (m % 2 == 0 && !args.deterministic)
        words = philox(random.key, random.draw, static_cast<std::uint32_t>(row), static_cast<std::uint32_t>(m / 2));
      log_prob += draw(row, m, begin, m % 2 == 0 ? words[0] : words[2], m % 2 == 0 ? words[1] : words[3]);
      begin += nvec[m];
    }
    args.log_prob(row) = log_prob;
  }

 private:
  PYRL_HD float logit(std::int64_t row, std::int64_t column) const {
    const std::int64_t i = row * args.logits.extent[1] + column;
    const bool allowed = !args.mask.present() || reinterpret_cast<const std::uint8_t*>(args.mask.data)[i] != 0;
    return allowed ? args.logits.data[i] : -infinity;
  }

  PYRL_HD float draw(std::int64_t row, int m, std::int64_t begin, std::uint32_t high, std::uint32_t low) const {
    const std::int32_t size = nvec[m];
    float largest = -infinity;
    std::int32_t likeliest = 0;
    bool numbers = true;
    for (std::int32_t k = 0; k < size; ++k) {
      const float value = logit(row, begin + k);
      numbers = numbers && value < infinity;
      likeliest = value > largest ? k : likeliest;
      largest = value > largest ? value : largest;
    }
    if (!numbers || largest == -infinity) {
      args.action(row, m) = -1;
      return std::numeric_limits<float>::quiet_NaN();
    }
    double total = 0;
    for (std::int32_t k = 0; k < size; ++k) total += static_cast<double>(category_weight(logit(row, begin + k), largest));
    std::int32_t action = args.deterministic ? likeliest : 0;
    if (!args.deterministic) {
      const double threshold = category_threshold(high, low, total);
      double sum = 0;
      for (std::int32_t k = 0; k < size; ++k) {
        sum += static_cast<double>(category_weight(logit(row, begin + k), largest));
        action += sum <= threshold ? 1 : 0;
      }
    }
    args.action(row, m) = action;
    return category_log_prob(logit(row, begin + action), largest, total);
  }
};

}  // namespace

void sample_categorical_cuda(const CategoricalArgs& args, const CudaStream& stream) {
  cuda::launch_elements(stream, args.logits.extent[0], DrawCategoricalRow::of(args));
}

}  // namespace pyrl::sampling
