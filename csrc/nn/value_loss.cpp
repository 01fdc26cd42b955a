#include "nn/value_loss.hpp"

#include <algorithm>
#include <cmath>

#include "core/interrupt.hpp"
#include "core/platform.hpp"

namespace pyrl::nn {
namespace {

constexpr std::int64_t asked_rows = 4096;  // between two questions whether to stop

template <class Real>
struct Penalty {
  Real value, slope;
};

template <class Real>
PYRL_INLINE Penalty<Real> penalty(Real delta, bool huber) {
  if (!huber) return {delta * delta, 2 * delta};
  // By the part of delta within [-1, 1], branch-free: which side it is on is not predictable. A NaN stays one.
  const Real inside = std::clamp(delta, Real(-1), Real(1));
  return {inside * (delta - Real(0.5) * inside), inside};
}

// Of the first of equals. A NaN counts as the largest, as it does for torch: so that it shows in the loss. Branch-free: which action is
// best is not predictable.
template <class Real>
std::int64_t argmax(const Real* x, std::int64_t count) {
  std::int64_t best = 0;
  Real largest = x[0];
  for (std::int64_t k = 1; k < count; ++k) {
    const bool larger = !(x[k] <= largest) & (largest == largest);  // a NaN stays
    best = larger ? k : best;
    largest = larger ? x[k] : largest;
  }
  return best;
}

}  // namespace

template <class Real>
double value_loss(const ValueLossArgs<Real>& args) {
  const std::int64_t batch = args.value.size();
  const auto epsilon = static_cast<Real>(args.clip_range);
  const Real share = static_cast<Real>(args.coefficient / static_cast<double>(std::max<std::int64_t>(1, batch)));
  double total = 0;
  for (std::int64_t b = 0; b < batch; ++b) {
    if (b % asked_rows == 0) check_interrupt();
    Real value = args.value(b), moves = 1;
    if (args.value_old.present()) {
      const Real change = value - args.value_old(b), clipped = std::clamp(change, -epsilon, epsilon);
      moves = change == clipped ? Real(1) : Real(0);
      value = args.value_old(b) + clipped;
    }
    const Real weight = args.weight.present() ? args.weight(b) : Real(1);
    const auto [loss, slope] = penalty(value - args.return_(b), args.huber);
    total += static_cast<double>(weight * loss);
    args.d_value(b) = share * weight * slope * moves;
  }
  return total / static_cast<double>(std::max<std::int64_t>(1, batch));
}

template <class Real>
QLossReport q_loss(const QLossArgs<Real>& args) {
  const std::int64_t batch = args.q.extent[0], actions = args.q.extent[1];
  const Real share = Real(1) / static_cast<Real>(std::max<std::int64_t>(1, batch));
  double loss = 0, q_sum = 0;
  const ArrayView<const Real, 2>& chooser = args.next_q_online.present() ? args.next_q_online : args.next_q_target;
  std::fill_n(args.d_q.data, batch * actions, Real(0));
  for (std::int64_t b = 0; b < batch; ++b) {
    if (b % asked_rows == 0) check_interrupt();
    const std::int64_t next = argmax(chooser.row(b), actions), taken = args.action(b);
    const Real q = args.q(b, taken), delta = q - (args.reward(b) + args.discount(b) * args.next_q_target(b, next));
    const Real weight = args.weight.present() ? args.weight(b) : Real(1);
    const auto [value, slope] = penalty(delta, args.huber);
    loss += static_cast<double>(weight * value);
    q_sum += static_cast<double>(q);
    args.td_error(b) = delta;
    args.d_q(b, taken) = share * weight * slope;
  }
  const auto count = static_cast<double>(std::max<std::int64_t>(1, batch));
  return {loss / count, q_sum / count};
}

template <class Real>
void dueling(const ArrayView<const Real, 2>& value, const ArrayView<const Real, 2>& advantage, const ArrayView<Real, 2>& q) {
  const std::int64_t actions = advantage.extent[1];
  for (std::int64_t b = 0; b < advantage.extent[0]; ++b) {
    if (b % asked_rows == 0) check_interrupt();
    Real sum = 0;
    for (std::int64_t k = 0; k < actions; ++k) sum += advantage(b, k);
    const Real shift = value(b, 0) - sum / static_cast<Real>(actions);
    for (std::int64_t k = 0; k < actions; ++k) q(b, k) = advantage(b, k) + shift;
  }
}

template <class Real>
void dueling_backward(const ArrayView<const Real, 2>& d_q, const ArrayView<Real, 2>& d_value, const ArrayView<Real, 2>& d_advantage) {
  const std::int64_t actions = d_q.extent[1];
  for (std::int64_t b = 0; b < d_q.extent[0]; ++b) {
    if (b % asked_rows == 0) check_interrupt();
    Real sum = 0;
    for (std::int64_t k = 0; k < actions; ++k) sum += d_q(b, k);
    d_value(b, 0) = sum;
    for (std::int64_t k = 0; k < actions; ++k) d_advantage(b, k) = d_q(b, k) - sum / static_cast<Real>(actions);
  }
}

#define PYRL_INSTANTIATE(Real)                                                                                              \
  template double value_loss<Real>(const ValueLossArgs<Real>&);                                                             \
  template QLossReport q_loss<Real>(const QLossArgs<Real>&);                                                                \
  template void dueling<Real>(const ArrayView<const Real, 2>&, const ArrayView<const Real, 2>&, const ArrayView<Real, 2>&); \
  template void dueling_backward<Real>(const ArrayView<const Real, 2>&, const ArrayView<Real, 2>&, const ArrayView<Real, 2>&);
PYRL_INSTANTIATE(float)
PYRL_INSTANTIATE(double)
#undef PYRL_INSTANTIATE

}  // namespace pyrl::nn
