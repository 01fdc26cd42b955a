#include "replay/sum_tree.hpp"

#include <algorithm>
#include <bit>
#include <limits>

#include "core/platform.hpp"

namespace pyrl::replay {

namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();

// The largest number below a positive one.
double next_below(double x) { return std::bit_cast<double>(std::bit_cast<std::uint64_t>(x) - 1); }

std::int64_t groups(std::int64_t n) { return (n + SumTree::children - 1) / SumTree::children; }

}  // namespace

SumTree::SumTree(std::int64_t leaves) : leaves_(leaves) {
  for (std::int64_t n = std::max<std::int64_t>(leaves, 1);; n = groups(n)) {
    const auto padded = static_cast<std::size_t>(groups(n) * children);
    Level level;
    level.sum.assign(padded, 0.0);
    if (!levels_.empty()) {
      level.largest.assign(padded, 0.0);
      level.smallest.assign(padded, infinity);
      level.changed.assign(padded, 0);
    }
    levels_.push_back(std::move(level));
    if (n == 1 && levels_.size() > 1) break;
  }
}

std::int64_t SumTree::nbytes() const {
  std::size_t bytes = 0;
  for (const Level& level : levels_) bytes += (level.sum.size() + level.largest.size() + level.smallest.size()) * sizeof(double) + level.changed.size();
  return static_cast<std::int64_t>(bytes);
}

void SumTree::clear() {
  for (Level& level : levels_) {
    std::fill(level.sum.begin(), level.sum.end(), 0.0);
    std::fill(level.largest.begin(), level.largest.end(), 0.0);
    std::fill(level.smallest.begin(), level.smallest.end(), infinity);
    std::fill(level.changed.begin(), level.changed.end(), std::uint8_t{0});
    level.list.clear();
  }
}

void SumTree::note(std::size_t level, std::int64_t node) {
  std::uint8_t& changed = levels_[level].changed[static_cast<std::size_t>(node)];
  if (changed) return;
  changed = 1;
  levels_[level].list.push_back(node);
}

void SumTree::set(std::int64_t leaf, double weight) {
  double& stored = levels_.front().sum[static_cast<std::size_t>(leaf)];
  if (stored == weight) return;
  stored = weight;
  note(1, leaf / children);
}

void SumTree::compute(std::size_t level, std::int64_t node) {
  const Level& below = levels_[level - 1];
  const auto first = static_cast<std::size_t>(node * children);
  const double* const sums = below.sum.data() + first;
  double sum = 0, largest = 0, smallest = infinity;
  for (std::int64_t k = 0; k < children; ++k) sum += sums[k];
  if (level == 1) {
    for (std::int64_t k = 0; k < children; ++k) {
      largest = std::max(largest, sums[k]);
      smallest = std::min(smallest, sums[k] > 0 ? sums[k] : infinity);
    }
  } else {
    for (std::int64_t k = 0; k < children; ++k) {
      largest = std::max(largest, below.largest[first + static_cast<std::size_t>(k)]);
      smallest = std::min(smallest, below.smallest[first + static_cast<std::size_t>(k)]);
    }
  }
  Level& own = levels_[level];
  own.sum[static_cast<std::size_t>(node)] = sum;
  own.largest[static_cast<std::size_t>(node)] = largest;
  own.smallest[static_cast<std::size_t>(node)] = smallest;
}

void SumTree::update() {
  for (std::size_t level = 1; level < levels_.size(); ++level) {
    Level& own = levels_[level];
    for (const std::int64_t node : own.list) {
      compute(level, node);
      own.changed[static_cast<std::size_t>(node)] = 0;
      if (level + 1 < levels_.size()) note(level + 1, node / children);
    }
    own.list.clear();
  }
}

double SumTree::root(Values Level::* values) {
  update();
  return (levels_.back().*values)[0];
}

// From a node and 0 <= u < its sum to the child that u falls on. Without branches, for none could be foretold.
PYRL_INLINE std::int64_t SumTree::descend(const double* sums, double& u) {
  double running = 0, below = 0;
  std::int64_t passed = 0;
  for (std::int64_t k = 0; k < children - 1; ++k) {
    running += sums[k];
    const bool past = running <= u;
    passed += past;
    below = past ? running : below;
  }
  u = std::min(u - below, next_below(sums[passed]));
  return passed;
}

void SumTree::draw(const RandomStream& stream, std::int64_t count, std::int64_t* leaves) {
  // A group goes down together, level by level: while one draw waits for memory the others compute.
  constexpr std::int64_t group = 16;
  const double total = this->total(), share = 1.0 / static_cast<double>(count), last = next_below(total);
  double u[group];
  for (std::int64_t first = 0; first < count; first += group) {
    const std::int64_t n = std::min(group, count - first);
    std::int64_t* const node = leaves + first;
    for (std::int64_t i = 0; i < n; ++i) {
      const PhiloxBlock words = philox(stream.key, stream.draw, static_cast<std::uint32_t>(first + i), 0);
      const double uniform = static_cast<double>(words[0]) * 0x1p-32 + static_cast<double>(words[1] >> 11) * 0x1p-53;
      u[i] = std::min((static_cast<double>(first + i) + uniform) * share * total, last);
      node[i] = 0;
    }
    for (std::size_t level = levels_.size() - 1; level-- > 0;) {
      const double* const sums = levels_[level].sum.data();
      for (std::int64_t i = 0; i < n; ++i) {
        node[i] = node[i] * children + descend(sums + node[i] * children, u[i]);
        if (level > 0) {
          const double* const next = levels_[level - 1].sum.data() + node[i] * children;
          PYRL_PREFETCH_L2(next);
          PYRL_PREFETCH_L2(next + children / 2);
        }
      }
    }
  }
}

}  // namespace pyrl::replay
