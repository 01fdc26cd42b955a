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

std::int64_t LaneRing::nbytes() const {
  return layout_.store_bytes() + static_cast<std::int64_t>(flags_.size() + (origins_.size() + heads_.size()) * sizeof(std::int64_t) + pending_.size());
}

void LaneRing::clear() {
  std::fill(flags_.begin(), flags_.end(), std::uint8_t{0});
  for (std::int64_t lane = 0; lane < options().num_lanes; ++lane) view_.clear_lane(lane);
  size_.store(0, std::memory_order_relaxed);
  if (observer_ != nullptr) observer_->cleared();
}

// -- adding, by blocks of lanes: compare, place, then copy column by column --------------------------------------------------------
//
// A store of bytes may change anything that is reached through a pointer, so what is constant in a loop is a local variable.

namespace {

constexpr int block = 16;
// An add of many images: rows are gone from the caches when they are compared, and memory gives rows of this width back at full speed.
constexpr std::int64_t streamed_row_bytes = 16 * 1024, streamed_add_bytes = 1024 * 1024;

// The ring's changes of flag::drawable in an add.
struct Changes {
  DrawableObserver* observer;
  std::int64_t size;

  PYRL_INLINE void became_drawable(std::int64_t slot) {
    ++size;
    if (observer != nullptr) observer->became_drawable(slot);
  }
  PYRL_INLINE void became_undrawable(std::int64_t slot) {
    --size;
    if (observer != nullptr) observer->became_undrawable(slot);
  }
};

// to the i-th slot from the row of the i-th lane
PYRL_INLINE void copy_rows(const RingView& ring, const Column& column, const std::int64_t* slots, const void* source, const std::int64_t* lanes, std::int64_t n) {
  const std::int64_t bytes = column.row_bytes, stride = column.stride;
  std::uint8_t* const to = ring.row(column, 0);
  const auto* const from = static_cast<const std::uint8_t*>(source);
  if (bytes >= streamed_row_bytes && bytes * ring.options.num_lanes >= streamed_add_bytes) {
    for (std::int64_t i = 0; i < n; ++i) streaming_copy(to + slots[i] * stride, from + lanes[i] * bytes, bytes);
    return;
  }
  with_row_copy(bytes, [&](const auto& copy) PYRL_INLINE_LAMBDA {
    for (std::int64_t i = 0; i < n; ++i) copy(to + slots[i] * stride, from + lanes[i] * bytes);
  });
}

// equal[i] &= whether the row of the i-th lane is what lies in the i-th slot.
PYRL_INLINE void compare_rows(const RingView& ring, const Column& column, const std::int64_t* slots, const void* source, const std::int64_t* lanes, std::int64_t n,
                              bool* equal) {
  const std::int64_t bytes = column.row_bytes, stride = column.stride;
  const std::uint8_t* const stored = ring.row(column, 0);
  const auto* const given = static_cast<const std::uint8_t*>(source);
  with_row_compare(bytes, [&](const auto& rows_equal) PYRL_INLINE_LAMBDA {
    for (std::int64_t i = 0; i < n; ++i) equal[i] = equal[i] && rows_equal(stored + slots[i] * stride, given + lanes[i] * bytes);
  });
}

// At most `most` lanes, which the compiler knows.
template <int most>
PYRL_INLINE void add_lanes(const RingView& ring, std::int64_t first, std::int64_t end, const AddArgs& args, Changes& changes) {
  const bool linked = ring.options.linked;
  const int observations = ring.num_observation_columns;
  std::int64_t lanes[most], here[most], next[most], n = 0;
  bool follows[most];
  for (std::int64_t lane = first; lane < end; ++lane) {
    if (!args.stores(lane)) continue;
    follows[n] = linked && ring.pending[lane];
    here[n] = lane * ring.lane_capacity + ring.newest[lane];
    lanes[n++] = lane;
  }
  if (args.outcome != nullptr) std::fill(args.outcome + first, args.outcome + end, Outcome::absent);
  if (n == 0) return;
  if (linked)
    for (int c = 0; c < observations; ++c) compare_rows(ring, ring.columns[c], here, args.observation[c], lanes, n, follows);

  std::int64_t beginners[most], begun[most], m = 0;  // lanes and slots of rows whose observation does not lie there yet
  for (std::int64_t i = 0; i < n; ++i) {
    const std::int64_t lane = lanes[i];
    const Slots slots = ring.reserve(lane, follows[i], args.terminated[lane], args.truncated[lane], changes);
    here[i] = slots.record;
    next[i] = slots.next_observation;
    if (follows[i]) continue;
    beginners[m] = lane;
    begun[m++] = slots.observation;
  }

  for (int c = 0; c < observations; ++c) {
    if (m > 0) copy_rows(ring, ring.columns[c], begun, args.observation[c], beginners, m);
    if (linked) copy_rows(ring, ring.columns[c], next, args.next_observation[c], lanes, n);
  }
  for (int c = observations; c < ring.num_columns; ++c) copy_rows(ring, ring.columns[c], here, args.columns[c - observations], lanes, n);
  for (std::int64_t i = 0; i < n; ++i) std::memcpy(ring.record(here[i]), &args.reward[lanes[i]], sizeof(float));

  if (args.outcome == nullptr) return;
  for (std::int64_t i = 0; i < n; ++i) args.outcome[lanes[i]] = follows[i] ? Outcome::follows : Outcome::begins;
}

}  // namespace

std::int64_t AddArgs::first_bad_reward(std::int64_t num_lanes) const {
  constexpr auto exponent = std::bit_cast<std::uint32_t>(std::numeric_limits<float>::infinity());  // and of NaN
  const float* const given = reward;
  bool bad = false;
  for (std::int64_t lane = 0; lane < num_lanes; ++lane) bad |= (std::bit_cast<std::uint32_t>(given[lane]) & exponent) == exponent;
  if (!bad) return -1;
  std::int64_t lane = 0;
  while (lane < num_lanes && (!stores(lane) || std::isfinite(reward[lane]))) ++lane;
  return lane < num_lanes ? lane : -1;
}

std::int64_t LaneRing::add(const AddArgs& args) {
  const std::int64_t lanes = options().num_lanes, bad = args.first_bad_reward(lanes);
  if (bad >= 0) return bad;
  if (observer_ != nullptr) observer_->adding();
  std::int64_t drawable = size();
  simd::dispatch([&]() PYRL_INLINE_LAMBDA {
    RingView ring = view_;
    const AddArgs rows = args;
    const auto add_all = [&](DrawableObserver* observer) PYRL_INLINE_LAMBDA {
      Changes changes{observer, drawable};
      if (lanes == 1) {
        add_lanes<1>(ring, 0, 1, rows, changes);
      } else {
        for (std::int64_t first = 0; first < lanes; first += block) add_lanes<block>(ring, first, std::min(first + block, lanes), rows, changes);
      }
      drawable = changes.size;
    };
    if (ring.options.linked && ring.options.frame_stack == 1 && observer_ == nullptr) {
      ring.options.linked = true;  // known to the compiler now, which leaves the rest out
      ring.options.frame_stack = 1;
      add_all(nullptr);
    } else {
      add_all(observer_);
    }
  });
  size_.store(drawable, std::memory_order_relaxed);
  return -1;
}

std::int64_t LaneRing::find(const std::int64_t* index, std::int64_t count, std::int64_t* slots) const {
  std::int64_t stale = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    if (i % (1 << 16) == 0) check_interrupt();
    slots[i] = view_.find(index[i]);
    stale += slots[i] < 0;
  }
  return stale;
}

std::int64_t LaneRing::filled() const {
  std::int64_t most = 0;
  for (std::size_t lane = 0; lane < heads_.size(); ++lane) most = std::max(most, heads_[lane] - origins_[lane]);
  return std::min(lane_capacity(), most);
}

void LaneRing::draw(const RandomStream& stream, std::int64_t count, std::int64_t* index, std::int64_t* slots) const {
  const Candidates candidate = candidates();
  constexpr std::int64_t chunk = 64;
  parallel_for(count, 8192, [&](std::int64_t begin, std::int64_t end) {
    std::uint32_t words[4][chunk];
    for (std::int64_t first = begin; first < end; first += chunk) {
      const std::int64_t n = std::min(chunk, end - first);
      simd::dispatch([&]() PYRL_INLINE_LAMBDA {
        for (std::int64_t i = 0; i < chunk; ++i) {
          const PhiloxBlock block = philox(stream.key, stream.draw, static_cast<std::uint32_t>(first + i), 0);
          for (int w = 0; w < 4; ++w) words[w][i] = block[w];
        }
      });
      for (std::int64_t i = 0; i < n; ++i) {
        std::int64_t at = view_.attempt(candidate, words[0][i], words[1][i], words[2][i], words[3][i]);
        for (std::uint32_t j = 1; !view_.is_drawable(at); ++j) {
          const PhiloxBlock block = philox(stream.key, stream.draw, static_cast<std::uint32_t>(first + i), j);
          at = view_.attempt(candidate, block[0], block[1], block[2], block[3]);
        }
        slots[first + i] = at;
        index[first + i] = view_.index_of(at);
      }
    }
  });
}

void LaneRing::draw_distinct(const RandomStream& stream, std::int64_t count, std::int64_t* index, std::int64_t* slots,
                             std::vector<std::int64_t>& scratch) const {
  if (count <= size() / 4) {
    draw(stream, count, index, slots);
    draw_repeats_again(stream, count, slots, scratch);
    for (std::int64_t i = 0; i < count; ++i) index[i] = index_of(slots[i]);
    return;
  }
  scratch.clear();
  scratch.reserve(static_cast<std::size_t>(size()));
  for (std::int64_t at = 0; at < num_slots(); ++at) {
    if (at % (1 << 16) == 0) check_interrupt();
    if (view_.is_drawable(at)) scratch.push_back(at);
  }
  for (std::int64_t i = 0; i < count; ++i) {
    if (i % (1 << 16) == 0) check_interrupt();
    const PhiloxBlock words = philox(stream.key, stream.draw, static_cast<std::uint32_t>(i), 0);
    const auto other = i + static_cast<std::int64_t>(uniform_below(words[0], words[1], static_cast<std::uint64_t>(size() - i)));
    std::swap(scratch[i], scratch[other]);
    slots[i] = scratch[i];
    index[i] = index_of(slots[i]);
  }
}

// A uniform draw among all, kept only if it is new, is a uniform draw among those that are left.
void LaneRing::draw_repeats_again(const RandomStream& stream, std::int64_t count, std::int64_t* slots, std::vector<std::int64_t>& scratch) const {
  const Candidates candidate = candidates();
  const auto buckets = std::bit_ceil(static_cast<std::uint64_t>(4 * count));
  scratch.assign(buckets, -1);  // open addressing: the slots taken so far
  const auto take = [&](std::int64_t slot) {
    std::uint64_t bucket = (static_cast<std::uint64_t>(slot) * 0x9E3779B97F4A7C15u >> 32) & (buckets - 1);
    for (; scratch[bucket] >= 0; bucket = (bucket + 1) & (buckets - 1))
      if (scratch[bucket] == slot) return false;
    scratch[bucket] = slot;
    return true;
  };
  for (std::int64_t i = 0; i < count; ++i) {
    if (i % (1 << 16) == 0) check_interrupt();
    for (std::uint32_t j = std::uint32_t{1} << 31; !take(slots[i]); ++j) {
      const PhiloxBlock block = philox(stream.key, stream.draw, static_cast<std::uint32_t>(i), j);
      const std::int64_t at = candidate(block[0], block[1]);
      if (view_.is_drawable(at)) slots[i] = at;
    }
  }
}

std::vector<EpisodeSpan> LaneRing::episodes() const {
  std::vector<EpisodeSpan> found;
  for (std::int64_t lane = 0; lane < options().num_lanes; ++lane) {
    bool open = false;
    for (std::int64_t p = std::max(origins_[lane], heads_[lane] - lane_capacity()); p < heads_[lane]; ++p) {
      const std::uint8_t flags = flags_[view_.slot(lane, p)];
      if (!(flags & flag::transition)) {
        open = false;
        continue;
      }
      if (!open || (flags & flag::start)) found.push_back({lane, p, p, static_cast<std::uint8_t>(flags & flag::start)});
      EpisodeSpan& episode = found.back();
      episode.end = p + 1;
      episode.flags |= flags & flag::end;
      open = (flags & flag::end) == 0;
    }
  }
  return found;
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
  for (std::int64_t offset = 0; offset < state.used; ++offset) check(flags[offset] < 64 && (offset < written || flags[offset] == 0), "flags");
  check(state.pending[lane] <= 1 && (state.pending[lane] == 0 || (options().linked && written >= 2)), "pending marks");
  if (!options().linked || written == 0) return;
  check(flags[(head - 1) % lane_capacity()] == 0, "flags of the newest slot");
  check(written >= 2 && (flags[(head - 2) % lane_capacity()] & flag::transition) != 0, "flags of the newest transition");
  check(state.pending[lane] == ((flags[(head - 2) % lane_capacity()] & flag::end) == 0), "pending marks");
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
      const bool whole = (bits & flag::transition) != 0 && given.history_is_whole(lane, p);
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
