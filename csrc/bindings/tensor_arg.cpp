#include "bindings/tensor_arg.hpp"

#include <algorithm>
#include <utility>

#include "bindings/kept.hpp"

namespace pyrl::bindings {
namespace {

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

// What an attribute holds; None where asking fails, as it may on exotic tensors.
py::object attribute(py::handle tensor, const char* name) {
  py::object value = py::reinterpret_steal<py::object>(PyObject_GetAttrString(tensor.ptr(), name));
  if (!value) PyErr_Clear();
  return value ? std::move(value) : py::object(py::none());
}

// Says why torch gives no address. The Python error that it set instead, a C++ stack, is dropped.
[[noreturn]] void refuse(const ArrayArg& arg, py::handle tensor) {
  PyErr_Clear();
  const auto is = [&](const char* name) { return attribute(tensor, name).ptr() == Py_True; };
  const std::string start = concat(arg.function, ": ", arg.name, " is a "), layout = py::str(attribute(tensor, "layout"));
  if (is("is_nested")) throw DTypeError(start + "nested tensor, expected one array; pass a padded tensor");
  if (is("is_quantized")) throw DTypeError(concat(start, "quantized tensor, expected plain numbers; pass ", arg.name, ".dequantize()"));
  if (layout != "torch.strided") throw DTypeError(concat(start, "tensor of layout ", layout, ", expected a dense one; pass ", arg.name, ".to_dense()"));
  if (is("is_meta")) throw DeviceError(concat(start, "tensor on the meta device, which holds no data"));
  if (is("is_complex")) throw DTypeError(start + "complex tensor, expected real numbers");
  throw ArgumentError(concat(start, Py_TYPE(tensor.ptr())->tp_name, " without memory of its own (of torch.func, torch.compile or a wrapper), expected a tensor with data"));
}

// Strides in elements; null: row-major.
bool is_contiguous(const ArrayArg& arg, const std::int64_t* strides) {
  if (strides == nullptr || arg.size() == 0) return true;
  std::int64_t expected = 1;
  for (int axis = arg.rank - 1; axis >= 0; --axis) {
    if (arg.shape[axis] != 1 && strides[axis] != expected) return false;
    expected *= arg.shape[axis];
  }
  return true;
}

void read_by_exchange(ArrayArg& arg, py::handle object, const dlpack::ExchangeApi& api) {
  dlpack::Tensor tensor{};
  if (api.tensor_from_object(object.ptr(), &tensor) != 0) refuse(arg, object);
  arg.data = static_cast<char*>(tensor.data) + tensor.byte_offset;
  require_few_dimensions(arg, tensor.ndim);
  std::copy_n(tensor.shape, arg.rank, arg.shape.begin());
  arg.dtype = dlpack_dtype(tensor.dtype);
  const bool on_cpu = tensor.device.type == dlpack::cpu || tensor.device.type == dlpack::cuda_host;
  arg.device.number = on_cpu ? Device::cpu : tensor.device.type == dlpack::cuda ? tensor.device.id : Device::foreign;
  arg.contiguous = is_contiguous(arg, tensor.strides);
}

void read_by_attributes(ArrayArg& arg, py::handle object) {
  try {
    arg.data = reinterpret_cast<void*>(object.attr("data_ptr")().cast<std::uintptr_t>());
  } catch (py::error_already_set&) {
    refuse(arg, object);
  }
  const py::tuple shape = object.attr("shape");
  require_few_dimensions(arg, static_cast<std::int64_t>(shape.size()));
  for (int axis = 0; axis < arg.rank; ++axis) arg.shape[axis] = shape[axis].cast<std::int64_t>();
  const std::string dtype = py::str(object.attr("dtype"));  // "torch.float32"
  for (int i = 0; i < static_cast<int>(DType::Other); ++i)
    if (dtype == concat("torch.", name_of(static_cast<DType>(i)))) arg.dtype = static_cast<DType>(i);
  const py::object device = object.attr("device");
  const auto type = device.attr("type").cast<std::string>();
  arg.device.number = type == "cpu" ? Device::cpu : type == "cuda" ? device.attr("index").cast<int>() : Device::foreign;
  arg.contiguous = object.attr("is_contiguous")().cast<bool>();
}

// A method or property of torch.Tensor that takes no argument and answers True or False, called past the look-up, which costs as much
// as the answer.
class Question {
 public:
  explicit Question(const char* name) : descriptor_(py::object(torch_module().attr("Tensor").attr(name)).release().ptr()) {
    if (Py_IS_TYPE(descriptor_, &PyMethodDescr_Type)) {
      const PyMethodDef* method = reinterpret_cast<PyMethodDescrObject*>(descriptor_)->d_method;
      if (method->ml_flags == METH_NOARGS) method_ = method->ml_meth;
    } else if (Py_IS_TYPE(descriptor_, &PyGetSetDescr_Type)) {
      property_ = reinterpret_cast<PyGetSetDescrObject*>(descriptor_)->d_getset;
    }
  }

  bool operator()(py::handle tensor) const {
    PyObject* const answer = method_ != nullptr     ? method_(tensor.ptr(), nullptr)
                             : property_ != nullptr ? property_->get(tensor.ptr(), property_->closure)
                                                    : PyObject_CallOneArg(descriptor_, tensor.ptr());
    if (answer == nullptr) throw py::error_already_set();
    return py::reinterpret_steal<py::object>(answer).ptr() == Py_True;
  }

 private:
  PyObject* descriptor_;  // never freed
  PyCFunction method_ = nullptr;
  const PyGetSetDef* property_ = nullptr;
};

bool is_signed(DType dtype) {
  return dtype == DType::Int8 || dtype == DType::Int16 || dtype == DType::Int32 || dtype == DType::Int64 || dtype >= DType::Float16;
}

// Whether the storage reaches as far as the tensor does.
bool has_storage(const ArrayArg& arg) {
  try {
    const py::object storage = arg.object.attr("untyped_storage")();
    const auto base = storage.attr("data_ptr")().cast<std::uintptr_t>(), bytes = storage.attr("nbytes")().cast<std::uintptr_t>();
    const std::uintptr_t from = reinterpret_cast<std::uintptr_t>(arg.data) - base;
    return base != 0 && from <= bytes && static_cast<std::uintptr_t>(arg.bytes()) <= bytes - from;
  } catch (py::error_already_set&) {
    return false;
  }
}

}  // namespace

py::object torch_module() {
  PyObject* modules = PyImport_GetModuleDict();
  PyObject* torch = PyDict_GetItemString(modules, "torch");
  return torch == nullptr ? py::object() : py::reinterpret_borrow<py::object>(torch);
}

// The GIL guards the cache, which holds references; almost every tensor is exactly a torch.Tensor or a Parameter.
const TorchType& torch_type(PyTypeObject* type) {
  static TorchType recent[2];
  if (recent[0].type == type) return recent[0];
  std::swap(recent[0], recent[1]);
  if (recent[0].type == type) return recent[0];
  const TorchType found = inspect_type(type);
  static const TorchType none;
  if (found.type == nullptr) return none;
  Py_INCREF(type);
  const TorchType old = std::exchange(recent[0], found);
  Py_XDECREF(old.type);
  return recent[0];
}

const TorchType& torch_tensor() { return torch_type(reinterpret_cast<PyTypeObject*>(torch_module().attr("Tensor").ptr())); }

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

void read_tensor(ArrayArg& arg, py::handle tensor, const TorchType& type) {
  arg.kind = Kind::Torch;
  type.api != nullptr ? read_by_exchange(arg, tensor, *type.api) : read_by_attributes(arg, tensor);
  const std::int64_t item = size_of(arg.dtype);
  arg.aligned = item == 0 || reinterpret_cast<std::uintptr_t>(arg.data) % static_cast<std::uintptr_t>(item) == 0;
}

void require_plain(const ArrayArg& tensor) {
  PYRL_CHECK(!requires_grad(tensor.object), ArgumentError, tensor.function, ": ", tensor.name, " requires grad, and kernels stand outside autograd; pass ",
             tensor.name, ".detach()");
  static const Question* is_neg = nullptr;
  PYRL_CHECK(!is_signed(tensor.dtype) || !(*kept(is_neg, [] { return new Question("is_neg"); }))(tensor.object), ArgumentError, tensor.function, ": ", tensor.name,
             " is a negated view (of a conjugate, as a rule), whose memory holds the opposite numbers; pass ", tensor.name, ".resolve_neg()");
  // A tensor whose storage is gone gives its offset as its address. No other address is usually that low, so torch is asked then.
  constexpr std::uintptr_t low = std::uintptr_t{1} << 36;
  PYRL_CHECK(reinterpret_cast<std::uintptr_t>(tensor.data) >= low || tensor.size() == 0 || has_storage(tensor), ArgumentError, tensor.function, ": ", tensor.name,
             " is a ", Py_TYPE(tensor.object.ptr())->tp_name, " that holds no data (a fake or functional tensor, or one whose storage was resized), expected a tensor with data");
}

bool requires_grad(py::handle tensor) {
  static const Question* question = nullptr;
  return (*kept(question, [] { return new Question("requires_grad"); }))(tensor);
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
  ArrayArg asked;
  asked.function = "cpu_address";
  asked.name = "tensor";
  if (type.api->tensor_from_object(tensor.ptr(), &found) != 0) refuse(asked, tensor);
  if (found.device.type != dlpack::cpu) return nullptr;
  return static_cast<const char*>(found.data) + found.byte_offset;
}

void* current_stream(Device device) {
  const TorchType& type = torch_tensor();
  void* stream = nullptr;
  if (type.api == nullptr || type.api->current_stream == nullptr)
    return reinterpret_cast<void*>(torch_module().attr("_C").attr("_cuda_getCurrentRawStream")(device.number).cast<std::uintptr_t>());
  if (type.api->current_stream(dlpack::cuda, device.number, &stream) != 0) throw py::error_already_set();
  return stream;
}

}  // namespace pyrl::bindings
