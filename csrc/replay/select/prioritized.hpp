// Prioritized replay (Schaul et al. 2016): one leaf a slot of a ring, zero where the record cannot be drawn.
//
//   P(i) = p_i^alpha / sum over k of p_k^alpha,   p_i = |delta_i| + epsilon        leaf = p_i^alpha
//   w_i  = (N P(i))^-beta, divided by the largest of the batch, or of the buffer   = (leaf_i / smallest leaf)^-beta
//
// A record that becomes drawable gets the largest leaf in the buffer, 1 if there is none, so that it is drawn soon: the largest before the
// add, so that the result does not depend on the order of its environments.
#pragma once

#include <cstdint>

#include "core/philox.hpp"
#include "replay/lane_ring.hpp"
#include "replay/select/sum_tree.hpp"

namespace pyrl::replay {

struct PriorityOptions {
  double alpha = 0.6;
  double epsilon = 1e-6;
};

// Follows a ring; the ring's lock guards it.
class PrioritizedSelector : public Selector {
 public:
  PrioritizedSelector(std::int64_t slots, const PriorityOptions& options) : options_(options), tree_(slots) {}

  void adding() override;
  void insert(std::int64_t slot) override { set(slot, newcomer_); }
  void erase(std::int64_t slot) override { set(slot, 0.0); }
  void clear() override;

  // Leaves from |delta| >= 0, finite; slots of -1 are skipped. Of a repeated slot the last value counts.
  template <class Real>
  void update(const std::int64_t* slots, const Real* priority, std::int64_t count);
  // Stratified, with replacement; and, where wanted, the weights.
  void draw(const LaneRing& ring, const RandomStream& stream, const Selection& selection, std::int64_t* index, std::int64_t* slots) override {
    draw_slots(stream, selection, slots);
    for (std::int64_t i = 0; i < selection.count; ++i) index[i] = ring.index_of(slots[i]);
  }
  void draw_slots(const RandomStream& stream, const Selection& selection, std::int64_t* slots);
  // The weights of these slots, all of them of drawable records.
  void weigh(const Selection& selection, const std::int64_t* slots);

  const SumTree& tree() const { return tree_; }
  SumTree& tree() { return tree_; }
  // Restores a leaf of a checkpoint.
  void set(std::int64_t slot, double leaf);
  const PriorityOptions& options() const { return options_; }

 private:
  double largest();

  PriorityOptions options_;
  SumTree tree_;
  // The largest leaf and how many leaves have it; none: not known, to be read from the tree. Most adds and updates do not read it.
  double largest_ = 0;
  std::int64_t with_largest_ = 0;
  double newcomer_ = 1;
};

}  // namespace pyrl::replay
