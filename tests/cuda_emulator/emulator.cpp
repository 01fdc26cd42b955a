#include "emulator.hpp"

#include <sys/mman.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <mutex>

#include "cuda_runtime.h"
#include "threads.hpp"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(address, bytes) ((void)(address), (void)(bytes))
#define ASAN_UNPOISON_MEMORY_REGION(address, bytes) ((void)(address), (void)(bytes))
#endif

namespace emulator {

struct Task {
  std::function<void()> run;
  std::function<bool()> ready;  // null: always
};
struct Graph {
  std::vector<std::function<void()>> tasks;
};
struct Stream {
  std::deque<Task> tasks;
  bool held = false;
  std::unique_ptr<Graph> capture;  // null: none
  bool broken = false;             // the capture
};
struct Event {
  std::int64_t recorded = 0, reached = 0;
};

namespace {

std::recursive_mutex mutex;  // of all that follows
using Guard = std::lock_guard<std::recursive_mutex>;

bool present = false, lazy = false;
Random chance;
Stream default_stream;
std::vector<Stream*> streams{&default_stream};

Stream* current = &default_stream;
Stream& of(cudaStream_t stream) { return stream == nullptr ? *current : *stream; }

// -- memory -------------------------------------------------------------------------------------------------------------------------

struct Allocation {
  std::size_t pages, bytes;  // `pages` bytes from its base on, one page of which is a fence
  std::uint8_t* data;
};
std::map<std::uint8_t*, Allocation> device_memory, pinned_memory;  // by base

constexpr std::size_t page = 4096, alignment = 256;
std::size_t rounded(std::size_t bytes, std::size_t to) { return (bytes + to - 1) / to * to; }

// While one lives, device memory can be touched.
class Touching {
 public:
  Touching() {
    if (depth_++ == 0) protect(PROT_READ | PROT_WRITE);
  }
  ~Touching() {
    if (--depth_ == 0) protect(PROT_NONE);
  }
  Touching(const Touching&) = delete;
  Touching& operator=(const Touching&) = delete;

 private:
  static void protect(int how) {
    for (const auto& [base, memory] : device_memory) mprotect(base, memory.pages - page, how);
  }
  inline static int depth_ = 0;
};

// Ends at a fence, as far as alignment permits, and is full of rubbish at first.
cudaError_t allocate(std::map<std::uint8_t*, Allocation>& kind, void** memory, std::size_t bytes) {
  const std::size_t room = rounded(std::max<std::size_t>(bytes, 1), alignment), pages = rounded(room, page) + page;
  void* const mapped = mmap(nullptr, pages, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) return cudaErrorInvalidValue;
  auto* const base = static_cast<std::uint8_t*>(mapped);
  std::uint8_t* const data = base + pages - page - room;
  std::memset(data, 0xa5, std::min<std::size_t>(room, 64 << 10));  // not all: protecting pages takes longer the more of them are used
  mprotect(base + pages - page, page, PROT_NONE);
  if (&kind == &device_memory) mprotect(base, pages - page, PROT_NONE);
  ASAN_POISON_MEMORY_REGION(base, static_cast<std::size_t>(data - base));
  ASAN_POISON_MEMORY_REGION(data + bytes, room - bytes);
  kind[base] = {pages, bytes, data};
  *memory = data;
  return cudaSuccess;
}

auto containing(std::map<std::uint8_t*, Allocation>& kind, const void* address) {
  const auto after = kind.upper_bound(static_cast<std::uint8_t*>(const_cast<void*>(address)));
  if (after == kind.begin()) return kind.end();
  const auto found = std::prev(after);
  return address < found->second.data + found->second.bytes ? found : kind.end();
}
bool is_known(const void* address) {
  return containing(device_memory, address) != device_memory.end() || containing(pinned_memory, address) != pinned_memory.end();
}

cudaError_t release(std::map<std::uint8_t*, Allocation>& kind, void* address) {
  if (address == nullptr) return cudaSuccess;
  const auto found = containing(kind, address);
  if (found == kind.end() || found->second.data != address) return cudaErrorInvalidValue;
  ASAN_UNPOISON_MEMORY_REGION(found->first, found->second.pages);
  munmap(found->first, found->second.pages);
  kind.erase(found);
  return cudaSuccess;
}

// -- streams ------------------------------------------------------------------------------------------------------------------------

bool is_waiting() {
  return std::any_of(streams.begin(), streams.end(), [](const Stream* stream) { return !stream->tasks.empty() && !stream->held; });
}

// The next piece of work of any stream that has some and need not wait.
void run_one() {
  std::vector<Stream*> ready;
  for (const bool held_too : {false, true}) {
    for (Stream* stream : streams) {
      const bool can = !stream->tasks.empty() && (!stream->tasks.front().ready || stream->tasks.front().ready());
      if (can && (held_too || !stream->held)) ready.push_back(stream);
    }
    if (!ready.empty()) break;
  }
  if (ready.empty()) {
    std::fputs("CUDA emulator: streams wait for each other\n", stderr);
    std::abort();
  }
  Stream& stream = *ready[chance.below(ready.size())];
  const Task task = std::move(stream.tasks.front());
  stream.tasks.pop_front();
  const Touching touching;
  task.run();
}

void run_some() {
  if (lazy && chance.below(8) != 0) return;
  std::uint64_t most = lazy ? chance.below(4) : ~std::uint64_t{0};
  if (most == 0 || !is_waiting()) return;
  const Touching touching;
  for (; most > 0 && is_waiting(); --most) run_one();
}

void drain(Stream& stream) {
  stream.held = false;
  if (stream.tasks.empty()) return;
  const Touching touching;
  while (!stream.tasks.empty()) run_one();
}

void drain_all() {
  for (Stream* stream : streams) drain(*stream);
}

cudaError_t submit(Stream& stream, std::function<void()> run) {
  if (stream.capture != nullptr) {
    stream.capture->tasks.push_back(std::move(run));
    return cudaSuccess;
  }
  stream.tasks.push_back({std::move(run), nullptr});
  run_some();
  return cudaSuccess;
}

// For what CUDA forbids while anything is captured: the capture is lost.
bool breaks_a_capture() {
  bool any = false;
  for (Stream* stream : streams) {
    if (stream->capture == nullptr) continue;
    any = stream->broken = true;
  }
  return any;
}

}  // namespace

cudaError_t launch(const cudaLaunchConfig_t& config, std::size_t parameter_bytes, std::function<void()> thread) {
  const Guard guard(mutex);
  if (!present) return cudaErrorInsufficientDriver;
  const dim3 grid = config.gridDim, block = config.blockDim;
  if (grid.x == 0 || grid.x > 0x7fffffffu || block.x == 0 || block.x > 1024 || grid.y * grid.z * block.y * block.z != 1 || parameter_bytes > 32764)
    return cudaErrorInvalidConfiguration;
  return submit(of(config.stream), [=, thread = std::move(thread)] { Threads::instance().run(grid, block, thread, chance); });
}

}  // namespace emulator

using namespace emulator;

void __syncthreads() { Threads::instance().barrier(false); }
int __syncthreads_or(int predicate) { return Threads::instance().barrier(predicate != 0); }

const char* cudaGetErrorName(cudaError_t error) {
  switch (error) {
    case cudaSuccess: return "cudaSuccess";
    case cudaErrorInvalidValue: return "cudaErrorInvalidValue";
    case cudaErrorInvalidConfiguration: return "cudaErrorInvalidConfiguration";
    case cudaErrorInsufficientDriver: return "cudaErrorInsufficientDriver";
    case cudaErrorNoDevice: return "cudaErrorNoDevice";
    case cudaErrorInvalidDevice: return "cudaErrorInvalidDevice";
    case cudaErrorInvalidResourceHandle: return "cudaErrorInvalidResourceHandle";
    case cudaErrorStreamCaptureUnsupported: return "cudaErrorStreamCaptureUnsupported";
    case cudaErrorStreamCaptureInvalidated: return "cudaErrorStreamCaptureInvalidated";
  }
  return "unknown";
}
const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaErrorInsufficientDriver ? "the emulated device is not plugged in: there is no driver" : cudaGetErrorName(error);
}

cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return present ? cudaSuccess : cudaErrorInsufficientDriver;
}
cudaError_t cudaSetDevice(int device) { return !present ? cudaErrorInsufficientDriver : device == 0 ? cudaSuccess : cudaErrorInvalidDevice; }
cudaError_t cudaGetDriverEntryPointByVersion(const char*, void**, unsigned, unsigned long long, cudaDriverEntryPointQueryResult* found) {
  *found = cudaDriverEntryPointSymbolNotFound;
  return cudaSuccess;
}

cudaError_t cudaMalloc(void** memory, std::size_t bytes) {
  const Guard guard(mutex);
  if (!present) return cudaErrorInsufficientDriver;
  return breaks_a_capture() ? cudaErrorStreamCaptureUnsupported : allocate(device_memory, memory, bytes);
}
cudaError_t cudaMallocHost(void** memory, std::size_t bytes) {
  const Guard guard(mutex);
  if (!present) return cudaErrorInsufficientDriver;
  return breaks_a_capture() ? cudaErrorStreamCaptureUnsupported : allocate(pinned_memory, memory, bytes);
}
cudaError_t cudaFree(void* memory) {
  const Guard guard(mutex);
  if (breaks_a_capture()) return cudaErrorStreamCaptureUnsupported;
  drain_all();
  return release(device_memory, memory);
}
cudaError_t cudaFreeHost(void* memory) {
  const Guard guard(mutex);
  if (breaks_a_capture()) return cudaErrorStreamCaptureUnsupported;
  drain_all();
  return release(pinned_memory, memory);
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind, cudaStream_t stream) {
  const Guard guard(mutex);
  const Touching touching;
  const cudaError_t status = submit(of(stream), [=] { std::memcpy(to, from, bytes); });
  if (!is_known(to) || !is_known(from)) {  // pageable memory keeps the host waiting
    if (of(stream).capture != nullptr) return of(stream).broken = true, cudaErrorStreamCaptureUnsupported;
    drain(of(stream));
  }
  return status;
}
cudaError_t cudaMemsetAsync(void* to, int byte, std::size_t bytes, cudaStream_t stream) {
  const Guard guard(mutex);
  return submit(of(stream), [=] { std::memset(to, byte, bytes); });
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  const Guard guard(mutex);
  if (!present) return cudaErrorInsufficientDriver;
  streams.push_back(*stream = new Stream);
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  const Guard guard(mutex);
  drain(*stream);
  std::erase(streams, stream);
  delete stream;
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  const Guard guard(mutex);
  if (breaks_a_capture()) return cudaErrorStreamCaptureUnsupported;
  drain(of(stream));
  return cudaSuccess;
}
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
  const Guard guard(mutex);
  *status = of(stream).capture != nullptr ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
  return cudaSuccess;
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  if (!present) return cudaErrorInsufficientDriver;
  *event = new Event;
  return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  const Guard guard(mutex);
  while (event->reached < event->recorded) run_one();  // later for CUDA, but the tasks here hold its address
  delete event;
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  const Guard guard(mutex);
  if (of(stream).capture != nullptr) return of(stream).broken = true, cudaErrorStreamCaptureUnsupported;
  const std::int64_t moment = ++event->recorded;
  return submit(of(stream), [=] { event->reached = moment; });
}
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  const Guard guard(mutex);
  if (of(stream).capture != nullptr) return of(stream).broken = true, cudaErrorStreamCaptureUnsupported;
  const std::int64_t moment = event->recorded;
  of(stream).tasks.push_back({[] {}, [=] { return event->reached >= moment; }});
  run_some();
  return cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  const Guard guard(mutex);
  if (breaks_a_capture()) return cudaErrorStreamCaptureUnsupported;
  while (event->reached < event->recorded) run_one();
  return cudaSuccess;
}

// -- for tests ----------------------------------------------------------------------------------------------------------------------

void emulator_plug_in(bool on) { present = on; }
void emulator_be_lazy(bool on) {
  const Guard guard(mutex);
  lazy = on;
  if (!lazy) run_some();
}
void emulator_synchronize() {
  const Guard guard(mutex);
  drain_all();
}
void emulator_begin_capture(void* stream) {
  const Guard guard(mutex);
  of(static_cast<cudaStream_t>(stream)).capture = std::make_unique<Graph>();
  of(static_cast<cudaStream_t>(stream)).broken = false;
}
void* emulator_end_capture(void* stream) {
  const Guard guard(mutex);
  Stream& from = of(static_cast<cudaStream_t>(stream));
  const std::unique_ptr<Graph> none = from.broken ? std::move(from.capture) : nullptr;
  return from.capture.release();
}
void emulator_replay(void* graph, void* stream) {
  const Guard guard(mutex);
  for (const auto& task : static_cast<Graph*>(graph)->tasks) submit(of(static_cast<cudaStream_t>(stream)), task);
}
std::int64_t emulator_node_count(void* graph) { return static_cast<std::int64_t>(static_cast<Graph*>(graph)->tasks.size()); }
void emulator_destroy_graph(void* graph) { delete static_cast<Graph*>(graph); }
void* emulator_make_stream() {
  cudaStream_t stream = nullptr;
  cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
  return stream;
}
void emulator_destroy_stream(void* stream) { cudaStreamDestroy(static_cast<cudaStream_t>(stream)); }
void emulator_use_stream(void* stream) {
  const Guard guard(mutex);
  current = stream == nullptr ? &default_stream : static_cast<Stream*>(stream);
}
void emulator_hold(void* stream) {
  const Guard guard(mutex);
  of(static_cast<cudaStream_t>(stream)).held = true;
}
void emulator_wait(void* stream) {
  const Guard guard(mutex);
  drain(of(static_cast<cudaStream_t>(stream)));
}
bool emulator_is_idle(void* stream) {
  const Guard guard(mutex);
  return of(static_cast<cudaStream_t>(stream)).tasks.empty();
}

#if defined(PYRL_TSAN)
// Races that are meant: several threads write one number, or what is read too old costs nothing but time.
PYRL_EXPORTED const char* __tsan_default_suppressions();
const char* __tsan_default_suppressions() { return "race:RefreshAncestors\nrace:FollowRing\nrace:WriteLast\nrace:DrawSlot\n"; }
#endif
