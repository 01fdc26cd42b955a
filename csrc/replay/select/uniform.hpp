// Uniform draws among the drawable records of a ring. It keeps no list of them: the ring's flags say it.
#pragma once

#include <cstdint>
#include <vector>

#include "core/philox.hpp"
#include "replay/lane_ring.hpp"

namespace pyrl::replay {

class UniformSelector final : public Selector {
 public:
  // With replacement by rejection: attempts 2j and 2j + 1 of element i use the
  // halves of Philox block (draw, i, j), so the result does not depend on threads or splitting.
  // Without replacement, up to a quarter of all: draws as above, and elements that repeat an earlier one continue with blocks from 2^31. More: a
  // partial Fisher-Yates shuffle of all drawable records, which costs O(capacity).
  void draw(const LaneRing& ring, const RandomStream& stream, const Selection& selection, std::int64_t* index, std::int64_t* slots) override;

 private:
  static void draw_any(const LaneRing& ring, const RandomStream& stream, std::int64_t count, std::int64_t* index, std::int64_t* slots);
  void draw_distinct(const LaneRing& ring, const RandomStream& stream, std::int64_t count, std::int64_t* index, std::int64_t* slots);
  void draw_repeats_again(const LaneRing& ring, const RandomStream& stream, std::int64_t count, std::int64_t* slots);

  std::vector<std::int64_t> scratch_;  // kept, so that the steady state allocates nothing
};

}  // namespace pyrl::replay
