// Uninitialised arrays and tensors for results.
#include "bindings/array_arg.hpp"
#include "bindings/tensor_arg.hpp"
#include "core/buffer_pool.hpp"

namespace pyrl::bindings {
namespace {

// One block: the DLPack description of an output and its shape; the data are in a block of their own.
struct OutputTensor {
  dlpack::ManagedTensor managed;
  std::array<std::int64_t, 2 * ArrayArg::max_rank> shape_and_strides;
};

py::object empty_torch(const dlpack::ExchangeApi& api, DType dtype, std::span<const std::int64_t> shape, std::int64_t bytes, void** data) {
  auto* output = new OutputTensor{};
  const std::size_t rank = shape.size();
  std::int64_t* strides = output->shape_and_strides.data() + rank;
  std::int64_t stride = 1;
  for (std::size_t axis = rank; axis-- > 0;) {
    output->shape_and_strides[axis] = shape[axis];
    strides[axis] = stride;
    stride *= std::max<std::int64_t>(shape[axis], 1);
  }
  const auto release = [](dlpack::ManagedTensor* self) {
    release_buffer(self->tensor.data);
    delete static_cast<OutputTensor*>(self->manager);
  };
  *data = acquire_buffer(static_cast<std::size_t>(bytes));
  output->managed = {{1, 0}, output, release, 0, {*data, {dlpack::cpu, 0}, static_cast<std::int32_t>(rank), dlpack_type(dtype), output->shape_and_strides.data(), strides, 0}};
  void* made = nullptr;
  if (api.object_from_managed(&output->managed, &made) != 0) {
    release(&output->managed);
    throw py::error_already_set();
  }
  return py::reinterpret_steal<py::object>(static_cast<PyObject*>(made));
}

py::object empty_torch_by_attributes(Device device, DType dtype, std::span<const std::int64_t> shape, void** data) {
  const py::object torch = torch_module();
  py::tuple extents(shape.size());
  for (std::size_t axis = 0; axis < shape.size(); ++axis) extents[axis] = shape[axis];
  const py::object where = device.is_cpu() ? py::object(py::str("cpu")) : py::object(py::int_(device.number));
  py::object tensor = torch.attr("empty")(extents, py::arg("dtype") = torch.attr(name_of(dtype)), py::arg("device") = where);
  *data = reinterpret_cast<void*>(tensor.attr("data_ptr")().cast<std::uintptr_t>());
  return tensor;
}

// Straight to NumPy's constructor: pybind11's costs twice as much, and outputs are most of the price of a small call.
py::object empty_numpy(DType dtype, std::span<const std::int64_t> shape, std::int64_t bytes, void** data) {
  static std::array<PyObject*, static_cast<std::size_t>(DType::Other)> descriptors{};  // made on first use, never freed
  PyObject*& descriptor = descriptors[static_cast<std::size_t>(dtype)];
  if (descriptor == nullptr) descriptor = py::dtype(std::string(name_of(dtype))).release().ptr();
  static_assert(sizeof(Py_intptr_t) == sizeof(std::int64_t));
  const auto& api = py::detail::npy_api::get();
  const bool pooled = bytes >= 64 << 10;  // below, NumPy's own cache of blocks is as good
  py::object owner;
  if (pooled) {
    *data = acquire_buffer(static_cast<std::size_t>(bytes));
    owner = py::reinterpret_steal<py::object>(PyCapsule_New(*data, nullptr, [](PyObject* capsule) { release_buffer(PyCapsule_GetPointer(capsule, nullptr)); }));
    if (!owner) {
      release_buffer(*data);
      throw py::error_already_set();
    }
  }
  Py_INCREF(descriptor);  // the constructor takes it over
  using Flags = py::detail::npy_api::constants;
  const auto array = py::reinterpret_steal<py::object>(api.PyArray_NewFromDescr_(
      api.PyArray_Type_, descriptor, static_cast<int>(shape.size()), reinterpret_cast<const Py_intptr_t*>(shape.data()), nullptr,
      pooled ? *data : nullptr, pooled ? Flags::NPY_ARRAY_WRITEABLE_ | Flags::NPY_ARRAY_ALIGNED_ : 0, nullptr));
  if (!array) throw py::error_already_set();
  if (pooled) api.PyArray_SetBaseObject_(array.ptr(), owner.release().ptr());
  *data = py::detail::array_proxy(array.ptr())->data;
  return array;
}

}  // namespace

py::object empty_like_kind(const Location& location, DType dtype, std::span<const std::int64_t> shape, void** data) {
  const std::int64_t bytes = bytes_of(dtype, shape);
  Call::read(bytes);
  if (location.kind == Kind::NumPy) return empty_numpy(dtype, shape, bytes, data);
  const TorchType& type = torch_tensor();
  const bool by_exchange = location.device.is_cpu() && type.api != nullptr && type.api->object_from_managed != nullptr && shape.size() <= ArrayArg::max_rank;
  return by_exchange ? empty_torch(*type.api, dtype, shape, bytes, data) : empty_torch_by_attributes(location.device, dtype, shape, data);
}

}  // namespace pyrl::bindings
