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

#include <cstdint>

#include "core/array_view.hpp"
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

void sample_categorical(const CategoricalArgs& args);
// The same bits. A component with a NaN, a +inf or no possible action, for which the CPU throws, gets action -1, and its row log_prob
// NaN. args.nvec is on the host, M <= 128.
void sample_categorical_cuda(const CategoricalArgs& args, const CudaStream& stream);

}  // namespace pyrl::sampling
