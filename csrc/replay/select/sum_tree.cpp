#include "replay/select/sum_tree.hpp"

#include <algorithm>

#include "core/interrupt.hpp"

namespace pyrl::replay {

SumTree::SumTree(std::int64_t leaves) : leaves_(leaves) {
  for (std::int64_t n = std::max<std::int64_t>(leaves, 1);; n = tree::groups(n)) {
    const auto padded = static_cast<std::size_t>(tree::groups(n) * children);
    Level level;
    level.sum.assign(padded, 0.0);
    if (!levels_.empty()) {
      level.largest.assign(padded, 0.0);
      level.smallest.assign(padded, tree::infinity);
      level.changed.assign(padded, 0);
      level.list.reserve(padded);  // so that an add, which notes changes, cannot run out of memory half-way
    }
    levels_.push_back(std::move(level));
    if (n == 1 && levels_.size() > 1) break;
  }
}

std::int64_t SumTree::nbytes(std::int64_t leaves) {
  std::int64_t bytes = 0, level = 0;
  for (std::int64_t n = std::max<std::int64_t>(leaves, 1);; n = tree::groups(n), ++level) {
    const std::int64_t padded = tree::groups(n) * children, value = sizeof(double);
    bytes += padded * (level == 0 ? value : 3 * value + 1);
    if (n == 1 && level > 0) break;
  }
  return bytes;
}

void SumTree::clear() {
  for (Level& level : levels_) {
    std::fill(level.sum.begin(), level.sum.end(), 0.0);
    std::fill(level.largest.begin(), level.largest.end(), 0.0);
    std::fill(level.smallest.begin(), level.smallest.end(), tree::infinity);
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
  const auto first = static_cast<std::size_t>(node * children), at = static_cast<std::size_t>(node);
  const bool of_leaves = level == 1;
  const tree::Node found = tree::node_of(below.sum.data() + first, of_leaves ? nullptr : below.largest.data() + first,
                                         of_leaves ? nullptr : below.smallest.data() + first);
  Level& own = levels_[level];
  own.sum[at] = found.sum;
  own.largest[at] = found.largest;
  own.smallest[at] = found.smallest;
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

void SumTree::descend(double* u, std::int64_t n, std::int64_t* node) const {
  std::fill(node, node + n, 0);
  for (std::size_t level = levels_.size() - 1; level-- > 0;) {
    const double* const sums = levels_[level].sum.data();
    for (std::int64_t i = 0; i < n; ++i) {
      node[i] = node[i] * children + tree::descend(sums + node[i] * children, u[i]);
      if (level > 0) {
        const double* const next = levels_[level - 1].sum.data() + node[i] * children;
        PYRL_PREFETCH_L2(next);
        PYRL_PREFETCH_L2(next + children / 2);
      }
    }
  }
}

void SumTree::draw(const RandomStream& stream, std::int64_t count, std::int64_t* leaves) {
  const double total = this->total(), share = 1.0 / static_cast<double>(count);
  double u[group];
  for (std::int64_t first = 0; first < count; first += group) {
    const std::int64_t n = std::min(group, count - first);
    if (first % (1 << 14) == 0) check_interrupt();
    for (std::int64_t i = 0; i < n; ++i) u[i] = tree::stratum(stream, first + i, share, total);
    descend(u, n, leaves + first);
  }
}

void SumTree::find(const double* u, std::int64_t count, std::int64_t* leaves) {
  const double last = tree::next_below(total());
  double below[group];
  for (std::int64_t first = 0; first < count; first += group) {
    const std::int64_t n = std::min(group, count - first);
    if (first % (1 << 14) == 0) check_interrupt();
    for (std::int64_t i = 0; i < n; ++i) below[i] = std::min(u[first + i], last);
    descend(below, n, leaves + first);
  }
}

double SumTree::sum(std::int64_t first, std::int64_t last) {
  update();
  double below = 0, above = 0;
  for (const Level& level : levels_) {
    for (; first < last && first % children != 0; ++first) below += level.sum[static_cast<std::size_t>(first)];
    for (; first < last && last % children != 0; --last) above += level.sum[static_cast<std::size_t>(last - 1)];
    if (first >= last) break;
    first /= children;
    last /= children;
  }
  return below + above;
}

}  // namespace pyrl::replay
