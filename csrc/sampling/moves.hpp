// Fisher and Yates' shuffles without their order: each result is found by itself, so that a GPU gives the CPU's bits.
//
// A shuffle is a row of steps, each of which moves an entry to its target, and the targets are known beforehand. So what ends up
// at a place follows from the latest step that moved something there, from where that came, and so on: a chain that is O(log B)
// long in expectation. `Moves` finds that step: the steps stand in a hash table of lists by their targets. Lists are linked in
// whatever order the threads come, and a search takes the latest of all that fit, so the order leaves no trace.
//
// Cost: a few visits of list entries a result; 16 to 20 bytes of space a step.
#pragma once

#include <bit>
#include <cstdint>

#include "sampling/permutation.hpp"
#include "sampling/uniform_indices.hpp"

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
    next_[step] = PYRL_EXCHANGE(head_ + slot(target), static_cast<std::uint32_t>(step));
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

// Inside out: step i copies entry j_i to place i and puts i into place j_i.
struct LinkPermutation {
  PermutationArgs args;
  Moves moves;

  PYRL_HD void operator()(std::int64_t i) const {
    const auto step = static_cast<std::uint32_t>(i);
    const RandomStream random = args.random.read();
    const PhiloxBlock words = philox(random.key, random.draw, step >> 2, 0);
    const std::uint32_t low = (step & 1) != 0 ? words[1] : words[0], high = (step & 1) != 0 ? words[3] : words[2];
    moves.link(i, shuffle_target((step & 2) != 0 ? high : low, random.key, random.draw, step));
  }
};

struct ResolvePermutation {
  PermutationArgs args;
  Moves moves;

  PYRL_HD void operator()(std::int64_t place) const {
    const std::uint32_t last = moves.latest(place, args.out.extent[0]);
    args.out(place) = last != Moves::none && last != place ? last : copied(place);
  }

 private:
  // What step i copied: of place j_i, where the latest step below i had put its own number, if not step j_i itself copied there.
  PYRL_HD std::int64_t copied(std::int64_t i) const {
    for (;;) {
      const std::int64_t from = moves.target(i);
      if (from == i) return i;
      const std::uint32_t last = moves.latest(from, i);
      if (last != Moves::none && last != from) return last;
      i = from;
    }
  }
};

// Forwards: step i exchanges entries i and t_i >= i; entry i is not touched again.
struct LinkDistinct {
  UniformIndicesArgs args;
  Moves moves;

  PYRL_HD void operator()(std::int64_t i) const {
    const RandomStream random = args.random.read();
    const PhiloxBlock words = philox(random.key, random.draw, static_cast<std::uint32_t>(i >> 1), 0);
    const bool odd = (i & 1) != 0;
    const std::uint64_t step = index_below(odd ? words[2] : words[0], odd ? words[3] : words[1], args.high - static_cast<std::uint64_t>(i),
                                           random.key, random.draw, static_cast<std::uint64_t>(i));
    moves.link(i, i + static_cast<std::int64_t>(step));
  }
};

struct ResolveDistinct {
  UniformIndicesArgs args;
  Moves moves;

  // Step i takes what lies at t_i: moved there from place s by the latest step s below i, from where it was before that, and so on.
  PYRL_HD void operator()(std::int64_t i) const {
    std::int64_t place = moves.target(i), before = i;
    for (std::uint32_t last; (last = moves.latest(place, before)) != Moves::none;) place = before = last;
    args.index(i) = place;
  }
};

}  // namespace pyrl::sampling
