#include "bindings/array_arg.hpp"

#include <utility>

#include "bindings/dlpack.hpp"
#include "core/buffer_pool.hpp"

namespace pyrl::bindings {
namespace {

// torch.Tensor's exchange table, found once a type; null for torch builds that have none.
struct TorchType {
  PyTypeObject* type = nullptr;
  const dlpack::ExchangeApi* api = nullptr;
};

py::object torch_module() {
  PyObject* modules = PyImport_GetModuleDict();
  PyObject* torch = PyDict_GetItemString(modules, "torch");
  return torch == nullptr ? py::object() : py::reinterpret_borrow<py::object>(torch);
}

TorchType inspect_type(PyTypeObject* type) {
  const py::object torch = torch_module();
  if (!torch || !py::hasattr(torch, "Tensor")) return {};
  if (PyType_IsSubtype(type, reinterpret_cast<PyTypeObject*>(torch.attr("Tensor").ptr())) == 0) return {};
  TorchType found{type, nullptr};
  py::handle as_object(reinterpret_cast<PyObject*>(type));
  if (py::hasattr(as_object, "__dlpack_c_exchange_api__")) {
    const py::object capsule = as_object.attr("__dlpack_c_exchange_api__");
    found.api = static_cast<const dlpack::ExchangeApi*>(PyCapsule_GetPointer(capsule.ptr(), "dlpack_exchange_api"));
    if (found.api == nullptr) PyErr_Clear();
    if (found.api != nullptr && (found.api->header.version.major != 1 || found.api->tensor_from_object == nullptr)) found.api = nullptr;
  }
  return found;
}

// The GIL guards the cache; almost every tensor is exactly a torch.Tensor or a Parameter.
const TorchType& torch_type(PyTypeObject* type) {
  static TorchType recent[2];
  if (recent[0].type == type) return recent[0];
  std::swap(recent[0], recent[1]);
  if (recent[0].type == type) return recent[0];
  const TorchType found = inspect_type(type);
  static const TorchType none;
  if (found.type == nullptr) return none;
  return recent[0] = found;
}

DType numpy_dtype(const py::detail::PyArray_Proxy* array) {
  const py::dtype dtype = py::reinterpret_borrow<py::dtype>(array->descr);
  const char order = dtype.byteorder();
  if (order != '=' && order != '|') return DType::Other;
  using Api = py::detail::npy_api;
  switch (dtype.normalized_num()) {
    case Api::NPY_BOOL_: return DType::Bool;
    case Api::NPY_BYTE_: return DType::Int8;
    case Api::NPY_UBYTE_: return DType::UInt8;
    case Api::NPY_SHORT_: return DType::Int16;
    case Api::NPY_USHORT_: return DType::UInt16;
    case Api::NPY_FLOAT_: return DType::Float32;
    case Api::NPY_DOUBLE_: return DType::Float64;
    default: break;
  }
  const char kind = dtype.kind();
  const auto bytes = dtype.itemsize();
  if (kind == 'i') return bytes == 4 ? DType::Int32 : DType::Int64;
  if (kind == 'u') return bytes == 4 ? DType::UInt32 : DType::UInt64;
  if (kind == 'f' && bytes == 2) return DType::Float16;
  return DType::Other;
}

DType dlpack_dtype(const dlpack::DataType& type) {
  if (type.lanes != 1) return DType::Other;
  const auto pick = [&](DType b8, DType b16, DType b32, DType b64) {
    return type.bits == 8 ? b8 : type.bits == 16 ? b16 : type.bits == 32 ? b32 : type.bits == 64 ? b64 : DType::Other;
  };
  switch (type.code) {
    case dlpack::code_bool: return DType::Bool;
    case dlpack::code_int: return pick(DType::Int8, DType::Int16, DType::Int32, DType::Int64);
    case dlpack::code_uint: return pick(DType::UInt8, DType::UInt16, DType::UInt32, DType::UInt64);
    case dlpack::code_float: return pick(DType::Other, DType::Float16, DType::Float32, DType::Float64);
    case dlpack::code_bfloat: return pick(DType::Other, DType::BFloat16, DType::Other, DType::Other);
    default: return DType::Other;
  }
}

dlpack::DataType dlpack_type(DType dtype) {
  const auto bits = static_cast<std::uint8_t>(8 * size_of(dtype));
  switch (dtype) {
    case DType::Bool: return {dlpack::code_bool, bits, 1};
    case DType::Int8: case DType::Int16: case DType::Int32: case DType::Int64: return {dlpack::code_int, bits, 1};
    case DType::UInt8: case DType::UInt16: case DType::UInt32: case DType::UInt64: return {dlpack::code_uint, bits, 1};
    case DType::BFloat16: return {dlpack::code_bfloat, bits, 1};
    default: return {dlpack::code_float, bits, 1};
  }
}

void check_rank(ArrayArg& arg, std::int64_t rank) {
  PYRL_CHECK(rank <= ArrayArg::max_rank, ShapeError, arg.function, ": ", arg.name, " has ", rank, " dimensions, at most ", ArrayArg::max_rank, " are supported");
  arg.rank = static_cast<int>(rank);
}

// `unit` is the size of one stride step in items: strides come in bytes from NumPy, in elements from torch.
template <class Stride>
bool is_contiguous(const ArrayArg& arg, const Stride* strides, std::int64_t unit) {
  if (strides == nullptr || arg.size() == 0) return true;
  std::int64_t expected = unit;
  for (int axis = arg.rank - 1; axis >= 0; --axis) {
    if (arg.shape[axis] != 1 && strides[axis] != expected) return false;
    expected *= arg.shape[axis];
  }
  return true;
}

void read_numpy(ArrayArg& arg, py::handle object) {
  const auto* array = py::detail::array_proxy(object.ptr());
  arg.kind = Kind::NumPy;
  arg.data = array->data;
  check_rank(arg, array->nd);
  for (int axis = 0; axis < arg.rank; ++axis) arg.shape[axis] = array->dimensions[axis];
  arg.dtype = numpy_dtype(array);
  arg.contiguous = (array->flags & py::detail::npy_api::NPY_ARRAY_C_CONTIGUOUS_) != 0;
  arg.writable = (array->flags & py::detail::npy_api::NPY_ARRAY_WRITEABLE_) != 0;
}

void read_torch_by_exchange(ArrayArg& arg, py::handle object, const dlpack::ExchangeApi& api) {
  dlpack::Tensor tensor{};
  if (api.tensor_from_object(object.ptr(), &tensor) != 0) throw py::error_already_set();
  arg.data = static_cast<char*>(tensor.data) + tensor.byte_offset;
  check_rank(arg, tensor.ndim);
  for (int axis = 0; axis < arg.rank; ++axis) arg.shape[axis] = tensor.shape[axis];
  arg.dtype = dlpack_dtype(tensor.dtype);
  const bool on_cpu = tensor.device.type == dlpack::cpu || tensor.device.type == dlpack::cuda_host;
  arg.device.number = on_cpu ? Device::cpu : tensor.device.type == dlpack::cuda ? tensor.device.id : Device::foreign;
  arg.contiguous = is_contiguous(arg, tensor.strides, 1);
}

void read_torch_by_attributes(ArrayArg& arg, py::handle object) {
  arg.data = reinterpret_cast<void*>(object.attr("data_ptr")().cast<std::uintptr_t>());
  const py::tuple shape = object.attr("shape");
  check_rank(arg, static_cast<std::int64_t>(shape.size()));
  for (int axis = 0; axis < arg.rank; ++axis) arg.shape[axis] = shape[axis].cast<std::int64_t>();
  const std::string dtype = py::str(object.attr("dtype"));  // "torch.float32"
  for (int i = 0; i < static_cast<int>(DType::Other); ++i)
    if (dtype == concat("torch.", name_of(static_cast<DType>(i)))) arg.dtype = static_cast<DType>(i);
  const py::object device = object.attr("device");
  const auto type = device.attr("type").cast<std::string>();
  arg.device.number = type == "cpu" ? Device::cpu : type == "cuda" ? device.attr("index").cast<int>() : Device::foreign;
  arg.contiguous = object.attr("is_contiguous")().cast<bool>();
}

}  // namespace

const char* name_of(DType dtype) {
  constexpr const char* names[] = {"bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float16", "bfloat16", "float32", "float64", "an unsupported dtype"};
  return names[static_cast<int>(dtype)];
}

std::int64_t size_of(DType dtype) {
  constexpr std::int64_t sizes[] = {1, 1, 1, 2, 2, 4, 4, 8, 8, 2, 2, 4, 8, 0};
  return sizes[static_cast<int>(dtype)];
}

std::int64_t ArrayArg::size() const {
  std::int64_t product = 1;
  for (int axis = 0; axis < rank; ++axis) product *= shape[axis];
  return product;
}

std::string ArrayArg::shape_text() const {
  std::string text = "[";
  for (int axis = 0; axis < rank; ++axis) text += (axis ? ", " : "") + std::to_string(shape[axis]);
  return text + "]";
}

std::string Device::text() const {
  return is_cpu() ? "the CPU" : is_cuda() ? "cuda:" + std::to_string(number) : "another kind of device";
}

void ArrayArg::require_cpu() const {
  PYRL_CHECK(on_cpu(), DeviceError, function, ": ", name, " is on ", device.text(), ", expected the CPU (this function has no other kernel)");
}

void ArrayArg::require_device() const {
  if (!has_twin) return require_cpu();
  PYRL_CHECK(device == expected_device, DeviceError, function, ": ", name, " is on ", device.text(), ", expected ", expected_device.text(),
             " (as ", like, " is)");
}

void ArrayArg::require_dtype(DType wanted) const {
  PYRL_CHECK(dtype == wanted, DTypeError, function, ": ", name, " has dtype ", name_of(dtype), ", expected ", name_of(wanted),
             wanted == decided_dtype ? concat(" (from ", like, ")") : std::string());
}

void ArrayArg::require_contiguous() const {
  PYRL_CHECK(contiguous, ArgumentError, function, ": ", name, " is not contiguous in row-major order; pass ",
             kind == Kind::NumPy ? "np.ascontiguousarray(" : "(", name, kind == Kind::NumPy ? ")" : ").contiguous()");
}

void ArrayArg::require_writable() const {
  PYRL_CHECK(writable, ArgumentError, function, ": ", name, " is read-only, expected a writable array");
}

void ArrayArg::require_rank(int wanted, const char* meaning) const {
  PYRL_CHECK(rank == wanted, ShapeError, function, ": ", name, " has shape ", shape_text(), ", expected ", wanted, " dimensions ", meaning);
}

void ArrayArg::require_shape(std::span<const std::int64_t> wanted, const char* meaning) const {
  bool equal = rank == static_cast<int>(wanted.size());
  for (int axis = 0; equal && axis < rank; ++axis) equal = wanted[axis] == -1 || shape[axis] == wanted[axis];
  if (equal) return;
  ArrayArg expected;
  expected.rank = static_cast<int>(wanted.size());
  for (int axis = 0; axis < expected.rank; ++axis) expected.shape[axis] = wanted[axis];
  throw ShapeError(concat(function, ": ", name, " has shape ", shape_text(), ", expected ", meaning, " = ", expected.shape_text()));
}

bool requires_grad(py::handle tensor) {
  static PyObject* const attribute = PyUnicode_InternFromString("requires_grad");
  return py::reinterpret_steal<py::object>(PyObject_GetAttr(tensor.ptr(), attribute)).ptr() == Py_True;
}

Device device_of(py::handle object) {
  const bool is_tensor = !py::isinstance<py::array>(object) && torch_type(Py_TYPE(object.ptr())).type != nullptr;
  return is_tensor ? look_at_array(object, "device_of", "object").device : Device{};
}

const void* cpu_address(py::handle tensor) {
  const TorchType& type = torch_type(Py_TYPE(tensor.ptr()));
  if (type.api == nullptr) {
    const ArrayArg arg = look_at_array(tensor, "cpu_address", "tensor");
    return arg.on_cpu() ? arg.data : nullptr;
  }
  dlpack::Tensor found{};
  if (type.api->tensor_from_object(tensor.ptr(), &found) != 0) throw py::error_already_set();
  if (found.device.type != dlpack::cpu) return nullptr;
  return static_cast<const char*>(found.data) + found.byte_offset;
}

ArrayArg read_array(py::handle object, const char* function, const char* name) {
  const ArrayArg arg = look_at_array(object, function, name);
  PYRL_CHECK(arg.kind == Kind::NumPy || !requires_grad(object), ArgumentError, function, ": ", name,
             " requires grad, and kernels stand outside autograd; pass ", name, ".detach()");
  return arg;
}

ArrayArg read_array(py::handle object, const char* function, const char* name, const Place& place) {
  ArrayArg arg = read_array(object, function, name);
  arg.expected_device = place.device;
  arg.like = place.like;
  arg.decided_dtype = place.dtype;
  arg.has_twin = place.has_twin;
  return arg;
}

ArrayArg look_at_array(py::handle object, const char* function, const char* name) {
  ArrayArg arg;
  arg.function = function;
  arg.name = name;
  if (py::isinstance<py::array>(object)) {
    read_numpy(arg, object);
    Call::read(arg.size_bound());
    return arg;
  }
  const TorchType& type = torch_type(Py_TYPE(object.ptr()));
  PYRL_CHECK(type.type != nullptr, DTypeError, function, ": ", name, " is a ", Py_TYPE(object.ptr())->tp_name, ", expected a NumPy array or a torch tensor");
  arg.kind = Kind::Torch;
  if (type.api != nullptr) {
    read_torch_by_exchange(arg, object, *type.api);
  } else {
    read_torch_by_attributes(arg, object);
  }
  Call::read(arg.size_bound());
  return arg;
}

namespace {

// One block: the DLPack description of an output and its shape; the data lie in a block of their own.
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
    stride *= shape[axis];
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
  static std::array<PyObject*, static_cast<std::size_t>(DType::Other)> descriptors{};  // made on first use, kept for ever
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

py::object empty_like_kind(const Place& place, DType dtype, std::span<const std::int64_t> shape, void** data) {
  std::int64_t bytes = size_of(dtype);
  for (const std::int64_t extent : shape) bytes *= extent;
  Call::read(bytes);
  if (place.kind == Kind::NumPy) return empty_numpy(dtype, shape, bytes, data);
  const TorchType& type = torch_type(reinterpret_cast<PyTypeObject*>(torch_module().attr("Tensor").ptr()));
  const bool by_exchange = place.device.is_cpu() && type.api != nullptr && type.api->object_from_managed != nullptr && shape.size() <= ArrayArg::max_rank;
  return by_exchange ? empty_torch(*type.api, dtype, shape, bytes, data) : empty_torch_by_attributes(place.device, dtype, shape, data);
}

void* current_stream(Device device) {
  const py::object torch = torch_module();
  const TorchType& type = torch_type(reinterpret_cast<PyTypeObject*>(torch.attr("Tensor").ptr()));
  void* stream = nullptr;
  if (type.api == nullptr || type.api->current_stream == nullptr)
    return reinterpret_cast<void*>(torch.attr("_C").attr("_cuda_getCurrentRawStream")(device.number).cast<std::uintptr_t>());
  if (type.api->current_stream(dlpack::cuda, device.number, &stream) != 0) throw py::error_already_set();
  return stream;
}

}  // namespace pyrl::bindings
