#include "replay/window_gather.hpp"

#include <algorithm>
#include <cstring>

#include "core/parallel.hpp"
#include "core/platform.hpp"
#include "replay/row.hpp"

namespace pyrl::replay {
namespace {

// Measured on Zen 4: about 12 records of three cache lines in flight; more than the core's line-fill buffers serves nothing.
constexpr std::int64_t most_records_ahead = 12, bytes_ahead = 6 * 1024;
constexpr std::int64_t prefetched_row_bytes = 1536;  // of a wide row; the hardware's own prefetcher follows the rest
constexpr std::int64_t grain_bytes = 256 * 1024;  // below this a second thread costs more than it saves

class Gatherer {
 public:
  Gatherer(const LaneRing& ring, const GatherArgs& args)
      : ring_(ring), args_(args), options_(ring.options()), num_observations_(ring.num_observation_columns()) {
    std::int64_t bytes = ring.layout().stride() + ring.layout().observation_prefix();
    for (int c = 0; c < num_observations_; ++c)
      if (const Column& column = ring.layout().columns()[c]; !column.hot) bytes += 2 * std::min(column.row_bytes, prefetched_row_bytes);
    distance_ = std::clamp<std::int64_t>(bytes_ahead / bytes, 1, most_records_ahead);
  }

  void run(std::int64_t begin, std::int64_t end) const {
    for (std::int64_t i = begin; i < std::min(end, begin + distance_); ++i) prefetch(i);
    for (std::int64_t i = begin; i < end; ++i) {
      if (i + distance_ < end) prefetch(i + distance_);
      one(i);
    }
  }

 private:
  // Inlined, because GCC takes a function of prefetches alone for one without effect and drops its calls.
  PYRL_INLINE void prefetch(std::int64_t i) const {
    const std::int64_t slot = args_.slots[i];
    prefetch_bytes(ring_.record(slot), ring_.layout().stride() + ring_.layout().observation_prefix());
    for (int c = 0; c < num_observations_; ++c) {
      const Column& column = ring_.layout().columns()[c];
      if (column.hot) continue;
      prefetch_bytes(ring_.row(column, slot), std::min(column.row_bytes, prefetched_row_bytes));
      prefetch_bytes(ring_.row(column, ring_.next_slot(slot)), std::min(column.row_bytes, prefetched_row_bytes));
    }
  }

  PYRL_INLINE static void prefetch_bytes(const std::uint8_t* start, std::int64_t bytes) {
    for (std::int64_t at = 0; at < bytes; at += cache_line) PYRL_PREFETCH(start + at);
    PYRL_PREFETCH(start + bytes - 1);
  }

  void one(std::int64_t i) const {
    const std::uint8_t* flags = ring_.flags();
    const std::int64_t first = args_.slots[i];

    // The window: rewards up to the first end, or to the newest transition of the lane.
    double reward = 0.0, power = 1.0;
    std::int64_t last = first, next = ring_.next_slot(first);
    for (int k = 1;; ++k) {
      float r = 0.0f;
      std::memcpy(&r, ring_.record(last), sizeof r);
      reward += power * r;
      power *= options_.gamma;
      if (k == options_.n_step || (flags[last] & flag::end) || !(flags[next] & flag::transition)) break;
      last = next;
      next = ring_.next_slot(next);
    }
    const bool terminated = (flags[last] & flag::terminated) != 0;
    args_.reward[i] = static_cast<float>(reward);
    args_.terminated[i] = terminated;
    args_.discount[i] = terminated ? 0.0f : static_cast<float>(power);

    const auto& columns = ring_.layout().columns();
    for (int c = 0; c < num_observations_; ++c) stack(columns[c], first, args_.observation[c], i);
    if (options_.linked) {
      for (int c = 0; c < num_observations_; ++c) stack(columns[c], next, args_.next_observation[c], i);
    }
    for (std::size_t c = num_observations_; c < columns.size(); ++c) {
      auto* out = static_cast<std::uint8_t*>(args_.columns[c - num_observations_]);
      copy_row(out + i * columns[c].row_bytes, ring_.row(columns[c], first), columns[c].row_bytes);
    }
  }

  // The last m frames up to `slot`, written from the newest to the oldest.
  PYRL_INLINE void stack(const Column& column, std::int64_t slot, void* out, std::int64_t i) const {
    const std::int64_t m = options_.frame_stack, bytes = column.row_bytes;
    std::uint8_t* rows = static_cast<std::uint8_t*>(out) + i * m * bytes;
    for (std::int64_t frame = m - 1; frame >= 0; --frame) {
      copy_row(rows + frame * bytes, ring_.row(column, slot), bytes);
      if (frame == 0) break;
      if (!(ring_.flags()[slot] & flag::start)) {
        slot = ring_.previous_slot(slot);
      } else if (options_.pad_with_zeros) {
        std::memset(rows, 0, static_cast<std::size_t>(frame * bytes));
        break;
      }
    }
  }

  const LaneRing& ring_;
  const GatherArgs& args_;
  const StreamOptions& options_;
  const int num_observations_;
  std::int64_t distance_ = 1;
};

}  // namespace

void gather(const LaneRing& ring, const GatherArgs& args) {
  std::int64_t row_bytes = 16;
  for (const Column& column : ring.layout().columns()) row_bytes += column.row_bytes * (column.is_observation ? 2 * ring.options().frame_stack : 1);
  const Gatherer gatherer(ring, args);
  parallel_for(args.count, std::max<std::int64_t>(1, grain_bytes / row_bytes), [&](std::int64_t begin, std::int64_t end) { gatherer.run(begin, end); });
}

}  // namespace pyrl::replay
