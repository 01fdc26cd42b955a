// What a ring needs of its device: memory, streams and its kernels. Builds without CUDA have none.
#pragma once

#include <cstdint>
#include <memory>

#include "core/cuda.hpp"
#include "replay/gpu/sum_tree.hpp"
#include "replay/gpu/kernels.hpp"

namespace pyrl::replay {

class RingDevice {
 public:
  virtual ~RingDevice() = default;

  // Memory of the device, and of the host for copies that do not keep the host waiting. Whoever frees it waits for what still uses it.
  virtual std::shared_ptr<std::uint8_t> allocate(std::int64_t bytes) = 0;
  virtual std::shared_ptr<std::uint8_t> allocate_pinned(std::int64_t bytes) = 0;

  // In the order of the stream. A copy from or to host memory that is not pinned keeps the host waiting.
  virtual void copy(void* to, const void* from, std::int64_t bytes, const CudaStream& stream) = 0;
  virtual void fill(void* to, int byte, std::int64_t bytes, const CudaStream& stream) = 0;
  // The host waits for the stream.
  virtual void wait(const CudaStream& stream) = 0;
  // Whether the stream's work is being captured in a graph, not done.
  virtual bool is_capturing(const CudaStream& stream) = 0;

  // A stream beside the caller's, for as long as the device lives.
  virtual CudaStream side_stream(const CudaStream& caller) = 0;
  // Events: a moment in a stream that others can wait for. At first there is nothing to wait for.
  virtual std::shared_ptr<void> make_event() = 0;
  virtual void record(void* event, const CudaStream& stream) = 0;
  virtual void wait_for(void* event, const CudaStream& stream) = 0;  // the stream waits
  virtual void wait_for(void* event) = 0;                            // the host waits

  // Kernels.
  virtual void run(const AddLane<JournalRows>& add, std::int64_t lanes, int threads, const CudaStream& stream) = 0;
  virtual void run(const AddLane<ArrayRows>& add, std::int64_t lanes, int threads, const CudaStream& stream) = 0;
  virtual void run(const ClearLane& body, std::int64_t count, const CudaStream& stream) = 0;
  virtual void run(const NextDraw& body, std::int64_t count, const CudaStream& stream) = 0;
  virtual void run(const DrawRecord& body, std::int64_t count, const CudaStream& stream) = 0;
  virtual void run(const IndexRecord& body, std::int64_t count, const CudaStream& stream) = 0;
  virtual void run(const FindRecord& body, std::int64_t count, const CudaStream& stream) = 0;
  virtual void run(const OpenWindow& body, std::int64_t count, const CudaStream& stream) = 0;
  virtual void run(const ThenOpenWindow<DrawRecord>& body, std::int64_t count, const CudaStream& stream) = 0;
  virtual void run(const ThenOpenWindow<IndexRecord>& body, std::int64_t count, const CudaStream& stream) = 0;
  // In teams of 8 threads for narrow rows, of 128 for wide ones.
  virtual void run(const CopyPiece& body, std::int64_t teams, bool wide, const CudaStream& stream) = 0;

  // The calls of gpu/sum_tree.hpp.
  virtual void clear(const TreeView& tree, std::int64_t leaves, const CudaStream& stream) = 0;
  virtual void restore(const TreeView& tree, const CudaStream& stream) = 0;
  virtual void update(const UpdateArgs<float>& args, const CudaStream& stream) = 0;
  virtual void update(const UpdateArgs<double>& args, const CudaStream& stream) = 0;
  virtual void follow(const FollowRing& changes, const CudaStream& stream) = 0;
  virtual void draw(const PriorityDrawArgs& args, const CudaStream& stream) = 0;
  virtual void weigh(const PriorityDrawArgs& args, const CudaStream& stream) = 0;
};

// DeviceError where the build has no CUDA, or the device cannot be used.
std::unique_ptr<RingDevice> cuda_ring_device(int number);

}  // namespace pyrl::replay
