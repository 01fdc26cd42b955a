// Kernels with a CUDA twin: where a call works, and the call.
//
//   ArrayArg reward = read_array(object, "gae", "reward");
//   const Place place = place_of(reward);                              // the CPU, or a GPU if this build has CUDA
//   ArrayArg value = read_array(object, "gae", "value", place);        // must lie there too
//   run_at(place, "gae", [&] { gae(call); }, [&](const auto& stream) { gae_cuda(call, stream); });
#pragma once

#include "bindings/array_arg.hpp"
#include "bindings/tensor_arg.hpp"
#include "core/cuda.hpp"

namespace pyrl::bindings {

// Where `first` lies, now expected of it and what follows it. DeviceError if no twin can go there.
Place place_of(ArrayArg& first);
// The same for functions without an input: `out` decides, and without it the result is a NumPy array.
Place place_of_output(py::handle out, const char* function, const char* name);

// Memory for a twin to work in: a torch tensor, for the caller to hold until the twin is on the stream; torch's allocator hands the
// memory on in the order of the stream only.
py::object device_space(const Place& place, std::int64_t bytes, void** data);

// Runs on_cpu() or on_cuda(stream), without the interpreter lock; the stream is the one that is current in torch. `on_cuda` takes its
// argument as auto, so that a build without CUDA compiles none of it.
template <class OnCpu, class OnCuda>
void run_at(const Place& place, const char* function, const OnCpu& on_cpu, const OnCuda& on_cuda) {
  if constexpr (cuda_built) {
    if (place.device.is_cuda()) {
      const CudaStream stream{function, place.device.number, current_stream(place.device)};
      const ReleaseGil released;
      on_cuda(stream);
      return;
    }
  }
  const ReleaseGil released;
  on_cpu();
}

}  // namespace pyrl::bindings
