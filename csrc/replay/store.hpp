// Where the records of a replay are, and everything that is done with them there: in host memory (host_store.hpp), on a GPU, or on a GPU
// as a mirror of host memory (gpu/store.hpp). Callers do not ask which.
//
// "There" is the memory in which batches are made: outputs, and index arrays given to a draw or a gather, are there. Where a store works on a
// device, its calls go on the caller's stream; those that wait for it say so. The caller holds lock().
#pragma once

#include <cstdint>
#include <limits>
#include <memory>
#include <vector>

#include "core/cuda.hpp"
#include "core/philox.hpp"
#include "replay/lane_ring.hpp"
#include "replay/select/prioritized.hpp"
#include "replay/window/gather.hpp"

namespace pyrl::replay {

// Updates of priorities that changed nothing: their record was gone; on a device also those that were negative, not finite or too large.
struct UnusedUpdates {
  std::int64_t stale = 0, refused = 0;
};

class Store {
 public:
  virtual ~Store() = default;

  // Layout, options and lock. What it says of records is up to date in the ring that metadata() gives.
  const LaneRing& ring() const { return *ring_; }
  Lock& lock() const { return ring_->lock(); }

  // -- rows -------------------------------------------------------------------------------------------------------------------------

  // As LaneRing::add. `there`: the rows are on the device, where one whose reward is not finite is left out and counted.
  virtual std::int64_t add(const AddArgs& rows, bool there, const CudaStream& stream) = 0;
  virtual bool takes_device_rows() const { return false; }
  // Before several adds, all of which must happen: whatever they may have to refuse is refused here.
  virtual void prepare_extend(bool, const CudaStream&) {}
  virtual void clear(const CudaStream& stream) = 0;
  // What was added is in the ring for all that comes on this stream.
  virtual void flush(const CudaStream&) {}
  // None of these transitions, whole episodes, is drawable any more. Waits.
  virtual void remove(const std::vector<std::int64_t>& slots, const CudaStream& stream) = 0;

  // -- what there is ----------------------------------------------------------------------------------------------------------------

  // Drawable transitions; of more than `enough` only that it is enough. May wait.
  virtual std::int64_t size(const CudaStream& stream, std::int64_t enough = std::numeric_limits<std::int64_t>::max()) = 0;
  // At most so many, without a look; any thread may ask. Exact where `size_is_known`.
  virtual std::int64_t most_size() const { return ring_->size(); }
  virtual bool size_is_known() const { return true; }
  // The ring in host memory with everything but the bytes of its records. Waits.
  virtual const LaneRing& metadata(const CudaStream&) { return *ring_; }
  virtual std::int64_t nbytes() const = 0;
  virtual std::int64_t bytes_copied() const { return 0; }
  virtual std::int64_t skipped(const CudaStream&) { return 0; }

  // -- batches ----------------------------------------------------------------------------------------------------------------------

  // Working memory there that a call for `count` records needs; 0: none.
  virtual std::int64_t workspace_bytes(std::int64_t count) const = 0;
  // The array in host memory, or its copy in `workspace` there.
  virtual const void* upload(const void* array, std::int64_t bytes, void* workspace, const CudaStream& stream) = 0;

  // Takes the next draw: indices, and weights where wanted.
  virtual void draw(const Selection& selection, std::int64_t* index, void* workspace, const CudaStream& stream) = 0;
  // The same, and their windows.
  virtual void sample(const Selection& selection, GatherArgs& args, std::int64_t* index, void* workspace, const CudaStream& stream) = 0;
  // The windows of these records, and their indices to `copy`; returns -1, or the number of the first index that is not drawable, and then writes
  // nothing. Waits.
  virtual std::int64_t get(GatherArgs& args, const std::int64_t* index, std::int64_t* copy, void* workspace, const CudaStream& stream) = 0;
  // A random order of all that is drawable, [size()], in host memory: one draw. Waits.
  virtual void shuffle(std::int64_t count, std::int64_t* index, const CudaStream& stream) = 0;

  // -- priorities -------------------------------------------------------------------------------------------------------------------

  // For an empty store.
  virtual void prioritize(const PriorityOptions& options, const CudaStream& stream) = 0;
  virtual bool is_prioritized() const = 0;
  virtual void update(const std::int64_t* index, const float* priority, std::int64_t count, void* workspace, const CudaStream& stream) = 0;
  virtual void update(const std::int64_t* index, const double* priority, std::int64_t count, void* workspace, const CudaStream& stream) = 0;
  // selection.weight of these records, as if a draw had given them. As get(). Waits.
  virtual std::int64_t weigh(const Selection& selection, const std::int64_t* index, void* workspace, const CudaStream& stream) = 0;
  virtual UnusedUpdates unused_updates(const CudaStream& stream) = 0;
  // p^alpha of every slot, in host memory. These wait.
  virtual std::vector<double> leaves(const CudaStream& stream) = 0;
  // Those of some slots; of slot -1 it is 0.
  virtual void leaves_of(const std::vector<std::int64_t>& slots, double* leaf, const CudaStream& stream) = 0;
  virtual double total_priority(const CudaStream& stream) = 0;

  // -- state; all of these wait -----------------------------------------------------------------------------------------------------

  virtual RandomStream random(const CudaStream& stream) = 0;
  virtual void set_random(const RandomStream& random, const CudaStream& stream) = 0;
  // A ring for the records' bytes in host memory, while they are read or written: empty where the store's own ring has them.
  virtual std::unique_ptr<LaneRing> transfer_ring() const { return nullptr; }
  // Everything to the transfer ring, or from it; null: the store's own ring, which has it already, or was given it by the caller.
  virtual void download(LaneRing*, const CudaStream&) {}
  virtual void restore(const LaneRing* transferred, const std::vector<double>& leaves, const CudaStream& stream) = 0;
  LaneRing& own_ring() { return *ring_; }

 protected:
  explicit Store(std::unique_ptr<LaneRing> ring) : ring_(std::move(ring)) {}

  // The number of the first slot that is -1.
  static std::int64_t first_missing(const std::int64_t* slots, std::int64_t count) {
    std::int64_t i = 0;
    while (i < count && slots[i] >= 0) ++i;
    return i < count ? i : -1;
  }

  std::unique_ptr<LaneRing> ring_;
};

}  // namespace pyrl::replay
