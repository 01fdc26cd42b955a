// Which record's achieved goal another record is learned from: hindsight (Andrychowicz et al., "Hindsight experience replay", 2017) over the
// episodes as the flags tell them. Also the records of a window, one by one, where somebody computes their rewards anew.
#pragma once

#include <cstdint>

#include "replay/lane_ring.hpp"

namespace pyrl::replay {

enum class GoalStrategy { future, final, episode };

struct HindsightArgs {
  const std::int64_t* slots = nullptr;  // [B] of transitions
  std::int64_t count = 0;
  GoalStrategy strategy = GoalStrategy::future;
  double share = 0;                // of the records that get another goal
  std::int64_t* source = nullptr;  // [B], written: the index of the transition whose achieved goal, after it, is the new one; -1: none
};

// Of an episode that still runs, and of one whose beginning is overwritten, what is in the ring counts. Takes one draw: word pairs 0 and 1 of
// element i decide whether and which.
void draw_goals(const LaneRing& ring, const RandomStream& stream, const HindsightArgs& args);

// [B, n]: the indices of the transitions of the windows from these slots on; -1 after the window's end.
void window_indices(const LaneRing& ring, const std::int64_t* slots, std::int64_t count, int n_step, std::int64_t* index);

// The slot of a transition, drawable or not; -1 if the index is of none.
std::int64_t transition_slot(const RingView& ring, std::int64_t index);

}  // namespace pyrl::replay
