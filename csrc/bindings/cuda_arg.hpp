// Kernels with a CUDA twin: where a call works, and the call.
//
//   ArrayArg reward = read_array(object, "gae", "reward");
//   const Location location = location_of(reward);                        // the CPU, or a GPU if this build has CUDA
//   ArrayArg value = read_array(object, "gae", "value", location);     // must be there too
//   run_at(location, "gae", [&] { gae(call); }, [&](const auto& stream) { gae_cuda(call, stream); });
#pragma once

#include "bindings/array_arg.hpp"
#include "bindings/tensor_arg.hpp"
#include "core/cuda.hpp"

namespace pyrl::bindings {

// Where `first` is, now expected of it and what follows it. DeviceError if no twin can go there.
Location location_of(ArrayArg& first);
// The same for functions without an input: `out` decides, and without it the result is a NumPy array.
Location location_of_output(py::handle out, const char* function, const char* name);

// Memory for a twin to work in: a torch tensor, for the caller to hold until the twin is on the stream; torch's allocator hands the
// memory on in the order of the stream only.
py::object device_space(const Location& location, std::int64_t bytes, void** data);

// Runs on_cpu(), where `lock` is given alone with it, or on_cuda(stream), without the interpreter lock; the stream is the one that is
// current in torch. `on_cuda` takes its argument as auto, so that a build without CUDA compiles none of it.
template <class OnCpu, class OnCuda>
void run_at(const Location& location, const char* function, const OnCpu& on_cpu, const OnCuda& on_cuda, Lock* lock = nullptr) {
  if constexpr (cuda_built) {
    if (location.device.is_cuda()) {
      const CudaStream stream{function, location.device.number, current_stream(location.device)};
      const ReleaseGil released(ReleaseGil::When::always);  // which may wait for the device
      on_cuda(stream);
      return;
    }
  }
  if (lock != nullptr) return alone(*lock, on_cpu);
  const ReleaseGil released;
  on_cpu();
}

}  // namespace pyrl::bindings
