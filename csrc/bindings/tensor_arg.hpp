// What torch tells of a tensor, and which tensors are refused. `_core` does not link torch: it asks by the DLPack exchange table where
// torch has one, else by attributes.
#pragma once

#include <pybind11/pybind11.h>

#include "bindings/array_arg.hpp"
#include "bindings/dlpack.hpp"

namespace pyrl::bindings {

// A type of tensors, with torch's exchange table; null for torch builds that have none.
struct TorchType {
  PyTypeObject* type = nullptr;
  const dlpack::ExchangeApi* api = nullptr;
};

// The module, if it is loaded.
py::object torch_module();
// Its `type` is null for what is not a tensor.
const TorchType& torch_type(PyTypeObject* type);
// torch.Tensor itself; torch must be loaded.
const TorchType& torch_tensor();
dlpack::DataType dlpack_type(DType dtype);

// Fills pointer, shape, dtype and device; a typed error for a tensor that has no strided memory of its own.
void read_tensor(ArrayArg& arg, py::handle tensor, const TorchType& type);
// A typed error for a tensor that stands for other numbers than its memory holds, or whose memory is gone.
void require_plain(const ArrayArg& tensor);

bool requires_grad(py::handle tensor);
// Of a torch tensor; of anything else, the CPU.
Device device_of(py::handle object);
// A CUDA device's stream that is current in torch: a cudaStream_t.
void* current_stream(Device device);
// Fast path (40 ns): the CPU data pointer, or null if the tensor is elsewhere.
const void* cpu_address(py::handle tensor);

}  // namespace pyrl::bindings
