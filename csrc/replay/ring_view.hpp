// A ring as its steps see it: addresses and options, nothing owned. The steps are those of a ring in host memory (lane_ring.hpp) and of
// one on a GPU (gpu/ring.hpp), so that both go through the same positions, flags, draws and windows.
//
// Position p of a lane counts slots without wrapping; its slot is lane * lane_capacity + p % lane_capacity. lane_ring.hpp has the picture.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "core/philox.hpp"
#include "core/platform.hpp"
#include "replay/record_layout.hpp"

namespace pyrl::replay {

namespace flag {
constexpr std::uint8_t transition = 1;  // not pending, not a tail, not empty
constexpr std::uint8_t drawable = 2;    // a transition whose frame stack is not overwritten
constexpr std::uint8_t start = 4;       // first record of an episode (or after a cut)
constexpr std::uint8_t terminated = 8;
constexpr std::uint8_t truncated = 16;
constexpr std::uint8_t cut = 32;  // the stream broke here (manual reset); bootstraps like a truncation
constexpr std::uint8_t deleted = 64;  // alone: a transition that was deleted, with its episode
constexpr std::uint8_t end = terminated | truncated | cut;
}  // namespace flag

struct StreamOptions {
  std::int64_t capacity = 0;  // slots in total; rounded down to a multiple of num_lanes
  std::int64_t num_lanes = 1;
  int n_step = 1;       // of windows, where a call does not say otherwise
  int frame_stack = 1;  // the same; and a record whose last frames are overwritten is not drawable
  bool pad_with_zeros = false;  // missing frames of a stack: zeros, or the episode's first frame
  bool linked = true;           // false: rows have no order, both observations are stored in each
  double gamma = 0.99;
};

// Maps 64 random bits to a slot that may be written: every lane has written at most its first `used` slots.
struct Candidates {
  std::int64_t used, lane_capacity;
  bool dense;
  std::uint64_t space;

  PYRL_HD Candidates(std::int64_t used_, std::int64_t lane_capacity_, std::int64_t num_lanes)
      : used(used_), lane_capacity(lane_capacity_), dense(used_ == lane_capacity_ || num_lanes == 1), space(static_cast<std::uint64_t>(used_ * num_lanes)) {}

  PYRL_HD PYRL_INLINE std::int64_t operator()(std::uint32_t high, std::uint32_t low) const {
    const auto drawn = static_cast<std::int64_t>(uniform_below(high, low, space));
    return dense ? drawn : drawn / used * lane_capacity + drawn % used;
  }
};

// Where the rows of a new record go: slots, or -1 for what is not written.
struct Slots {
  std::int64_t observation, record, next_observation;
};

struct RingView {
  std::uint8_t* store = nullptr;
  std::uint8_t* flags = nullptr;    // [slots]
  std::int64_t* heads = nullptr;    // [N], of each lane: the position after its newest slot
  std::int64_t* origins = nullptr;  // [N], where it began after the last clear
  std::int64_t* newest = nullptr;   // [N], offset in the lane of its newest slot: (head - 1) % lane_capacity, kept to save the division
  std::uint8_t* pending = nullptr;  // [N], whether the newest slot is pending, not sealed
  const Column* columns = nullptr;  // observations first
  int num_observation_columns = 0, num_columns = 0;
  std::int64_t stride = 0;  // of the hot records
  std::int64_t lane_capacity = 0;
  StreamOptions options;

  // -- slots ----------------------------------------------------------------------------------------------------------------------

  // Of a slot in its lane; the division is worth avoiding.
  PYRL_HD std::int64_t offset(std::int64_t slot) const { return options.num_lanes == 1 ? slot : slot % lane_capacity; }
  PYRL_HD std::int64_t slot(std::int64_t lane, std::int64_t position) const { return lane * lane_capacity + position % lane_capacity; }
  // The slot after / before in the lane's ring.
  PYRL_HD std::int64_t next_slot(std::int64_t slot) const { return offset(slot) + 1 == lane_capacity ? slot + 1 - lane_capacity : slot + 1; }
  PYRL_HD std::int64_t previous_slot(std::int64_t slot) const { return offset(slot) == 0 ? slot - 1 + lane_capacity : slot - 1; }
  PYRL_HD bool is_drawable(std::int64_t slot) const { return (flags[slot] & flag::drawable) != 0; }

  // Start of a column's row in a slot.
  PYRL_HD std::uint8_t* row(const Column& column, std::int64_t slot) const { return store + column.offset + slot * column.stride; }
  PYRL_HD std::uint8_t* record(std::int64_t slot) const { return store + slot * stride; }

  // -- indices --------------------------------------------------------------------------------------------------------------------

  // The index of the record in a written slot: position * num_lanes + lane.
  PYRL_HD std::int64_t index_of(std::int64_t slot) const {
    const std::int64_t lane = options.num_lanes == 1 ? 0 : slot / lane_capacity;
    const std::int64_t back = newest[lane] - (slot - lane * lane_capacity);
    return (heads[lane] - 1 - (back < 0 ? back + lane_capacity : back)) * options.num_lanes + lane;
  }
  // The slot of an index; -1 if its record is gone, never existed, or lacks frames of a stack of `frames`.
  PYRL_HD std::int64_t find(std::int64_t index, int frames) const {
    if (index < 0) return -1;
    const std::int64_t lane = index % options.num_lanes, position = index / options.num_lanes;
    if (position >= heads[lane] || position < heads[lane] - lane_capacity || position < origins[lane]) return -1;
    const std::int64_t at = slot(lane, position);
    return is_drawable(at) && (frames <= options.frame_stack || history_is_whole(lane, position, frames)) ? at : -1;
  }

  // -- adding, a row of a lane at a time; `changes` learns of it by became_drawable(slot) and became_undrawable(slot) -------------------------

  // Takes the slots of one record and keeps the metadata; the caller writes the rows. `follows`: the observation is the pending one.
  template <class Changes>
  PYRL_HD PYRL_INLINE Slots reserve(std::int64_t lane, bool follows, bool terminated, bool truncated, Changes& changes) const {
    auto bits = static_cast<std::uint8_t>(flag::transition | (terminated ? flag::terminated : 0) | (truncated ? flag::truncated : 0));
    if (!options.linked) {
      const std::int64_t here = push(lane, changes);
      flags[here] = static_cast<std::uint8_t>(bits | flag::start | (truncated ? 0 : flag::cut));
      make_drawable(here, changes);
      return {here, here, -1};
    }
    std::int64_t here = lane * lane_capacity + newest[lane];
    if (!follows) {
      // Another stream begins: what was pending is a tail now, and the transition before it ends its windows.
      if (pending[lane]) flags[previous_slot(here)] |= flag::cut;
      here = push(lane, changes);
      bits |= flag::start;
    }
    const std::int64_t position = heads[lane] - 1;
    flags[here] = bits;
    const std::int64_t next = push(lane, changes);
    pending[lane] = (bits & flag::end) == 0;
    if (history_is_whole(lane, position, options.frame_stack)) make_drawable(here, changes);
    return {follows ? -1 : here, here, next};
  }

  // A transition that is not drawable any more, and will not become so; its observation stays in the slot.
  template <class Changes>
  PYRL_HD void remove(std::int64_t slot, Changes& changes) const {
    make_undrawable(slot, changes);
    flags[slot] = flag::deleted;
  }

  // Takes the next slot of the lane, emptied. The record that was there is gone; those whose frame stack reached back to it are no
  // longer drawable.
  template <class Changes>
  PYRL_HD PYRL_INLINE std::int64_t push(std::int64_t lane, Changes& changes) const {
    const std::int64_t position = heads[lane]++;
    const std::int64_t offset_taken = newest[lane] + 1 == lane_capacity ? 0 : newest[lane] + 1, taken = lane * lane_capacity + offset_taken;
    newest[lane] = offset_taken;
    // Many lanes write in many places: fetch what the next add of this lane will write. (At the ring's edge it is not what is fetched.)
    PYRL_PREFETCH_L2(&flags[taken + 1]);
    PYRL_PREFETCH_L2(record(taken + 1));
    PYRL_PREFETCH_L2(record(taken + 2) - 1);
    make_undrawable(taken, changes);
    flags[taken] = 0;
    if (options.frame_stack == 1) return taken;
    const std::int64_t oldest = position + 1 - lane_capacity;
    const std::int64_t edge = oldest > origins[lane] ? std::min(oldest + options.frame_stack - 1, position) : oldest;
    for (std::int64_t p = oldest; p < edge; ++p) {
      const std::int64_t at = slot(lane, p);
      if (flags[at] & flag::start) break;
      make_undrawable(at, changes);
    }
    return taken;
  }

  // How many changes a record can bring at most.
  PYRL_HD int most_changes() const { return 2 * options.frame_stack + 1; }

  PYRL_HD PYRL_INLINE bool history_is_whole(std::int64_t lane, std::int64_t position, int frames) const {
    if (frames == 1) return true;
    const std::int64_t oldest = std::max(origins[lane], heads[lane] - lane_capacity);
    for (std::int64_t p = position; p > position - frames; --p) {
      if (p < oldest) return false;
      if (flags[slot(lane, p)] & flag::start) return true;
    }
    return position >= oldest;
  }

  // An index is never given twice: positions continue at the next multiple of the ring, so that every old index is stale. Flags are the caller's.
  PYRL_HD void clear_lane(std::int64_t lane) const {
    heads[lane] = (heads[lane] + lane_capacity - 1) / lane_capacity * lane_capacity;
    origins[lane] = heads[lane];
    newest[lane] = -1;
    pending[lane] = 0;
  }

  // -- drawing --------------------------------------------------------------------------------------------------------------------

  // The two attempts of a Philox block; the result may be not drawable.
  PYRL_HD PYRL_INLINE std::int64_t attempt(const Candidates& candidate, std::uint32_t w0, std::uint32_t w1, std::uint32_t w2, std::uint32_t w3) const {
    const std::int64_t at = candidate(w0, w1);
    return is_drawable(at) ? at : candidate(w2, w3);
  }

 private:
  template <class Changes>
  PYRL_HD PYRL_INLINE void make_drawable(std::int64_t slot, Changes& changes) const {
    flags[slot] |= flag::drawable;
    changes.became_drawable(slot);
  }
  template <class Changes>
  PYRL_HD PYRL_INLINE void make_undrawable(std::int64_t slot, Changes& changes) const {
    if (!is_drawable(slot)) return;
    flags[slot] &= static_cast<std::uint8_t>(~flag::drawable);
    changes.became_undrawable(slot);
  }
};

}  // namespace pyrl::replay
