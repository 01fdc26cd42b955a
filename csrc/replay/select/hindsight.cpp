#include "replay/select/hindsight.hpp"

#include <algorithm>
#include <cstring>

namespace pyrl::replay {
namespace {

// The flags of eight slots at once.
constexpr std::uint64_t every = 0x0101010101010101u;

// Of the newest transition of the episode that the transition at `offset` belongs to; offsets in a lane, past its end they wrap.
std::int64_t last_offset(const RingView& ring, const std::uint8_t* flags, std::int64_t offset) {
  const std::int64_t capacity = ring.lane_capacity;
  for (;;) {
    for (std::uint64_t eight; offset + 9 <= capacity; offset += 8) {  // neither an end here nor a tail or pending observation next
      std::memcpy(&eight, flags + offset, sizeof eight);
      if (((eight & (every * flag::end)) | (~eight & (every * flag::transition))) != 0 || (flags[offset + 8] & flag::transition) == 0) break;
    }
    const std::int64_t next = offset + 1 == capacity ? 0 : offset + 1;
    if ((flags[offset] & flag::end) != 0 || (flags[next] & flag::transition) == 0) return offset;
    offset = next;
  }
}

// How many transitions of its episode that are drawable lie in the ring before this one.
std::int64_t count_before(const RingView& ring, std::int64_t slot, std::int64_t most) {
  std::int64_t count = 0;
  for (; count < most && (ring.flags[slot] & flag::start) == 0; ++count) {
    slot = ring.previous_slot(slot);
    if (!ring.is_drawable(slot)) break;
  }
  return count;
}

}  // namespace

void draw_goals(const LaneRing& ring, const RandomStream& stream, const HindsightArgs& args) {
  const RingView& view = ring.view();
  const std::int64_t capacity = view.lane_capacity, lanes = view.options.num_lanes;
  for (std::int64_t i = 0; i < args.count; ++i) {
    const PhiloxBlock words = philox(stream.key, stream.draw, static_cast<std::uint32_t>(i), 0);
    args.source[i] = -1;
    if (uniform_double(words[0], words[1]) >= args.share) continue;
    const std::int64_t slot = args.slots[i], lane = slot / capacity, offset = slot - lane * capacity;
    const std::int64_t last = last_offset(view, view.flags + lane * capacity, offset);
    const std::int64_t after = last - offset + (last < offset ? capacity : 0);
    const std::int64_t position = ring.index_of(slot) / lanes;
    std::int64_t first = 0, count = 1;  // of the candidates, from this transition on
    switch (args.strategy) {
      case GoalStrategy::final: first = after; break;
      case GoalStrategy::future: count = after + 1; break;
      case GoalStrategy::episode:
        first = -count_before(view, slot, position - std::max(view.origins[lane], view.heads[lane] - capacity));
        count = after - first + 1;
        break;
    }
    const auto drawn = static_cast<std::int64_t>(uniform_below(words[2], words[3], static_cast<std::uint64_t>(count)));
    args.source[i] = (position + first + drawn) * lanes + lane;
  }
}

void window_indices(const LaneRing& ring, const std::int64_t* slots, std::int64_t count, int n_step, std::int64_t* index) {
  const RingView& view = ring.view();
  for (std::int64_t i = 0; i < count; ++i) {
    std::int64_t slot = slots[i], name = ring.index_of(slot);
    std::int64_t* const row = index + i * n_step;
    std::fill_n(row, n_step, std::int64_t{-1});
    for (int k = 0; k < n_step; ++k, name += view.options.num_lanes) {
      row[k] = name;
      if ((view.flags[slot] & flag::end) != 0) break;
      slot = view.next_slot(slot);
      if ((view.flags[slot] & flag::transition) == 0) break;
    }
  }
}

std::int64_t transition_slot(const RingView& ring, std::int64_t index) {
  if (index < 0) return -1;
  const std::int64_t lane = index % ring.options.num_lanes, position = index / ring.options.num_lanes;
  if (position >= ring.heads[lane] || position < ring.heads[lane] - ring.lane_capacity || position < ring.origins[lane]) return -1;
  const std::int64_t slot = ring.slot(lane, position);
  return (ring.flags[slot] & flag::transition) != 0 ? slot : -1;
}

}  // namespace pyrl::replay
