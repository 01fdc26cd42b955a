// What the threads of a GPU do for a ring in its memory: function objects, so that tests can run them on the CPU, in any order.
//
//   adding    a team (block) a lane: AddLane; records of a lane one after the other, the rows of each by all threads
//   drawing   a thread a window: DrawRecord, FindRecord or IndexRecord, then OpenWindow; then a team a piece: CopyPiece
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

#include "core/atomic.hpp"
#include "core/philox.hpp"
#include "replay/lane_ring.hpp"
#include "replay/ring_view.hpp"
#include "replay/gpu/rows.hpp"
#include "replay/window/window.hpp"

namespace pyrl::replay {

// Addresses of a call's arrays travel with it to the GPU, so that a captured call keeps its own. Most of them at once:
constexpr int most_arrays = 128;

// What a ring on a device counts itself.
struct RingCounters {
  std::int64_t size = 0;     // drawable transitions
  std::int64_t filled = 0;   // slots that the fullest lane has written, from the first on
  std::int64_t skipped = 0;  // rows of the device whose reward was not finite: not stored
  std::int64_t stale = 0;    // indices that the last search did not find
};

// -- adding -------------------------------------------------------------------------------------------------------------------------

// What an add says of one row; four bits of a journal's entry.
struct AddedRow {
  enum Kind : std::uint32_t { absent, follows, begins, compare };  // compare: the device finds out which of both

  std::uint32_t bits = absent;

  PYRL_HD Kind kind() const { return static_cast<Kind>(bits & 3); }
  PYRL_HD bool terminated() const { return (bits & 4) != 0; }
  PYRL_HD bool truncated() const { return (bits & 8) != 0; }
  PYRL_HD static AddedRow of(Kind kind, bool terminated, bool truncated) {
    return {static_cast<std::uint32_t>(kind) | (terminated ? 4u : 0u) | (truncated ? 8u : 0u)};
  }
};

// The rows of several adds behind one another, as journal.hpp packs them.
struct JournalRows {
  const std::uint8_t* records = nullptr;
  const std::uint32_t* entries = nullptr;  // [adds, lanes], a row's bits above the place of its record, which counts words of 4 bytes
  std::int64_t adds = 0, lanes = 0;
  std::int64_t next_at = 0, observation_at = 0;  // bytes of a record before its next observation, its observation

  static constexpr int place_bits = 28;

  PYRL_HD AddedRow row(std::int64_t add, std::int64_t lane) const { return {entries[add * lanes + lane] >> place_bits}; }
  PYRL_HD const std::uint8_t* reward(std::int64_t add, std::int64_t lane) const {
    return records + std::int64_t{4} * (entries[add * lanes + lane] & ((1u << place_bits) - 1));
  }
  PYRL_HD const std::uint8_t* column(std::int64_t add, std::int64_t lane, int, const Column& column) const {
    return reward(add, lane) + sizeof(float) + column.packed;
  }
  PYRL_HD const std::uint8_t* next_observation(std::int64_t add, std::int64_t lane, int, const Column& column) const {
    return reward(add, lane) + next_at + column.packed;
  }
  PYRL_HD const std::uint8_t* observation(std::int64_t add, std::int64_t lane, int, const Column& column) const {
    return reward(add, lane) + observation_at + column.packed;
  }
};

// One add whose rows are on the device already, in arrays [N, ...].
struct ArrayRows {
  static constexpr std::int64_t adds = 1;
  const void* arrays[most_arrays] = {};  // observation columns, the other columns, observation columns of the next observation
  int num_observation_columns = 0, num_columns = 0;
  const float* rewards = nullptr;
  const bool *terminated = nullptr, *truncated = nullptr, *valid = nullptr;

  PYRL_HD bool stores(std::int64_t lane) const { return valid == nullptr || is_set(valid, lane); }
  PYRL_HD AddedRow row(std::int64_t, std::int64_t lane) const {
    const bool kept = stores(lane) && std::isfinite(rewards[lane]);
    return AddedRow::of(kept ? AddedRow::compare : AddedRow::absent, is_set(terminated, lane), is_set(truncated, lane));
  }
  PYRL_HD const std::uint8_t* reward(std::int64_t, std::int64_t lane) const { return reinterpret_cast<const std::uint8_t*>(rewards + lane); }
  PYRL_HD const std::uint8_t* column(std::int64_t, std::int64_t lane, int c, const Column& column) const { return at(c, lane, column); }
  PYRL_HD const std::uint8_t* observation(std::int64_t, std::int64_t lane, int c, const Column& column) const { return at(c, lane, column); }
  PYRL_HD const std::uint8_t* next_observation(std::int64_t, std::int64_t lane, int c, const Column& column) const { return at(num_columns + c, lane, column); }

 private:
  // Any byte but 0 is true.
  static PYRL_HD bool is_set(const bool* flags, std::int64_t lane) { return reinterpret_cast<const std::uint8_t*>(flags)[lane] != 0; }
  PYRL_HD const std::uint8_t* at(int array, std::int64_t lane, const Column& column) const {
    return static_cast<const std::uint8_t*>(arrays[array]) + lane * column.row_bytes;
  }
};

// The records of a lane, one add after the other. For each of them the team's threads call differs() and vote; one of them calls
// reserve(); then all call copy(). Between these steps, and between records, they wait for each other.
template <class Rows>
struct AddLane {
  RingView ring;
  RingCounters* counters = nullptr;
  Rows rows;
  std::int64_t* changed = nullptr;  // [lanes, most_changes], filled with -1: slots whose flag::drawable the last add changed; null: not wanted

  PYRL_HD bool differs(std::int64_t add, std::int64_t lane, int thread, int threads) const {
    const AddedRow row = rows.row(add, lane);
    if (row.kind() != AddedRow::compare) return row.kind() == AddedRow::begins;
    if (!ring.options.linked || !ring.pending[lane]) return true;
    const std::int64_t pending = lane * ring.lane_capacity + ring.newest[lane];
    bool any = false;
    for (int c = 0; c < ring.num_observation_columns; ++c) {
      const Column column = ring.columns[c];
      any |= team_differs(ring.row(column, pending), rows.observation(add, lane, c, column), column.row_bytes, thread, threads);
    }
    return any;
  }

  // Nothing is slots (record -1) where the row is not stored.
  PYRL_HD Slots reserve(std::int64_t add, std::int64_t lane, bool differs) const {
    const AddedRow row = rows.row(add, lane);
    if (row.kind() == AddedRow::absent) {
      if constexpr (requires { rows.stores(lane); })
        if (rows.stores(lane)) atomic_add(&counters->skipped, 1);
      return {-1, -1, -1};
    }
    Changes changes{changed == nullptr ? nullptr : changed + lane * ring.most_changes()};
    const Slots taken = ring.reserve(lane, !differs, row.terminated(), row.truncated(), changes);
    atomic_add(&counters->size, changes.balance);
    const std::int64_t written = ring.heads[lane] - ring.origins[lane];
    atomic_max(&counters->filled, std::min(written, ring.lane_capacity));
    return taken;
  }

  PYRL_HD void copy(std::int64_t add, std::int64_t lane, const Slots& slots, int thread, int threads) const {
    if (slots.record < 0) return;
    team_copy(ring.record(slots.record), rows.reward(add, lane), sizeof(float), thread, threads);
    for (int c = 0; c < ring.num_columns; ++c) {
      const Column column = ring.columns[c];
      if (c >= ring.num_observation_columns) {
        team_copy(ring.row(column, slots.record), rows.column(add, lane, c, column), column.row_bytes, thread, threads);
        continue;
      }
      if (slots.observation >= 0)
        team_copy(ring.row(column, slots.observation), rows.observation(add, lane, c, column), column.row_bytes, thread, threads);
      if (slots.next_observation >= 0)
        team_copy(ring.row(column, slots.next_observation), rows.next_observation(add, lane, c, column), column.row_bytes, thread, threads);
    }
  }

 private:
  struct Changes {
    std::int64_t* to;
    std::int64_t balance = 0;

    PYRL_HD void became_drawable(std::int64_t slot) { note(slot, 1); }
    PYRL_HD void became_undrawable(std::int64_t slot) { note(slot, -1); }
    PYRL_HD void note(std::int64_t slot, int change) {
      balance += change;
      if (to != nullptr) *to++ = slot;
    }
  };
};

struct ClearLane {
  RingView ring;
  PYRL_HD void operator()(std::int64_t lane) const { ring.clear_lane(lane); }
};

// -- drawing ------------------------------------------------------------------------------------------------------------------------

// What the copies of a window need to know.
struct OpenedWindow {
  std::int64_t slot = -1, next = -1;         // -1: there is none, and its rows are zero
  std::int32_t length = 0, next_length = 0;  // frames of the stacks
  std::int32_t before = 0, next_before = 0;  // slots of the lane that are in front of it, as far as they matter
};

// As LaneRing::draw; NextDraw comes after it. Gives up, with slot and index -1, in an empty ring and after `most_blocks` blocks of two attempts.
struct DrawRecord {
  static constexpr std::uint32_t most_blocks = 1u << 20;

  RingView ring;
  const RingCounters* counters = nullptr;
  const RandomStream* random = nullptr;  // on the device, so that each replay of a graph draws anew
  std::int64_t *slots = nullptr, *index = nullptr;

  PYRL_HD void operator()(std::int64_t i) const {
    slots[i] = counters->size > 0 ? draw(static_cast<std::uint32_t>(i)) : -1;
    index[i] = slots[i] < 0 ? -1 : ring.index_of(slots[i]);
  }

 private:
  PYRL_HD std::int64_t draw(std::uint32_t element) const {
    const RandomStream stream = *random;
    const Candidates candidate(counters->filled, ring.lane_capacity, ring.options.num_lanes);
    for (std::uint32_t j = 0; j < most_blocks; ++j) {
      const PhiloxBlock words = philox(stream.key, stream.draw, element, j);
      const std::int64_t at = ring.attempt(candidate, words[0], words[1], words[2], words[3]);
      if (ring.is_drawable(at)) return at;
    }
    return -1;
  }
};

struct NextDraw {
  RandomStream* random = nullptr;
  PYRL_HD void operator()(std::int64_t) const { ++random->draw; }
};

// Of slots that were drawn by priority, or -1.
struct IndexRecord {
  RingView ring;
  const std::int64_t* slots = nullptr;
  std::int64_t* index = nullptr;

  PYRL_HD void operator()(std::int64_t i) const { index[i] = slots[i] < 0 ? -1 : ring.index_of(slots[i]); }
};

struct FindRecord {
  RingView ring;
  RingCounters* counters = nullptr;
  const std::int64_t* index = nullptr;
  int frames = 1;  // of the windows to come
  std::int64_t* slots = nullptr;

  PYRL_HD void operator()(std::int64_t i) const {
    slots[i] = ring.find(index[i], frames);
    if (slots[i] < 0) atomic_add(&counters->stale, 1);
  }
};

struct OpenWindow {
  RingView ring;
  WindowLengths lengths;
  const std::int64_t* slots = nullptr;
  OpenedWindow* windows = nullptr;
  float* reward = nullptr;
  bool* terminated = nullptr;
  float* discount = nullptr;

  PYRL_HD void operator()(std::int64_t i) const {
    const std::int64_t slot = slots[i];
    OpenedWindow opened;
    Window window;
    if (slot >= 0) {
      window = transition_window(ring, lengths.n_step, slot);
      const int frames = lengths.frame_stack;
      opened = {slot, window.next, stack_length(ring, frames, slot), stack_length(ring, frames, window.next), before(slot), before(window.next)};
    }
    windows[i] = opened;
    reward[i] = static_cast<float>(window.reward);
    terminated[i] = window.terminated;
    discount[i] = window.terminated || slot < 0 ? 0.0f : static_cast<float>(window.discount);
  }

 private:
  PYRL_HD std::int32_t before(std::int64_t slot) const {
    const std::int64_t offset = ring.offset(slot), frames = lengths.frame_stack;
    return static_cast<std::int32_t>(offset < frames ? offset : frames);
  }
};

template <class First>
struct ThenOpenWindow {
  First first;
  OpenWindow open;

  PYRL_HD void operator()(std::int64_t i) const {
    first(i);
    open(i);
  }
};

// A row of one slot that a window needs, and the place of it in a batch's arrays.
struct Piece {
  std::int16_t column = 0, array = 0;
  bool of_next = false;    // of the next observation
  std::int32_t frame = 0;  // 0: the oldest
  std::int32_t frames = 1;
};

// A team copies one piece of one window. The frames that observation and next observation share are read by neighbours, so once from memory.
struct CopyPiece {
  RingView ring;
  const Piece* pieces = nullptr;
  std::uint32_t num_pieces = 0;
  const OpenedWindow* windows = nullptr;
  void* arrays[most_arrays] = {};  // observation columns, those of the next observation (if linked), the other columns

  PYRL_HD void operator()(std::int64_t team, int thread, int threads) const {
    const auto number = static_cast<std::uint32_t>(team);
    const std::int64_t i = number / num_pieces;
    const Piece piece = pieces[number % num_pieces];
    const OpenedWindow window = windows[i];
    const Column column = ring.columns[piece.column];
    std::uint8_t* const to = static_cast<std::uint8_t*>(arrays[piece.array]) + (i * piece.frames + piece.frame) * column.row_bytes;
    const std::int32_t length = piece.of_next ? window.next_length : window.length, before = piece.of_next ? window.next_before : window.before;
    std::int32_t age = piece.frames - 1 - piece.frame;
    if (length == 0 || (age >= length && ring.options.pad_with_zeros)) {
      team_clear(to, column.row_bytes, thread, threads);
      return;
    }
    age = age < length ? age : length - 1;
    const std::int64_t newest = piece.of_next ? window.next : window.slot;
    team_copy(to, ring.row(column, age <= before ? newest - age : newest - age + ring.lane_capacity), column.row_bytes, thread, threads);
  }
};

}  // namespace pyrl::replay
