// Records on a GPU, alone there or as the mirror of a ring in host memory, which then is the authority.
#pragma once

#include <cstdint>
#include <limits>
#include <memory>
#include <vector>

#include "replay/gpu/ring.hpp"
#include "replay/select/uniform.hpp"
#include "replay/store.hpp"

namespace pyrl::replay {

class DeviceStore : public Store {
 public:
  // Alone there: `ring` holds no records, only the metadata that metadata() brings.
  DeviceStore(std::unique_ptr<LaneRing> ring, std::unique_ptr<RingDevice> device, const RandomStream& random, const CudaStream& stream);

  std::int64_t add(const AddArgs& rows, bool there, const CudaStream& stream) override;
  bool takes_device_rows() const override { return true; }
  void prepare_extend(bool there, const CudaStream& stream) override {
    if (!there) device_.check_wait(stream);  // rows are sent whenever a block is full
  }
  void clear(const CudaStream& stream) override;
  void flush(const CudaStream& stream) override { device_.flush(stream); }
  void remove(const std::vector<std::int64_t>& slots, const CudaStream& stream) override;

  std::int64_t size(const CudaStream& stream, std::int64_t enough) override { return device_.least_size() >= enough ? device_.least_size() : device_.size(stream); }
  std::int64_t most_size() const override { return std::numeric_limits<std::int64_t>::max(); }
  bool size_is_known() const override { return false; }
  const LaneRing& metadata(const CudaStream& stream) override;
  std::int64_t nbytes() const override { return device_.nbytes(); }
  std::int64_t bytes_copied() const override { return device_.bytes_copied(); }
  std::int64_t skipped(const CudaStream& stream) override { return device_.skipped(stream); }

  std::int64_t workspace_bytes(std::int64_t count) const override { return DeviceRing::workspace_bytes(count); }
  const void* upload(const void* array, std::int64_t bytes, void* workspace, const CudaStream& stream) override;
  void draw(const Selection& selection, std::int64_t* index, void* workspace, const CudaStream& stream) override;
  void sample(const Selection& selection, GatherArgs& args, std::int64_t* index, void* workspace, const CudaStream& stream) override;
  std::int64_t get(GatherArgs& args, const std::int64_t* index, std::int64_t* copy, void* workspace, const CudaStream& stream) override;
  void shuffle(std::int64_t count, std::int64_t* index, const CudaStream& stream) override;

  void prioritize(const PriorityOptions& options, const CudaStream& stream) override { device_.prioritize(options, stream); }
  bool is_prioritized() const override { return device_.is_prioritized(); }
  void update(const std::int64_t* index, const float* priority, std::int64_t count, void* workspace, const CudaStream& stream) override {
    device_.update_priorities(index, priority, count, static_cast<std::int64_t*>(workspace), stream);
  }
  void update(const std::int64_t* index, const double* priority, std::int64_t count, void* workspace, const CudaStream& stream) override {
    device_.update_priorities(index, priority, count, static_cast<std::int64_t*>(workspace), stream);
  }
  std::int64_t weigh(const Selection& selection, const std::int64_t* index, void* workspace, const CudaStream& stream) override;
  UnusedUpdates unused_updates(const CudaStream& stream) override;
  std::vector<double> leaves(const CudaStream& stream) override { return device_.leaves(stream); }
  void leaves_of(const std::vector<std::int64_t>& slots, double* leaf, const CudaStream& stream) override {
    const std::vector<double> all = leaves(stream);
    for (const std::int64_t slot : slots) *leaf++ = slot < 0 ? 0.0 : all[static_cast<std::size_t>(slot)];
  }
  double total_priority(const CudaStream& stream) override;

  RandomStream random(const CudaStream& stream) override { return device_.random(stream); }
  void set_random(const RandomStream& random, const CudaStream& stream) override { device_.set_random(random, stream); }
  std::unique_ptr<LaneRing> transfer_ring() const override { return std::make_unique<LaneRing>(ring_->layout().columns(), ring_->options()); }
  void download(LaneRing* to, const CudaStream& stream) override { device_.download(*to, true, stream); }
  void restore(const LaneRing* transferred, const std::vector<double>& leaves, const CudaStream& stream) override;

 protected:
  // Finds the slots, which go to the workspace; the number of the first index that is not drawable, or -1.
  std::int64_t find(const std::int64_t* index, std::int64_t count, int frames, void* workspace, const CudaStream& stream);

  DeviceRing device_;
  UniformSelector uniform_;
};

// The same, with the ring in host memory as the authority: checkpoints and tables of episodes need no download.
class MirroredStore final : public DeviceStore {
 public:
  MirroredStore(std::unique_ptr<LaneRing> ring, std::unique_ptr<RingDevice> device, const RandomStream& random, const CudaStream& stream)
      : DeviceStore(std::move(ring), std::move(device), random, stream), outcome_(static_cast<std::size_t>(ring_->options().num_lanes)) {}

  std::int64_t add(const AddArgs& rows, bool there, const CudaStream& stream) override;
  void clear(const CudaStream& stream) override;
  bool takes_device_rows() const override { return false; }
  std::int64_t size(const CudaStream&, std::int64_t) override { return ring_->size(); }
  std::int64_t most_size() const override { return ring_->size(); }
  bool size_is_known() const override { return true; }
  const LaneRing& metadata(const CudaStream&) override { return *ring_; }
  std::int64_t nbytes() const override { return ring_->nbytes() + device_.nbytes(); }
  std::unique_ptr<LaneRing> transfer_ring() const override { return nullptr; }
  void download(LaneRing*, const CudaStream&) override {}

 private:
  std::vector<Outcome> outcome_;  // of the rows of an add
};

}  // namespace pyrl::replay
