#include "replay/gpu/store.hpp"

#include "core/check.hpp"

namespace pyrl::replay {

DeviceStore::DeviceStore(std::unique_ptr<LaneRing> ring, std::unique_ptr<RingDevice> device, const RandomStream& random, const CudaStream& stream)
    : Store(std::move(ring)), device_(*ring_, std::move(device), stream) {
  device_.set_random(random, stream);
}

std::int64_t DeviceStore::add(const AddArgs& rows, bool there, const CudaStream& stream) {
  if (there) {
    device_.add_arrays(rows, stream);
    return -1;
  }
  const std::int64_t bad = rows.first_bad_reward(ring_->options().num_lanes);
  if (bad < 0) device_.add(rows, nullptr, stream);
  return bad;
}

std::int64_t MirroredStore::add(const AddArgs& rows, bool, const CudaStream& stream) {
  device_.make_room(stream);  // before the ring changes
  AddArgs given = rows;
  given.outcome = outcome_.data();
  const std::int64_t bad = ring_->add(given);
  if (bad < 0) device_.add(given, given.outcome, stream);
  return bad;
}

void DeviceStore::clear(const CudaStream& stream) {
  device_.clear(stream);
}

void MirroredStore::clear(const CudaStream& stream) {
  device_.clear(stream);  // first, as it may refuse
  ring_->clear();
}

void DeviceStore::remove(const std::vector<std::int64_t>& slots, const CudaStream& stream) {
  device_.flush(stream);
  device_.check_wait(stream);
  ring_->remove(slots.data(), static_cast<std::int64_t>(slots.size()));
  device_.remove(*ring_, slots, stream);
}

const LaneRing& DeviceStore::metadata(const CudaStream& stream) {
  device_.download(*ring_, false, stream);
  return *ring_;
}

const void* DeviceStore::upload(const void* array, std::int64_t bytes, void* workspace, const CudaStream& stream) {
  device_.copy(workspace, array, bytes, stream);
  return workspace;
}

void DeviceStore::draw(const Selection& selection, std::int64_t* index, void* workspace, const CudaStream& stream) {
  if (selection.replacement) return device_.draw(selection, index, workspace, stream);
  std::vector<std::int64_t> drawn(static_cast<std::size_t>(selection.count));
  shuffle(selection.count, drawn.data(), stream);
  device_.copy(index, drawn.data(), 8 * selection.count, stream);
}

void DeviceStore::sample(const Selection& selection, GatherArgs& args, std::int64_t* index, void* workspace, const CudaStream& stream) {
  if (selection.replacement) return device_.sample(selection, args, index, workspace, stream);
  draw(selection, index, workspace, stream);
  std::int64_t* const slots = DeviceRing::slots_in(workspace, args.count);
  device_.find(index, args.count, 1, slots, stream);
  args.slots = slots;
  device_.gather(args, workspace, stream);
}

std::int64_t DeviceStore::find(const std::int64_t* index, std::int64_t count, int frames, void* workspace, const CudaStream& stream) {
  std::int64_t* const slots = DeviceRing::slots_in(workspace, count);
  device_.find(index, count, frames, slots, stream);
  if (device_.stale(stream) == 0) return -1;
  std::vector<std::int64_t> found(static_cast<std::size_t>(count));
  device_.copy(found.data(), slots, 8 * count, stream);
  return first_missing(found.data(), count);
}

std::int64_t DeviceStore::get(GatherArgs& args, const std::int64_t* index, std::int64_t* copy, void* workspace, const CudaStream& stream) {
  if (const std::int64_t missing = find(index, args.count, args.window.frame_stack, workspace, stream); missing >= 0) return missing;
  device_.copy(copy, index, 8 * args.count, stream);
  args.slots = DeviceRing::slots_in(workspace, args.count);
  device_.gather(args, workspace, stream);
  return -1;
}

void DeviceStore::shuffle(std::int64_t count, std::int64_t* index, const CudaStream& stream) {
  const LaneRing& ring = metadata(stream);
  PYRL_CHECK(count <= ring.size(), ArgumentError, stream.function, ": batch_size is ", count, ", but only ", ring.size(), " transitions are stored");
  const RandomStream before = random(stream);
  std::vector<std::int64_t> slots(static_cast<std::size_t>(count));
  uniform_.draw(ring, before, {count, false}, index, slots.data());
  set_random({before.key, before.draw + 1}, stream);
}

std::int64_t DeviceStore::weigh(const Selection& selection, const std::int64_t* index, void* workspace, const CudaStream& stream) {
  const std::int64_t missing = find(index, selection.count, 1, workspace, stream);
  if (missing < 0) device_.weigh(selection, DeviceRing::slots_in(workspace, selection.count), stream);
  return missing;
}

UnusedUpdates DeviceStore::unused_updates(const CudaStream& stream) {
  const UpdateCounts counts = device_.update_counts(stream);
  return {counts.stale, counts.refused};
}

double DeviceStore::total_priority(const CudaStream& stream) {
  const std::vector<double> weights = leaves(stream);
  SumTree tree(ring_->num_slots());
  for (std::size_t slot = 0; slot < weights.size(); ++slot) tree.set(static_cast<std::int64_t>(slot), weights[slot]);
  return tree.total();
}

void DeviceStore::restore(const LaneRing* transferred, const std::vector<double>& leaves, const CudaStream& stream) {
  device_.upload(transferred == nullptr ? *ring_ : *transferred, stream);
  if (is_prioritized()) device_.set_leaves(leaves, stream);
}

}  // namespace pyrl::replay
