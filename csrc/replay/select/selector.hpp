// Which records a batch holds: a selector follows the drawable records of a ring and draws among them.
//
//   insert, erase, clear   from the ring: a record became drawable, ceased to be, all are gone
//   draw                   indices and slots of records
//   update                 from the learner: priorities (PrioritizedSelector)
//
// The caller holds the ring's lock. select/episodes.hpp lists whole episodes, which can be deleted.
#pragma once

#include <cstdint>

#include "core/philox.hpp"

namespace pyrl::replay {

class LaneRing;

// What a call asks for.
struct Selection {
  std::int64_t count = 0;
  bool replacement = true;
  double beta = 0;                // of importance weights
  bool weight_by_buffer = false;  // weights are divided by the largest of the buffer, not of the batch
  float* weight = nullptr;        // [count], written by a prioritized draw
};

class Selector {
 public:
  virtual ~Selector() = default;
  // Only a selector that the ring knows (LaneRing::set_selector) hears of these.
  virtual void adding() {}  // before the changes of an add
  virtual void insert(std::int64_t) {}
  virtual void erase(std::int64_t) {}
  virtual void clear() {}
  // ring.size() must be positive, and without replacement at least the count.
  virtual void draw(const LaneRing& ring, const RandomStream& stream, const Selection& selection, std::int64_t* index, std::int64_t* slots) = 0;
};

}  // namespace pyrl::replay
