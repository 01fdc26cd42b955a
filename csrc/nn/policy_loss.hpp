// The loss of a policy and its gradient w.r.t. the policy network's output.
//
//   L = -mean(surrogate) - ent_coef mean(H)
//   PPO (Schulman et al. 2017, eq. 7)     surrogate = min(r A, clip(r, 1 - eps, 1 + eps) A),   r = pi(a) / pi_old(a)
//   actor-critic (Mnih et al. 2016)       surrogate = A log pi(a)                              where log_prob_old is absent
//
//   categorical   pi from logits, M components side by side:   d log pi / d logit_k = [k = a] - p_k,   dH / d logit_k = -p_k (log p_k + H)
//   Gaussian      mean and a log_std of its own:               d log pi / d mean = z / std,   d log pi / d log_std = z^2 - 1,   dH / d log_std = 1
//
// output: logits [B, K] (K = sum of nvec) or mean [B, A]; action: int64 [B, M] or [B, A]; log_prob_old, advantage: [B].
// d_output: [B, K or A]; d_log_std: [A], overwritten. Sums are float64 in the order of B. Outputs overlap nothing.
// The report's KL is mean(r - 1 - log r) (Schulman 2020), zero for actor-critic. Cost: K exponentials a row and two more.
#pragma once

#include <cstdint>

#include "core/array_view.hpp"

namespace pyrl::nn {

template <class Real>
struct PolicyLossArgs {
  ArrayView<const Real, 2> output;              // [B, K] or [B, A]
  ArrayView<const std::int64_t, 1> nvec;        // [M]; absent: Gaussian
  ArrayView<const Real, 1> log_std;             // [A]; Gaussian only
  ArrayView<const std::int64_t, 2> choice;      // [B, M]; categorical only
  ArrayView<const Real, 2> action;              // [B, A]; Gaussian only
  ArrayView<const Real, 1> log_prob_old;        // [B]; absent: actor-critic
  ArrayView<const Real, 1> advantage;           // [B]
  bool normalize_advantage = false;             // to zero mean and unit variance (B - 1), a single one left alone
  double clip_range = 0, ent_coef = 0;
  ArrayView<Real, 2> d_output;
  ArrayView<Real, 1> d_log_std;                 // [A]; Gaussian only
};

struct PolicyLossReport {
  double loss = 0;  // -mean(surrogate), without the entropy
  double entropy = 0, kl = 0, clip_fraction = 0;
  double log_ratio = 0;  // mean of log r: not finite where a log_prob is not, though the clip may hide it from the loss
};

template <class Real>
PolicyLossReport policy_loss(const PolicyLossArgs<Real>& args);

}  // namespace pyrl::nn
