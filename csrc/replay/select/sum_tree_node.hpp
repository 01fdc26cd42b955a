// What the sum tree computes at one node and for one draw, for the CPU and for a thread of a GPU: the same bits.
#pragma once

#include <bit>
#include <cstdint>
#include <limits>

#include "core/elementary.hpp"
#include "core/philox.hpp"
#include "core/platform.hpp"

namespace pyrl::replay::tree {

constexpr std::int64_t children = 16;
constexpr double infinity = std::numeric_limits<double>::infinity();
// Of priorities, their epsilon and leaves that are not zero: every sum of leaves and every ratio of two is finite, and none is zero.
constexpr double least = 0x1p-500, most = 0x1p500;

PYRL_HD PYRL_INLINE std::int64_t groups(std::int64_t n) { return (n + children - 1) / children; }

// The largest number below a positive one.
PYRL_HD PYRL_INLINE double next_below(double x) { return std::bit_cast<double>(std::bit_cast<std::uint64_t>(x) - 1); }

struct Node {
  double sum, largest, smallest;  // smallest of the leaves that are not zero; infinity if all are zero
};

// Of the children from `sums` on, in their order; leaves have no extremes of their own and come with null.
PYRL_HD PYRL_INLINE Node node_of(const double* sums, const double* largest, const double* smallest) {
  Node node{0, 0, infinity};
  for (std::int64_t k = 0; k < children; ++k) node.sum += sums[k];
  if (largest == nullptr) {
    for (std::int64_t k = 0; k < children; ++k) {
      node.largest = sums[k] > node.largest ? sums[k] : node.largest;
      node.smallest = sums[k] > 0 && sums[k] < node.smallest ? sums[k] : node.smallest;
    }
  } else {
    for (std::int64_t k = 0; k < children; ++k) {
      node.largest = largest[k] > node.largest ? largest[k] : node.largest;
      node.smallest = smallest[k] < node.smallest ? smallest[k] : node.smallest;
    }
  }
  return node;
}

// From a node and 0 <= u < its sum to the child that u falls on. Branch-free: the branches would be unpredictable.
PYRL_HD PYRL_INLINE std::int64_t descend(const double* sums, double& u) {
  double running = 0, below = 0;
  std::int64_t passed = 0;
  for (std::int64_t k = 0; k < children - 1; ++k) {
    running += sums[k];
    const bool past = running <= u;
    passed += past;
    below = past ? running : below;
  }
  const double rest = u - below, last = next_below(sums[passed]);
  u = last < rest ? last : rest;
  return passed;
}

// u_i of draw i of `count`, of total > 0; share = 1 / count.
PYRL_HD PYRL_INLINE double stratum(const RandomStream& random, std::int64_t i, double share, double total) {
  const PhiloxBlock words = philox(random.key, random.draw, static_cast<std::uint32_t>(i), 0);
  const double uniform = static_cast<double>(words[0]) * 0x1p-32 + static_cast<double>(words[1] >> 11) * 0x1p-53;
  const double u = (static_cast<double>(i) + uniform) * share * total, last = next_below(total);
  return last < u ? last : u;
}

// (priority + epsilon)^alpha
PYRL_HD PYRL_INLINE double leaf_of(double priority, double alpha, double epsilon) {
  return elementary::exp(alpha * elementary::log(priority + epsilon));
}

// (leaf / smallest)^-beta
PYRL_HD PYRL_INLINE float weight_of(double leaf, double smallest, double beta) {
  return static_cast<float>(elementary::exp(beta * elementary::log(smallest / leaf)));
}

}  // namespace pyrl::replay::tree
