#include "bindings/array_arg.hpp"

#include <new>

#include "bindings/kept.hpp"
#include "bindings/tensor_arg.hpp"

namespace pyrl::bindings {
namespace {

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

PyTypeObject* ndarray() {
  static PyTypeObject* type = nullptr;
  return kept(type, [] { return py::detail::npy_api::get().PyArray_Type_; });
}

// Subclasses hold plain memory, except for this one.
bool is_masked(py::handle array) {
  PyObject* const masked = PyDict_GetItemString(PyImport_GetModuleDict(), "numpy.ma");
  return masked != nullptr && py::isinstance(array, py::handle(masked).attr("MaskedArray"));
}

void read_numpy(ArrayArg& arg, py::handle object) {
  using Api = py::detail::npy_api;
  const auto* array = py::detail::array_proxy(object.ptr());
  PYRL_CHECK(Py_IS_TYPE(object.ptr(), ndarray()) || !is_masked(object), DTypeError, arg.function, ": ", arg.name,
             " is a masked array, whose mask no kernel reads; pass ", arg.name, ".filled(value)");
  arg.kind = Kind::NumPy;
  arg.data = array->data;
  require_few_dimensions(arg, array->nd);
  for (int axis = 0; axis < arg.rank; ++axis) arg.shape[axis] = array->dimensions[axis];
  arg.dtype = numpy_dtype(array);
  arg.contiguous = (array->flags & Api::NPY_ARRAY_C_CONTIGUOUS_) != 0;
  arg.aligned = (array->flags & Api::NPY_ARRAY_ALIGNED_) != 0;
  arg.writable = (array->flags & Api::NPY_ARRAY_WRITEABLE_) != 0;
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

std::int64_t bytes_of(DType dtype, std::span<const std::int64_t> shape) {
  std::int64_t bytes = size_of(dtype);
  for (const std::int64_t extent : shape)
    if (extent < 0 || __builtin_mul_overflow(bytes, extent, &bytes)) throw std::bad_alloc();
  return bytes;
}

void require_few_dimensions(ArrayArg& arg, std::int64_t rank) {
  PYRL_CHECK(rank <= ArrayArg::max_rank, ShapeError, arg.function, ": ", arg.name, " has ", rank, " dimensions, at most ", ArrayArg::max_rank, " are supported");
  arg.rank = static_cast<int>(rank);
}

std::int64_t ArrayArg::size() const {
  std::uint64_t product = 1;  // may wrap where strides are zero: such an array is refused
  for (int axis = 0; axis < rank; ++axis) product *= static_cast<std::uint64_t>(shape[axis]);
  return static_cast<std::int64_t>(product);
}

std::string ArrayArg::dtype_text() const {
  if (dtype != DType::Other || !object) return name_of(dtype);
  const py::object given = object.attr("dtype");
  const bool swapped = kind == Kind::NumPy && !given.attr("isnative").cast<bool>();
  return concat(py::str(given).cast<std::string>(), swapped ? " (in the other byte order)" : "");
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
  PYRL_CHECK(dtype == wanted, DTypeError, function, ": ", name, " has dtype ", dtype_text(), ", expected ", name_of(wanted),
             wanted == decided_dtype ? concat(" (from ", like, ")") : std::string());
}

void ArrayArg::require_contiguous() const {
  PYRL_CHECK(contiguous, ArgumentError, function, ": ", name, " is not contiguous in row-major order; pass ",
             kind == Kind::NumPy ? "np.ascontiguousarray(" : "(", name, kind == Kind::NumPy ? ")" : ").contiguous()");
  PYRL_CHECK(aligned, ArgumentError, function, ": ", name, " does not begin at a multiple of its items' ", size_of(dtype), " bytes; pass ", name,
             kind == Kind::NumPy ? ".copy()" : ".clone()");
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

ArrayArg read_array(py::handle object, const char* function, const char* name) {
  ArrayArg arg = look_at_array(object, function, name);
  if (arg.kind == Kind::Torch) require_plain(arg);
  return arg;
}

ArrayArg read_array(py::handle object, const char* function, const char* name, const Location& location) {
  ArrayArg arg = read_array(object, function, name);
  arg.expected_device = location.device;
  arg.like = location.like;
  arg.decided_dtype = location.dtype;
  arg.has_twin = location.has_twin;
  return arg;
}

ArrayArg look_at_array(py::handle object, const char* function, const char* name) {
  ArrayArg arg;
  arg.function = function;
  arg.name = name;
  arg.object = object;
  if (PyObject_TypeCheck(object.ptr(), ndarray())) {
    read_numpy(arg, object);
    Call::read(arg.size_bound());
    return arg;
  }
  const TorchType& type = torch_type(Py_TYPE(object.ptr()));
  PYRL_CHECK(type.type != nullptr, DTypeError, function, ": ", name, " is a ", Py_TYPE(object.ptr())->tp_name, ", expected a NumPy array or a torch tensor");
  read_tensor(arg, object, type);
  Call::read(arg.size_bound());
  return arg;
}

}  // namespace pyrl::bindings
