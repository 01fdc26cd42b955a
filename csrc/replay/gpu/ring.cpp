#include "replay/gpu/ring.hpp"

#include <algorithm>
#include <bit>

#include "core/check.hpp"

namespace pyrl::replay {
namespace {

constexpr std::int64_t alignment = 256;

// Hands out parts of a block whose size is found by a first pass, over no memory.
class Parts {
 public:
  explicit Parts(std::uint8_t* memory) : memory_(memory) {}

  template <class T>
  T* take(std::int64_t count) {
    T* part = memory_ == nullptr ? nullptr : reinterpret_cast<T*>(memory_ + used_);
    used_ += (count * static_cast<std::int64_t>(sizeof(T)) + alignment - 1) / alignment * alignment;
    return part;
  }
  std::int64_t used() const { return used_; }

 private:
  std::uint8_t* memory_;
  std::int64_t used_ = 0;
};

// The view's arrays, the counters and the random stream in one block; returns its size.
std::int64_t lay_out(std::uint8_t* memory, const RecordLayout& layout, RingView& view, RingCounters*& counters, RandomStream*& random) {
  Parts parts(memory);
  const std::int64_t lanes = view.options.num_lanes;
  view.store = parts.take<std::uint8_t>(layout.store_bytes());
  view.flags = parts.take<std::uint8_t>(lanes * view.lane_capacity);
  view.heads = parts.take<std::int64_t>(lanes);
  view.origins = parts.take<std::int64_t>(lanes);
  view.newest = parts.take<std::int64_t>(lanes);
  view.pending = parts.take<std::uint8_t>(lanes);
  view.columns = parts.take<Column>(view.num_columns);
  counters = parts.take<RingCounters>(1);
  random = parts.take<RandomStream>(1);
  return parts.used();
}

// The priorities: their tree, what counts updates, and the slots that the last add made drawable or not; returns its size.
std::int64_t lay_out_tree(std::uint8_t* memory, const RingView& view, UpdateCounts*& counts, ArrayView<std::int64_t, 1>& changed) {
  Parts parts(memory);
  const std::int64_t lanes = view.options.num_lanes, entries = lanes * view.most_changes();
  parts.take<std::uint8_t>(TreeView::bytes(lanes * view.lane_capacity));
  counts = parts.take<UpdateCounts>(1);
  changed = {parts.take<std::int64_t>(entries), {entries}};
  return parts.used();
}

// Observation columns, those of the next observation (if linked), the rest.
int num_arrays(const RingView& view) { return view.num_columns + (view.options.linked ? view.num_observation_columns : 0); }

// Where the store's bytes are that a ring has written, which are the same places on host and device: use(at, bytes).
template <class Use>
void for_written_rows(const LaneRing& ring, const Use& use) {
  const std::int64_t filled = ring.filled();
  const auto rows = [&](std::int64_t at, std::int64_t stride) {
    for (std::int64_t lane = 0; lane < ring.options().num_lanes; ++lane) use(at + lane * ring.lane_capacity() * stride, filled * stride);
  };
  if (filled == 0) return;
  rows(0, ring.layout().stride());
  for (const Column& column : ring.layout().columns())
    if (!column.hot) rows(column.offset, column.stride);
}

}  // namespace

DeviceRing::DeviceRing(const LaneRing& like, std::unique_ptr<RingDevice> device, const CudaStream& stream, std::int64_t block_bytes)
    : device_(std::move(device)),
      journal_(like.layout(), like.options()),
      block_bytes_(std::max(block_bytes, journal_.most_bytes())),
      view_(like.view()),
      columns_(like.layout().columns()),
      certain_(static_cast<std::size_t>(like.options().num_lanes), 0) {
  PYRL_CHECK(num_arrays(view_) <= most_arrays, ArgumentError, "ReplayBuffer: a transition has ", num_arrays(view_), " arrays, at most ", most_arrays,
             " are supported on a device");
  ring_bytes_ = lay_out(nullptr, like.layout(), view_, counters_, random_);
  memory_ = device_->allocate(ring_bytes_);
  lay_out(memory_.get(), like.layout(), view_, counters_, random_);
  for (Block& block : blocks_) block = {device_->allocate_pinned(block_bytes_), device_->allocate(block_bytes_), device_->make_event(), device_->make_event()};
  side_ = device_->side_stream(stream);
  std::int64_t largest_row = 0;
  for (const Column& column : like.layout().columns()) largest_row = std::max(largest_row, column.row_bytes);
  add_threads_ = static_cast<int>(std::clamp<std::int64_t>(static_cast<std::int64_t>(std::bit_ceil(static_cast<std::uint64_t>(largest_row) / 16)), 32, 256));
  pieces_of(view_.options.frame_stack, stream);
  device_->copy(const_cast<Column*>(view_.columns), like.layout().columns().data(), view_.num_columns * static_cast<std::int64_t>(sizeof(Column)), stream);
  upload(like, stream);
  journal_.start(blocks_[0].pinned.get(), block_bytes_);
}

// Copies on the side stream may still be in progress. Work on the caller's is waited for as the memory is freed: cudaFree does that.
DeviceRing::~DeviceRing() {
  try {
    device_->wait(side_);
  } catch (const std::exception&) {  // a device that has failed is nothing to wait for
  }
}

std::int64_t DeviceRing::nbytes(const RecordLayout& layout, const StreamOptions& options, bool prioritized) {
  RingView view;
  view.options = options;
  view.lane_capacity = options.capacity / options.num_lanes;
  view.num_columns = static_cast<int>(layout.columns().size());
  RingCounters* counters = nullptr;
  RandomStream* random = nullptr;
  UpdateCounts* updates = nullptr;
  ArrayView<std::int64_t, 1> changed;
  const std::int64_t ring = lay_out(nullptr, layout, view, counters, random);
  return ring + static_cast<std::int64_t>(num_blocks) * std::max(usual_block_bytes, Journal(layout, options).most_bytes()) + (prioritized ? lay_out_tree(nullptr, view, updates, changed) : 0);
}

// -- adding -------------------------------------------------------------------------------------------------------------------------

template <class Rows>
void DeviceRing::run_add(const Rows& rows, const CudaStream& stream) {
  if (is_prioritized()) device_->fill(changed_.data, 0xff, 8 * changed_.size(), stream);
  device_->run(AddLane<Rows>{view_, counters_, rows, changed_.data}, view_.options.num_lanes, add_threads_, stream);
  if (is_prioritized()) device_->follow({tree(), {changed_.data, changed_.extent}, view_.flags}, stream);
}

// A slot that is not a transition comes right after one that is, so of any neighbours half are transitions; the oldest may lack frames.
std::int64_t DeviceRing::most_certain() const {
  const StreamOptions& options = view_.options;
  return options.linked ? std::max<std::int64_t>(0, view_.lane_capacity / 2 - (options.frame_stack - 1)) : view_.lane_capacity;
}

void DeviceRing::count_records(const AddArgs& rows) {
  const std::int64_t lanes = view_.options.num_lanes, most = most_certain();
  if (counted_ == lanes * most) return;
  for (std::int64_t lane = 0; lane < lanes; ++lane) {
    std::int64_t& certain = certain_[static_cast<std::size_t>(lane)];
    if (certain == most || !rows.stores(lane)) continue;
    ++certain;
    ++counted_;
  }
}

void DeviceRing::recount(const std::uint8_t* flags) {
  const std::int64_t C = view_.lane_capacity;
  counted_ = seen_ = 0;
  has_gaps_ = false;
  for (std::int64_t lane = 0; lane < view_.options.num_lanes; ++lane) {
    const std::uint8_t *const first = flags + lane * C, *const last = first + C;
    const bool gaps = std::find(first, last, flag::deleted) != last;
    const std::int64_t drawables = gaps ? 0 : std::count_if(first, last, [](std::uint8_t f) { return (f & flag::drawable) != 0; });
    has_gaps_ |= gaps;
    counted_ += certain_[static_cast<std::size_t>(lane)] = std::min(drawables, most_certain());
  }
}

void DeviceRing::make_room(const CudaStream& stream) {
  if (is_prioritized() || !journal_.fits()) flush(stream);
  PYRL_CHECK(!is_prioritized() || !device_->is_capturing(stream), ArgumentError, stream.function,
             ": rows from the CPU are copied at once for their priorities, which a graph cannot do");
}

void DeviceRing::add(const AddArgs& rows, const Outcome* outcome, const CudaStream& stream) {
  make_room(stream);
  journal_.append(rows, outcome);
  count_records(rows);
  if (is_prioritized()) flush(stream);  // new records get the largest leaf from before their add
}

void DeviceRing::add_arrays(const AddArgs& rows, const CudaStream& stream) {
  flush(stream);
  ArrayRows arrays;
  arrays.num_observation_columns = view_.num_observation_columns;
  arrays.num_columns = view_.num_columns;
  const int observations = view_.num_observation_columns, others = view_.num_columns - observations;
  std::copy_n(rows.observation, observations, arrays.arrays);
  std::copy_n(rows.columns, others, arrays.arrays + observations);
  if (view_.options.linked) std::copy_n(rows.next_observation, observations, arrays.arrays + view_.num_columns);
  arrays.rewards = rows.reward;
  arrays.terminated = rows.terminated;
  arrays.truncated = rows.truncated;
  arrays.valid = rows.valid;
  run_add(arrays, stream);
  if (rows.valid == nullptr && !device_->is_capturing(stream)) count_records({});  // which rows a mask on the device leaves out is not known here
}

void DeviceRing::flush(const CudaStream& stream) {
  if (journal_.adds() == 0) return;
  PYRL_CHECK(!device_->is_capturing(stream), ArgumentError, stream.function, ": ", journal_.adds(),
             " adds wait to be copied, which a graph cannot do; call flush() before the capture");
  Block& block = blocks_[filling_];
  const std::int64_t bytes = journal_.bytes();
  journal_.close();
  device_->wait_for(block.added.get(), side_);
  device_->copy(block.there.get(), block.pinned.get(), bytes, side_);
  device_->record(block.copied.get(), side_);
  device_->wait_for(block.copied.get(), stream);
  run_add(journal_.rows(block.there.get()), stream);
  device_->record(block.added.get(), stream);
  bytes_copied_ += bytes;
  filling_ = (filling_ + 1) % blocks_.size();
  device_->wait_for(blocks_[filling_].copied.get());
  journal_.start(blocks_[filling_].pinned.get(), block_bytes_);
}

void DeviceRing::clear(const CudaStream& stream) {
  flush(stream);
  device_->run(ClearLane{view_}, view_.options.num_lanes, stream);
  device_->fill(view_.flags, 0, view_.options.num_lanes * view_.lane_capacity, stream);
  device_->fill(&counters_->size, 0, 2 * static_cast<std::int64_t>(sizeof(std::int64_t)), stream);  // and `filled`
  std::fill(certain_.begin(), certain_.end(), 0);
  counted_ = seen_ = 0;
  has_gaps_ = false;
  if (is_prioritized()) device_->clear(tree(), num_slots(), stream);
}

// -- what the host asks -------------------------------------------------------------------------------------------------------------

void DeviceRing::check_wait(const CudaStream& stream) {
  PYRL_CHECK(!device_->is_capturing(stream), ArgumentError, stream.function, ": waits for the GPU, which a graph cannot do");
}

void DeviceRing::copy(void* to, const void* from, std::int64_t bytes, const CudaStream& stream) {
  check_wait(stream);
  device_->copy(to, from, bytes, stream);
  device_->wait(stream);
}

RingCounters DeviceRing::counters(const CudaStream& stream) {
  flush(stream);
  RingCounters counters;
  copy(&counters, counters_, sizeof counters, stream);
  return counters;
}

std::int64_t DeviceRing::size(const CudaStream& stream) {
  const std::int64_t size = counters(stream).size;
  if (size < counted_) {  // rows were left out that had been counted, or a graph has cleared it
    std::fill(certain_.begin(), certain_.end(), 0);
    counted_ = 0;
  }
  if (has_gaps_) return size;
  // A lane loses records only when it is full, and then it keeps half: so this many will stay, whichever lanes they are in.
  const std::int64_t most = most_certain();
  seen_ = std::max(std::min(size, most), size * most / view_.lane_capacity);
  return size;
}

std::int64_t DeviceRing::skipped(const CudaStream& stream) { return counters(stream).skipped; }

RandomStream DeviceRing::random(const CudaStream& stream) {
  RandomStream random;
  copy(&random, random_, sizeof random, stream);
  return random;
}

void DeviceRing::download(LaneRing& host, bool records, const CudaStream& stream) {
  check_wait(stream);
  flush(stream);
  const std::int64_t lanes = view_.options.num_lanes, C = view_.lane_capacity;
  RingState state;
  state.used = C;
  const auto fetch = [&](auto& to, const auto* from, std::int64_t count) {
    to.resize(static_cast<std::size_t>(count));
    device_->copy(to.data(), from, count * static_cast<std::int64_t>(sizeof *from), stream);
  };
  fetch(state.origins, view_.origins, lanes);
  fetch(state.heads, view_.heads, lanes);
  fetch(state.pending, view_.pending, lanes);
  fetch(state.flags, view_.flags, lanes * C);
  device_->wait(stream);
  host.set_state(state);
  recount(state.flags.data());
  if (!records) return;
  for_written_rows(host, [&](std::int64_t at, std::int64_t bytes) { device_->copy(host.view().store + at, view_.store + at, bytes, stream); });
  device_->wait(stream);
}

void DeviceRing::upload(const LaneRing& host, const CudaStream& stream) {
  check_wait(stream);
  flush(stream);
  const RingView& from = host.view();
  const std::int64_t lanes = view_.options.num_lanes, C = view_.lane_capacity;
  const auto send = [&](auto* to, const auto* source, std::int64_t count) { device_->copy(to, source, count * static_cast<std::int64_t>(sizeof *source), stream); };
  send(view_.origins, from.origins, lanes);
  send(view_.heads, from.heads, lanes);
  send(view_.newest, from.newest, lanes);
  send(view_.pending, from.pending, lanes);
  send(view_.flags, from.flags, lanes * C);
  const RingCounters counters{host.size(), host.filled(), 0, 0};
  send(counters_, &counters, 1);
  for_written_rows(host, [&](std::int64_t at, std::int64_t bytes) { device_->copy(view_.store + at, from.store + at, bytes, stream); });
  device_->wait(stream);
  recount(from.flags);
}

void DeviceRing::remove(const LaneRing& host, const std::vector<std::int64_t>& slots, const CudaStream& stream) {
  check_wait(stream);
  flush(stream);
  const std::int64_t lanes = view_.options.num_lanes, size = host.size();
  device_->copy(view_.flags, host.view().flags, lanes * view_.lane_capacity, stream);
  device_->copy(view_.pending, host.view().pending, lanes, stream);
  device_->copy(&counters_->size, &size, sizeof size, stream);
  std::shared_ptr<std::uint8_t> listed;  // until the device is done
  if (is_prioritized()) {
    const auto count = static_cast<std::int64_t>(slots.size());
    listed = device_->allocate(8 * count);
    device_->copy(listed.get(), slots.data(), 8 * count, stream);
    device_->follow({tree(), {reinterpret_cast<const std::int64_t*>(listed.get()), {count}}, view_.flags}, stream);
  }
  device_->wait(stream);
  recount(host.view().flags);
}

// -- priorities ---------------------------------------------------------------------------------------------------------------------

void DeviceRing::prioritize(const PriorityOptions& options, const CudaStream& stream) {
  priority_options_ = options;
  tree_bytes_ = lay_out_tree(nullptr, view_, update_counts_, changed_);
  tree_memory_ = device_->allocate(tree_bytes_);
  lay_out_tree(tree_memory_.get(), view_, update_counts_, changed_);
  device_->fill(update_counts_, 0, sizeof(UpdateCounts), stream);
  device_->clear(tree(), num_slots(), stream);
}

template <class Real>
void DeviceRing::update_priorities(const std::int64_t* index, const Real* priority, std::int64_t count, std::int64_t* slots, const CudaStream& stream) {
  find(index, count, 1, slots, stream);
  device_->update(UpdateArgs<Real>{tree(), {slots, {count}}, priority, priority_options_.alpha, priority_options_.epsilon, update_counts_}, stream);
}

template void DeviceRing::update_priorities(const std::int64_t*, const float*, std::int64_t, std::int64_t*, const CudaStream&);
template void DeviceRing::update_priorities(const std::int64_t*, const double*, std::int64_t, std::int64_t*, const CudaStream&);

UpdateCounts DeviceRing::update_counts(const CudaStream& stream) {
  UpdateCounts counts{0, 0};
  copy(&counts, update_counts_, sizeof counts, stream);
  return counts;
}

std::vector<double> DeviceRing::leaves(const CudaStream& stream) {
  std::vector<double> leaves(static_cast<std::size_t>(num_slots()));
  copy(leaves.data(), tree().leaves(), 8 * num_slots(), stream);
  return leaves;
}

void DeviceRing::set_leaves(const std::vector<double>& leaves, const CudaStream& stream) {
  device_->clear(tree(), num_slots(), stream);
  copy(tree().leaves(), leaves.data(), 8 * num_slots(), stream);
  device_->restore(tree(), stream);
}

}  // namespace pyrl::replay
