#include "replay/lane_ring.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <new>

#include "core/check.hpp"
#include "core/parallel.hpp"

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
  const std::lock_guard<std::mutex> lock(mutex_);
  std::fill(flags_.begin(), flags_.end(), std::uint8_t{0});
  // Names are never given twice: positions go on from the next multiple of the ring, so that every old name is stale.
  for (auto& head : heads_) head = (head + lane_capacity_ - 1) / lane_capacity_ * lane_capacity_;
  origins_ = heads_;
  std::fill(pending_.begin(), pending_.end(), std::uint8_t{0});
  size_ = 0;
}

std::int64_t LaneRing::add(const AddArgs& args) {
  const std::int64_t lanes = options_.num_lanes;
  const auto stored = [&](std::int64_t lane) { return args.valid == nullptr || args.valid[lane]; };
  for (std::int64_t lane = 0; lane < lanes; ++lane)
    if (stored(lane) && !std::isfinite(args.reward[lane])) return lane;
  const std::lock_guard<std::mutex> lock(mutex_);
  for (std::int64_t lane = 0; lane < lanes; ++lane) {
    if (!stored(lane)) continue;
    options_.linked ? add_linked(lane, args) : add_unlinked(lane, args);
  }
  return -1;
}

void LaneRing::add_linked(std::int64_t lane, const AddArgs& args) {
  std::int64_t& head = heads_[lane];
  std::int64_t here = head == 0 ? -1 : slot(lane, head - 1);
  std::uint8_t flags = flag::transition;
  if (!pending_[lane] || !pending_equals(here, args.observation, lane)) {
    // Another stream begins: what was pending is a tail now, and the transition before it ends its windows.
    if (pending_[lane]) flags_[slot(lane, head - 2)] |= flag::cut;
    here = push(lane);
    flags |= flag::start;
    write_observation(here, args.observation, lane);
  }
  const std::int64_t position = head - 1;
  write_rest(here, args, lane);
  if (args.terminated[lane]) flags |= flag::terminated;
  if (args.truncated[lane]) flags |= flag::truncated;
  flags_[here] = flags;
  write_observation(push(lane), args.next_observation, lane);
  pending_[lane] = (flags & flag::end) == 0;
  if (history_is_whole(lane, position)) {
    flags_[here] |= flag::drawable;
    ++size_;
  }
}

void LaneRing::add_unlinked(std::int64_t lane, const AddArgs& args) {
  const std::int64_t here = push(lane);
  write_observation(here, args.observation, lane);
  write_rest(here, args, lane);
  flags_[here] = static_cast<std::uint8_t>(flag::transition | flag::drawable | flag::start | (args.terminated[lane] ? flag::terminated : 0) |
                                           (args.truncated[lane] ? flag::truncated : flag::cut));
  ++size_;
}

// Takes the next slot of the lane, emptied. The record that lay there is gone; those whose frame stack reached back to it are no
// longer drawable.
std::int64_t LaneRing::push(std::int64_t lane) {
  const std::int64_t position = heads_[lane]++;
  const std::int64_t taken = slot(lane, position);
  if (flags_[taken] & flag::drawable) --size_;
  flags_[taken] = 0;
  const std::int64_t oldest = position + 1 - lane_capacity_;
  const std::int64_t edge = oldest > origins_[lane] ? std::min(oldest + options_.frame_stack - 1, position) : oldest;
  for (std::int64_t p = oldest; p < edge; ++p) {
    std::uint8_t& flags = flags_[slot(lane, p)];
    if (flags & flag::start) break;
    if (flags & flag::drawable) --size_;
    flags &= static_cast<std::uint8_t>(~flag::drawable);
  }
  return taken;
}

bool LaneRing::history_is_whole(std::int64_t lane, std::int64_t position) const {
  const std::int64_t oldest = heads_[lane] - lane_capacity_;
  for (std::int64_t p = position; p > position - options_.frame_stack; --p) {
    if (p < oldest) return false;
    if (flags_[slot(lane, p)] & flag::start) return true;
  }
  return position >= oldest;
}

void LaneRing::write_observation(std::int64_t to, const void* const* observation, std::int64_t lane) {
  for (int i = 0; i < num_observation_columns_; ++i) {
    const Column& column = layout_.columns()[i];
    std::memcpy(row(column, to), static_cast<const std::uint8_t*>(observation[i]) + lane * column.row_bytes, column.row_bytes);
  }
}

void LaneRing::write_rest(std::int64_t to, const AddArgs& args, std::int64_t lane) {
  std::memcpy(record(to), &args.reward[lane], sizeof(float));
  const auto& columns = layout_.columns();
  for (std::size_t i = num_observation_columns_; i < columns.size(); ++i) {
    const auto* source = static_cast<const std::uint8_t*>(args.columns[i - num_observation_columns_]);
    std::memcpy(row(columns[i], to), source + lane * columns[i].row_bytes, columns[i].row_bytes);
  }
}

bool LaneRing::pending_equals(std::int64_t at, const void* const* observation, std::int64_t lane) const {
  for (int i = 0; i < num_observation_columns_; ++i) {
    const Column& column = layout_.columns()[i];
    const auto* given = static_cast<const std::uint8_t*>(observation[i]) + lane * column.row_bytes;
    if (std::memcmp(row(column, at), given, column.row_bytes) != 0) return false;
  }
  return true;
}

// The name of the record in a written slot: position * num_lanes + lane.
std::int64_t LaneRing::name(std::int64_t at) const {
  const std::int64_t lane = at / lane_capacity_, offset = at % lane_capacity_, last = heads_[lane] - 1;
  const std::int64_t position = last - (last - offset) % lane_capacity_;
  return position * options_.num_lanes + lane;
}

std::int64_t LaneRing::slot_of(std::int64_t index) const {
  if (index < 0) return -1;
  const std::int64_t lane = index % options_.num_lanes, position = index / options_.num_lanes;
  if (position >= heads_[lane] || position < heads_[lane] - lane_capacity_ || position < origins_[lane]) return -1;
  const std::int64_t at = slot(lane, position);
  return flags_[at] & flag::drawable ? at : -1;
}

// Slots that the fullest lane has written, from the first on: the space to draw from.
std::int64_t LaneRing::filled() const {
  std::int64_t most = 0;
  for (std::size_t lane = 0; lane < heads_.size(); ++lane) most = std::max(most, heads_[lane] - origins_[lane]);
  return std::min(lane_capacity_, most);
}

void LaneRing::draw(const RandomStream& stream, std::int64_t count, std::int64_t* index) const {
  const std::int64_t used = filled();
  const auto space = static_cast<std::uint64_t>(used * options_.num_lanes);
  const bool dense = used == lane_capacity_ || options_.num_lanes == 1;
  parallel_for(count, 4096, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      std::int64_t at = 0;
      for (std::uint32_t attempt = 0;; ++attempt) {
        const PhiloxBlock words = philox(stream.key, stream.draw, static_cast<std::uint32_t>(i), attempt / 2);
        const auto drawn = static_cast<std::int64_t>(attempt % 2 == 0 ? uniform_below(words[0], words[1], space) : uniform_below(words[2], words[3], space));
        at = dense ? drawn : drawn / used * lane_capacity_ + drawn % used;
        if (flags_[at] & flag::drawable) break;
      }
      index[i] = name(at);
    }
  });
}

void LaneRing::draw_distinct(const RandomStream& stream, std::int64_t count, std::int64_t* index) const {
  std::vector<std::int64_t> names;
  names.reserve(static_cast<std::size_t>(size_));
  for (std::int64_t at = 0; at < num_slots(); ++at)
    if (flags_[at] & flag::drawable) names.push_back(name(at));
  for (std::int64_t i = 0; i < count; ++i) {
    const PhiloxBlock words = philox(stream.key, stream.draw, static_cast<std::uint32_t>(i), 0);
    const auto other = i + static_cast<std::int64_t>(uniform_below(words[0], words[1], static_cast<std::uint64_t>(size_ - i)));
    std::swap(names[i], names[other]);
    index[i] = names[i];
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

void LaneRing::state_was_set() {
  size_ = std::count_if(flags_.begin(), flags_.end(), [](std::uint8_t f) { return (f & flag::drawable) != 0; });
}

}  // namespace pyrl::replay
