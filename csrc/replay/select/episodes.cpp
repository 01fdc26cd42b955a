#include "replay/select/episodes.hpp"

#include <algorithm>

namespace pyrl::replay {

std::vector<EpisodeSpan> episodes(const LaneRing& ring) {
  const RingView& view = ring.view();
  std::vector<EpisodeSpan> found;
  for (std::int64_t lane = 0; lane < ring.options().num_lanes; ++lane) {
    bool open = false;
    for (std::int64_t p = std::max(view.origins[lane], view.heads[lane] - view.lane_capacity); p < view.heads[lane]; ++p) {
      const std::uint8_t flags = view.flags[view.slot(lane, p)];
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

std::vector<std::int64_t> episode_slots(const LaneRing& ring, std::int64_t slot) {
  const RingView& view = ring.view();
  const std::int64_t lane = slot / view.lane_capacity, oldest = std::max(view.origins[lane], view.heads[lane] - view.lane_capacity);
  const auto flags = [&](std::int64_t position) { return view.flags[view.slot(lane, position)]; };
  const auto follows = [&](std::int64_t position) { return position >= oldest && (flags(position) & flag::transition) != 0; };
  std::int64_t first = ring.index_of(slot) / view.options.num_lanes, last = first;
  while ((flags(first) & flag::start) == 0 && follows(first - 1)) --first;
  while ((flags(last) & flag::end) == 0 && (flags(last + 1) & flag::transition) != 0) ++last;
  std::vector<std::int64_t> slots;
  for (std::int64_t position = first; position <= last; ++position) slots.push_back(view.slot(lane, position));
  return slots;
}

}  // namespace pyrl::replay
