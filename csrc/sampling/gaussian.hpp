// Actions of a diagonal Gaussian and the logarithm of their density.
//
//   action   = mean + std z,   std = exp(log_std)
//   z        = sqrt(-2 log u) (cos v, sin v) for neighbouring dimensions      (Box and Muller, 1958)
//   log_prob = -1/2 sum_a ((action_a - mean_a) / std_a)^2 - sum_a log_std_a - A/2 log(2 pi)
//
// Dimensions 4 j to 4 j + 3 of row b take block j of element b: words 0 and 1 give the first two, words 2 and 3 the others.
// u = (word + 1/2) 2^-32, so that |z| < 6.77; v = word 2^-32 of a turn. log_prob is that of the action as rounded to
// float32, not of z. `deterministic` gives the mean and its log_prob and takes no random word.
//
// mean: float32 [B, A]; log_std: float32 [A] or [B, A], entries in [-80, 80]; action: float32 [B, A]; log_prob: float32 [B].
// Outputs may not overlap inputs. One draw a call, none if deterministic. Entries out of range throw before anything is written.
// Cost: half a log, half a turn and half a Philox block an entry; two exp more where log_std is [B, A].
#pragma once

#include <cmath>
#include <cstdint>

#include "core/array_view.hpp"
#include "core/cuda.hpp"
#include "core/elementary.hpp"
#include "core/philox.hpp"

namespace pyrl::sampling {

struct GaussianArgs {
  ArrayView<const float, 2> mean;     // [B, A]
  ArrayView<const float, 2> log_std;  // [1, A] or [B, A]
  ArrayView<float, 2> action;         // [B, A]
  ArrayView<float, 1> log_prob;       // [B]
  DrawSource random;
  bool deterministic = false;
};

constexpr float log_std_bound = 80.0f;  // exp of it and its inverse are normal numbers
constexpr float log_sqrt_2pi = 0.91893853320467274178f;

struct NormalPair {
  float first, second;
};

PYRL_HD PYRL_INLINE NormalPair box_muller(std::uint32_t radius_word, std::uint32_t angle_word) {
  const float radius = std::sqrt(-2.0f * elementary::log_uniform(radius_word));
  const elementary::SineCosine direction = elementary::turn(angle_word);
  return {radius * direction.cosine, radius * direction.sine};
}

PYRL_HD PYRL_INLINE float gaussian_action(float mean, float std, float z) { return mean + std * z; }

// Minus the logarithm of the density of one dimension, without log_sqrt_2pi.
PYRL_HD PYRL_INLINE float gaussian_cost(float mean, float log_std, float inverse_std, float action) {
  const float z = (action - mean) * inverse_std;
  return 0.5f * (z * z) + log_std;
}

void sample_gaussian(const GaussianArgs& args);
// The same bits. Where an entry is out of range, for which the CPU throws, the action is NaN, and the row's log_prob.
void sample_gaussian_cuda(const GaussianArgs& args, const CudaStream& stream);

}  // namespace pyrl::sampling
