#include "nn/policy_loss.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/elementary.hpp"
#include "core/platform.hpp"

namespace pyrl::nn {
namespace {

constexpr double log_sqrt_2pi = 0.91893853320467274178;

// What multiplies the advantage: A <- (A - mean) scale.
struct Standard {
  double mean = 0, scale = 1;
};

template <class Real>
Standard standard_of(const ArrayView<const Real, 1>& advantage) {
  const std::int64_t count = advantage.size();
  if (count < 2) return {};
  double mean = 0, squares = 0;
  for (std::int64_t b = 0; b < count; ++b) mean += advantage(b);
  mean /= static_cast<double>(count);
  for (std::int64_t b = 0; b < count; ++b) squares += (advantage(b) - mean) * (advantage(b) - mean);
  return {mean, 1 / (std::sqrt(squares / static_cast<double>(count - 1)) + 1e-8)};
}

// Sums over the batch, and d surrogate / d log pi of one row.
template <class Real>
struct Surrogate {
  const PolicyLossArgs<Real>& args;
  Standard standard;
  double total = 0, entropy = 0, kl = 0, clipped = 0;

  PYRL_INLINE Real slope(std::int64_t b, Real log_prob) {
    const Real advantage = static_cast<Real>((args.advantage(b) - standard.mean) * standard.scale);
    if (!args.log_prob_old.present()) {
      total += advantage * log_prob;
      return advantage;
    }
    const Real log_ratio = log_prob - args.log_prob_old(b), ratio = elementary::exp(log_ratio);
    const auto low = static_cast<Real>(1 - args.clip_range), high = static_cast<Real>(1 + args.clip_range);
    const Real inside = std::clamp(ratio, low, high), free_term = ratio * advantage, clipped_term = inside * advantage;
    total += std::min(free_term, clipped_term);
    kl += (ratio - 1) - log_ratio;
    clipped += inside != ratio;
    return free_term <= clipped_term ? free_term : Real(0);
  }
};

template <class Real>
void categorical(const PolicyLossArgs<Real>& args, Surrogate<Real>& surrogate) {
  const std::int64_t batch = args.output.extent[0], components = args.nvec.size();
  const Real share = Real(1) / static_cast<Real>(batch), entropy_share = static_cast<Real>(args.ent_coef) * share;
  for (std::int64_t b = 0; b < batch; ++b) {
    Real log_prob = 0, row_entropy = 0;
    const Real* logits = args.output.row(b);
    Real* log_p = args.d_output.row(b);  // holds log p until the slope is known
    for (std::int64_t m = 0; m < components; ++m) {
      const std::int64_t count = args.nvec(m);
      const Real largest = *std::max_element(logits, logits + count);
      Real sum = 0, entropy = 0;
      for (std::int64_t k = 0; k < count; ++k) sum += elementary::exp(logits[k] - largest);
      const Real log_sum = elementary::log(sum) + largest;
      for (std::int64_t k = 0; k < count; ++k) {
        log_p[k] = logits[k] - log_sum;
        entropy -= elementary::exp(log_p[k]) * log_p[k];
      }
      log_prob += log_p[args.choice(b, m)];
      row_entropy += entropy;
      logits += count;
      log_p += count;
    }
    surrogate.entropy += row_entropy;
    const Real slope = surrogate.slope(b, log_prob) * share;
    log_p = args.d_output.row(b);
    for (std::int64_t m = 0; m < components; ++m) {
      const std::int64_t count = args.nvec(m), chosen = args.choice(b, m);
      Real entropy = 0;
      for (std::int64_t k = 0; k < count; ++k) entropy -= elementary::exp(log_p[k]) * log_p[k];
      for (std::int64_t k = 0; k < count; ++k) {
        const Real p = elementary::exp(log_p[k]);
        log_p[k] = slope * (p - (k == chosen ? Real(1) : Real(0))) + entropy_share * p * (log_p[k] + entropy);
      }
      log_p += count;
    }
  }
}

template <class Real>
void gaussian(const PolicyLossArgs<Real>& args, Surrogate<Real>& surrogate) {
  const std::int64_t batch = args.output.extent[0], width = args.output.extent[1];
  const Real share = Real(1) / static_cast<Real>(batch);
  Real constant = 0;  // of log pi: -sum of log_std - A log sqrt(2 pi)
  for (std::int64_t a = 0; a < width; ++a) constant -= args.log_std(a) + static_cast<Real>(log_sqrt_2pi);
  std::vector<double> d_log_std(static_cast<std::size_t>(width), 0.0);
  std::vector<Real> inverse_std(static_cast<std::size_t>(width));
  for (std::int64_t a = 0; a < width; ++a) inverse_std[static_cast<std::size_t>(a)] = elementary::exp(-args.log_std(a));
  for (std::int64_t b = 0; b < batch; ++b) {
    const Real *const mean = args.output.row(b), *const action = args.action.row(b);
    Real* const z = args.d_output.row(b);
    Real log_prob = constant;
    for (std::int64_t a = 0; a < width; ++a) {
      z[a] = (action[a] - mean[a]) * inverse_std[static_cast<std::size_t>(a)];
      log_prob -= Real(0.5) * z[a] * z[a];
    }
    const Real slope = surrogate.slope(b, log_prob) * share;
    for (std::int64_t a = 0; a < width; ++a) {
      d_log_std[static_cast<std::size_t>(a)] -= slope * (z[a] * z[a] - 1);
      z[a] *= -slope * inverse_std[static_cast<std::size_t>(a)];
    }
  }
  // H = A / 2 + A log sqrt(2 pi) + sum of log_std, the same in every row.
  surrogate.entropy = static_cast<double>(batch) * (0.5 * static_cast<double>(width) - static_cast<double>(constant));
  for (std::int64_t a = 0; a < width; ++a)
    args.d_log_std(a) = static_cast<Real>(d_log_std[static_cast<std::size_t>(a)] - (batch > 0 ? args.ent_coef : 0.0));
}

}  // namespace

template <class Real>
PolicyLossReport policy_loss(const PolicyLossArgs<Real>& args) {
  Surrogate<Real> surrogate{args, args.normalize_advantage ? standard_of(args.advantage) : Standard{}};
  if (args.nvec.present()) {
    categorical(args, surrogate);
  } else {
    gaussian(args, surrogate);
  }
  const auto count = static_cast<double>(std::max<std::int64_t>(1, args.output.extent[0]));
  return {-surrogate.total / count, surrogate.entropy / count, surrogate.kl / count, surrogate.clipped / count};
}

template PolicyLossReport policy_loss<float>(const PolicyLossArgs<float>&);
template PolicyLossReport policy_loss<double>(const PolicyLossArgs<double>&);

}  // namespace pyrl::nn
