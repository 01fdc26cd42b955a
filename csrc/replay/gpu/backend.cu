#include "replay/gpu/backend.hpp"

#include "core/cuda_launch.cuh"

namespace pyrl::replay {
namespace {

// A block a lane; its records one after the other.
template <class Rows>
__global__ void __launch_bounds__(256) add_kernel(const __grid_constant__ AddLane<Rows> add) {
  __shared__ Slots slots;
  const std::int64_t lane = blockIdx.x;
  const int thread = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
  for (std::int64_t k = 0; k < add.rows.adds; ++k) {
    const bool differs = __syncthreads_or(add.differs(k, lane, thread, threads)) != 0;
    if (thread == 0) slots = add.reserve(k, lane, differs);
    __syncthreads();
    add.copy(k, lane, slots, thread, threads);
    __syncthreads();  // the next record may be compared with what this one's threads wrote
  }
}

// Destructors must not throw, even after CUDA has shut down.
template <class Body>
void quietly(const CudaStream& here, const Body& body) noexcept {
  try {
    const cuda::UseDevice device(here);
    body();
  } catch (const std::exception&) {
  }
}

class CudaRingDevice : public RingDevice {
 public:
  explicit CudaRingDevice(int number) : here_{"ReplayBuffer", number, nullptr} {
    const cuda::UseDevice device(here_);
    cuda::check(cudaStreamCreateWithFlags(&side_, cudaStreamNonBlocking), here_.function, "making a stream");
  }
  ~CudaRingDevice() override {
    quietly(here_, [this] { cudaStreamDestroy(side_); });
  }

  std::shared_ptr<std::uint8_t> allocate(std::int64_t bytes) override {
    const cuda::UseDevice device(here_);
    void* memory = nullptr;
    cuda::check(cudaMalloc(&memory, static_cast<std::size_t>(bytes)), here_.function, "allocating its memory");
    return {static_cast<std::uint8_t*>(memory), [here = here_](std::uint8_t* address) { quietly(here, [=] { cudaFree(address); }); }};
  }
  std::shared_ptr<std::uint8_t> allocate_pinned(std::int64_t bytes) override {
    const cuda::UseDevice device(here_);
    void* memory = nullptr;
    cuda::check(cudaMallocHost(&memory, static_cast<std::size_t>(bytes)), here_.function, "allocating pinned memory");
    return {static_cast<std::uint8_t*>(memory), [here = here_](std::uint8_t* address) { quietly(here, [=] { cudaFreeHost(address); }); }};
  }

  void copy(void* to, const void* from, std::int64_t bytes, const CudaStream& stream) override {
    const cuda::UseDevice device(stream);
    cuda::check(cudaMemcpyAsync(to, from, static_cast<std::size_t>(bytes), cudaMemcpyDefault, cuda::handle(stream)), stream.function, "a copy");
  }
  void fill(void* to, int byte, std::int64_t bytes, const CudaStream& stream) override {
    cuda::fill_bytes(stream, to, byte, static_cast<std::size_t>(bytes));
  }
  void wait(const CudaStream& stream) override {
    const cuda::UseDevice device(stream);
    cuda::check(cudaStreamSynchronize(cuda::handle(stream)), stream.function, "waiting for the device");
  }
  bool is_capturing(const CudaStream& stream) override {
    const cuda::UseDevice device(stream);
    cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
    cuda::check(cudaStreamIsCapturing(cuda::handle(stream), &status), stream.function, "asking for a capture");
    return status != cudaStreamCaptureStatusNone;
  }

  CudaStream side_stream(const CudaStream& caller) override { return {caller.function, here_.device, side_}; }
  std::shared_ptr<void> make_event() override {
    const cuda::UseDevice device(here_);
    cudaEvent_t event = nullptr;
    cuda::check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), here_.function, "making an event");
    return {event, [here = here_](void* made) { quietly(here, [=] { cudaEventDestroy(static_cast<cudaEvent_t>(made)); }); }};
  }
  void record(void* event, const CudaStream& stream) override {
    const cuda::UseDevice device(stream);
    cuda::check(cudaEventRecord(static_cast<cudaEvent_t>(event), cuda::handle(stream)), stream.function, "recording an event");
  }
  void wait_for(void* event, const CudaStream& stream) override {
    const cuda::UseDevice device(stream);
    cuda::check(cudaStreamWaitEvent(cuda::handle(stream), static_cast<cudaEvent_t>(event), 0), stream.function, "ordering two streams");
  }
  void wait_for(void* event) override {
    const cuda::UseDevice device(here_);
    cuda::check(cudaEventSynchronize(static_cast<cudaEvent_t>(event)), here_.function, "waiting for a copy");
  }

  void run(const AddLane<JournalRows>& add, std::int64_t lanes, int threads, const CudaStream& stream) override {
    cuda::launch(stream, lanes, threads, add_kernel<JournalRows>, add);
  }
  void run(const AddLane<ArrayRows>& add, std::int64_t lanes, int threads, const CudaStream& stream) override {
    cuda::launch(stream, lanes, threads, add_kernel<ArrayRows>, add);
  }
  void run(const ClearLane& body, std::int64_t count, const CudaStream& stream) override { cuda::launch_elements(stream, count, body); }
  void run(const NextDraw& body, std::int64_t count, const CudaStream& stream) override { cuda::launch_elements(stream, count, body); }
  void run(const DrawRecord& body, std::int64_t count, const CudaStream& stream) override { cuda::launch_elements(stream, count, body); }
  void run(const IndexRecord& body, std::int64_t count, const CudaStream& stream) override { cuda::launch_elements(stream, count, body); }
  void run(const FindRecord& body, std::int64_t count, const CudaStream& stream) override { cuda::launch_elements(stream, count, body); }
  void run(const OpenWindow& body, std::int64_t count, const CudaStream& stream) override { cuda::launch_elements(stream, count, body); }
  void run(const ThenOpenWindow<DrawRecord>& body, std::int64_t count, const CudaStream& stream) override { cuda::launch_elements(stream, count, body); }
  void run(const ThenOpenWindow<IndexRecord>& body, std::int64_t count, const CudaStream& stream) override { cuda::launch_elements(stream, count, body); }
  void run(const CopyPiece& body, std::int64_t teams, bool wide, const CudaStream& stream) override {
    wide ? cuda::launch_teams<128>(stream, teams, body) : cuda::launch_teams<8>(stream, teams, body);
  }

  void clear(const TreeView& tree, std::int64_t leaves, const CudaStream& stream) override { clear_priorities_cuda(tree, leaves, stream); }
  void restore(const TreeView& tree, const CudaStream& stream) override { restore_priorities_cuda(tree, stream); }
  void update(const UpdateArgs<float>& args, const CudaStream& stream) override { update_priorities_cuda(args, stream); }
  void update(const UpdateArgs<double>& args, const CudaStream& stream) override { update_priorities_cuda(args, stream); }
  void follow(const FollowRing& changes, const CudaStream& stream) override { follow_ring_cuda(changes, stream); }
  void draw(const PriorityDrawArgs& args, const CudaStream& stream) override { draw_priorities_cuda(args, stream); }
  void weigh(const PriorityDrawArgs& args, const CudaStream& stream) override { weigh_priorities_cuda(args, stream); }

 private:
  CudaStream here_;  // the device's default stream
  cudaStream_t side_ = nullptr;
};

}  // namespace

std::unique_ptr<RingDevice> cuda_ring_device(int number) { return std::make_unique<CudaRingDevice>(number); }

}  // namespace pyrl::replay
