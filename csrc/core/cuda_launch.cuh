// Launching: the stream's device made current, the grid, and the check that turns a failure into a typed error.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "core/check.hpp"
#include "core/cuda.hpp"

namespace pyrl::cuda {

inline void check(cudaError_t status, const char* function, const char* what) {
  PYRL_CHECK(status == cudaSuccess, DeviceError, function, ": ", what, " failed: ", cudaGetErrorString(status), " (",
             cudaGetErrorName(status), ")");
}

// Whether this process has used the device: cudaSetDevice would make a context on one that it has not, some hundred MB. The driver knows,
// which is not linked; where it cannot be asked, the answer is yes.
inline bool has_context(int device) {
  using GetState = int (*)(int, unsigned int*, int*);
  static const auto get_state = [] {
    void* function = nullptr;
    cudaDriverEntryPointQueryResult found = cudaDriverEntryPointSymbolNotFound;
#if CUDART_VERSION >= 12050
    const cudaError_t status = cudaGetDriverEntryPointByVersion("cuDevicePrimaryCtxGetState", &function, 7000, cudaEnableDefault, &found);
#else
    const cudaError_t status = cudaGetDriverEntryPoint("cuDevicePrimaryCtxGetState", &function, cudaEnableDefault, &found);
#endif
    return status == cudaSuccess && found == cudaDriverEntryPointSuccess ? reinterpret_cast<GetState>(function) : nullptr;
  }();
  unsigned int flags = 0;
  int active = 1;
  return get_state == nullptr || get_state(device, &flags, &active) != 0 || active != 0;
}

// Launches go to the current device; the caller finds the one it had again, if that was ever used: torch's own guards do the same.
class UseDevice {
 public:
  explicit UseDevice(const CudaStream& stream) {
    check(cudaGetDevice(&before_), stream.function, "asking for the current device");
    changed_ = before_ != stream.device;
    if (changed_) check(cudaSetDevice(stream.device), stream.function, "taking the arrays' device");
  }
  ~UseDevice() {
    if (changed_ && has_context(before_)) cudaSetDevice(before_);
  }
  UseDevice(const UseDevice&) = delete;
  UseDevice& operator=(const UseDevice&) = delete;

 private:
  int before_ = 0;
  bool changed_ = false;
};

inline cudaStream_t handle(const CudaStream& stream) { return static_cast<cudaStream_t>(stream.handle); }

template <class... Parameters, class... Arguments>
void launch(const CudaStream& stream, std::int64_t blocks, int threads, void (*kernel)(Parameters...), const Arguments&... arguments) {
  PYRL_CHECK(blocks <= 0x7fffffff, ArgumentError, stream.function, ": ", blocks,
             " blocks of threads would be needed, at most 2^31 - 1 can run");
  const UseDevice device(stream);
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(blocks));
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.stream = handle(stream);
  check(cudaLaunchKernelEx(&config, kernel, Parameters(arguments)...), stream.function, "the launch of its kernel");
}

inline void fill_bytes(const CudaStream& stream, void* data, int byte, std::size_t count) {
  const UseDevice device(stream);
  check(cudaMemsetAsync(data, byte, count, handle(stream)), stream.function, "filling its memory");
}

template <class Body>
__global__ void __launch_bounds__(256) element_kernel(std::int64_t count, Body body) {
  const std::int64_t i = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i < count) body(i);
}

// body(i) for i in [0, count), one thread each. `body` is a PYRL_HD function object, so that tests can run it on the CPU.
template <class Body>
void launch_elements(const CudaStream& stream, std::int64_t count, const Body& body) {
  constexpr int threads = 256;
  if (count > 0) launch(stream, (count + threads - 1) / threads, threads, element_kernel<Body>, count, body);
}

template <int size, class Body>
__global__ void __launch_bounds__(128) team_kernel(std::int64_t teams, const __grid_constant__ Body body) {
  const std::int64_t thread = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x, team = thread / size;
  if (team < teams) body(team, static_cast<int>(thread % size), size);
}

// body(team, thread, size) for teams of `size` threads, a power of two up to 128, that need not wait for each other.
template <int size, class Body>
void launch_teams(const CudaStream& stream, std::int64_t teams, const Body& body) {
  constexpr int threads = 128;
  if (teams > 0) launch(stream, (teams * size + threads - 1) / threads, threads, team_kernel<size, Body>, teams, body);
}

}  // namespace pyrl::cuda
