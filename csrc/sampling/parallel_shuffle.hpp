// Fisher and Yates' shuffles without their order: each result is found by itself, so that a GPU gives the CPU's bits.
//
// A shuffle is a row of steps, each of which moves an entry to its target, and the targets are known beforehand. So what ends up
// at a place follows from the latest step that moved something there, from where that came, and so on: a chain that is O(log B)
// long in expectation. `Moves` finds that step: the steps stand in a hash table of lists by their targets. Lists are linked in
// whatever order the threads come, and a search takes the latest of all that fit, so the order leaves no trace.
//
// Cost: a few visits of list entries a result; 16 to 20 bytes of space a step.
//
// Who calls it: `ops.permutation` and `ops.uniform_indices(replacement=False)` where their output is on a GPU. No agent of pyrl does (PPO draws
// its minibatches on the CPU); it stays as the part of the public samplers that docs/cuda.md promises.
#pragma once

#include <bit>
#include <cstdint>

#include "core/atomic.hpp"

namespace pyrl::sampling {

class Moves {
 public:
  static constexpr std::uint32_t none = 0xffffffffu;

  static std::int64_t slots(std::int64_t count) {
    return static_cast<std::int64_t>(std::bit_ceil(static_cast<std::uint64_t>(count < 2 ? 2 : count)));
  }
  static std::int64_t bytes(std::int64_t count) { return 12 * count + 4 * slots(count); }

  // Of `count` < 2^32 steps, in `space` of bytes(count), of which head() must be filled with 0xff before the first link.
  Moves(void* space, std::int64_t count)
      : target_(static_cast<std::int64_t*>(space)), next_(reinterpret_cast<std::uint32_t*>(target_ + count)), head_(next_ + count),
        shift_(64 - std::countr_zero(static_cast<std::uint64_t>(slots(count)))), head_bytes_(4 * slots(count)) {}

  void* head() const { return head_; }
  std::size_t head_bytes() const { return static_cast<std::size_t>(head_bytes_); }
  PYRL_HD std::int64_t target(std::int64_t step) const { return target_[step]; }

  PYRL_HD void link(std::int64_t step, std::int64_t target) const {
    target_[step] = target;
    next_[step] = atomic_exchange(head_ + slot(target), static_cast<std::uint32_t>(step));
  }
  // The latest step below `before` with this target, or none.
  PYRL_HD std::uint32_t latest(std::int64_t target, std::int64_t before) const {
    std::uint32_t found = none;
    for (std::uint32_t step = head_[slot(target)]; step != none; step = next_[step])
      if (step < before && target_[step] == target && (found == none || step > found)) found = step;
    return found;
  }

 private:
  PYRL_HD std::uint64_t slot(std::int64_t target) const { return (static_cast<std::uint64_t>(target) * 0x9E3779B97F4A7C15u) >> shift_; }

  std::int64_t* target_;
  std::uint32_t *next_, *head_;
  int shift_;
  std::int64_t head_bytes_;
};

}  // namespace pyrl::sampling
