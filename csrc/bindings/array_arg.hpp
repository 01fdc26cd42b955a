// The border: one reader for NumPy arrays and torch tensors, one check, one message.
//
//   auto reward = read_array(object, "gae", "reward");             // pointer, shape, dtype, device; nothing is copied
//   auto view = reward.as<const float, 2>("[T, N]");               // checked: dtype, rank, contiguity, alignment, device
//   auto value = read_array(..).as<const float, 2>({T + 1, N}, "[T+1, N]");   // and the shape
//   { ReleaseGil released; kernel(...); }
//
// This is for calls that only read. One that writes reads its arguments through a Border (border.hpp), which keeps apart what is read
// and what is written.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <array>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>

#include "bindings/call.hpp"
#include "core/array_view.hpp"
#include "core/check.hpp"

namespace pyrl::bindings {

namespace py = pybind11;

enum class DType : std::uint8_t { Bool, Int8, UInt8, Int16, UInt16, Int32, UInt32, Int64, UInt64, Float16, BFloat16, Float32, Float64, Other };
const char* name_of(DType dtype);
std::int64_t size_of(DType dtype);
// Of an array of this shape; std::bad_alloc if no memory could hold it.
std::int64_t bytes_of(DType dtype, std::span<const std::int64_t> shape);

template <class T> constexpr DType dtype_of();
template <> constexpr DType dtype_of<bool>() { return DType::Bool; }
template <> constexpr DType dtype_of<std::int8_t>() { return DType::Int8; }
template <> constexpr DType dtype_of<std::uint8_t>() { return DType::UInt8; }
template <> constexpr DType dtype_of<std::int32_t>() { return DType::Int32; }
template <> constexpr DType dtype_of<std::uint32_t>() { return DType::UInt32; }
template <> constexpr DType dtype_of<std::int64_t>() { return DType::Int64; }
template <> constexpr DType dtype_of<std::uint64_t>() { return DType::UInt64; }
template <> constexpr DType dtype_of<float>() { return DType::Float32; }
template <> constexpr DType dtype_of<double>() { return DType::Float64; }

enum class Kind : std::uint8_t { NumPy, Torch };

// Where data are: on the CPU, on a CUDA device by its number, or where no kernel of ours can go.
struct Device {
  static constexpr int cpu = -1, foreign = -2;
  int number = cpu;

  bool is_cpu() const { return number == cpu; }
  bool is_cuda() const { return number >= 0; }
  std::string text() const;  // "the CPU", "cuda:0"
  friend bool operator==(const Device&, const Device&) = default;
};

// What a call's arrays have in common. The first array decides; `like` is its name, for messages.
struct Location {
  Kind kind;
  Device device{};
  const char* like = "";
  DType dtype = DType::Other;  // the first array's, where it decides that too (real_arg.hpp)
  bool has_twin = false;       // whether the device is the first array's, or can only be the CPU

  Location(Kind kind_) : kind(kind_) {}
  Location(Kind kind_, Device device_, const char* like_) : kind(kind_), device(device_), like(like_), has_twin(true) {}
};

struct ArrayArg {
  static constexpr int max_rank = 8;

  const char* function = "";  // for messages: "gae: reward ..."
  const char* name = "";
  void* data = nullptr;
  int rank = 0;
  std::array<std::int64_t, max_rank> shape{};
  DType dtype = DType::Other;
  DType decided_dtype = DType::Other;  // what `like` decided
  Kind kind = Kind::NumPy;
  bool has_twin = false;
  Device device;
  Device expected_device;  // a CPU kernel's, unless the caller knows a twin
  const char* like = "";   // the argument that decided so
  bool contiguous = true;  // row-major
  bool aligned = true;     // to its items
  bool writable = true;
  py::handle object;  // for messages

  bool given() const { return function[0] != '\0'; }  // not an argument that is None
  std::int64_t size() const;
  std::int64_t bytes() const { return size() * size_of(dtype); }
  // About its bytes, half of them for doubles.
  std::int64_t size_bound() const {
    std::uint64_t bytes = 4;
    for (int axis = 0; axis < rank; ++axis) bytes *= static_cast<std::uint64_t>(shape[axis]);
    return static_cast<std::int64_t>(bytes);
  }
  std::string shape_text() const;  // "[128, 8]"
  std::string dtype_text() const;  // "float32", ">f4, not in this machine's byte order"

  // Each throws a typed error that names function, argument, expectation and what came.
  void require_cpu() const;
  void require_device() const;
  void require_dtype(DType wanted) const;
  void require_contiguous() const;  // and aligned
  void require_writable() const;
  void require_rank(int wanted, const char* meaning) const;
  // `meaning` names the shape in letters: "[T, N]"; -1 matches any extent.
  void require_shape(std::span<const std::int64_t> wanted, const char* meaning) const;

  bool on_cpu() const { return device.is_cpu(); }

  // All the checks at once, then a view. What is written is an OutputArg. bool also takes uint8; any byte but 0 is true.
  template <class T, int Rank>
  ArrayView<T, Rank> as(const char* meaning) const {
    static_assert(std::is_const_v<T>, "only an OutputArg can be written to");
    return view<T, Rank>(meaning);
  }
  template <class T, int Rank>
  ArrayView<T, Rank> as(const std::array<std::int64_t, Rank>& wanted, const char* meaning) const {
    static_assert(std::is_const_v<T>, "only an OutputArg can be written to");
    return view<T, Rank>(wanted, meaning);
  }

 protected:
  template <class T, int Rank>
  ArrayView<T, Rank> view(const char* meaning) const {
    checks<T>();
    require_rank(Rank, meaning);
    ArrayView<T, Rank> view{static_cast<T*>(data), {}};
    for (int axis = 0; axis < Rank; ++axis) view.extent[axis] = shape[axis];
    return view;
  }
  template <class T, int Rank>
  ArrayView<T, Rank> view(const std::array<std::int64_t, Rank>& wanted, const char* meaning) const {
    checks<T>();
    require_shape(wanted, meaning);
    return {static_cast<T*>(data), wanted};
  }

 private:
  template <class T>
  void checks() const {
    using Plain = std::remove_const_t<T>;
    require_device();
    const bool flag_as_byte = std::is_same_v<Plain, bool> && dtype == DType::UInt8;
    if (!flag_as_byte) require_dtype(dtype_of<Plain>());
    require_contiguous();
    if constexpr (!std::is_const_v<T>) require_writable();
  }
};

// Throws a typed error for anything but a NumPy array or a torch tensor whose memory holds its elements: for masked arrays, for
// tensors that require grad, are sparse, quantized, nested or negated, and for those without data.
ArrayArg read_array(py::handle object, const char* function, const char* name);
// The same for an array that must be where another one does.
ArrayArg read_array(py::handle object, const char* function, const char* name, const Location& location);
// The same for an array whose elements are not read: parameters, which require grad.
ArrayArg look_at_array(py::handle object, const char* function, const char* name);
// Sets the rank; ShapeError for more than any kernel takes.
void require_few_dimensions(ArrayArg& arg, std::int64_t rank);

// An uninitialised array of the same kind and in the same place as its inputs.
py::object empty_like_kind(const Location& location, DType dtype, std::span<const std::int64_t> shape, void** data);
template <class T, int Rank>
ArrayView<T, Rank> allocate(py::object& owner, const Location& location, const std::array<std::int64_t, Rank>& shape) {
  void* data = nullptr;
  owner = empty_like_kind(location, dtype_of<T>(), shape, &data);
  return {static_cast<T*>(data), shape};
}


}  // namespace pyrl::bindings
