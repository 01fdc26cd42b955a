#include "bindings/row_reader.hpp"

#include <algorithm>
#include <cstring>

#include "bindings/kept.hpp"
#include "bindings/tensor_arg.hpp"

namespace pyrl::bindings {
namespace {

bool is_integer(DType dtype) { return dtype >= DType::Int8 && dtype <= DType::UInt64; }

// Python's own objects and NumPy's scalars, which have neither shape nor device.
bool is_plain(py::handle object) {
  if (torch_type(Py_TYPE(object.ptr())).type != nullptr) return false;  // first: the look for an attribute that is missing takes longer than the rest
  return PyList_Check(object.ptr()) || PyTuple_Check(object.ptr()) || PyFloat_Check(object.ptr()) || PyLong_Check(object.ptr()) ||
         PyObject_HasAttrString(object.ptr(), "__array_interface__");
}

bool is_numpy_flag(py::handle object) {
  static PyObject* type = nullptr;
  return reinterpret_cast<PyObject*>(Py_TYPE(object.ptr())) == kept(type, [] { return py::object(py::module_::import("numpy").attr("bool_")).release().ptr(); });
}

template <class To>
const void* keep(To value, RowScratch& scratch) {
  return std::memcpy(scratch.bytes(sizeof value), &value, sizeof value);
}

template <class From, class To, class Convert>
const void* convert(const void* data, std::int64_t count, RowScratch& scratch, const Convert& convert_one) {
  auto* to = static_cast<To*>(scratch.bytes(static_cast<std::size_t>(count) * sizeof(To)));
  const auto* from = static_cast<const From*>(data);
  std::transform(from, from + count, to, convert_one);
  return to;
}

const void* rounded(const void* doubles, std::int64_t count, RowScratch& scratch) {
  return convert<double, float>(doubles, count, scratch, [](double value) { return static_cast<float>(value); });
}

// Any byte but 0 is true; what is stored is 0 or 1.
const void* zeros_and_ones(const void* flags, std::int64_t count, RowScratch& scratch) {
  const auto* bytes = static_cast<const std::uint8_t*>(flags);
  std::uint8_t any = 0;
  for (std::int64_t i = 0; i < count; ++i) any |= bytes[i];
  if (any <= 1) return flags;
  return convert<std::uint8_t, bool>(flags, count, scratch, [](std::uint8_t value) { return value != 0; });
}

}  // namespace

std::int64_t Leaf::row_bytes() const {
  return bytes_of(dtype, shape);
}

DType dtype_named(const std::string& name, const std::string& leaf) {
  for (int i = 0; i < static_cast<int>(DType::Other); ++i)
    if (name == name_of(static_cast<DType>(i))) return static_cast<DType>(i);
  throw DTypeError(concat("ReplayBuffer: ", leaf, " has dtype ", name, ", which cannot be stored"));
}

RowReader::RowReader(Leaf leaf, std::int64_t rows) : leaf_(std::move(leaf)), rows_(rows) {
  if (leaf_.dtype != DType::BFloat16 && leaf_.dtype != DType::Other) descriptor_ = py::dtype(std::string(name_of(leaf_.dtype)));
}

const void* RowReader::read(py::handle object, RowScratch& scratch, const RowBlock& block) const {
  if (const void* plain = read_plain(object, scratch, block)) return plain;
  if (rows_of(block) == 1 && block.steps < 0 && leaf_.shape.empty())
    if (const void* number = read_number(object, scratch, block)) return number;
  py::object array = py::reinterpret_borrow<py::object>(object);
  if (!py::isinstance<py::array>(object) && is_plain(object)) {
    array = py::module_::import("numpy").attr("asarray")(object);
    scratch.kept.push_back(array);
  }
  const ArrayArg arg = read_array(array, block.function, leaf_.name.c_str());
  check_shape(arg, block);
  arg.require_cpu();
  if (!arg.contiguous || !arg.aligned) return read_converted(std::move(array), arg, scratch, block);
  if (arg.dtype == leaf_.dtype) return leaf_.dtype == DType::Bool ? zeros_and_ones(arg.data, arg.size(), scratch) : arg.data;
  if (arg.dtype == DType::Float64 && leaf_.dtype == DType::Float32) return rounded(arg.data, arg.size(), scratch);
  if (arg.dtype == DType::UInt8 && leaf_.dtype == DType::Bool) return zeros_and_ones(arg.data, arg.size(), scratch);
  return read_converted(std::move(array), arg, scratch, block);
}

// At a look: a contiguous NumPy array of the shape, in the leaf's dtype, or float64 for float32, as most rows come. Null: not that.
const void* RowReader::read_plain(py::handle object, RowScratch& scratch, const RowBlock& block) const {
  static PyObject* numpy_double = nullptr;
  const auto& api = py::detail::npy_api::get();
  if (reinterpret_cast<PyObject*>(Py_TYPE(object.ptr())) != reinterpret_cast<PyObject*>(api.PyArray_Type_)) return nullptr;
  const auto* const array = py::detail::array_proxy(object.ptr());
  constexpr int usable = int{py::array::c_style} | int{py::detail::npy_api::NPY_ARRAY_ALIGNED_};
  const int leading = block.steps >= 0 ? 2 : 1;
  if ((array->flags & usable) != usable || array->nd != leading + static_cast<int>(leaf_.shape.size())) return nullptr;
  const auto* const extent = array->dimensions;
  if ((leading == 2 && extent[0] != block.steps) || extent[leading - 1] != rows_of(block) || !std::equal(leaf_.shape.begin(), leaf_.shape.end(), extent + leading)) return nullptr;
  const auto size = [&] {
    std::int64_t count = 1;
    for (int axis = 0; axis < array->nd; ++axis) count *= extent[axis];
    return count;
  };
  if (array->descr == descriptor_.ptr()) return leaf_.dtype == DType::Bool ? zeros_and_ones(array->data, size(), scratch) : array->data;
  if (array->descr == kept(numpy_double, [] { return py::dtype::of<double>().release().ptr(); }) && leaf_.dtype == DType::Float32) return rounded(array->data, size(), scratch);
  return nullptr;
}

// Null: not a plain number of this kind.
const void* RowReader::read_number(py::handle object, RowScratch& scratch, const RowBlock& block) const {
  PyObject* value = object.ptr();
  if (leaf_.dtype == DType::Bool) {
    if (PyBool_Check(value)) return keep(value == Py_True, scratch);
    if (is_numpy_flag(object)) return keep(PyObject_IsTrue(value) == 1, scratch);
    return nullptr;
  }
  if (leaf_.dtype == DType::Float32 && PyFloat_Check(value)) return keep(static_cast<float>(PyFloat_AS_DOUBLE(value)), scratch);
  if (!PyLong_CheckExact(value)) return nullptr;
  int overflow = 0;
  const long long integer = PyLong_AsLongLongAndOverflow(value, &overflow);
  const auto refuse = [&] { return ArgumentError(concat(block.function, ": ", leaf_.name, " is ", py::str(object).cast<std::string>(), ", more than ", name_of(leaf_.dtype), " holds")); };
  if (leaf_.dtype == DType::Int64) {
    if (overflow != 0) throw refuse();
    return keep(static_cast<std::int64_t>(integer), scratch);
  }
  if (leaf_.dtype == DType::Float32) {
    if (overflow != 0) throw refuse();
    return keep(static_cast<float>(integer), scratch);
  }
  return nullptr;
}

const void* RowReader::read_at(py::handle object, const Location& location, const RowBlock& block) const {
  const ArrayArg arg = read_array(object, block.function, leaf_.name.c_str(), location);
  check_shape(arg, block);
  arg.require_device();
  arg.require_dtype(leaf_.dtype);
  arg.require_contiguous();
  return arg.data;
}

void RowReader::check_shape(const ArrayArg& arg, const RowBlock& block) const {
  ArrayArg wanted;  // [T, N, ...]
  const bool has_steps = block.steps >= 0;
  PYRL_CHECK(leaf_.shape.size() + 1 + has_steps <= ArrayArg::max_rank, ShapeError, block.function, ": ", leaf_.name, " has too many dimensions for a block");
  if (has_steps) wanted.shape[wanted.rank++] = block.steps;
  wanted.shape[wanted.rank++] = rows_of(block);
  for (const std::int64_t extent : leaf_.shape) wanted.shape[wanted.rank++] = extent;
  const auto equals = [&](int left_out) {  // dimensions, of which N is the last
    const auto tail = wanted.shape.begin() + has_steps + left_out;
    return arg.rank == wanted.rank - left_out && (!has_steps || arg.shape[0] == block.steps) &&
           std::equal(tail, wanted.shape.begin() + wanted.rank, arg.shape.begin() + has_steps);
  };
  if (equals(0) || (rows_of(block) == 1 && equals(1))) return;
  throw ShapeError(concat(block.function, ": ", leaf_.name, " has shape ", arg.shape_text(), ", expected ", has_steps ? "[T, N, ...] = " : "[N, ...] = ",
                          wanted.shape_text()));
}

// By NumPy: other strides, byte orders and dtypes.
const void* RowReader::read_converted(py::object object, const ArrayArg& arg, RowScratch& scratch, const RowBlock& block) const {
  const py::module_ numpy = py::module_::import("numpy");
  const py::object array = numpy.attr("asarray")(object), given = array.attr("dtype"), wanted = numpy.attr("dtype")(name_of(leaf_.dtype));
  const auto can_cast = [&](const char* how) { return numpy.attr("can_cast")(given, wanted, how).cast<bool>(); };
  const bool integer_to_float = is_integer(arg.dtype) && leaf_.dtype >= DType::Float16;
  const bool byte_to_flag = arg.dtype == DType::UInt8 && leaf_.dtype == DType::Bool;
  PYRL_CHECK(integer_to_float || byte_to_flag || can_cast("same_kind"), DTypeError, block.function, ": ", leaf_.name, " has dtype ", py::str(given).cast<std::string>(), ", expected ",
             name_of(leaf_.dtype));
  const py::object converted = numpy.attr("require")(array, wanted, "CA");
  if (is_integer(leaf_.dtype) && !can_cast("safe"))
    PYRL_CHECK(numpy.attr("array_equal")(converted, array).cast<bool>(), ArgumentError, block.function, ": ", leaf_.name, " has values that ", name_of(leaf_.dtype),
               " does not hold");
  scratch.kept.push_back(converted);
  const ArrayArg plain = read_array(converted, block.function, leaf_.name.c_str());
  return leaf_.dtype == DType::Bool ? zeros_and_ones(plain.data, plain.size(), scratch) : plain.data;
}

}  // namespace pyrl::bindings
