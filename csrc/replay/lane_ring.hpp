// The record stream: one ring of slots a lane (environment), each slot one record. The contract is docs/replay.md.
//
// Position p of a lane counts slots without wrapping; its slot is lane * lane_capacity + p % lane_capacity. A slot holds a
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
#include "replay/select/selector.hpp"

namespace pyrl::replay {

// The outcome of a row: not stored, it follows the record before it, or another stream begins with it.
enum class Outcome : std::uint8_t { absent, follows, begins };

// One row a lane, of all lanes or of some that are neighbours. `observation`, `next_observation` and `columns` hold a pointer a column (in the order given at construction,
// observations first), to rows that follow one another.
struct AddArgs {
  const void* const* observation = nullptr;
  const void* const* next_observation = nullptr;
  const void* const* columns = nullptr;
  const float* reward = nullptr;
  const bool* terminated = nullptr;
  const bool* truncated = nullptr;
  const bool* valid = nullptr;  // null: all
  Outcome* outcome = nullptr;   // written, a row each; null: not wanted
  std::int64_t* index = nullptr;  // the same, of the new records; -1: not stored
  std::int64_t first_lane = 0;    // that of the first row
  std::int64_t num_rows = -1;     // -1: a row for every lane

  bool stores(std::int64_t row) const { return valid == nullptr || valid[row]; }
  // The first row whose reward is not finite, -1 if there is none; rows that are not stored may have any.
  std::int64_t first_bad_reward(std::int64_t rows) const;
};

// The state of a ring without the bytes of its records, for checkpoints.
struct RingState {
  std::vector<std::int64_t> origins, heads;  // a lane each: the position where it began after the last clear; the one after its newest slot
  std::vector<std::uint8_t> pending;         // a lane each: whether the newest slot is pending, not sealed
  std::vector<std::uint8_t> flags;           // [num_lanes, used]
  std::int64_t used = 0;                     // slots of each lane from the first on, `filled()` or more
};

// Owns the store. Threads: the caller of anything but size() and the constants holds lock().
class LaneRing {
 public:
  // `columns`: observation columns first.
  LaneRing(std::vector<Column> columns, const StreamOptions& options);

  // All rows are stored or, if a reward of a valid row is not finite, none: then the row's number is returned, else -1.
  std::int64_t add(const AddArgs& args);
  void clear();

  // Is told of every change from here on; null: no observer.
  void set_selector(Selector* selector) { selector_ = selector; }

  // Drawable transitions.
  std::int64_t size() const { return size_.load(std::memory_order_relaxed); }
  // The index of the record in a written slot: position * num_lanes + lane.
  std::int64_t index_of(std::int64_t slot) const { return view_.index_of(slot); }
  // Slots of indices whose records are drawable with a stack of `frames`; returns how many are not (their slot is -1).
  std::int64_t find(const std::int64_t* index, std::int64_t count, int frames, std::int64_t* slots) const;
  // The transitions in these slots cannot be drawn any more; a stream whose newest one is among them ends there. Whole episodes only.
  void remove(const std::int64_t* slots, std::int64_t count);

  // The stream of every lane ends at its newest transition, as by a manual reset.
  void cut();

  const StreamOptions& options() const { return view_.options; }
  const RecordLayout& layout() const { return layout_; }
  int num_observation_columns() const { return view_.num_observation_columns; }
  std::int64_t lane_capacity() const { return view_.lane_capacity; }
  std::int64_t num_slots() const { return view_.lane_capacity * view_.options.num_lanes; }
  // Of a ring, before there is one.
  static std::int64_t nbytes(const RecordLayout& layout, const StreamOptions& options);
  std::int64_t nbytes() const { return nbytes(layout_, options()); }
  Lock& lock() const { return lock_; }
  const RingView& view() const { return view_; }

  // Start of a column's row in a slot.
  std::uint8_t* row(const Column& column, std::int64_t slot) const { return view_.row(column, slot); }

  // Slots that the fullest lane has written, from the first on: the space to draw from.
  std::int64_t filled() const;
  // `used` >= filled().
  RingState state(std::int64_t used) const;
  // Throws ArgumentError, and changes nothing, if no sequence of calls could have led to that state. The records' bytes are the caller's care.
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

  RecordLayout layout_;
  std::unique_ptr<std::uint8_t[], Unmap> store_;
  std::vector<std::uint8_t> flags_, pending_;
  std::vector<std::int64_t> origins_, heads_, newest_;
  RingView view_;  // of these
  Selector* selector_ = nullptr;
  std::atomic<std::int64_t> size_{0};  // written under the lock, read by anyone
  mutable Lock lock_;
};

}  // namespace pyrl::replay
