#include "bindings/cuda_arg.hpp"

namespace pyrl::bindings {

Location location_of(ArrayArg& first) {
  PYRL_CHECK(!first.device.is_cuda() || cuda_built, DeviceError, first.function, ": ", first.name, " is on ", first.device.text(),
             ", and this build of pyrl has no CUDA; build it with PYRL_CUDA=ON (docs/cuda.md), or pass ", first.name, ".cpu()");
  PYRL_CHECK(first.device.is_cpu() || first.device.is_cuda(), DeviceError, first.function, ": ", first.name, " is on ", first.device.text(),
             ", expected the CPU or a CUDA device");
  first.expected_device = first.device;
  first.like = first.name;
  first.has_twin = true;
  return {first.kind, first.device, first.name};
}

Location location_of_output(py::handle out, const char* function, const char* name) {
  if (out.is_none()) return Kind::NumPy;
  ArrayArg arg = read_array(out, function, name);
  return location_of(arg);
}

py::object device_space(const Location& location, std::int64_t bytes, void** data) {
  return empty_like_kind({Kind::Torch, location.device, location.like}, DType::UInt8, std::array<std::int64_t, 1>{bytes}, data);
}

}  // namespace pyrl::bindings
