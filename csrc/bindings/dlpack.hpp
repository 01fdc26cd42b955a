// The part of the DLPack 1.3 C exchange interface we use (github.com/dmlc/dlpack): reading a torch tensor costs ~50 ns this
// way and 2 us through tensor.__dlpack__(). Types publish the table as the capsule `__dlpack_c_exchange_api__`.
//
// Declared here because the official header is not to be had at build time: no package of PyPI has it, Debian's libdlpack-dev (0.6) is older than
// the exchange table, and torch, which ships it, is not needed to build. tests/ops/test_dlpack.py holds this file against torch's copy.
#pragma once

#include <cstdint>

namespace pyrl::dlpack {

struct Version {
  std::uint32_t major, minor;
};
struct Device {
  std::int32_t type, id;
};
struct DataType {
  std::uint8_t code, bits;
  std::uint16_t lanes;
};
struct Tensor {
  void* data;
  Device device;
  std::int32_t ndim;
  DataType dtype;
  std::int64_t* shape;
  std::int64_t* strides;
  std::uint64_t byte_offset;
};
struct ManagedTensor {
  Version version;
  void* manager;
  void (*deleter)(ManagedTensor*);
  std::uint64_t flags;
  Tensor tensor;
};

constexpr std::int32_t cpu = 1, cuda = 2, cuda_host = 3;
constexpr std::uint8_t code_int = 0, code_uint = 1, code_float = 2, code_bfloat = 4, code_bool = 6;

struct ExchangeApi {
  struct Header {
    Version version;
    Header* previous;
  } header;
  int (*allocate)(Tensor* prototype, ManagedTensor** out, void* context,
                  void (*set_error)(void* context, const char* kind, const char* message));
  int (*managed_from_object)(void* object, ManagedTensor** out);
  int (*object_from_managed)(ManagedTensor* tensor, void** out_object);
  int (*tensor_from_object)(void* object, Tensor* out);
  int (*current_stream)(std::int32_t device_type, std::int32_t device_id, void** out_stream);
};

}  // namespace pyrl::dlpack
