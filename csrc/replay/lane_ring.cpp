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

LaneRing::LaneRing(std::vector<Column> columns, const StreamOptions& options)
    : options_(options),
      num_observation_columns_(static_cast<int>(std::count_if(columns.begin(), columns.end(), [](const Column& c) { return c.is_observation; }))),
      lane_capacity_(options.capacity / std::max<std::int64_t>(options.num_lanes, 1)),
      layout_(std::move(columns), lane_capacity_ * options.num_lanes),
      store_(map(layout_.store_bytes())),
      flags_(static_cast<std::size_t>(num_slots()), 0),
      origins_(static_cast<std::size_t>(options.num_lanes), 0),
      heads_(static_cast<std::size_t>(options.num_lanes), 0),
      newest_(static_cast<std::size_t>(options.num_lanes), -1),
      pending_(static_cast<std::size_t>(options.num_lanes), 0) {}

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
  // Names are never given twice: positions go on from the next multiple of the ring, so that every old name is stale.
  for (auto& head : heads_) head = (head + lane_capacity_ - 1) / lane_capacity_ * lane_capacity_;
  origins_ = heads_;
  std::fill(newest_.begin(), newest_.end(), -1);
  std::fill(pending_.begin(), pending_.end(), std::uint8_t{0});
  size_.store(0, std::memory_order_relaxed);
  if (observer_ != nullptr) observer_->cleared();
}

// -- one row of one lane; inlined, since adding to many lanes is nothing but these ------------------------------------------------

// Takes the next slot of the lane, emptied. The record that lay there is gone; those whose frame stack reached back to it are no
// longer drawable.
PYRL_INLINE std::int64_t LaneRing::push(std::int64_t lane) {
  const std::int64_t position = heads_[lane]++;
  newest_[lane] = newest_[lane] + 1 == lane_capacity_ ? 0 : newest_[lane] + 1;
  const std::int64_t taken = lane * lane_capacity_ + newest_[lane];
  // Many lanes write in many places: fetch what the next add of this lane will write.
  const std::int64_t following = newest_[lane] + 1 == lane_capacity_ ? taken + 1 - lane_capacity_ : taken + 1;
  PYRL_PREFETCH_WRITE(&flags_[following]);
  PYRL_PREFETCH_WRITE(record(following));
  PYRL_PREFETCH_WRITE(record(following) + layout_.stride() - 1);
  make_undrawable(taken);
  flags_[taken] = 0;
  const std::int64_t oldest = position + 1 - lane_capacity_;
  const std::int64_t edge = oldest > origins_[lane] ? std::min(oldest + options_.frame_stack - 1, position) : oldest;
  for (std::int64_t p = oldest; p < edge; ++p) {
    const std::int64_t at = slot(lane, p);
    if (flags_[at] & flag::start) break;
    make_undrawable(at);
  }
  return taken;
}

PYRL_INLINE bool LaneRing::history_is_whole(std::int64_t lane, std::int64_t position) const {
  if (options_.frame_stack == 1) return true;
  const std::int64_t oldest = std::max(origins_[lane], heads_[lane] - lane_capacity_);
  for (std::int64_t p = position; p > position - options_.frame_stack; --p) {
    if (p < oldest) return false;
    if (flags_[slot(lane, p)] & flag::start) return true;
  }
  return position >= oldest;
}

PYRL_INLINE void LaneRing::write_observation(std::int64_t to, const void* const* observation, std::int64_t lane) {
  for (int i = 0; i < num_observation_columns_; ++i) {
    const Column& column = layout_.columns()[i];
    copy_row(row(column, to), static_cast<const std::uint8_t*>(observation[i]) + lane * column.row_bytes, column.row_bytes);
  }
}

PYRL_INLINE void LaneRing::write_rest(std::int64_t to, const AddArgs& args, std::int64_t lane) {
  std::memcpy(record(to), &args.reward[lane], sizeof(float));
  const auto& columns = layout_.columns();
  for (std::size_t i = num_observation_columns_; i < columns.size(); ++i) {
    const auto* source = static_cast<const std::uint8_t*>(args.columns[i - num_observation_columns_]);
    copy_row(row(columns[i], to), source + lane * columns[i].row_bytes, columns[i].row_bytes);
  }
}

PYRL_INLINE bool LaneRing::pending_equals(std::int64_t at, const void* const* observation, std::int64_t lane) const {
  for (int i = 0; i < num_observation_columns_; ++i) {
    const Column& column = layout_.columns()[i];
    const auto* given = static_cast<const std::uint8_t*>(observation[i]) + lane * column.row_bytes;
    if (!rows_equal(row(column, at), given, column.row_bytes)) return false;
  }
  return true;
}

std::int64_t LaneRing::add(const AddArgs& args) {
  const std::int64_t lanes = options_.num_lanes;
  const auto stored = [&](std::int64_t lane) { return args.valid == nullptr || args.valid[lane]; };
  for (std::int64_t lane = 0; lane < lanes; ++lane)
    if (stored(lane) && !std::isfinite(args.reward[lane])) return lane;
  if (observer_ != nullptr) observer_->adding();
  for (std::int64_t lane = 0; lane < lanes; ++lane) {
    if (!stored(lane)) continue;
    options_.linked ? add_linked(lane, args) : add_unlinked(lane, args);
  }
  return -1;
}

void LaneRing::add_linked(std::int64_t lane, const AddArgs& args) {
  std::int64_t here = lane * lane_capacity_ + newest_[lane];
  std::uint8_t flags = flag::transition;
  if (!pending_[lane] || !pending_equals(here, args.observation, lane)) {
    // Another stream begins: what was pending is a tail now, and the transition before it ends its windows.
    if (pending_[lane]) flags_[previous_slot(here)] |= flag::cut;
    here = push(lane);
    flags |= flag::start;
    write_observation(here, args.observation, lane);
  }
  const std::int64_t position = heads_[lane] - 1;
  write_rest(here, args, lane);
  if (args.terminated[lane]) flags |= flag::terminated;
  if (args.truncated[lane]) flags |= flag::truncated;
  flags_[here] = flags;
  write_observation(push(lane), args.next_observation, lane);
  pending_[lane] = (flags & flag::end) == 0;
  if (history_is_whole(lane, position)) make_drawable(here);
}

void LaneRing::add_unlinked(std::int64_t lane, const AddArgs& args) {
  const std::int64_t here = push(lane);
  write_observation(here, args.observation, lane);
  write_rest(here, args, lane);
  flags_[here] = static_cast<std::uint8_t>(flag::transition | flag::start | (args.terminated[lane] ? flag::terminated : 0) |
                                           (args.truncated[lane] ? flag::truncated : flag::cut));
  make_drawable(here);
}

std::int64_t LaneRing::name_of(std::int64_t at) const {
  const std::int64_t lane = options_.num_lanes == 1 ? 0 : at / lane_capacity_;
  const std::int64_t back = newest_[lane] - (at - lane * lane_capacity_);
  return (heads_[lane] - 1 - (back < 0 ? back + lane_capacity_ : back)) * options_.num_lanes + lane;
}

std::int64_t LaneRing::find(const std::int64_t* index, std::int64_t count, std::int64_t* slots) const {
  std::int64_t stale = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    slots[i] = -1;
    if (index[i] >= 0) {
      const std::int64_t lane = index[i] % options_.num_lanes, position = index[i] / options_.num_lanes;
      const bool in_ring = position < heads_[lane] && position >= heads_[lane] - lane_capacity_ && position >= origins_[lane];
      if (in_ring && (flags_[slot(lane, position)] & flag::drawable)) slots[i] = slot(lane, position);
    }
    stale += slots[i] < 0;
  }
  return stale;
}

std::int64_t LaneRing::filled() const {
  std::int64_t most = 0;
  for (std::size_t lane = 0; lane < heads_.size(); ++lane) most = std::max(most, heads_[lane] - origins_[lane]);
  return std::min(lane_capacity_, most);
}

LaneRing::Candidates LaneRing::candidates() const {
  const std::int64_t used = filled();
  return {used, lane_capacity_, used == lane_capacity_ || options_.num_lanes == 1, static_cast<std::uint64_t>(used * options_.num_lanes)};
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
        std::int64_t at = candidate(words[0][i], words[1][i]);
        if (!is_drawable(at)) at = candidate(words[2][i], words[3][i]);
        for (std::uint32_t j = 1; !is_drawable(at); ++j) {
          const PhiloxBlock block = philox(stream.key, stream.draw, static_cast<std::uint32_t>(first + i), j);
          at = candidate(block[0], block[1]);
          if (!is_drawable(at)) at = candidate(block[2], block[3]);
        }
        slots[first + i] = at;
        index[first + i] = name_of(at);
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
    if (is_drawable(at)) scratch.push_back(at);
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
      if (is_drawable(at)) slots[i] = at;
    }
  }
}

std::vector<EpisodeSpan> LaneRing::episodes() const {
  std::vector<EpisodeSpan> found;
  for (std::int64_t lane = 0; lane < options_.num_lanes; ++lane) {
    bool open = false;
    for (std::int64_t p = std::max(origins_[lane], heads_[lane] - lane_capacity_); p < heads_[lane]; ++p) {
      const std::uint8_t flags = flags_[slot(lane, p)];
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
  saved.flags.reserve(static_cast<std::size_t>(used * options_.num_lanes));
  for (std::int64_t lane = 0; lane < options_.num_lanes; ++lane) {
    const std::uint8_t* flags = flags_.data() + lane * lane_capacity_;
    saved.flags.insert(saved.flags.end(), flags, flags + used);
  }
  return saved;
}

void LaneRing::check_lane(const RingState& state, std::int64_t lane) const {
  const std::int64_t origin = state.origins[lane], head = state.heads[lane], written = std::min(head - origin, lane_capacity_);
  const auto check = [&](bool holds, const char* what) { PYRL_CHECK(holds, ArgumentError, "load_state_dict: ", what, " of lane ", lane, " are impossible"); };
  check(origin >= 0 && origin % lane_capacity_ == 0 && head >= origin && head < (std::int64_t{1} << 61) / options_.num_lanes, "origins and heads");
  check(written <= state.used, "heads and the number of written slots");
  const std::uint8_t* flags = state.flags.data() + lane * state.used;
  for (std::int64_t offset = 0; offset < state.used; ++offset) check(flags[offset] < 64 && (offset < written || flags[offset] == 0), "flags");
  check(state.pending[lane] <= 1 && (state.pending[lane] == 0 || (options_.linked && written >= 2)), "pending marks");
  if (!options_.linked || written == 0) return;
  check(flags[(head - 1) % lane_capacity_] == 0, "flags of the newest slot");
  check(written >= 2 && (flags[(head - 2) % lane_capacity_] & flag::transition) != 0, "flags of the newest transition");
  check(state.pending[lane] == ((flags[(head - 2) % lane_capacity_] & flag::end) == 0), "pending marks");
}

void LaneRing::set_state(const RingState& state) {
  PYRL_CHECK(state.used >= 0 && state.used <= lane_capacity_, ArgumentError, "load_state_dict: ", state.used, " written slots in a lane of ", lane_capacity_);
  for (std::int64_t lane = 0; lane < options_.num_lanes; ++lane) check_lane(state, lane);
  origins_ = state.origins;
  heads_ = state.heads;
  pending_ = state.pending;
  std::fill(flags_.begin(), flags_.end(), std::uint8_t{0});
  std::int64_t drawables = 0;
  for (std::int64_t lane = 0; lane < options_.num_lanes; ++lane) {
    std::copy_n(state.flags.begin() + lane * state.used, state.used, flags_.begin() + lane * lane_capacity_);
    newest_[lane] = heads_[lane] == origins_[lane] ? -1 : (heads_[lane] - 1) % lane_capacity_;
    // Drawable follows from the rest.
    for (std::int64_t p = std::max(origins_[lane], heads_[lane] - lane_capacity_); p < heads_[lane]; ++p) {
      std::uint8_t& flags = flags_[slot(lane, p)];
      const bool whole = (flags & flag::transition) && history_is_whole(lane, p);
      flags = static_cast<std::uint8_t>(whole ? flags | flag::drawable : flags & ~flag::drawable);
      drawables += whole;
    }
  }
  size_.store(drawables, std::memory_order_relaxed);
}

}  // namespace pyrl::replay
