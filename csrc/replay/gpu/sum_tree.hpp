// Prioritized replay (select/prioritized.hpp, select/sum_tree.hpp) in a GPU's memory. Leaves, sums, draws and weights have the
// CPU's bits, whatever the order of the threads.
//
//   call      launches                                                                 threads
//   update    mark the last element of each slot; write its leaf; refresh              one an element
//   follow    write the leaves of records that became drawable or undrawable; refresh  one a listed slot
//   refresh   each level of more than 256 nodes; one block for all levels above        one an element, or a node if these are fewer
//   draw      descend; weigh                                                           one a draw
//   clear, restore
//
// On a million leaves: 5 launches an update, 4 a follow, 2 a draw. Calls on one tree follow one another on the device. What the CPU
// refuses, a priority that is negative or not finite, is passed over and counted; of an empty tree all draws are slot -1, weight NaN.
#pragma once

#include <array>
#include <bit>
#include <cstdint>
#include <limits>

#include "core/array_view.hpp"
#include "core/atomic.hpp"
#include "core/cuda.hpp"
#include "core/philox.hpp"
#include "replay/lane_ring.hpp"
#include "replay/select/sum_tree_node.hpp"

namespace pyrl::replay {

// The levels of a SumTree, leaves first, in one block of memory, and the words that calls work with.
class TreeView {
 public:
  static constexpr int most_levels = 9;   // of 2^32 leaves

  static std::int64_t bytes(std::int64_t leaves) {
    const TreeView tree(nullptr, leaves);
    return 8 * (3 * tree.inner() + tree.start_[1] + 1) + 4 * tree.start_[1];
  }

  // Of up to 2^32 leaves, in `space` of bytes(leaves), at the start of a cache line. Must be cleared before its first use.
  TreeView(void* space, std::int64_t leaves) {
    std::int64_t n = leaves < 1 ? 1 : leaves, end = 0;
    for (; levels_ < 2 || nodes_[static_cast<std::size_t>(levels_ - 1)] > 1; n = tree::groups(n)) {
      nodes_[static_cast<std::size_t>(levels_)] = n;
      start_[static_cast<std::size_t>(levels_++)] = end;
      end += tree::groups(n) * tree::children;
    }
    start_[static_cast<std::size_t>(levels_)] = end;
    sums_ = static_cast<double*>(space);
    largest_ = sums_ + end;
    smallest_ = largest_ + inner();
    drawn_ = reinterpret_cast<std::uint64_t*>(smallest_ + inner());
    marks_ = reinterpret_cast<std::uint32_t*>(drawn_ + 1);
  }

  double* leaves() const { return sums_; }
  PYRL_HD int levels() const { return levels_; }
  PYRL_HD std::int64_t nodes(int level) const { return nodes_[static_cast<std::size_t>(level)]; }

  // Nodes above the leaves, padding included.
  PYRL_HD std::int64_t inner() const { return start(levels_) - start_[1]; }
  PYRL_HD void clear_smallest(std::int64_t node) const { smallest_[node] = tree::infinity; }

  PYRL_HD double& leaf(std::int64_t slot) const { return sums_[slot]; }
  PYRL_HD double total() const { return sums_[root()]; }
  PYRL_HD double largest() const { return largest_[root() - start_[1]]; }
  PYRL_HD double smallest() const { return smallest_[root() - start_[1]]; }
  // 1 + the last element of an update that is for the slot; 0 between updates.
  PYRL_HD std::uint32_t& mark(std::int64_t slot) const { return marks_[slot]; }
  // The bits of the smallest leaf of a draw; those of positive numbers are ordered as the numbers are.
  PYRL_HD std::uint64_t* drawn() const { return drawn_; }

  PYRL_HD void refresh(int level, std::int64_t node) const {
    const std::int64_t at = start(level) - start_[1] + node, below = start(level - 1) + node * tree::children;
    const tree::Node found = tree::node_of(sums_ + below, level == 1 ? nullptr : largest_ + (below - start_[1]),
                                           level == 1 ? nullptr : smallest_ + (below - start_[1]));
    sums_[start_[1] + at] = found.sum;
    largest_[at] = found.largest;
    smallest_[at] = found.smallest;
  }

  PYRL_HD std::int64_t draw(double u) const {
    std::int64_t node = 0;
    for (int level = levels_ - 1; level-- > 0;) {
      const std::int64_t first = node * tree::children;
      node = first + tree::descend(sums_ + start(level) + first, u);
    }
    return node;
  }

 private:
  PYRL_HD std::int64_t start(int level) const { return start_[static_cast<std::size_t>(level)]; }
  PYRL_HD std::int64_t root() const { return start(levels_ - 1); }

  std::array<std::int64_t, most_levels> nodes_{};
  std::array<std::int64_t, most_levels + 1> start_{};  // in sums_; less start_[1] in largest_ and smallest_; each a multiple of 16
  int levels_ = 0;
  double *sums_, *largest_, *smallest_;
  std::uint64_t* drawn_;
  std::uint32_t* marks_;
};

struct UpdateCounts {
  std::int64_t stale, refused;
};

template <class Real>
struct UpdateArgs {
  TreeView tree;
  ArrayView<const std::int64_t, 1> slots;  // [B], B < 2^32; -1: the record is gone
  const Real* priority;                    // [B]
  double alpha, epsilon;
  UpdateCounts* counts;  // on the device: how many were gone, or were negative, not finite or above tree::most

  PYRL_HD bool usable(std::int64_t i) const {
    return slots(i) >= 0 && priority[i] >= Real(0) && priority[i] <= Real(std::min<double>(tree::most, std::numeric_limits<Real>::max()));
  }
};

// Leaves of slots where a record became drawable or ceased to be: the largest leaf, 1 if there is none, or 0. A slot may be listed twice.
struct FollowRing {
  TreeView tree;
  ArrayView<const std::int64_t, 1> slots;  // -1: none
  const std::uint8_t* flags;               // [slots of the ring]

  PYRL_HD void operator()(std::int64_t i) const {
    const std::int64_t slot = slots(i);
    if (slot < 0) return;
    const double largest = tree.largest();  // of the root, which no one refreshes meanwhile
    tree.leaf(slot) = (flags[slot] & flag::drawable) == 0 ? 0.0 : largest > 0 ? largest : 1.0;
  }
};

struct PriorityDrawArgs {
  TreeView tree;
  DrawSource random;
  double beta = 0.4;
  bool weight_by_buffer = false;
  ArrayView<std::int64_t, 1> slots;  // [B]
  float* weight = nullptr;           // [B]; null: not wanted

  // Towards the smallest leaf of the draw.
  PYRL_HD void note_smallest(std::int64_t i) const {
    if (weight_by_buffer) return;
    const auto bits = std::bit_cast<std::uint64_t>(tree.leaf(slots(i)));
    if (bits < *tree.drawn()) atomic_min(tree.drawn(), bits);  // reading too old a value costs one exchange more
  }
};

void clear_priorities_cuda(const TreeView& tree, std::int64_t leaves, const CudaStream& stream);
// After tree.leaves() was written: all levels above.
void restore_priorities_cuda(const TreeView& tree, const CudaStream& stream);
template <class Real>
void update_priorities_cuda(const UpdateArgs<Real>& args, const CudaStream& stream);
void follow_ring_cuda(const FollowRing& changes, const CudaStream& stream);
void draw_priorities_cuda(const PriorityDrawArgs& args, const CudaStream& stream);
// The weights alone, of given slots; NaN for slot -1.
void weigh_priorities_cuda(const PriorityDrawArgs& args, const CudaStream& stream);

}  // namespace pyrl::replay
