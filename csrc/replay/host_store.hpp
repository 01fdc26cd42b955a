// Records in host memory.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "core/own_stream.hpp"
#include "replay/select/prioritized.hpp"
#include "replay/select/uniform.hpp"
#include "replay/store.hpp"

namespace pyrl::replay {

class HostStore final : public Store {
 public:
  HostStore(std::unique_ptr<LaneRing> ring, const RandomStream& random) : Store(std::move(ring)), random_(random) {}

  std::int64_t add(const AddArgs& rows, bool, const CudaStream&) override { return ring_->add(rows); }
  void clear(const CudaStream&) override { ring_->clear(); }
  void remove(const std::vector<std::int64_t>& slots, const CudaStream&) override { ring_->remove(slots.data(), static_cast<std::int64_t>(slots.size())); }

  std::int64_t size(const CudaStream&, std::int64_t) override { return ring_->size(); }
  std::int64_t nbytes() const override { return ring_->nbytes() + (by_priority_ ? by_priority_->tree().nbytes() : 0); }

  std::int64_t workspace_bytes(std::int64_t) const override { return 0; }
  const void* upload(const void* array, std::int64_t, void*, const CudaStream&) override { return array; }
  void draw(const Selection& selection, std::int64_t* index, void* workspace, const CudaStream& stream) override;
  void sample(const Selection& selection, GatherArgs& args, std::int64_t* index, void* workspace, const CudaStream& stream) override;
  std::int64_t get(GatherArgs& args, const std::int64_t* index, std::int64_t* copy, void* workspace, const CudaStream& stream) override;
  void shuffle(std::int64_t count, std::int64_t* index, const CudaStream& stream) override;

  void prioritize(const PriorityOptions& options, const CudaStream& stream) override;
  bool is_prioritized() const override { return by_priority_ != nullptr; }
  void update(const std::int64_t* index, const float* priority, std::int64_t count, void*, const CudaStream&) override { update_any(index, priority, count); }
  void update(const std::int64_t* index, const double* priority, std::int64_t count, void*, const CudaStream&) override { update_any(index, priority, count); }
  std::int64_t weigh(const Selection& selection, const std::int64_t* index, void* workspace, const CudaStream& stream) override;
  UnusedUpdates unused_updates(const CudaStream&) override { return {stale_updates_, 0}; }
  std::vector<double> leaves(const CudaStream& stream) override;
  void leaves_of(const std::vector<std::int64_t>& slots, double* leaf, const CudaStream&) override {
    for (const std::int64_t slot : slots) *leaf++ = slot < 0 ? 0.0 : by_priority_->tree().get(slot);
  }
  double total_priority(const CudaStream&) override { return by_priority_->tree().total(); }

  RandomStream random(const CudaStream& stream) override;
  void set_random(const RandomStream& random, const CudaStream& stream) override;
  void restore(const LaneRing*, const std::vector<double>& leaves, const CudaStream&) override;

 private:
  template <class Real>
  void update_any(const std::int64_t* index, const Real* priority, std::int64_t count);
  void select(const RandomStream& stream, const Selection& selection, std::int64_t* index);
  // body(the next draw), which is given back if it fails.
  template <class Body>
  void with_draw(const Body& body);

  UniformSelector uniform_;
  std::unique_ptr<PrioritizedSelector> by_priority_;  // null: draws are uniform
  RandomStream random_;
  StreamOwner owner_;
  std::vector<std::int64_t> slots_;  // of a call
  std::int64_t stale_updates_ = 0;
};

}  // namespace pyrl::replay
