// The episodes of a ring, as a table made from its flags on request: O(capacity) for all, O(length) for one.
#pragma once

#include <cstdint>
#include <vector>

#include "replay/lane_ring.hpp"

namespace pyrl::replay {

struct EpisodeSpan {
  std::int64_t lane, start, end;  // positions [start, end) of its transitions that are still in the ring
  std::uint8_t flags;             // flag::start if its beginning is still there; the end flags of its last transition
};

// Oldest first in each lane.
std::vector<EpisodeSpan> episodes(const LaneRing& ring);
// The transitions of the episode that the transition in `slot` belongs to, as far as they are still in the ring, oldest first.
std::vector<std::int64_t> episode_slots(const LaneRing& ring, std::int64_t slot);

}  // namespace pyrl::replay
