// The record stream: one ring of slots a lane (environment), each slot one record. The contract is docs/replay.md.
//
// Position p of a lane counts slots for ever; it lies in slot lane * lane_capacity + p % lane_capacity. A slot holds a
// *transition* (observation, action, reward, flags, extra columns), the *pending* observation at the head of the lane, or a
// *tail*, the sealed last observation of an episode. The next observation of transition p is the observation of slot p + 1.
//
//     positions   0   1   2   3   4   5   6          o observation, T tail, P pending, ^ start of an episode
//     lane        o ->o ->o ->T   o ->o ->P
//                 ^               ^
//
// One byte of flags a slot, apart from the records: a million slots stay in the cache, so rejection sampling and the search for
// episode edges never wait for memory.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "core/lock.hpp"
#include "core/philox.hpp"
#include "replay/record_layout.hpp"
#include "replay/ring_view.hpp"

namespace pyrl::replay {

// What became of a row: not stored, it follows the record before it, or another stream begins with it.
enum class Outcome : std::uint8_t { absent, follows, begins };

// One row a lane. `observation`, `next_observation` and `columns` hold a pointer a column (in the order given at construction,
// observations first), to rows that lie one after the other.
struct AddArgs {
  const void* const* observation = nullptr;
  const void* const* next_observation = nullptr;
  const void* const* columns = nullptr;
  const float* reward = nullptr;
  const bool* terminated = nullptr;
  const bool* truncated = nullptr;
  const bool* valid = nullptr;  // null: all
  Outcome* outcome = nullptr;   // written, a lane each; null: not wanted

  bool stores(std::int64_t lane) const { return valid == nullptr || valid[lane]; }
  // The first row whose reward is not finite, -1 if there is none; rows that are not stored may have any.
  std::int64_t first_bad_reward(std::int64_t num_lanes) const;
};

struct EpisodeSpan {
  std::int64_t lane, start, end;  // positions [start, end) of its transitions that are still in the ring
  std::uint8_t flags;             // flag::start if its beginning is still there; the end flags of its last transition
};

// Everything about a ring but the bytes of its records, for checkpoints.
struct RingState {
  std::vector<std::int64_t> origins, heads;  // a lane each: the position where it began after the last clear; the one after its newest slot
  std::vector<std::uint8_t> pending;         // a lane each: whether the newest slot is pending, not sealed
  std::vector<std::uint8_t> flags;           // [num_lanes, used]
  std::int64_t used = 0;                     // slots of each lane from the first on, `filled()` or more
};

// Told by a ring which records can be drawn, while the caller holds the ring's lock.
class DrawableObserver {
 public:
  virtual ~DrawableObserver() = default;
  virtual void adding() = 0;  // before the changes of an add
  virtual void became_drawable(std::int64_t slot) = 0;
  virtual void became_undrawable(std::int64_t slot) = 0;
  virtual void cleared() = 0;
};

// Owns the store. Threads: the caller of anything but size() and the constants holds lock().
class LaneRing {
 public:
  // `columns`: observation columns first.
  LaneRing(std::vector<Column> columns, const StreamOptions& options);

  // All rows are stored or, if a reward of a valid row is not finite, none: then the row's number is returned, else -1.
  std::int64_t add(const AddArgs& args);
  void clear();

  // Told of every change from now on; null: nobody.
  void set_observer(DrawableObserver* observer) { observer_ = observer; }

  // Drawable transitions.
  std::int64_t size() const { return size_.load(std::memory_order_relaxed); }
  // Names and slots of `count` drawable records, with replacement, by rejection. Attempts 2j and 2j + 1 of element i use the
  // halves of Philox block (draw, i, j), so the result does not depend on threads or splitting. size() must be positive.
  void draw(const RandomStream& stream, std::int64_t count, std::int64_t* index, std::int64_t* slots) const;
  // The same without replacement, `count` <= size(). Up to a quarter of all: draws as above, and elements that repeat an earlier one
  // go on with blocks from 2^31. More: a partial Fisher-Yates shuffle of all drawable records, which costs O(capacity).
  // `scratch` is the caller's, so that the steady state allocates nothing.
  void draw_distinct(const RandomStream& stream, std::int64_t count, std::int64_t* index, std::int64_t* slots, std::vector<std::int64_t>& scratch) const;
  // The name of the record in a written slot: position * num_lanes + lane.
  std::int64_t index_of(std::int64_t slot) const { return view_.index_of(slot); }
  // Slots of names; returns how many are stale or were never given (their slot is -1).
  std::int64_t find(const std::int64_t* index, std::int64_t count, std::int64_t* slots) const;
  // Episodes in the ring, oldest first in each lane.
  std::vector<EpisodeSpan> episodes() const;

  const StreamOptions& options() const { return view_.options; }
  const RecordLayout& layout() const { return layout_; }
  int num_observation_columns() const { return view_.num_observation_columns; }
  std::int64_t lane_capacity() const { return view_.lane_capacity; }
  std::int64_t num_slots() const { return view_.lane_capacity * view_.options.num_lanes; }
  std::int64_t nbytes() const;
  Lock& lock() const { return lock_; }
  const RingView& view() const { return view_; }

  // Start of a column's row in a slot.
  std::uint8_t* row(const Column& column, std::int64_t slot) const { return view_.row(column, slot); }

  // Slots that the fullest lane has written, from the first on: the space to draw from.
  std::int64_t filled() const;
  // `used` >= filled().
  RingState state(std::int64_t used) const;
  // Throws ArgumentError, and changes nothing, if no sequence of calls could have led there. The records' bytes are the caller's care.
  void set_state(const RingState& state);
  // Checked, with flag::drawable as it follows from the rest.
  RingState completed(RingState state) const;

 private:
  struct Unmap {
    std::size_t bytes = 0;
    void operator()(std::uint8_t* address) const;
  };
  static std::unique_ptr<std::uint8_t[], Unmap> map(std::int64_t bytes);

  void check_lane(const RingState& state, std::int64_t lane) const;
  void draw_repeats_again(const RandomStream& stream, std::int64_t count, std::int64_t* slots, std::vector<std::int64_t>& scratch) const;
  Candidates candidates() const { return {filled(), view_.lane_capacity, view_.options.num_lanes}; }

  RecordLayout layout_;
  std::unique_ptr<std::uint8_t[], Unmap> store_;
  std::vector<std::uint8_t> flags_, pending_;
  std::vector<std::int64_t> origins_, heads_, newest_;
  RingView view_;  // of these
  DrawableObserver* observer_ = nullptr;
  std::atomic<std::int64_t> size_{0};  // written under the lock, read by anyone
  mutable Lock lock_;
};

}  // namespace pyrl::replay
