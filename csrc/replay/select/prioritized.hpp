// Prioritized replay (Schaul et al. 2016): one leaf a slot of a ring, zero where the record cannot be drawn.
//
//   P(i) = p_i^alpha / sum over k of p_k^alpha,   p_i = |delta_i| + epsilon        leaf = p_i^alpha
//   w_i  = (N P(i))^-beta, divided by the largest of the batch, or of the buffer   = (leaf_i / smallest leaf)^-beta
//
// A record that becomes drawable gets the largest leaf in the buffer, 1 if there is none, so that it is drawn soon: the largest before the
// add, so that the order of its environments leaves no trace.
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
class PrioritizedSelector : public DrawableObserver {
 public:
  PrioritizedSelector(std::int64_t slots, const PriorityOptions& options) : options_(options), tree_(slots) {}

  void adding() override;
  void became_drawable(std::int64_t slot) override { set(slot, newcomer_); }
  void became_undrawable(std::int64_t slot) override { set(slot, 0.0); }
  void cleared() override;

  // Leaves from |delta| >= 0, finite; slots of -1 are passed over. Of a slot named twice the last counts.
  template <class Real>
  void update(const std::int64_t* slots, const Real* priority, std::int64_t count);
  // Slots of `count` stratified draws and their weights. Some record must be drawable.
  void draw(const RandomStream& stream, std::int64_t count, double beta, bool weight_by_buffer, std::int64_t* slots, float* weight);

  const SumTree& tree() const { return tree_; }
  SumTree& tree() { return tree_; }
  // Restores a leaf of a checkpoint.
  void set(std::int64_t slot, double leaf);
  const PriorityOptions& options() const { return options_; }

 private:
  double largest();

  PriorityOptions options_;
  SumTree tree_;
  // The largest leaf and how many leaves have it; none: to be looked up. Most adds and updates need no look at the tree.
  double largest_ = 0;
  std::int64_t with_largest_ = 0;
  double newcomer_ = 1;
};

}  // namespace pyrl::replay
