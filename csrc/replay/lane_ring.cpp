#include "replay/lane_ring.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <new>

#include "core/check.hpp"
#include "core/interrupt.hpp"
#include "core/parallel.hpp"
#include "core/streaming_copy.hpp"
#include "replay/row.hpp"

namespace pyrl::replay {

namespace {

std::int64_t slots_of(const StreamOptions& options) {
  const std::int64_t lanes = std::max<std::int64_t>(options.num_lanes, 1);
  return options.capacity / lanes * lanes;
}

}  // namespace

LaneRing::LaneRing(std::vector<Column> columns, const StreamOptions& options)
    : layout_(std::move(columns), slots_of(options)),
      store_(map(layout_.store_bytes())),
      flags_(static_cast<std::size_t>(slots_of(options)), 0),
      pending_(static_cast<std::size_t>(options.num_lanes), 0),
      origins_(static_cast<std::size_t>(options.num_lanes), 0),
      heads_(static_cast<std::size_t>(options.num_lanes), 0),
      newest_(static_cast<std::size_t>(options.num_lanes), -1),
      view_{store_.get(), flags_.data(), heads_.data(), origins_.data(), newest_.data(), pending_.data(), layout_.columns().data(),
            layout_.num_observation_columns(), static_cast<int>(layout_.columns().size()), layout_.stride(), slots_of(options) / options.num_lanes, options} {}

std::unique_ptr<std::uint8_t[], LaneRing::Unmap> LaneRing::map(std::int64_t bytes) {
  const auto size = static_cast<std::size_t>(bytes);
  void* address = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (address == MAP_FAILED) throw std::bad_alloc();
#if defined(MADV_HUGEPAGE)
  madvise(address, size, MADV_HUGEPAGE);  // advice: fewer TLB misses in random gathers
#endif
  return {static_cast<std::uint8_t*>(address), Unmap{size}};
}

void LaneRing::Unmap::operator()(std::uint8_t* address) const { munmap(address, bytes); }

std::int64_t LaneRing::nbytes(const RecordLayout& layout, const StreamOptions& options) {
  return layout.store_bytes() + slots_of(options) + options.num_lanes * static_cast<std::int64_t>(2 * sizeof(std::int64_t) + 1);
}

void LaneRing::clear() {
  std::fill(flags_.begin(), flags_.end(), std::uint8_t{0});
  for (std::int64_t lane = 0; lane < options().num_lanes; ++lane) view_.clear_lane(lane);
  size_.store(0, std::memory_order_relaxed);
  if (selector_ != nullptr) selector_->clear();
}

// -- adding, by blocks of lanes: compare, reserve, then copy column by column --------------------------------------------------------
//
// A store of bytes may change anything that is reached through a pointer, so what is constant in a loop is a local variable.

namespace {

constexpr int block = 16;
// An add of many images: rows are gone from the caches when they are compared, and memory gives rows of this width back at full speed.
constexpr std::int64_t streamed_row_bytes = 16 * 1024, streamed_add_bytes = 1024 * 1024;

// The ring's changes of flag::drawable in an add.
struct Changes {
  Selector* selector;
  std::int64_t size;

  PYRL_INLINE void became_drawable(std::int64_t slot) {
    ++size;
    if (selector != nullptr) selector->insert(slot);
  }
  PYRL_INLINE void became_undrawable(std::int64_t slot) {
    --size;
    if (selector != nullptr) selector->erase(slot);
  }
};

bool is_streamed(const Column& column, std::int64_t lanes) {
  return column.row_bytes >= streamed_row_bytes && column.row_bytes * lanes >= streamed_add_bytes;
}

// to slots[i] from row number rows[i]
PYRL_INLINE void copy_rows(const RingView& ring, const Column& column, const std::int64_t* slots, const void* source, const std::int64_t* rows, std::int64_t n) {
  const std::int64_t bytes = column.row_bytes, stride = column.stride;
  std::uint8_t* const to = ring.row(column, 0);
  const auto* const from = static_cast<const std::uint8_t*>(source);
  if (is_streamed(column, ring.options.num_lanes)) {
    for (std::int64_t i = 0; i < n; ++i) streaming_copy(to + slots[i] * stride, from + rows[i] * bytes, bytes);
    return;
  }
  with_row_copy(bytes, [&](const auto& copy) PYRL_INLINE_LAMBDA {
    for (std::int64_t i = 0; i < n; ++i) copy(to + slots[i] * stride, from + rows[i] * bytes);
  });
}

// equal[i] &= whether row number rows[i] equals the one in slots[i]
PYRL_INLINE void compare_rows(const RingView& ring, const Column& column, const std::int64_t* slots, const void* source, const std::int64_t* rows, std::int64_t n,
                              bool* equal) {
  const std::int64_t bytes = column.row_bytes, stride = column.stride;
  const std::uint8_t* const stored = ring.row(column, 0);
  const auto* const given = static_cast<const std::uint8_t*>(source);
  with_row_compare(bytes, [&](const auto& rows_equal) PYRL_INLINE_LAMBDA {
    for (std::int64_t i = 0; i < n; ++i) equal[i] = equal[i] && rows_equal(stored + slots[i] * stride, given + rows[i] * bytes);
  });
}

// Whole blocks of lanes that are as most are: every row continues the stream of its lane, within the ring. Half as many instructions as
// `add_lanes`, which does the same for rows of any kind, a step at a time; false, and nothing is changed: the block is not of that kind.
PYRL_INLINE bool add_followers(const RingView& ring, std::int64_t first, const AddArgs& args, Changes& changes) {
  const std::int64_t lane = args.first_lane + first, capacity = ring.lane_capacity, stride = ring.stride;
  const std::int64_t* const newest = ring.newest + lane;
  std::uint8_t* const pending = ring.pending + lane;
  bool usual = true;
  for (int i = 0; i < block; ++i) usual &= (pending[i] == 1) & (newest[i] + 1 < capacity);
  if (args.valid != nullptr)
    for (int i = 0; i < block; ++i) usual &= args.valid[first + i];
  if (!usual) return false;

  std::int64_t here[block];
  std::uint8_t *record[block], *apart[block];
  for (int i = 0; i < block; ++i) here[i] = (lane + i) * capacity + newest[i];
  for (int i = 0; i < block; ++i) record[i] = ring.store + here[i] * stride;
  // body(to, from) with where a column's row of each lane is kept, and what is given
  const auto with_rows = [&](const Column& column, std::int64_t distance, const void* source, const auto& body) PYRL_INLINE_LAMBDA {
    const auto* const from = static_cast<const std::uint8_t*>(source) + first * column.row_bytes;
    const std::int64_t bytes = column.row_bytes, offset = column.hot ? column.offset + distance : distance;
    if (!column.hot)
      for (int i = 0; i < block; ++i) apart[i] = ring.row(column, here[i]);
    std::uint8_t* const* const rows = column.hot ? record : apart;
    body([=](int i) PYRL_INLINE_LAMBDA { return rows[i] + offset; }, [=](int i) PYRL_INLINE_LAMBDA { return from + i * bytes; });
  };
  const auto copy_rows_of = [&](const Column& column, std::int64_t distance, const void* source) PYRL_INLINE_LAMBDA {
    with_rows(column, distance, source, [&](const auto& to, const auto& from) PYRL_INLINE_LAMBDA {
      with_row_copy(column.row_bytes, [&](const auto& copy) PYRL_INLINE_LAMBDA {
        for (int i = 0; i < block; ++i) copy(to(i), from(i));
      });
    });
  };
  for (int c = 0; c < ring.num_observation_columns; ++c) {
    const Column column = ring.columns[c];
    with_rows(column, 0, args.observation[c], [&](const auto& to, const auto& from) PYRL_INLINE_LAMBDA {
      with_row_compare(column.row_bytes, [&](const auto& rows_equal) PYRL_INLINE_LAMBDA {
        for (int i = 0; i < block; ++i) usual &= rows_equal(to(i), from(i));
      });
    });
    if (!usual) return false;
  }

  const auto* const terminated = reinterpret_cast<const std::uint8_t*>(args.terminated + first);
  const auto* const truncated = reinterpret_cast<const std::uint8_t*>(args.truncated + first);
  std::uint8_t ends[block];
  for (int i = 0; i < block; ++i) ends[i] = static_cast<std::uint8_t>(terminated[i] * flag::terminated | truncated[i] * flag::truncated);
  for (int i = 0; i < block; ++i) pending[i] = ends[i] == 0;
  for (int i = 0; i < block; ++i) {
    ring.flags[here[i]] = static_cast<std::uint8_t>(flag::transition | flag::drawable | ends[i]);
    ++changes.size;
    ring.push(lane + i, changes);
  }
  for (int c = 0; c < ring.num_columns; ++c) {
    const Column column = ring.columns[c];
    const bool seen = c < ring.num_observation_columns;  // the next observation goes into the next record
    copy_rows_of(column, seen ? column.stride : 0, seen ? args.next_observation[c] : args.columns[c - ring.num_observation_columns]);
  }
  for (int i = 0; i < block; ++i) std::memcpy(record[i], &args.reward[first + i], sizeof(float));
  return true;
}

// At most `most` rows, which the compiler knows.
template <int most>
PYRL_INLINE void add_lanes(const RingView& ring, std::int64_t first, std::int64_t end, const AddArgs& args, Changes& changes) {
  const bool linked = ring.options.linked;
  const int observations = ring.num_observation_columns;
  std::int64_t rows[most], here[most], next[most], n = 0;
  bool follows[most];
  for (std::int64_t row = first; row < end; ++row) {
    if (!args.stores(row)) continue;
    const std::int64_t lane = args.first_lane + row;
    follows[n] = linked && ring.pending[lane];
    here[n] = lane * ring.lane_capacity + ring.newest[lane];
    rows[n++] = row;
  }
  if (args.outcome != nullptr) std::fill(args.outcome + first, args.outcome + end, Outcome::absent);
  if (args.index != nullptr) std::fill(args.index + first, args.index + end, std::int64_t{-1});
  if (n == 0) return;
  if (linked)
    for (int c = 0; c < observations; ++c) compare_rows(ring, ring.columns[c], here, args.observation[c], rows, n, follows);

  std::int64_t beginners[most], begun[most], m = 0;  // rows, and their slots, whose observation is not there yet
  for (std::int64_t i = 0; i < n; ++i) {
    const std::int64_t row = rows[i];
    const Slots taken = ring.reserve(args.first_lane + row, follows[i], args.terminated[row], args.truncated[row], changes);
    here[i] = taken.record;
    next[i] = taken.next_observation;
    if (args.index != nullptr) args.index[row] = ring.index_of(here[i]);
    if (follows[i]) continue;
    beginners[m] = row;
    begun[m++] = taken.observation;
  }

  for (int c = 0; c < observations; ++c) {
    if (m > 0) copy_rows(ring, ring.columns[c], begun, args.observation[c], beginners, m);
    if (linked) copy_rows(ring, ring.columns[c], next, args.next_observation[c], rows, n);
  }
  for (int c = observations; c < ring.num_columns; ++c) copy_rows(ring, ring.columns[c], here, args.columns[c - observations], rows, n);
  for (std::int64_t i = 0; i < n; ++i) std::memcpy(ring.record(here[i]), &args.reward[rows[i]], sizeof(float));

  if (args.outcome == nullptr) return;
  for (std::int64_t i = 0; i < n; ++i) args.outcome[rows[i]] = follows[i] ? Outcome::follows : Outcome::begins;
}

}  // namespace

std::int64_t AddArgs::first_bad_reward(std::int64_t rows) const {
  constexpr auto exponent = std::bit_cast<std::uint32_t>(std::numeric_limits<float>::infinity());  // and of NaN
  const float* const given = reward;
  bool bad = false;
  for (std::int64_t row = 0; row < rows; ++row) bad |= (std::bit_cast<std::uint32_t>(given[row]) & exponent) == exponent;
  if (!bad) return -1;
  std::int64_t row = 0;
  while (row < rows && (!stores(row) || std::isfinite(reward[row]))) ++row;
  return row < rows ? row : -1;
}

std::int64_t LaneRing::add(const AddArgs& args) {
  const std::int64_t count = args.num_rows < 0 ? options().num_lanes : args.num_rows, bad = args.first_bad_reward(count);
  if (bad >= 0) return bad;
  if (selector_ != nullptr) selector_->adding();
  std::int64_t drawable = size();
  const bool streams = std::ranges::any_of(layout_.columns(), [&](const Column& column) { return is_streamed(column, options().num_lanes); });
  simd::dispatch_to_avx2([&]() PYRL_INLINE_LAMBDA {
    RingView ring = view_;
    const AddArgs rows = args;
    const auto add_all = [&](Selector* selector, bool follows) PYRL_INLINE_LAMBDA {
      Changes changes{selector, drawable};
      if (count == 1) {
        add_lanes<1>(ring, 0, 1, rows, changes);
      } else {
        for (std::int64_t first = 0; first < count; first += block) {
          if (follows && first + block <= count && add_followers(ring, first, rows, changes)) continue;
          add_lanes<block>(ring, first, std::min(first + block, count), rows, changes);
        }
      }
      drawable = changes.size;
    };
    if (ring.options.linked && ring.options.frame_stack == 1 && selector_ == nullptr) {
      ring.options.linked = true;  // known to the compiler now, which leaves the rest out
      ring.options.frame_stack = 1;
      add_all(nullptr, !streams && args.outcome == nullptr && args.index == nullptr);
    } else {
      add_all(selector_, false);
    }
  });
  size_.store(drawable, std::memory_order_relaxed);
  return -1;
}

std::int64_t LaneRing::find(const std::int64_t* index, std::int64_t count, int frames, std::int64_t* slots) const {
  std::int64_t stale = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    if (i % (1 << 16) == 0) check_interrupt();
    slots[i] = view_.find(index[i], frames);
    stale += slots[i] < 0;
  }
  return stale;
}

void LaneRing::remove(const std::int64_t* slots, std::int64_t count) {
  Changes changes{selector_, size()};
  for (std::int64_t i = 0; i < count; ++i) {
    const std::int64_t lane = slots[i] / lane_capacity();
    view_.remove(slots[i], changes);
    if (view_.next_slot(slots[i]) == lane * lane_capacity() + newest_[lane]) pending_[lane] = 0;
  }
  size_.store(changes.size, std::memory_order_relaxed);
}

void LaneRing::cut() {
  for (std::int64_t lane = 0; lane < options().num_lanes; ++lane) {
    if (!pending_[lane]) continue;
    flags_[view_.previous_slot(lane * lane_capacity() + newest_[lane])] |= flag::cut;
    pending_[lane] = 0;
  }
}

std::int64_t LaneRing::filled() const {
  std::int64_t most = 0;
  for (std::size_t lane = 0; lane < heads_.size(); ++lane) most = std::max(most, heads_[lane] - origins_[lane]);
  return std::min(lane_capacity(), most);
}

RingState LaneRing::state(std::int64_t used) const {
  RingState saved{origins_, heads_, pending_, {}, used};
  saved.flags.reserve(static_cast<std::size_t>(used * options().num_lanes));
  for (std::int64_t lane = 0; lane < options().num_lanes; ++lane) {
    const std::uint8_t* flags = flags_.data() + lane * lane_capacity();
    saved.flags.insert(saved.flags.end(), flags, flags + used);
  }
  return saved;
}

void LaneRing::check_lane(const RingState& state, std::int64_t lane) const {
  const std::int64_t origin = state.origins[lane], head = state.heads[lane];
  const auto check = [&](bool holds, const char* what) { PYRL_CHECK(holds, ArgumentError, "load_state_dict: ", what, " of lane ", lane, " are impossible"); };
  check(origin >= 0 && origin % lane_capacity() == 0 && head >= origin && head < (std::int64_t{1} << 61) / options().num_lanes, "origins and heads");
  const std::int64_t written = std::min(head - origin, lane_capacity());
  check(written <= state.used, "heads and the number of written slots");
  const std::uint8_t* flags = state.flags.data() + lane * state.used;
  for (std::int64_t offset = 0; offset < state.used; ++offset) check((flags[offset] < flag::deleted || flags[offset] == flag::deleted) && (offset < written || flags[offset] == 0), "flags");
  check(state.pending[lane] <= 1 && (state.pending[lane] == 0 || (options().linked && written >= 2)), "pending marks");
  if (!options().linked || written == 0) return;
  check(flags[(head - 1) % lane_capacity()] == 0, "flags of the newest slot");
  const std::uint8_t newest = written >= 2 ? flags[(head - 2) % lane_capacity()] : std::uint8_t{0};
  check((newest & (flag::transition | flag::deleted)) != 0, "flags of the newest transition");
  check(state.pending[lane] == ((newest & (flag::end | flag::deleted)) == 0), "pending marks");
}

RingState LaneRing::completed(RingState state) const {
  PYRL_CHECK(state.used >= 0 && state.used <= lane_capacity(), ArgumentError, "load_state_dict: ", state.used, " written slots in a lane of ", lane_capacity());
  for (std::int64_t lane = 0; lane < options().num_lanes; ++lane) check_lane(state, lane);
  std::vector<std::uint8_t> flags(flags_.size(), 0);
  RingView given = view_;
  given.origins = state.origins.data();
  given.heads = state.heads.data();
  given.flags = flags.data();
  for (std::int64_t lane = 0; lane < options().num_lanes; ++lane) {
    const auto saved = state.flags.begin() + lane * state.used;
    std::copy_n(saved, state.used, flags.begin() + lane * lane_capacity());
    for (std::int64_t p = std::max(state.origins[lane], state.heads[lane] - lane_capacity()); p < state.heads[lane]; ++p) {
      const std::uint8_t bits = flags[given.slot(lane, p)];
      const bool whole = (bits & flag::transition) != 0 && given.history_is_whole(lane, p, given.options.frame_stack);
      saved[p % lane_capacity()] = static_cast<std::uint8_t>(whole ? bits | flag::drawable : bits & ~flag::drawable);
    }
  }
  return state;
}

void LaneRing::set_state(const RingState& saved) {
  const RingState state = completed(saved);
  origins_ = state.origins;
  heads_ = state.heads;
  pending_ = state.pending;
  std::fill(flags_.begin(), flags_.end(), std::uint8_t{0});
  std::int64_t drawables = 0;
  for (std::int64_t lane = 0; lane < options().num_lanes; ++lane) {
    std::copy_n(state.flags.begin() + lane * state.used, state.used, flags_.begin() + lane * lane_capacity());
    newest_[lane] = heads_[lane] == origins_[lane] ? -1 : (heads_[lane] - 1) % lane_capacity();
  }
  for (const std::uint8_t flags : flags_) drawables += (flags & flag::drawable) != 0;
  size_.store(drawables, std::memory_order_relaxed);
}

}  // namespace pyrl::replay
