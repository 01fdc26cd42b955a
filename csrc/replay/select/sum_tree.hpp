// Weights of n leaves with their sum, extremes, and draws in proportion to them.
//
//   node = sum of its 16 children, always computed anew from them, in their order: no drift, and the same on every machine
//   draw = the first leaf whose running sum exceeds u, 0 <= u < total                   (inverse distribution function)
//
// A node's children fill two cache lines. A leaf of weight zero is never drawn, whatever the rounding: a child is taken only if
// the running sum grows by it, and u is kept below the child's sum. Changed leaves are noted and their ancestors computed
// together, each once, when the sums are next asked for. Cost: log16 n levels; a draw reads two lines at each.
#pragma once

#include <cstdint>
#include <memory>
#include <new>
#include <vector>

#include "core/philox.hpp"
#include "replay/select/sum_tree_node.hpp"

namespace pyrl::replay {

class SumTree {
 public:
  static constexpr std::int64_t children = tree::children;

  explicit SumTree(std::int64_t leaves);

  std::int64_t leaves() const { return leaves_; }
  double get(std::int64_t leaf) const { return levels_.front().sum[static_cast<std::size_t>(leaf)]; }
  // `weight` is finite and not negative.
  void set(std::int64_t leaf, double weight);
  void clear();

  double total() { return root(&Level::sum); }
  // Of all leaves; 0 if all are zero.
  double largest() { return root(&Level::largest); }
  // Of the leaves that are not zero; infinity if all are zero.
  double smallest() { return root(&Level::smallest); }

  // Of the leaves first, ..., last - 1.
  double sum(std::int64_t first, std::int64_t last);
  // Of each u >= 0, below the total, the first leaf whose running sum exceeds it. total() must be positive.
  void find(const double* u, std::int64_t count, std::int64_t* leaves);
  // Leaves for `count` stratified draws: u_i = (i + U_i) / count * total, U_i of 53 bits from words 0 and 1 of block (draw, i, 0).
  // total() must be positive.
  void draw(const RandomStream& stream, std::int64_t count, std::int64_t* leaves);

  // Of a tree, before there is one.
  static std::int64_t nbytes(std::int64_t leaves);
  std::int64_t nbytes() const { return nbytes(leaves_); }

 private:
  // At the start of a cache line.
  template <class T>
  struct Aligned : std::allocator<T> {
    template <class Other>
    struct rebind {
      using other = Aligned<Other>;
    };
    T* allocate(std::size_t n) { return static_cast<T*>(::operator new(n * sizeof(T), std::align_val_t{64})); }
    void deallocate(T* memory, std::size_t) { ::operator delete(memory, std::align_val_t{64}); }
  };
  using Values = std::vector<double, Aligned<double>>;

  struct Level {
    Values sum;                         // a multiple of 16 long, padded with zeros; of level 0 the leaves themselves
    Values largest, smallest;           // above level 0
    std::vector<std::uint8_t> changed;  // above level 0: listed below
    std::vector<std::int64_t> list;     // nodes whose children changed
  };

  double root(Values Level::* values);
  // From the root down for `n` draws at once, up to `group`: while one waits for memory the others compute. `u` is used up.
  static constexpr std::int64_t group = 16;
  void descend(double* u, std::int64_t n, std::int64_t* leaves) const;
  void update();
  void note(std::size_t level, std::int64_t node);
  void compute(std::size_t level, std::int64_t node);

  std::int64_t leaves_;
  std::vector<Level> levels_;
};

}  // namespace pyrl::replay
