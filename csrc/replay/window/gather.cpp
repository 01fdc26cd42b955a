#include "replay/window/gather.hpp"

#include <algorithm>
#include <cstring>

#include "core/parallel.hpp"
#include "core/platform.hpp"
#include "replay/row.hpp"

namespace pyrl::replay {
namespace {

// Measured on Zen 4, 256 records of 10^6: prefetching into the second-level cache takes 6.4 us where the first took 10.6, because the
// lines on their way do not fill the few buffers between the core and the first level. So twice as many records may be under way.
constexpr std::int64_t most_records_ahead = 24, bytes_ahead = 6 * 1024;
constexpr std::int64_t prefetched_row_bytes = 512;  // of a wide row; the hardware's own prefetcher follows the rest
constexpr std::int64_t grain_bytes = 256 * 1024;    // below this a second thread costs more than it saves
constexpr std::int64_t block = 8;                   // narrow records whose columns are copied one after the other

// Short rows are copied in fewer instructions than it takes to read again, for each of them, what the loop already knew: a store
// of bytes may change anything that is reached through a pointer. So records go in blocks, a block goes column by column, and
// what is constant in a loop is a local variable.
class Gatherer {
 public:
  Gatherer(const LaneRing& ring, const GatherArgs& args)
      : ring_(&ring.view()),
        args_(&args),
        slots_(args.slots),
        touched_(ring_->stride + ring.layout().observation_prefix()),
        n_step_(args.window.n_step),
        frame_stack_(args.window.frame_stack),
        num_observations_(ring_->num_observation_columns),
        linked_(ring_->options.linked) {
    std::int64_t bytes = touched_;
    for (int c = 0; c < num_observations_; ++c) {
      const Column& column = ring_->columns[c];
      if (column.hot) continue;
      wide_ = true;
      bytes += 2 * std::min(column.row_bytes, prefetched_row_bytes);
    }
    distance_ = std::clamp<std::int64_t>(bytes_ahead / bytes, 1, most_records_ahead);
  }

  PYRL_INLINE void run(std::int64_t begin, std::int64_t end) const {
    const Gatherer self = *this;
    const std::int64_t most = self.wide_ ? 1 : block;
    for (std::int64_t i = begin; i < std::min(end, begin + self.distance_); ++i) self.prefetch(i);
    for (std::int64_t i = begin; i < end; i += most) self.one_block(i, std::min(most, end - i), end);
  }

 private:
  PYRL_INLINE void one_block(std::int64_t i, std::int64_t n, std::int64_t end) const {
    std::int64_t after[block];  // the slot that follows each window
    float* const reward = args_->reward + i;
    float* const discount = args_->discount + i;
    bool* const terminated = args_->terminated + i;
    const RingView ring = *ring_;
    for (std::int64_t j = 0; j < n; ++j) {
      if (i + j + distance_ < end) prefetch(i + j + distance_);
      const Window window = transition_window(ring, n_step_, slots_[i + j]);
      reward[j] = static_cast<float>(window.reward);
      terminated[j] = window.terminated;
      discount[j] = window.terminated ? 0.0f : static_cast<float>(window.discount);
      after[j] = window.next;
    }
    const Column* const columns = ring.columns;
    const std::int64_t num_columns = ring.num_columns;
    for (int c = 0; c < num_observations_; ++c) copy_observations(columns[c], slots_ + i, n, args_->observation[c], i);
    if (linked_) {
      for (int c = 0; c < num_observations_; ++c) copy_observations(columns[c], after, n, args_->next_observation[c], i);
    }
    for (std::int64_t c = num_observations_; c < num_columns; ++c) copy_rows(columns[c], slots_ + i, n, args_->columns[c - num_observations_], i);
  }

  PYRL_INLINE void copy_observations(const Column& column, const std::int64_t* slots, std::int64_t n, void* out, std::int64_t i) const {
    if (frame_stack_ == 1) {
      copy_rows(column, slots, n, out, i);
    } else {
      for (std::int64_t j = 0; j < n; ++j) copy_stack(column, slots[j], out, i + j);
    }
  }

  PYRL_INLINE void copy_rows(const Column& column, const std::int64_t* slots, std::int64_t n, void* out, std::int64_t i) const {
    const std::int64_t bytes = column.row_bytes, stride = column.stride;
    const std::uint8_t* const from = ring_->row(column, 0);
    std::uint8_t* const to = static_cast<std::uint8_t*>(out) + i * bytes;
    with_row_copy(bytes, [&](const auto& copy) PYRL_INLINE_LAMBDA {
      for (std::int64_t j = 0; j < n; ++j) copy(to + j * bytes, from + slots[j] * stride);
    });
  }

  // The last frames of the episode up to `newest`, at most m; in front of them what pads.
  PYRL_INLINE void copy_stack(const Column& column, std::int64_t newest, void* out, std::int64_t i) const {
    const std::int64_t bytes = column.row_bytes;
    const std::int64_t length = stack_length(*ring_, frame_stack_, newest);
    std::int64_t oldest = newest - (length - 1);
    if (ring_->offset(newest) < length - 1) oldest += ring_->lane_capacity;
    std::uint8_t* to = static_cast<std::uint8_t*>(out) + i * frame_stack_ * bytes;
    for (std::int64_t missing = frame_stack_ - length; missing > 0; --missing, to += bytes) {
      if (ring_->options.pad_with_zeros) {
        std::memset(to, 0, static_cast<std::size_t>(bytes));
      } else {
        copy_row(to, ring_->row(column, oldest), bytes);
      }
    }
    if (!column.hot && newest - oldest == length - 1) {  // neighbours in the column's array
      copy_row(to, ring_->row(column, oldest), length * bytes);
      return;
    }
    for (std::int64_t frame = 0; frame < length; ++frame, to += bytes) {
      copy_row(to, ring_->row(column, oldest), bytes);
      oldest = ring_->next_slot(oldest);
    }
  }

  // Inlined, because GCC takes a function of prefetches alone for one without effect and drops its calls.
  PYRL_INLINE void prefetch(std::int64_t i) const {
    const std::int64_t slot = slots_[i];
    prefetch_bytes(ring_->record(slot), touched_);
    if (!wide_) return;
    for (int c = 0; c < num_observations_; ++c) {
      const Column& column = ring_->columns[c];
      if (column.hot) continue;
      prefetch_bytes(ring_->row(column, slot), std::min(column.row_bytes, prefetched_row_bytes));
      prefetch_bytes(ring_->row(column, ring_->next_slot(slot)), std::min(column.row_bytes, prefetched_row_bytes));
    }
  }

  PYRL_INLINE static void prefetch_bytes(const std::uint8_t* start, std::int64_t bytes) {
    for (std::int64_t at = 0; at < bytes; at += cache_line) PYRL_PREFETCH_L2(start + at);
    PYRL_PREFETCH_L2(start + bytes - 1);
  }

  const RingView* ring_;
  const GatherArgs* args_;
  const std::int64_t* slots_;
  std::int64_t touched_;
  int n_step_, frame_stack_, num_observations_;
  bool linked_, wide_ = false;
  std::int64_t distance_ = 1;
};

}  // namespace

void gather(const LaneRing& ring, const GatherArgs& args) {
  std::int64_t row_bytes = 16;
  for (const Column& column : ring.layout().columns()) row_bytes += column.row_bytes * (column.is_observation ? 2 * args.window.frame_stack : 1);
  const Gatherer gatherer(ring, args);
  parallel_for(args.count, std::max<std::int64_t>(1, grain_bytes / row_bytes), [&](std::int64_t begin, std::int64_t end) {
    simd::dispatch([&]() PYRL_INLINE_LAMBDA { gatherer.run(begin, end); });
  });
}

}  // namespace pyrl::replay
