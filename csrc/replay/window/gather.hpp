// From records to batches: each record stands for a window of consecutive records.
//
//   transition      observation of t, action, reward; next observation = observation of t + 1
//   n-step          reward = sum over i < k of gamma^i r_(t+i), next observation of t + k - 1, discount = gamma^k (1 - terminated),
//                   where k <= n ends at the first end of episode, cut, or newest transition of the lane
//   frame stack m   the last m observations of the episode, oldest first; missing ones repeat the first or are zero
//
// Outputs are caller's arrays, [B, ...] each, rows as wide as the column (times m for observations). Nothing is allocated.
#pragma once

#include <cstdint>

#include "replay/lane_ring.hpp"

namespace pyrl::replay {

struct GatherArgs {
  const std::int64_t* slots = nullptr;  // [B] of drawable records
  std::int64_t count = 0;
  void* const* observation = nullptr;       // a pointer a column
  void* const* next_observation = nullptr;  // a pointer a column
  void* const* columns = nullptr;           // a pointer a column that is no observation
  float* reward = nullptr;
  bool* terminated = nullptr;
  float* discount = nullptr;
};

// The caller holds the ring's lock.
void gather(const LaneRing& ring, const GatherArgs& args);

}  // namespace pyrl::replay
