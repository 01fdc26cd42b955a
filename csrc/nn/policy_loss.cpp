#include "nn/policy_loss.hpp"

#include <algorithm>
#include <cmath>

#include "core/elementary.hpp"
#include "core/interrupt.hpp"
#include "core/platform.hpp"
#include "nn/workspace.hpp"

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

constexpr std::int64_t asked_rows = 4096;  // between two questions whether to stop
constexpr std::int64_t lanes = 16;  // rows side by side, so that their exponentials are one vector's

// Sums over the batch, and d surrogate / d log pi of `lanes` rows.
template <class Real>
struct Surrogate {
  const PolicyLossArgs<Real>& args;
  Standard standard;
  double total = 0, entropy = 0, growth = 0, log_ratio = 0, clipped = 0;  // growth: of r - 1

  // Rows [first, first + count); what is beyond is not counted.
  PYRL_INLINE void slopes(std::int64_t first, std::int64_t count, const Real* log_prob, Real* slope) {
    Real term[lanes], change[lanes], log_r[lanes], outside[lanes], advantage[lanes] = {}, old[lanes] = {};
    for (std::int64_t l = 0; l < count; ++l) advantage[l] = static_cast<Real>((args.advantage(first + l) - standard.mean) * standard.scale);
    if (!args.log_prob_old.present()) {
      for (std::int64_t l = 0; l < lanes; ++l) slope[l] = advantage[l];
      for (std::int64_t l = 0; l < count; ++l) total += static_cast<double>(advantage[l] * log_prob[l]);
      return;
    }
    for (std::int64_t l = 0; l < count; ++l) old[l] = args.log_prob_old(first + l);
    const auto low = static_cast<Real>(1 - args.clip_range), high = static_cast<Real>(1 + args.clip_range);
    for (std::int64_t l = 0; l < lanes; ++l) {
      log_r[l] = log_prob[l] - old[l];
      const Real ratio = elementary::exp(log_r[l]);
      const Real inside = std::min(std::max(ratio, low), high), free_term = ratio * advantage[l], clipped_term = inside * advantage[l];
      term[l] = std::min(free_term, clipped_term);
      slope[l] = elementary::detail::choose(free_term <= clipped_term, free_term, Real(0));
      change[l] = ratio - 1;
      outside[l] = elementary::detail::choose(inside != ratio, Real(1), Real(0));
    }
    for (std::int64_t l = 0; l < count; ++l) {
      total += static_cast<double>(term[l]);
      growth += static_cast<double>(change[l]);
      log_ratio += static_cast<double>(log_r[l]);
      clipped += static_cast<double>(outside[l]);
    }
  }
};

// Memory for `lanes` rows, one after the other by column: x[k * lanes + l].
template <class Real>
struct Columns {
  Real *p, *log_p, *entropy;  // [K], [K], [M] times lanes
};

template <class Real>
PYRL_INLINE void categorical_block(const PolicyLossArgs<Real>& args, Surrogate<Real>& surrogate, const Columns<Real>& columns, std::int64_t first, std::int64_t count) {
  const std::int64_t width = args.output.extent[1], components = args.nvec.size();
  const Real share = Real(1) / static_cast<Real>(args.output.extent[0]), entropy_share = static_cast<Real>(args.ent_coef) * share;
  for (std::int64_t k = 0; k < width; ++k)
    for (std::int64_t l = 0; l < lanes; ++l) columns.log_p[k * lanes + l] = l < count ? args.output(first + l, k) : Real(0);
  Real log_prob[lanes] = {}, row_entropy[lanes] = {}, slope[lanes];
  std::int64_t start = 0;
  for (std::int64_t m = 0; m < components; ++m) {
    const std::int64_t choices = args.nvec(m);
    Real *const p = columns.p + start * lanes, *const log_p = columns.log_p + start * lanes, *const entropy = columns.entropy + m * lanes;
    Real largest[lanes], sum[lanes] = {}, log_sum[lanes];
    for (std::int64_t l = 0; l < lanes; ++l) largest[l] = log_p[l];
    for (std::int64_t k = 1; k < choices; ++k)
      for (std::int64_t l = 0; l < lanes; ++l) largest[l] = std::max(largest[l], log_p[k * lanes + l]);
    for (std::int64_t k = 0; k < choices; ++k)
      for (std::int64_t l = 0; l < lanes; ++l) {
        log_p[k * lanes + l] -= largest[l];
        p[k * lanes + l] = elementary::exp(log_p[k * lanes + l]);
        sum[l] += p[k * lanes + l];
      }
    for (std::int64_t l = 0; l < lanes; ++l) {
      log_sum[l] = elementary::log(sum[l]);
      sum[l] = Real(1) / sum[l];
      entropy[l] = 0;
    }
    for (std::int64_t k = 0; k < choices; ++k)
      for (std::int64_t l = 0; l < lanes; ++l) {
        p[k * lanes + l] *= sum[l];
        log_p[k * lanes + l] -= log_sum[l];
        entropy[l] -= p[k * lanes + l] * log_p[k * lanes + l];
      }
    for (std::int64_t l = 0; l < count; ++l) log_prob[l] += log_p[args.choice(first + l, m) * lanes + l];
    for (std::int64_t l = 0; l < lanes; ++l) row_entropy[l] += entropy[l];
    start += choices;
  }
  for (std::int64_t l = 0; l < count; ++l) surrogate.entropy += static_cast<double>(row_entropy[l]);
  surrogate.slopes(first, count, log_prob, slope);
  for (std::int64_t l = 0; l < lanes; ++l) slope[l] *= share;
  start = 0;
  for (std::int64_t m = 0; m < components; ++m) {
    const std::int64_t choices = args.nvec(m);
    Real *const p = columns.p + start * lanes, *const log_p = columns.log_p + start * lanes, *const entropy = columns.entropy + m * lanes;
    for (std::int64_t k = 0; k < choices; ++k)
      for (std::int64_t l = 0; l < lanes; ++l)
        log_p[k * lanes + l] = p[k * lanes + l] * (slope[l] + entropy_share * (log_p[k * lanes + l] + entropy[l]));
    for (std::int64_t l = 0; l < count; ++l) log_p[args.choice(first + l, m) * lanes + l] -= slope[l];
    start += choices;
  }
  for (std::int64_t l = 0; l < count; ++l)
    for (std::int64_t k = 0; k < width; ++k) args.d_output(first + l, k) = columns.log_p[k * lanes + l];
}

template <class Real>
void categorical(const PolicyLossArgs<Real>& args, Surrogate<Real>& surrogate) {
  thread_local Workspace<Real> memory;
  const std::int64_t width = args.output.extent[1], batch = args.output.extent[0];
  Real* const start = memory.reserve((2 * width + args.nvec.size()) * lanes);
  const Columns<Real> columns{start, start + width * lanes, start + 2 * width * lanes};
  simd::dispatch([&]() PYRL_INLINE_LAMBDA {
    for (std::int64_t first = 0; first < batch; first += lanes) {
      if (first % asked_rows == 0) check_interrupt();
      categorical_block(args, surrogate, columns, first, std::min(lanes, batch - first));
    }
  });
}

template <class Real>
void gaussian(const PolicyLossArgs<Real>& args, Surrogate<Real>& surrogate) {
  thread_local Workspace<Real> memory;
  thread_local Workspace<double> sums;
  const std::int64_t batch = args.output.extent[0], width = args.output.extent[1];
  const Real share = Real(1) / static_cast<Real>(batch);
  Real* const inverse_std = memory.reserve(width);
  double* const d_log_std = sums.reserve(width);
  Real constant = 0;  // of log pi: -sum of log_std - A log sqrt(2 pi)
  for (std::int64_t a = 0; a < width; ++a) {
    constant -= args.log_std(a) + static_cast<Real>(log_sqrt_2pi);
    inverse_std[a] = elementary::exp(-args.log_std(a));
    d_log_std[a] = 0;
  }
  for (std::int64_t first = 0; first < batch; first += lanes) {
    if (first % asked_rows == 0) check_interrupt();
    const std::int64_t count = std::min(lanes, batch - first);
    Real log_prob[lanes] = {}, slope[lanes];
    for (std::int64_t l = 0; l < count; ++l) {
      const Real *const mean = args.output.row(first + l), *const action = args.action.row(first + l);
      Real* const z = args.d_output.row(first + l);
      log_prob[l] = constant;
      for (std::int64_t a = 0; a < width; ++a) {
        z[a] = (action[a] - mean[a]) * inverse_std[a];
        log_prob[l] -= Real(0.5) * z[a] * z[a];
      }
    }
    simd::dispatch([&]() PYRL_INLINE_LAMBDA { surrogate.slopes(first, count, log_prob, slope); });
    for (std::int64_t l = 0; l < count; ++l) {
      Real* const z = args.d_output.row(first + l);
      for (std::int64_t a = 0; a < width; ++a) {
        d_log_std[a] -= static_cast<double>(slope[l] * share * (z[a] * z[a] - 1));
        z[a] *= -slope[l] * share * inverse_std[a];
      }
    }
  }
  // H = A / 2 + A log sqrt(2 pi) + sum of log_std, the same in every row.
  surrogate.entropy = static_cast<double>(batch) * (0.5 * static_cast<double>(width) - static_cast<double>(constant));
  for (std::int64_t a = 0; a < width; ++a) args.d_log_std(a) = static_cast<Real>(d_log_std[a] - (batch > 0 ? args.ent_coef : 0.0));
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
  return {-surrogate.total / count, surrogate.entropy / count, (surrogate.growth - surrogate.log_ratio) / count, surrogate.clipped / count,
          surrogate.log_ratio / count};
}

template PolicyLossReport policy_loss<float>(const PolicyLossArgs<float>&);
template PolicyLossReport policy_loss<double>(const PolicyLossArgs<double>&);

}  // namespace pyrl::nn
