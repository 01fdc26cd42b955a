// Actions of M independent categorical distributions and the logarithm of their probability, from logits.
//
//   p_k      = exp(logit_k - max) / total,   total = sum_k exp(logit_k - max)
//   action   = the first k with  e_0 + ... + e_k > u total,   e_k = exp(logit_k - max)      (inverse distribution function)
//   log_prob = sum over the components of (logit_action - max) - log(total)
//
// u has 53 bits: words 2 (m mod 2) and 2 (m mod 2) + 1 of block floor(m / 2) of element b, for component m of row b. The sums
// are float64, in the order of k. An action of probability zero (logit -inf, or masked) is never drawn. `deterministic`
// takes the largest logit, the first of equal ones, and no random word.
//
// logits: float32 [B, K], K = nvec_0 + ... + nvec_{M-1}; mask: bool [B, K], false forbids, or absent;
// action: int64 [B, M]; log_prob: float32 [B]. Outputs may not overlap inputs. One draw a call, none if deterministic.
// Cost: K exponentials a row (twice that for nvec_m > 64). NaN, +inf and rows without a possible action throw before anything is written.
#pragma once

#include <array>
#include <cstdint>
#include <limits>

#include "core/array_view.hpp"
#include "core/check.hpp"
#include "core/cuda.hpp"
#include "core/elementary.hpp"
#include "core/philox.hpp"

namespace pyrl::sampling {

struct CategoricalArgs {
  const char* function = "sample_categorical";  // for messages
  ArrayView<const float, 2> logits;             // [B, K]
  ArrayView<const bool, 2> mask;                // [B, K] or absent
  ArrayView<const std::int64_t, 1> nvec;        // [M], each positive
  ArrayView<std::int64_t, 2> action;            // [B, M]
  ArrayView<float, 1> log_prob;                 // [B]
  DrawSource random;
  bool deterministic = false;
};

// e_k, in (0, 1] or 0.
PYRL_HD PYRL_INLINE float category_weight(float logit, float largest) { return elementary::exp(logit - largest); }

// What the running sum must exceed. Below `total` even when u is the largest number below one.
PYRL_HD PYRL_INLINE double category_threshold(std::uint32_t high, std::uint32_t low, double total) {
  return (static_cast<double>(high) * 0x1p-32 + static_cast<double>(low >> 11) * 0x1p-53) * total;
}

PYRL_HD PYRL_INLINE float category_log_prob(float logit, float largest, double total) {
  return (logit - largest) - elementary::log(static_cast<float>(total));
}

// One row by itself, as a thread of a GPU draws it: the same sums in the same order. A component with a NaN, a +inf or no
// possible action, for which the CPU throws, gets action -1, and its row log_prob NaN.
struct DrawCategoricalRow {
  static constexpr std::int64_t most_components = 128;
  static constexpr float infinity = std::numeric_limits<float>::infinity();

  CategoricalArgs args;
  std::array<std::int32_t, most_components> nvec;  // args.nvec, which lies on the host
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

void sample_categorical(const CategoricalArgs& args);
// As the CPU, but for what DrawCategoricalRow says; args.nvec lies on the host, M <= 128.
void sample_categorical_cuda(const CategoricalArgs& args, const CudaStream& stream);

}  // namespace pyrl::sampling
