#include "replay/select/prioritized.hpp"

#include <algorithm>

#include "core/interrupt.hpp"
#include "core/platform.hpp"

namespace pyrl::replay {

void PrioritizedSelector::set(std::int64_t slot, double leaf) {
  const double before = tree_.get(slot);
  if (before == leaf) return;
  tree_.set(slot, leaf);
  if (before == largest_) --with_largest_;
  if (with_largest_ > 0 && leaf == largest_) ++with_largest_;
  if (leaf > largest_) {
    largest_ = leaf;
    with_largest_ = 1;
  }
}

double PrioritizedSelector::largest() {
  if (with_largest_ <= 0) {
    largest_ = tree_.largest();
    with_largest_ = 1;  // at least; too few only means another look
  }
  return largest_ > 0 ? largest_ : 1.0;
}

void PrioritizedSelector::adding() { newcomer_ = largest(); }

void PrioritizedSelector::clear() {
  tree_.clear();
  largest_ = 0;
  with_largest_ = 0;
}

template <class Real>
void PrioritizedSelector::update(const std::int64_t* slots, const Real* priority, std::int64_t count) {
  constexpr std::int64_t chunk = 64;
  double leaves[chunk];
  for (std::int64_t first = 0; first < count; first += chunk) {
    const std::int64_t n = std::min(chunk, count - first);
    simd::dispatch([&]() PYRL_INLINE_LAMBDA {
      for (std::int64_t i = 0; i < n; ++i)
        leaves[i] = tree::leaf_of(static_cast<double>(priority[first + i]), options_.alpha, options_.epsilon);
    });
    for (std::int64_t i = 0; i < n; ++i)
      if (slots[first + i] >= 0) set(slots[first + i], leaves[i]);
  }
}

void PrioritizedSelector::draw_slots(const RandomStream& stream, const Selection& selection, std::int64_t* slots) {
  tree_.draw(stream, selection.count, slots);
  if (selection.weight != nullptr) weigh(selection, slots);
}

void PrioritizedSelector::weigh(const Selection& selection, const std::int64_t* slots) {
  const std::int64_t count = selection.count;
  if (count == 0) return;
  float* const weight = selection.weight;
  const double beta = selection.beta;
  double smallest = selection.weight_by_buffer ? tree_.smallest() : tree_.get(slots[0]);
  if (!selection.weight_by_buffer)
    for (std::int64_t i = 1; i < count; ++i) smallest = std::min(smallest, tree_.get(slots[i]));
  constexpr std::int64_t chunk = 64;
  double leaf[chunk];
  for (std::int64_t first = 0; first < count; first += chunk) {
    const std::int64_t n = std::min(chunk, count - first);
    if (first % (1 << 16) == 0) check_interrupt();
    for (std::int64_t i = 0; i < n; ++i) leaf[i] = tree_.get(slots[first + i]);
    simd::dispatch([&]() PYRL_INLINE_LAMBDA {
      for (std::int64_t i = 0; i < n; ++i) weight[first + i] = tree::weight_of(leaf[i], smallest, beta);
    });
  }
}

template void PrioritizedSelector::update<float>(const std::int64_t*, const float*, std::int64_t);
template void PrioritizedSelector::update<double>(const std::int64_t*, const double*, std::int64_t);

}  // namespace pyrl::replay
