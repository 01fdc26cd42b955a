// The sum tree's CUDA twin on the emulated GPU, against PrioritizedSelector.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "gpu.hpp"
#include "replay/select/prioritized.hpp"
#include "replay/gpu/sum_tree.hpp"

using namespace pyrl;
using namespace pyrl::replay;

namespace {

constexpr double alpha = 0.6, epsilon = 1e-6;

class TreeOnGpu {
 public:
  explicit TreeOnGpu(std::int64_t leaves)
      : memory_(static_cast<std::size_t>(TreeView::bytes(leaves) + 7) / 8, 1.0), leaves_(leaves), tree(memory_.data(), leaves) {
    clear();
  }

  void clear() { clear_priorities_cuda(tree, leaves_, gpu); }
  template <class Real>
  void update(const std::vector<std::int64_t>& slots, const std::vector<Real>& priority) {
    update_priorities_cuda(UpdateArgs<Real>{tree, view(slots), priority.data(), alpha, epsilon, &counts}, gpu);
  }
  void follow(const std::vector<std::int64_t>& slots, const std::vector<std::uint8_t>& flags) {
    follow_ring_cuda({tree, view(slots), flags.data()}, gpu);
  }
  void draw(const DrawSource& random, double beta, bool by_buffer, std::vector<std::int64_t>& slots, std::vector<float>& weight) {
    draw_priorities_cuda({tree, random, beta, by_buffer, {slots.data(), {static_cast<std::int64_t>(slots.size())}}, weight.data()}, gpu);
  }

 private:
  static ArrayView<const std::int64_t, 1> view(const std::vector<std::int64_t>& slots) {
    return {slots.data(), {static_cast<std::int64_t>(slots.size())}};
  }

  std::vector<double> memory_;
  std::int64_t leaves_;

 public:
  TreeView tree;
  UpdateCounts counts{0, 0};
};

// Both trees, and what is done to them.
struct Pair {
  std::int64_t leaves;
  PrioritizedSelector here;
  TreeOnGpu there;
  std::mt19937 engine;
  std::vector<std::uint8_t> flags;
  std::uint64_t draws = 0;

  explicit Pair(std::int64_t n)
      : leaves(n), here(n, {alpha, epsilon}), there(n), engine(static_cast<unsigned>(n)), flags(static_cast<std::size_t>(n), 0) {}

  std::int64_t any(std::int64_t n) { return std::uniform_int_distribution<std::int64_t>(0, n - 1)(engine); }

  // An add that makes some records drawable and others not, in this order; slots may come twice.
  void add(std::int64_t count) {
    std::vector<std::int64_t> changed;
    here.adding();
    for (std::int64_t k = 0; k < count; ++k) {
      const std::int64_t slot = any(leaves);
      changed.insert(changed.begin() + any(static_cast<std::int64_t>(changed.size()) + 1), slot);
      if (any(3) == 0) changed.push_back(-1);
      here.erase(slot);
      flags[static_cast<std::size_t>(slot)] = flag::transition;
      if (any(4) == 0) continue;
      here.insert(slot);
      flags[static_cast<std::size_t>(slot)] = flag::transition | flag::drawable;
    }
    there.follow(changed, flags);
  }

  template <class Real>
  void update(std::int64_t count) {
    std::vector<std::int64_t> slots;
    std::vector<Real> priority;
    for (std::int64_t k = 0; k < count; ++k) {
      const std::int64_t slot = any(leaves);
      slots.push_back(flags[static_cast<std::size_t>(slot)] & flag::drawable ? slot : -1);
      if (k > 0 && any(4) == 0) slots.back() = slots[static_cast<std::size_t>(any(k))];
      priority.push_back(static_cast<Real>(std::pow(10.0, std::uniform_real_distribution<double>(-6, 6)(engine))));
      if (any(20) == 0) priority.back() = 0;
    }
    here.update(slots.data(), priority.data(), count);
    // Elements that the CPU would not have been given.
    const Real bad[] = {Real(-1), std::numeric_limits<Real>::infinity(), std::numeric_limits<Real>::quiet_NaN()};
    const UpdateCounts before = there.counts;
    std::int64_t refused = 0;
    for (std::int64_t k = 0; k < count / 3; ++k) {
      if (slots[static_cast<std::size_t>(k)] < 0) continue;
      const std::int64_t at = any(static_cast<std::int64_t>(slots.size()) + 1);
      slots.insert(slots.begin() + at, slots[static_cast<std::size_t>(k)]);
      priority.insert(priority.begin() + at, bad[any(3)]);
      ++refused;
    }
    there.update(slots, priority);
    CHECK(there.counts.refused == before.refused + refused);
    CHECK(there.counts.stale == before.stale + std::count(slots.begin(), slots.end(), -1));
  }

  void check() {
    for (std::int64_t i = 0; i < leaves; ++i) REQUIRE(there.tree.leaf(i) == here.tree().get(i));
    for (std::int64_t i = 0; i < leaves; ++i) REQUIRE(there.tree.mark(i) == 0);
    CHECK(there.tree.total() == here.tree().total());
    CHECK(there.tree.largest() == here.tree().largest());
    CHECK(there.tree.smallest() == here.tree().smallest());
    for (std::int64_t count : {std::int64_t{1}, std::int64_t{37}, leaves})
      for (bool by_buffer : {false, true}) {
        const RandomStream stream{99, draws++};
        std::vector<std::int64_t> want(static_cast<std::size_t>(count)), got(want.size());
        std::vector<float> want_weight(want.size()), got_weight(want.size());
        there.draw({0, 0, &stream}, 0.4, by_buffer, got, got_weight);
        if (!(here.tree().total() > 0)) {
          CHECK(std::all_of(got.begin(), got.end(), [](std::int64_t slot) { return slot == -1; }));
          CHECK(std::all_of(got_weight.begin(), got_weight.end(), [](float weight) { return std::isnan(weight); }));
          continue;
        }
        here.draw_slots(stream, {count, true, 0.4, by_buffer, want_weight.data()}, want.data());
        CHECK(got == want);
        CHECK(same_bits(got_weight, want_weight));
      }
  }
};

}  // namespace

TEST_CASE("CUDA: leaves, sums, draws and weights are the CPU's") {
  for (std::int64_t leaves : {1, 2, 15, 16, 17, 255, 256, 257, 4096, 4097, 70000}) {
    CAPTURE(leaves);
    Pair pair(leaves);
    pair.check();
    for (int round = 0; round < 6; ++round) {
      pair.add(1 + leaves / 3);
      pair.update<float>(1 + leaves / 7);
      if (leaves < 5000 || round == 5) pair.check();
      pair.add(1);
      pair.update<double>(1 + pair.any(2 * leaves));  // as many elements as nodes, and fewer
      if (leaves < 5000 || round == 5) pair.check();
    }
  }
}

TEST_CASE("CUDA: a tree cleared, and one restored from its leaves") {
  Pair pair(5000);
  pair.add(3000);
  pair.update<float>(2000);
  std::vector<double> leaves(pair.there.tree.leaves(), pair.there.tree.leaves() + 5000);
  pair.here.clear();
  pair.there.clear();
  pair.check();
  for (std::int64_t i = 0; i < 5000; ++i) pair.here.set(i, leaves[static_cast<std::size_t>(i)]);
  std::copy(leaves.begin(), leaves.end(), pair.there.tree.leaves());
  restore_priorities_cuda(pair.there.tree, gpu);
  pair.check();
}

TEST_CASE("CUDA: a tree of the largest size fits its levels") {
  const TreeView tree(nullptr, std::int64_t{1} << 32);
  CHECK(tree.levels() == TreeView::most_levels);
  CHECK(tree.nodes(tree.levels() - 1) == 1);
}
