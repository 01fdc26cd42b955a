// From records to batches: each record stands for a window of consecutive records (window/window.hpp).
//
// Outputs are caller's arrays, [B, ...] each, rows as wide as the column (times m for observations). Nothing is allocated.
#pragma once

#include <cstdint>

#include "replay/lane_ring.hpp"
#include "replay/window/window.hpp"

namespace pyrl::replay {

struct GatherArgs {
  const std::int64_t* slots = nullptr;  // [B] of drawable records
  std::int64_t count = 0;
  WindowLengths window;
  void* const* observation = nullptr;       // a pointer a column
  void* const* next_observation = nullptr;  // a pointer a column
  void* const* columns = nullptr;           // a pointer a column that is not an observation
  float* reward = nullptr;
  bool* terminated = nullptr;
  float* discount = nullptr;
};

// The caller holds the ring's lock.
void gather(const LaneRing& ring, const GatherArgs& args);

}  // namespace pyrl::replay
