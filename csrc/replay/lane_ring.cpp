#include "replay/lane_ring.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <new>

#include "core/check.hpp"
#include "core/parallel.hpp"
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

// -- one row of one lane; inlined, since adding to many lanes is nothing but these ------------------------------------------------

PYRL_INLINE void LaneRing::write_observation(std::int64_t to, const void* const* observation, std::int64_t lane) {
  for (int i = 0; i < view_.num_observation_columns; ++i) {
    const Column& column = layout_.columns()[i];
    copy_row(row(column, to), static_cast<const std::uint8_t*>(observation[i]) + lane * column.row_bytes, column.row_bytes);
  }
}

PYRL_INLINE void LaneRing::write_rest(std::int64_t to, const AddArgs& args, std::int64_t lane) {
  std::memcpy(view_.record(to), &args.reward[lane], sizeof(float));
  const auto& columns = layout_.columns();
  const auto first = static_cast<std::size_t>(view_.num_observation_columns);
  for (std::size_t i = first; i < columns.size(); ++i) {
    const auto* source = static_cast<const std::uint8_t*>(args.columns[i - first]);
    copy_row(row(columns[i], to), source + lane * columns[i].row_bytes, columns[i].row_bytes);
  }
}

PYRL_INLINE bool LaneRing::pending_equals(std::int64_t at, const void* const* observation, std::int64_t lane) const {
  for (int i = 0; i < view_.num_observation_columns; ++i) {
    const Column& column = layout_.columns()[i];
    const auto* given = static_cast<const std::uint8_t*>(observation[i]) + lane * column.row_bytes;
    if (!rows_equal(row(column, at), given, column.row_bytes)) return false;
  }
  return true;
}

PYRL_INLINE void LaneRing::add_lane(std::int64_t lane, const AddArgs& args) {
  const bool follows = options().linked && view_.pending[lane] && pending_equals(lane * lane_capacity() + view_.newest[lane], args.observation, lane);
  Changes changes{*this};
  const Placed placed = view_.place(lane, follows, args.terminated[lane], args.truncated[lane], changes);
  if (!follows) write_observation(placed.observation, args.observation, lane);
  write_rest(placed.record, args, lane);
  if (options().linked) write_observation(placed.next_observation, args.next_observation, lane);
  if (args.outcome != nullptr) args.outcome[lane] = follows ? Outcome::follows : Outcome::begins;
}

std::int64_t AddArgs::first_bad_reward(std::int64_t num_lanes) const {
  for (std::int64_t lane = 0; lane < num_lanes; ++lane)
    if (stores(lane) && !std::isfinite(reward[lane])) return lane;
  return -1;
}

std::int64_t LaneRing::add(const AddArgs& args) {
  const std::int64_t lanes = options().num_lanes, bad = args.first_bad_reward(lanes);
  if (bad >= 0) return bad;
  if (observer_ != nullptr) observer_->adding();
  for (std::int64_t lane = 0; lane < lanes; ++lane) {
    if (args.stores(lane)) {
      add_lane(lane, args);
    } else if (args.outcome != nullptr) {
      args.outcome[lane] = Outcome::absent;
    }
  }
  return -1;
}

std::int64_t LaneRing::find(const std::int64_t* index, std::int64_t count, std::int64_t* slots) const {
  std::int64_t stale = 0;
  for (std::int64_t i = 0; i < count; ++i) {
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
        index[first + i] = view_.name_of(at);
      }
    }
  });
}

void LaneRing::draw_distinct(const RandomStream& stream, std::int64_t count, std::int64_t* index, std::int64_t* slots,
                             std::vector<std::int64_t>& scratch) const {
  if (count <= size() / 4) {
    draw(stream, count, index, slots);
    draw_repeats_again(stream, count, slots, scratch);
    for (std::int64_t i = 0; i < count; ++i) index[i] = name_of(slots[i]);
    return;
  }
  scratch.clear();
  for (std::int64_t at = 0; at < num_slots(); ++at)
    if (view_.is_drawable(at)) scratch.push_back(at);
  for (std::int64_t i = 0; i < count; ++i) {
    const PhiloxBlock words = philox(stream.key, stream.draw, static_cast<std::uint32_t>(i), 0);
    const auto other = i + static_cast<std::int64_t>(uniform_below(words[0], words[1], static_cast<std::uint64_t>(size() - i)));
    std::swap(scratch[i], scratch[other]);
    slots[i] = scratch[i];
    index[i] = name_of(slots[i]);
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
  const std::int64_t origin = state.origins[lane], head = state.heads[lane], written = std::min(head - origin, lane_capacity());
  const auto check = [&](bool holds, const char* what) { PYRL_CHECK(holds, ArgumentError, "load_state_dict: ", what, " of lane ", lane, " are impossible"); };
  check(origin >= 0 && origin % lane_capacity() == 0 && head >= origin && head < (std::int64_t{1} << 61) / options().num_lanes, "origins and heads");
  check(written <= state.used, "heads and the number of written slots");
  const std::uint8_t* flags = state.flags.data() + lane * state.used;
  for (std::int64_t offset = 0; offset < state.used; ++offset) check(flags[offset] < 64 && (offset < written || flags[offset] == 0), "flags");
  check(state.pending[lane] <= 1 && (state.pending[lane] == 0 || (options().linked && written >= 2)), "pending marks");
  if (!options().linked || written == 0) return;
  check(flags[(head - 1) % lane_capacity()] == 0, "flags of the newest slot");
  check(written >= 2 && (flags[(head - 2) % lane_capacity()] & flag::transition) != 0, "flags of the newest transition");
  check(state.pending[lane] == ((flags[(head - 2) % lane_capacity()] & flag::end) == 0), "pending marks");
}

void LaneRing::set_state(const RingState& state) {
  PYRL_CHECK(state.used >= 0 && state.used <= lane_capacity(), ArgumentError, "load_state_dict: ", state.used, " written slots in a lane of ", lane_capacity());
  for (std::int64_t lane = 0; lane < options().num_lanes; ++lane) check_lane(state, lane);
  origins_ = state.origins;
  heads_ = state.heads;
  pending_ = state.pending;
  std::fill(flags_.begin(), flags_.end(), std::uint8_t{0});
  std::int64_t drawables = 0;
  for (std::int64_t lane = 0; lane < options().num_lanes; ++lane) {
    std::copy_n(state.flags.begin() + lane * state.used, state.used, flags_.begin() + lane * lane_capacity());
    newest_[lane] = heads_[lane] == origins_[lane] ? -1 : (heads_[lane] - 1) % lane_capacity();
    // Drawable follows from the rest.
    for (std::int64_t p = std::max(origins_[lane], heads_[lane] - lane_capacity()); p < heads_[lane]; ++p) {
      std::uint8_t& flags = flags_[view_.slot(lane, p)];
      const bool whole = (flags & flag::transition) && view_.history_is_whole(lane, p);
      flags = static_cast<std::uint8_t>(whole ? flags | flag::drawable : flags & ~flag::drawable);
      drawables += whole;
    }
  }
  size_.store(drawables, std::memory_order_relaxed);
}

}  // namespace pyrl::replay
